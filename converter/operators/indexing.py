"""Taking elements out of tensors, and putting elements into them."""

from __future__ import annotations

from math import prod
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from converter.errors import UnsupportedModel
from converter.operators.signatures import Ints, Known, Table, refuses

Combination: TypeAlias = Literal["none", "add", "mul", "min", "max"]
ENDLESS = (2**31 - 1, 2**63 - 1)
TORCH_REDUCE = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}

# ---------------------------------------------------------------- out of


def _backward_from_everywhere(known: Known) -> bool:
    ends, steps = known["ends"], known["steps"]
    if not (isinstance(ends, tuple) and isinstance(steps, tuple)):
        return False
    return any(step < 0 and end in ENDLESS for end, step in zip(ends, steps, strict=True))


@refuses("ends", _backward_from_everywhere, "at the largest integer and a negative step, on which runtimes differ,")
def slice_(data: Tensor, starts: Ints, ends: Ints, axes: Ints | None = None, steps: Ints | None = None) -> Tensor:
    if _backward_from_everywhere({"ends": ends, "steps": steps}):
        raise UnsupportedModel("Slice to the largest integer with a negative step is not supported.", operator="Slice")
    axes = tuple(range(len(starts))) if axes is None else axes
    for axis, start, end, step in zip(axes, starts, ends, steps or (1,) * len(starts), strict=True):
        size = data.shape[axis]
        first, last = _bounded(start, size, step), _bounded(end, size, step, end=True)
        if step == 1:
            data = data.narrow(axis, first, max(0, last - first))
        else:
            places = range(first, last, step)
            data = data.index_select(axis, torch.tensor(places, dtype=torch.int64, device=data.device))
    return data


def _bounded(place: int, size: int, step: int, end: bool = False) -> int:
    """The place on the axis; unlike Python, a first place before the axis is its first place when going backwards."""
    place = place + size if place < 0 else place
    if step > 0:
        return min(max(place, 0), size)
    return min(max(place, -1 if end else 0), size - 1)


def slice_1(data: Tensor, *, starts: Ints, ends: Ints, axes: Ints | None = None) -> Tensor:
    return slice_(data, starts, ends, axes)


def gather(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    if indices.dim() == 0:
        return data.select(axis, int(indices))
    axis %= data.dim()
    flat = _wrapped(indices.reshape(-1), data.shape[axis])
    taken = data.index_select(axis, flat)
    return taken if indices.dim() == 1 else taken.reshape(data.shape[:axis] + indices.shape + data.shape[axis + 1 :])


def gather_elements(data: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    return data.gather(axis, _wrapped(indices, data.shape[axis]))


def gather_nd(data: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    batch = data.shape[:batch_dims]
    flat = data.reshape(prod(batch), *data.shape[batch_dims:])
    places = indices.reshape(prod(batch), -1, indices.shape[-1])  # batch, count, depth
    rows = torch.arange(prod(batch), device=data.device)[:, None].expand(places.shape[:2])
    taken = flat[(rows, *places.long().unbind(-1))]
    return taken.reshape(*indices.shape[:-1], *data.shape[batch_dims + indices.shape[-1] :])


def compress(data: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    if axis is None:
        data, axis = data.reshape(-1), 0
    return data.index_select(axis, condition.nonzero().reshape(-1))


def non_zero(x: Tensor) -> Tensor:
    return x.reshape(1).nonzero().t()[:0] if x.dim() == 0 else x.nonzero().t()


def one_hot(indices: Tensor, depth: int, values: Tensor, *, axis: int = -1) -> Tensor:
    """A place outside [-depth, depth - 1] is off everywhere."""
    return one_hot_9(torch.where(indices < 0, indices + depth, indices), depth, values, axis=axis)


def one_hot_9(indices: Tensor, depth: int, values: Tensor, *, axis: int = -1) -> Tensor:
    """Up to opset 10 negative places are off everywhere too."""
    places = indices.long().unsqueeze(axis)
    shape = [1] * places.dim()
    shape[axis] = depth
    on = places == torch.arange(depth, device=places.device).reshape(shape)
    return torch.where(on, values[1], values[0])


def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    moved = x.movedim((batch_axis, time_axis), (0, 1))  # batch, time, ...
    time = torch.arange(moved.shape[1], device=x.device)
    place = torch.where(time < lengths[:, None], lengths[:, None] - 1 - time, time)  # batch, time
    rows = torch.arange(moved.shape[0], device=x.device)[:, None]
    return moved[rows, place].movedim((0, 1), (batch_axis, time_axis))


def unique(
    x: Tensor,
    *,
    axis: int | None = None,
    sorted: Literal[0, 1] = 1,  # noqa: A002
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The values (slices along the axis), where each comes first, which of them each element is, and their counts."""
    if axis is None:
        x, axis = x.reshape(-1), 0
    _, kind, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=axis)
    places = torch.arange(x.shape[axis], device=x.device)
    first = torch.full_like(counts, x.shape[axis]).scatter_reduce(0, kind, places, "amin")
    if not sorted:
        order = first.argsort()
        rank = torch.empty_like(order).scatter(0, order, torch.arange(len(order), device=x.device))
        first, kind, counts = first[order], rank[kind], counts[order]
    return x.index_select(axis, first), first, kind, counts


# ---------------------------------------------------------------- into


def scatter_elements(
    data: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: Combination = "none"
) -> Tensor:
    places = _wrapped(indices, data.shape[axis])
    if reduction == "none":
        return data.scatter(axis, places, updates)
    return data.scatter_reduce(axis, places, updates, TORCH_REDUCE[reduction])


def scatter_nd(data: Tensor, indices: Tensor, updates: Tensor, *, reduction: Combination = "none") -> Tensor:
    depth = indices.shape[-1]
    rest = prod(data.shape[depth:])
    row = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=data.device)
    for position in range(depth):
        row = row * data.shape[position] + _wrapped(indices[..., position], data.shape[position])
    flat = data.reshape(-1, rest)
    places = row.reshape(-1, 1).expand(-1, rest)
    changed = scatter_elements(flat, places, updates.reshape(-1, rest), axis=0, reduction=reduction)
    return changed.reshape(data.shape)


def tensor_scatter(
    past_cache: Tensor,
    update: Tensor,
    write_indices: Tensor | None = None,
    *,
    axis: int = -2,
    mode: Literal["linear", "circular"] = "linear",
) -> Tensor:
    axis %= past_cache.dim()
    time = torch.arange(update.shape[axis], device=update.device)
    start = time.new_zeros(past_cache.shape[0]) if write_indices is None else write_indices.long()
    places = start[:, None] + time  # batch, time
    if mode == "circular":
        places = places % past_cache.shape[axis]
    shape = [1] * past_cache.dim()
    shape[0], shape[axis] = places.shape
    return past_cache.scatter(axis, places.reshape(shape).expand(update.shape), update)


def _wrapped(indices: Tensor, size: int) -> Tensor:
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


TABLE: Table = {
    "Compress": compress,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "NonZero": non_zero,
    "OneHot": {9: one_hot_9, 11: one_hot},
    "ReverseSequence": reverse_sequence,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "Slice": {1: slice_1, 10: slice_},
    "TensorScatter": tensor_scatter,
    "Unique": unique,
}
