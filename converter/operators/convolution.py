"""Convolutions."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.errors import UnsupportedModel
from converter.operators.signatures import Function, Ints, Known, Table, refuses

AutoPad: TypeAlias = Literal["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CONVOLVE_BACK = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _rank_beyond_torch(known: Known) -> bool:
    w, kernel = known.get("w"), known["kernel_shape"]
    rank = w.dim() - 2 if isinstance(w, Tensor) else len(kernel) if isinstance(kernel, tuple) else 2
    return rank not in (1, 2, 3)


def over_few_axes(function: Function) -> Function:
    """The operator, refused over more spatial axes than torch has it for."""
    return refuses("kernel_shape", _rank_beyond_torch, "over other than 1, 2 or 3 axes")(function)


@over_few_axes
def conv(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: AutoPad = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    rank = _spatial_rank(w, "Conv")
    strides = strides or (1,) * rank
    dilations = dilations or (1,) * rank
    if auto_pad != "NOTSET":
        pads = same_pads(x.shape[2:], w.shape[2:], strides, dilations, auto_pad)
    pads = pads or (0,) * (2 * rank)
    if pads[:rank] == pads[rank:]:
        return CONVOLVE[rank](x, w, b, strides, pads[:rank], dilations, group)
    return CONVOLVE[rank](F.pad(x, torch_pads(pads)), w, b, strides, 0, dilations, group)


def _same_pads_with_gaps(known: Known) -> bool:
    w, kernel, strides = known["w"], known["kernel_shape"], known["strides"]
    kernel = tuple(w.shape[2:]) if isinstance(w, Tensor) else kernel
    if known["auto_pad"] not in ("SAME_UPPER", "SAME_LOWER") or known["output_shape"] is not None:
        return False
    if not (isinstance(kernel, tuple) and isinstance(strides, tuple)):
        return isinstance(strides, tuple)
    return any(stride > width for stride, width in zip(strides, kernel, strict=True))


@over_few_axes
@refuses("auto_pad", _same_pads_with_gaps, "SAME_* and strides beyond the kernel")
def conv_transpose(
    x: Tensor,
    w: Tensor,
    b: Tensor | None = None,
    *,
    auto_pad: AutoPad = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    output_padding: Ints | None = None,
    output_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    rank = _spatial_rank(w, "ConvTranspose")
    strides = strides or (1,) * rank
    dilations = dilations or (1,) * rank
    extra = output_padding or (0,) * rank
    pads = pads or (0,) * (2 * rank)
    axes = range(rank)
    natural = [(x.shape[2 + i] - 1) * strides[i] + dilations[i] * (w.shape[2 + i] - 1) + 1 for i in axes]
    if output_shape is None and auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        output_shape = tuple(x.shape[2 + i] * strides[i] for i in axes)
    if output_shape is not None:
        output_shape = output_shape[-rank:]
        total = [max(0, natural[i] + extra[i] - output_shape[i]) for i in axes]
        low = tuple(each // 2 if auto_pad == "SAME_UPPER" else each - each // 2 for each in total)
        sizes = output_shape
    elif auto_pad == "VALID":
        low, sizes = (0,) * rank, tuple(natural[i] + extra[i] for i in axes)
    else:
        low = pads[:rank]
        sizes = tuple(natural[i] + extra[i] - pads[i] - pads[rank + i] for i in axes)
        if low == pads[rank:] and all(extra[i] < max(strides[i], dilations[i]) for i in axes):
            return CONVOLVE_BACK[rank](x, w, b, strides, low, extra, group, dilations)
    whole = CONVOLVE_BACK[rank](x, w, None, strides, 0, 0, group, dilations)
    high = tuple(sizes[i] - (natural[i] - low[i]) for i in axes)
    result = F.pad(whole, torch_pads((*(-each for each in low), *high)))
    return result if b is None else result + b.reshape(-1, *[1] * rank)


@over_few_axes
def conv_integer(
    x: Tensor,
    w: Tensor,
    x_zero_point: Tensor | None = None,
    w_zero_point: Tensor | None = None,
    *,
    auto_pad: AutoPad = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Sums of products of 8-bit integers, exact in float64."""
    values, weights = x.double(), w.double()
    if x_zero_point is not None:
        values = values - x_zero_point.double()
    if w_zero_point is not None:
        zero = w_zero_point.double()
        weights = weights - (zero.reshape(-1, *[1] * (w.dim() - 1)) if zero.numel() > 1 else zero)
    return conv(values, weights, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides).to(
        torch.int32
    )


def same_pads(sizes: Ints, kernel: Ints, strides: Ints, dilations: Ints, auto_pad: AutoPad) -> Ints:
    """ONNX pads (all begins, then all ends) that give ceil(size / stride) windows; none for VALID."""
    if auto_pad == "VALID":
        return (0,) * (2 * len(kernel))
    total = [
        max(0, (-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size)
        for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    small = tuple(each // 2 for each in total)
    large = tuple(each - each // 2 for each in total)
    return small + large if auto_pad == "SAME_UPPER" else large + small


def torch_pads(pads: Ints) -> list[int]:
    """ONNX pads (all begins, then all ends) as ``torch.nn.functional.pad`` wants them: pairs, last axis first."""
    rank = len(pads) // 2
    return [pad for axis in reversed(range(rank)) for pad in (pads[axis], pads[rank + axis])]


def _spatial_rank(w: Tensor, operator: str) -> int:
    rank = w.dim() - 2
    if rank not in CONVOLVE:
        raise UnsupportedModel(f"{operator} over {rank} spatial axes is not supported.", operator=operator)
    return rank


TABLE: Table = {
    "Conv": conv,
    "ConvInteger": conv_integer,
    "ConvTranspose": conv_transpose,
}
