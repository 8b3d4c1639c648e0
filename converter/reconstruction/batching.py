"""Many samples through a graph that was traced with one.

Exporters write the traced batch of 1 into the graph: the input is declared as 1x3x320x320, a Reshape asks for
[1, -1, 4]. Such a graph run with more samples fails, or worse, silently mixes them. What many samples mean is certain,
though: the results of single runs, put together. This module runs all samples at once where that gives the same, with
shapes rescaled where the batch was written down, and one after the other where it does not. Which of the two is
decided by comparing, once for each plan and shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Size, Tensor

from converter.operators.signatures import Operator, Value
from converter.reconstruction.execution import Edits, Plan, Program

__all__ = ["BATCH_TOLERANCE", "Grown", "NotBatched", "SingleSamples", "grown"]

BATCH_TOLERANCE = 1e-3  # of the largest value: for another batch kernels may sum in another order


class NotBatched(ValueError):
    """The samples cannot go through together."""


@dataclass(frozen=True)
class Grown:
    """A tensor whose axis is ``times`` as long as for a single sample."""

    axis: int
    times: int
    single: Size


def grown(shape: Size, single: Size) -> Grown | None:
    """How a shape exceeds that of a single sample, None if it does not; NotBatched where no batch explains it."""
    if shape == single:
        return None
    if len(shape) != len(single):
        raise NotBatched(f"{tuple(shape)} is no batch of {tuple(single)}")
    axes = [axis for axis in range(len(shape)) if shape[axis] != single[axis]]
    times, rest = divmod(shape[axes[0]], max(single[axes[0]], 1))
    if len(axes) != 1 or rest or times < 1:
        raise NotBatched(f"{tuple(shape)} is no batch of {tuple(single)}")
    return Grown(axes[0], times, single)


@dataclass(frozen=True)
class Together:
    """A plan for all samples at once, and the shapes its results have for one."""

    plan: Plan
    singles: tuple[Size, ...]


@dataclass
class SingleSamples:
    """Runs a graph made for single samples on batches; what it returns has the samples along the first axis."""

    program: Program
    together: dict[object, Together | None] = field(default_factory=dict)  # None: one after the other

    def run(
        self, feeds: Mapping[str, Value], batched: Mapping[str, Grown], fetch: Sequence[str], edit: Edits
    ) -> list[Value]:
        """The fetched tensors for all samples."""
        shapes = tuple((name, value.axis, value.times, value.single) for name, value in batched.items())
        key = (tuple(feeds), shapes, tuple(fetch), tuple(edit))
        if key not in self.together:
            with torch.no_grad():
                self.together[key] = self._together(feeds, batched, fetch, edit)
        together = self.together[key]
        if together is None:
            return self._one_by_one(feeds, batched, fetch, edit)
        results = together.plan.execute(tuple(feeds.values()), edit)
        return [_samples_first(*pair) for pair in zip(results, together.singles, strict=True)]

    def _together(
        self, feeds: Mapping[str, Value], batched: Mapping[str, Grown], fetch: Sequence[str], edit: Edits
    ) -> Together | None:
        """The plan for all samples at once, if it gives what single runs give."""
        times = next(iter(batched.values())).times
        plain = dict.fromkeys(edit, _unchanged)
        single = self.program.plan(feeds, fetch, edit)
        try:
            plan = _rescaled(single, _sample(feeds, batched, 0), plain)
            results = plan.execute(tuple(feeds.values()), plain)
        except (RuntimeError, IndexError, ValueError):  # torch's words for shapes that do not go together
            return None
        expected: list[Value] = []
        for sample in sorted({0, 1, times - 1}):
            expected = single.execute(_sample(feeds, batched, sample), plain)
            if not all(_agrees(*pair, sample, times) for pair in zip(results, expected, strict=True)):
                return None
        return Together(plan, tuple(each.shape for each in expected))

    def _one_by_one(
        self, feeds: Mapping[str, Value], batched: Mapping[str, Grown], fetch: Sequence[str], edit: Edits
    ) -> list[Value]:
        plan = self.program.plan(feeds, fetch, edit)
        times = next(iter(batched.values())).times
        samples = [plan.execute(_sample(feeds, batched, sample), edit) for sample in range(times)]
        reached = self._reached(batched)
        return [
            _joined(column) if name in reached else column[0]
            for name, column in zip(fetch, zip(*samples, strict=True), strict=True)
        ]

    def _reached(self, names: Mapping[str, Grown]) -> set[str]:
        """Every tensor that depends on one of these."""
        reached = set(names)
        for operation in self.program.operations:
            if reached.intersection(operation.needs):
                reached.update(operation.outputs)
        return reached


def _rescaled(plan: Plan, sample: Sequence[Value], edit: Edits) -> Plan:
    """The plan with the batch put into the shapes that one sample fixed."""
    functions: dict[int, Operator] = {}

    def watch(number: int, arguments: Sequence[Value], result: Sequence[Value]) -> None:
        function, operator = plan.steps[number].function, plan.steps[number].operation.operator
        if operator.startswith("Reshape-"):
            functions[number] = _reshape(function, arguments[0].shape, result[0].shape, bool(edit))
        elif operator.startswith("Concat-"):
            functions[number] = _concat(function, [each.shape for each in arguments])
        elif operator.startswith(("GRU-", "LSTM-", "RNN-")):
            functions[number] = _recurrent(function, arguments[0].shape)

    plan.execute(sample, edit, watch)
    return plan.with_functions(functions)


def _sample(feeds: Mapping[str, Value], batched: Mapping[str, Grown], sample: int) -> list[Value]:
    """What to feed for one sample."""
    return [
        value.narrow(found.axis, sample * found.single[found.axis], found.single[found.axis])
        if (found := batched.get(name))
        else value
        for name, value in feeds.items()
    ]


def _agrees(result: Value, single: Value, sample: int, times: int) -> bool:
    """Whether the sample's part of the result is what its own run gave."""
    if not (isinstance(result, Tensor) and isinstance(single, Tensor)):
        return False
    try:
        found = grown(result.shape, single.shape)
    except NotBatched:
        return False
    if found is not None:
        if found.times != times:
            return False
        length = single.shape[found.axis]
        result = result.narrow(found.axis, sample * length, length)
    if not single.is_floating_point():
        return torch.equal(result, single)
    largest = single.abs().max().item() if single.numel() else 0.0
    return torch.allclose(result, single, rtol=BATCH_TOLERANCE, atol=BATCH_TOLERANCE * largest, equal_nan=True)


