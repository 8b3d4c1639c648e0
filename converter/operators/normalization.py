"""Normalizations."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.errors import UnsupportedModel
from converter.operators.casting import TORCH_TYPES
from converter.operators.signatures import Ints, Known, Table, refuses


def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    if not training_mode:
        return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)
    axes = (0, *range(2, x.dim()))
    now, spread = x.mean(axes), x.var(axes, correction=0)
    result = F.batch_norm(x, now, spread, scale, bias, False, 0.0, epsilon)
    return result, mean * momentum + now * (1 - momentum), var * momentum + spread * (1 - momentum)


@refuses("is_test", lambda known: known["output_count"] != 1, "0 (training)")
def batch_normalization_1(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    *,
    epsilon: float = 1e-5,
    is_test: int = 0,
    momentum: float = 0.9,
    spatial: Literal[1] = 1,
    output_count: int = 1,
) -> Tensor:
    """Up to opset 13 a node with one output is in inference mode; training is refused when its outputs are used."""
    return F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)


def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    axes = tuple(range(2, x.dim()))
    shape = (-1, *[1] * len(axes))
    centred = x - x.mean(axes, keepdim=True)
    normal = centred * torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)
    return normal * scale.reshape(shape) + bias.reshape(shape)


def group_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5, num_groups: int, stash_type: Literal[1] = 1
) -> Tensor:
    return F.group_norm(x.float(), num_groups, scale.float(), bias.float(), epsilon).to(x.dtype)


def group_normalization_18(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5, num_groups: int) -> Tensor:
    """Before opset 21 scale and bias have one value a group."""
    each = x.shape[1] // num_groups
    return F.group_norm(x, num_groups, scale.repeat_interleave(each), bias.repeat_interleave(each), epsilon)


def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: Literal[1] = 1,
    output_count: int = 1,
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    axis %= x.dim()
    if output_count == 1 and scale.shape == x.shape[axis:] and (bias is None or bias.shape == scale.shape):
        return F.layer_norm(x, scale.shape, scale, bias, epsilon)
    axes = tuple(range(axis, x.dim()))
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    mean = wide.mean(axes, keepdim=True)
    centred = wide - mean
    inverse = torch.rsqrt(centred.square().mean(axes, keepdim=True) + epsilon)
    result = (centred * inverse).to(x.dtype) * scale
    result = result if bias is None else result + bias
    return (result, mean, inverse) if output_count > 1 else result


def rms_normalization(
    x: Tensor, scale: Tensor, *, axis: int = -1, epsilon: float = 1e-5, stash_type: Literal[1, 11] = 1
) -> Tensor:
    axes = tuple(range(axis % x.dim(), x.dim()))
    wide = x.to(TORCH_TYPES[stash_type])
    normal = wide * torch.rsqrt(wide.square().mean(axes, keepdim=True) + epsilon)
    return normal.to(x.dtype) * scale


def lp_normalization(x: Tensor, *, axis: int = -1, p: Literal[1, 2] = 2) -> Tensor:
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(norm == 0, 0, x / norm)


def mean_variance_normalization(x: Tensor, *, axes: Ints = (0, 2, 3)) -> Tensor:
    """ONNX adds 1e-9 to the standard deviation, not to the variance."""
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


def lrn(x: Tensor, *, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0, size: int) -> Tensor:
    squares = F.pad(x.square().reshape(*x.shape[:2], -1), (0, 0, (size - 1) // 2, size // 2))
    total = squares.unfold(1, size, 1).sum(-1).reshape(x.shape)
    return x / (bias + alpha / size * total) ** beta


def _drops(known: Known) -> bool:
    return known["training_mode"] not in (None, False) and known["ratio"] != 0


@refuses("training_mode", _drops, "other than false, whose result is random,")
def dropout(
    x: Tensor, ratio: float = 0.5, training_mode: bool = False, *, seed: int | None = None, output_count: int = 1
) -> Tensor | tuple[Tensor, Tensor]:
    if training_mode and ratio:
        raise UnsupportedModel("Dropout with training_mode, whose result is random, is not supported.")
    return (x, torch.ones_like(x, dtype=torch.bool)) if output_count > 1 else x


@refuses("is_test", lambda known: not known["is_test"], "0, whose result is random,")
def dropout_1(
    x: Tensor, *, is_test: int = 0, ratio: float = 0.5, output_count: int = 1
) -> Tensor | tuple[Tensor, Tensor]:
    return (x, torch.ones_like(x)) if output_count > 1 else x


def _mask_wanted(known: Known) -> bool:
    return known["output_count"] != 1


@refuses("mask", _mask_wanted, "as an output")
def dropout_7(x: Tensor, *, ratio: float = 0.5, output_count: int = 1) -> Tensor:
    """In inference nothing is dropped; what a mask then holds is defined from opset 12 on only."""
    return x


TABLE: Table = {
    "BatchNormalization": {1: batch_normalization_1, 14: batch_normalization},
    "Dropout": {1: dropout_1, 7: dropout_7, 12: dropout},
    "GroupNormalization": {18: group_normalization_18, 21: group_normalization},
    "InstanceNormalization": instance_normalization,
    "LRN": lrn,
    "LayerNormalization": layer_normalization,
    "LpNormalization": lp_normalization,
    "MeanVarianceNormalization": mean_variance_normalization,
    "RMSNormalization": rms_normalization,
}
