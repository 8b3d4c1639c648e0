"""Reductions over axes, and the search for extremes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from converter.errors import UnsupportedModel
from converter.operators.signatures import Ints, Operator, Table

Reduction: TypeAlias = Callable[[Tensor, Ints, bool], Tensor]


def _sum(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _mean(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return x.mean(axes, keepdim=keep) if x.is_floating_point() else x.double().mean(axes, keepdim=keep).to(x.dtype)


def _largest(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return _extreme(torch.amax, _lowest(x.dtype), x, axes, keep)


def _smallest(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return _extreme(torch.amin, _highest(x.dtype), x, axes, keep)


def _extreme(function: Operator, of_nothing: float | int | bool, x: Tensor, axes: Ints, keep: bool) -> Tensor:
    if all(x.shape[axis] for axis in axes):
        result: Tensor = function(x, axes, keep)
        return result
    return torch.full_like(_sum(x, axes, keep), of_nothing)


def _lowest(kind: torch.dtype) -> float | int | bool:
    return False if kind == torch.bool else float("-inf") if kind.is_floating_point else torch.iinfo(kind).min


def _highest(kind: torch.dtype) -> float | int | bool:
    return True if kind == torch.bool else float("inf") if kind.is_floating_point else torch.iinfo(kind).max


def _product(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep, dtype=x.dtype)
    return x


def _l1(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return _sum(x.abs(), axes, keep)


def _l2(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    if x.is_floating_point():
        norm: Tensor = torch.linalg.vector_norm(x, 2, axes, keep)
        return norm
    return _sum(x.double().square(), axes, keep).sqrt().to(x.dtype)


def _log_sum(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return _sum(x, axes, keep).log().to(x.dtype)


def _log_sum_exp(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    if not x.is_floating_point():
        raise UnsupportedModel("ReduceLogSumExp of integers is not supported.", operator="ReduceLogSumExp")
    return torch.logsumexp(x, axes, keep)


def _sum_square(x: Tensor, axes: Ints, keep: bool) -> Tensor:
    return _sum(x.square(), axes, keep)


REDUCTIONS: dict[str, Reduction] = {
    "ReduceL1": _l1,
    "ReduceL2": _l2,
    "ReduceLogSum": _log_sum,
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": _largest,
    "ReduceMean": _mean,
    "ReduceMin": _smallest,
    "ReduceProd": _product,
    "ReduceSum": _sum,
    "ReduceSumSquare": _sum_square,
}


def reduction(function: Reduction) -> dict[int, Operator]:
    """The reduction with its axes as an attribute, and as an input."""

    def by_attribute(x: Tensor, *, axes: Ints | None = None, keepdims: int = 1) -> Tensor:
        return _reduce(function, x, axes or tuple(range(x.dim())), keepdims)

    def by_input(x: Tensor, axes: Ints | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
        if not axes and not noop_with_empty_axes:
            axes = tuple(range(x.dim()))
        return _reduce(function, x, axes or (), keepdims)

    return {1: by_attribute, 18: by_input}


def _reduce(function: Reduction, x: Tensor, axes: Ints, keepdims: int) -> Tensor:
    """Over no axes only the pointwise part is done: torch reads an empty list as all axes, so one is added."""
    if not axes:
        return function(x.unsqueeze(-1), (-1,), False)
    return function(x, axes, bool(keepdims))


def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg(torch.argmax, x, axis, keepdims, select_last_index)


def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    return _arg(torch.argmin, x, axis, keepdims, select_last_index)


def _arg(function: Operator, x: Tensor, axis: int, keepdims: int, last: int) -> Tensor:
    found: Tensor = function(x.flip(axis) if last else x, axis, bool(keepdims))
    return x.shape[axis] - 1 - found if last else found


def top_k(x: Tensor, k: int, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> tuple[Tensor, Tensor]:  # noqa: A002
    """Of equal values those of lower index come first."""
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)


def top_k_1(x: Tensor, *, k: int, axis: int = -1) -> tuple[Tensor, Tensor]:
    return top_k(x, k, axis=axis)


TABLE: Table = {
    **{name: reduction(function) for name, function in REDUCTIONS.items()},
    "ArgMax": arg_max,
    "ArgMin": arg_min,
    "ReduceSum": {1: reduction(_sum)[1], 13: reduction(_sum)[18]},
    "TopK": {1: top_k_1, 10: top_k},
}