def _samples_first(result: Tensor, single: Size) -> Tensor:
    """The result with the samples along the first axis, wherever they are."""
    found = grown(result.shape, single)
    return result if found is None or not found.axis else torch.cat(torch.split(result, single[found.axis], found.axis))


def _joined(samples: Sequence[Value]) -> Value:
    """The samples' results along the first axis; scalars become a vector, what is no tensor a list."""
    if not isinstance(samples[0], Tensor):
        return list(samples)
    return torch.cat(tuple(samples)) if samples[0].dim() else torch.stack(tuple(samples))


def _reshape(function: Operator, single: Size, target: Size, edited: bool) -> Operator:
    """A Reshape that leaves the batch where the same number of elements comes before it.

    Where edits look at tensors, samples must not share an axis that means something else.
    """

    def operator(data: Tensor, *rest: object, **attributes: object) -> Tensor:
        found = grown(data.shape, single)
        if found is None:
            result: Tensor = function(data, *rest, **attributes)
            return result
        before = prod(single[: found.axis])
        for axis in range(len(target)):
            if prod(target[:axis]) == before and not (edited and axis and target[axis] > 1):
                return data.reshape(*target[:axis], target[axis] * found.times, *target[axis + 1 :])
        raise NotBatched(f"the batch of {tuple(data.shape)} has no place in {tuple(target)}")

    return operator


def _concat(function: Operator, singles: Sequence[Size]) -> Operator:
    """A Concat that repeats what is the same for all samples."""

    def operator(*tensors: Tensor, axis: int = 1) -> Tensor:
        found = [grown(x.shape, single) for x, single in zip(tensors, singles, strict=True)]
        batch = next((each for each in found if each), None)
        if batch is not None and batch.axis != axis % tensors[0].dim():
            tensors = tuple(
                x if each else x.expand([batch.times if k == batch.axis else -1 for k in range(x.dim())])
                for x, each in zip(tensors, found, strict=True)
            )
        result: Tensor = function(*tensors, axis=axis)
        return result

    return operator


def _recurrent(function: Operator, single: Size) -> Operator:
    """A recurrent layer whose initial states, the same for all samples, are repeated."""

    def operator(x: Tensor, *rest: Tensor | None, **attributes: object) -> Value:
        found = grown(x.shape, single)
        if found is not None:
            repeats = [found.times if axis == found.axis else 1 for axis in range(3)]
            one = single[found.axis]
            states = (
                state.repeat(repeats) if state is not None and state.shape[found.axis] == one else state
                for state in rest[4:6]
            )
            rest = (*rest[:4], *states, *rest[6:])
        return function(x, *rest, **attributes)

    return operator


def _unchanged(x: Tensor) -> Tensor:
    return x
