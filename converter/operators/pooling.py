"""Pooling over windows and over everything."""

from __future__ import annotations

from math import prod
from operator import gt

import torch
import torch.nn.functional as F
from torch import Tensor

from converter.operators.convolution import AutoPad, over_few_axes, same_pads, torch_pads
from converter.operators.signatures import Function, Ints, Known, Table, refuses

MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _same_pads_with_gaps(known: Known) -> bool:
    kernel, dilations, strides = known["kernel_shape"], known["dilations"], known["strides"]
    if known["auto_pad"] not in ("SAME_UPPER", "SAME_LOWER"):
        return False
    apart = isinstance(strides, tuple) and isinstance(kernel, tuple) and any(map(gt, strides, kernel))
    return apart or (isinstance(dilations, tuple) and max(dilations) > 1)


def _plain_same(function: Function) -> Function:
    return refuses("auto_pad", _same_pads_with_gaps, "SAME_* beside dilations or strides beyond the kernel")(function)


@over_few_axes
@_plain_same
def max_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    storage_order: int = 0,
    strides: Ints | None = None,
    output_count: int = 1,
) -> Tensor | tuple[Tensor, Tensor]:
    rank = len(kernel_shape)
    strides, dilations, pads = window(x, kernel_shape, auto_pad, ceil_mode, dilations, pads, strides)
    pool = MAX_POOL[rank]
    if output_count == 1 and x.is_floating_point() and _fits(pads, kernel_shape):
        return pool(x, kernel_shape, strides, pads[:rank], dilations)
    lowest = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
    padded = F.pad(x, torch_pads(pads), value=lowest)
    values = padded if x.is_floating_point() else padded.double()
    if output_count == 1:
        return pool(values, kernel_shape, strides, 0, dilations).to(x.dtype)
    largest, where = pool(values, kernel_shape, strides, 0, dilations, return_indices=True)
    return largest.to(x.dtype), _unpadded_indices(where, padded, x, pads, storage_order)


def _unpadded_indices(where: Tensor, padded: Tensor, x: Tensor, pads: Ints, storage_order: int) -> Tensor:
    """Positions in the padded planes as positions in the whole unpadded tensor."""
    rank = x.dim() - 2
    position = [torch.empty(0)] * rank
    rest = where
    for axis in reversed(range(rank)):
        position[axis] = rest % padded.shape[2 + axis] - pads[axis]
        rest = rest // padded.shape[2 + axis]
    order = reversed(range(rank)) if storage_order else range(rank)
    flat = torch.zeros_like(where)
    for axis in order:
        flat = flat * x.shape[2 + axis] + position[axis]
    plane = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(x.shape[0], x.shape[1], *[1] * rank)
    return flat + plane * prod(x.shape[2:])


@over_few_axes
@_plain_same
def average_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """The mean over each window; places that only ceil_mode added never count, padding counts when asked to."""
    rank = len(kernel_shape)
    asked = pads or (0,) * (2 * rank)
    strides, dilations, pads = window(x, kernel_shape, auto_pad, ceil_mode, dilations, pads, strides)
    plain = all(each == 1 for each in dilations)
    if plain and _fits(pads, kernel_shape) and (ceil_mode == 0 or pads == asked):
        return AVERAGE_POOL[rank](x, kernel_shape, strides, pads[:rank], False, bool(count_include_pad))
    counted = torch.ones(1, 1, *x.shape[2:], dtype=x.dtype, device=x.device)
    if count_include_pad:
        inside = asked if auto_pad == "NOTSET" else pads
        counted = F.pad(counted, torch_pads(inside), value=1.0)
        outside = tuple(whole - part for whole, part in zip(pads, inside, strict=True))
        counted = F.pad(counted, torch_pads(outside))
    else:
        counted = F.pad(counted, torch_pads(pads))
    return window_sum(F.pad(x, torch_pads(pads)), kernel_shape, strides, dilations) / window_sum(
        counted, kernel_shape, strides, dilations
    )


