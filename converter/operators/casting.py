"""Types: casts, and the linear quantization of a tensor."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from converter.operators.signatures import Table

# FLOAT, UINT8, INT8, INT16, INT32, INT64, BOOL, FLOAT16, DOUBLE and BFLOAT16: what torch computes with
DataType: TypeAlias = Literal[1, 2, 3, 5, 6, 7, 9, 10, 11, 16]
DataTypeName: TypeAlias = Literal[
    "FLOAT", "UINT8", "INT8", "INT16", "INT32", "INT64", "BOOL", "FLOAT16", "DOUBLE", "BFLOAT16"
]

TORCH_TYPES = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}
NAMED_TYPES = {
    "FLOAT": torch.float32,
    "UINT8": torch.uint8,
    "INT8": torch.int8,
    "INT16": torch.int16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
    "FLOAT16": torch.float16,
    "DOUBLE": torch.float64,
    "BFLOAT16": torch.bfloat16,
}


def cast(x: Tensor, *, to: DataType, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """``saturate`` and ``round_mode`` speak of 8-bit floats only, which are not verified and hence refused."""
    return x.to(TORCH_TYPES[to])


def cast_1(x: Tensor, *, to: DataTypeName) -> Tensor:
    return x.to(NAMED_TYPES[to])


def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    return x.to(like.dtype)


def bit_cast(x: Tensor, *, to: DataType) -> Tensor:
    return x.contiguous().view(TORCH_TYPES[to])


def quantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: Literal[0, 2, 3, 5, 6] = 0,
    precision: Literal[0, 1] = 0,
    saturate: int = 1,
) -> Tensor:
    kind = TORCH_TYPES[output_dtype] if output_dtype else torch.uint8 if zero_point is None else zero_point.dtype
    limits = torch.iinfo(kind)
    rounded = torch.round(x / _aligned(scale, x, axis, block_size))
    if zero_point is not None:
        rounded = rounded + _aligned(zero_point, x, axis, block_size).to(rounded.dtype)
    return rounded.clamp(limits.min, limits.max).to(kind)


def dequantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: Literal[0, 1, 10, 16] = 0,
) -> Tensor:
    centred = x.int()
    if zero_point is not None:
        centred = centred - _aligned(zero_point, x, axis, block_size).int()
    result = centred * _aligned(scale, x, axis, block_size)
    return result.to(TORCH_TYPES[output_dtype] if output_dtype else scale.dtype)


def _aligned(parameter: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """A scale or zero point for each element: of the tensor, of its channel, or of its block."""
    if block_size:
        return parameter.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    if parameter.numel() == 1:
        return parameter.reshape(())
    return parameter.reshape([-1 if each == axis % x.dim() else 1 for each in range(x.dim())])


def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eight bits over the range of the values, which always holds zero."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / 255
    zero_point = torch.round((-low / scale).clamp(0, 255)).to(torch.uint8)
    return quantize_linear(x, scale, zero_point), scale, zero_point


TABLE: Table = {
    "BitCast": bit_cast,
    "Cast": {1: cast_1, 6: cast},
    "CastLike": cast_like,
    "DequantizeLinear": dequantize_linear,
    "DynamicQuantizeLinear": dynamic_quantize_linear,
    "QuantizeLinear": quantize_linear,
}