@_plain_same
def lp_pool(
    x: Tensor,
    *,
    kernel_shape: Ints,
    auto_pad: AutoPad = "NOTSET",
    ceil_mode: int = 0,
    dilations: Ints | None = None,
    p: int = 2,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    strides, dilations, pads = window(x, kernel_shape, auto_pad, ceil_mode, dilations, pads, strides)
    powers = F.pad(x.abs() ** p, torch_pads(pads))
    return window_sum(powers, kernel_shape, strides, dilations) ** (1.0 / p)


def window_sum(x: Tensor, kernel: Ints, strides: Ints, dilations: Ints) -> Tensor:
    """The sum over each window, one axis after the other."""
    for i, (width, stride, dilation) in enumerate(zip(kernel, strides, dilations, strict=True)):
        x = x.unfold(2 + i, (width - 1) * dilation + 1, stride)[..., ::dilation].sum(-1)
    return x


def window(
    x: Tensor,
    kernel: Ints,
    auto_pad: AutoPad,
    ceil_mode: int,
    dilations: Ints | None,
    pads: Ints | None,
    strides: Ints | None,
) -> tuple[Ints, Ints, Ints]:
    """Strides, dilations, and the pads with which windows that do not overhang are all the windows there are."""
    rank = len(kernel)
    strides = strides or (1,) * rank
    dilations = dilations or (1,) * rank
    if auto_pad != "NOTSET":
        return strides, dilations, same_pads(x.shape[2:], kernel, strides, dilations, auto_pad)
    pads = pads or (0,) * (2 * rank)
    if not ceil_mode:
        return strides, dilations, pads
    high = []
    for i in range(rank):
        width = (kernel[i] - 1) * dilations[i] + 1
        begin, size = pads[i], x.shape[2 + i]
        count = -(-(size + begin + pads[rank + i] - width) // strides[i]) + 1
        if (count - 1) * strides[i] >= size + begin:  # the last window has to begin inside
            count -= 1
        high.append(max(pads[rank + i], (count - 1) * strides[i] + width - size - begin))
    return strides, dilations, (*pads[:rank], *high)


def _fits(pads: Ints, kernel: Ints) -> bool:
    """Whether torch's own padding serves: symmetric, and at most half a window."""
    rank = len(kernel)
    return pads[:rank] == pads[rank:] and all(2 * pad <= width for pad, width in zip(pads, kernel, strict=False))


def max_unpool(
    x: Tensor,
    indices: Tensor,
    output_shape: Ints | None = None,
    *,
    kernel_shape: Ints,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Tensor:
    """Each value goes back to the place in the whole tensor from which max pooling took it."""
    rank = len(kernel_shape)
    strides = strides or (1,) * rank
    pads = pads or (0,) * (2 * rank)
    natural = tuple((x.shape[2 + i] - 1) * strides[i] + kernel_shape[i] - pads[i] - pads[rank + i] for i in range(rank))
    source = (*x.shape[:2], *natural)
    flat = torch.zeros(prod(source), dtype=x.dtype, device=x.device)
    whole = flat.scatter(0, indices.reshape(-1), x.reshape(-1)).reshape(source)
    if output_shape is None or tuple(output_shape) == source:
        return whole
    missing = tuple(wanted - size for wanted, size in zip(output_shape[2:], natural, strict=True))
    return F.pad(whole, torch_pads((*(0,) * rank, *missing)))


def global_average_pool(x: Tensor) -> Tensor:
    return x.mean(tuple(range(2, x.dim())), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    return (x.abs() ** p).sum(tuple(range(2, x.dim())), keepdim=True) ** (1.0 / p)


TABLE: Table = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalLpPool": {2: global_lp_pool},
    "GlobalMaxPool": global_max_pool,
    "LpPool": {2: lp_pool},
    "MaxPool": max_pool,
    "MaxUnpool": max_unpool,
}
