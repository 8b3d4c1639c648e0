"""What each input of a graph is taken for, and what its owner stated of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from converter.errors import InvalidOption, UnsupportedModel
from converter.graph import Graph, Value, attribute
from converter.inputs.plans import SAMPLING_RATE, InputKind, InputPlan, Scaling
from converter.options import InputSpec

__all__ = ["compatible", "describe_inputs"]

TYPICAL_SIDE = 224  # of a picture whose size the model leaves open
TYPICAL_LENGTH = 64  # of a sequence
TYPICAL_SIGNAL = 16_000  # one second of speech


def describe_inputs(graph: Graph, specs: Mapping[str, InputSpec]) -> tuple[InputPlan, ...]:
    """The plan of every input, scales of pictures and features still open where the owner did not state them.

    Raises InvalidOption for specifications that fit no input and UnsupportedModel for element types without a meaning.
    """
    names = [each.name for each in graph.inputs]
    for name in specs:
        if name not in names:
            raise InvalidOption(
                f"There is no input {name!r}.", field="inputs", remedy=f"The inputs are {', '.join(names)}."
            )
    outputs = {(each.dtype, each.shape) for each in graph.outputs}
    given = {name: specs.get(name, InputSpec()) for name in names}
    return tuple(
        replace(_describe(each, graph, given[each.name], outputs), order=given[each.name].order)
        for each in graph.inputs
    )


def _describe(value: Value, graph: Graph, spec: InputSpec, outputs: set[tuple[str, Any]]) -> InputPlan:
    dtype = np.dtype(value.dtype)
    declared = value.shape if value.shape is not None else ("batch",)
    if spec.shape is not None:
        _check_shape(value, spec.shape)
        plan = _plan(value, dtype, spec.shape, graph, spec, outputs)
        return replace(plan, free_size=False)
    return _plan(value, dtype, declared, graph, spec, outputs)


def _check_shape(value: Value, given: tuple[int, ...]) -> None:
    fits = value.shape is None or (
        len(value.shape) == len(given)
        and all(not isinstance(size, int) or size == wanted for size, wanted in zip(value.shape, given, strict=True))
    )
    if not fits:
        raise InvalidOption(
            f"shape={'x'.join(map(str, given))} does not fit the input {value}.",
            field="inputs",
            remedy="State every axis.",
        )


def _plan(
    value: Value,
    dtype: np.dtype[Any],
    declared: tuple[int | str | None, ...],
    graph: Graph,
    spec: InputSpec,
    outputs: set[tuple[str, Any]],
) -> InputPlan:
    rank = len(declared)
    if dtype.kind in "iub":
        return _integers(value, dtype, declared, graph, spec)
    if dtype.kind != "f":
        raise UnsupportedModel(f"The input {value} has an element type that zsq cannot make up.", tensor=value.name)
    if rank == 0:
        low, high = spec.value_range or (1.0, 1.0)
        return InputPlan(value.name, InputKind.CONSTANT, dtype, (), None, value=(low + high) / 2, settled=True)
    state = _state_batch_axis(value, graph, outputs)
    if state is not None:
        axis = None if state < 0 else state
        shape = tuple(1 if each == axis or not isinstance(size, int) else size for each, size in enumerate(declared))
        kept = shape if axis is None else tuple(size for each, size in enumerate(shape) if each != axis)
        return InputPlan(value.name, InputKind.STATE, dtype, kept, axis, settled=True)
    kind, channels_last = _float_kind(declared, graph, value.name)
    shape, free = _sample_shape(declared[1:], kind, channels_last)
    plan = InputPlan(
        value.name,
        kind,
        dtype,
        shape,
        0,
        free,
        channels_last,
        fixed_batch=declared[0] if isinstance(declared[0], int) else None,
    )
    return _stated(plan, spec)


def _float_kind(declared: tuple[int | str | None, ...], graph: Graph, name: str) -> tuple[InputKind, bool]:
    """Pictures have four axes and 1, 3 or 4 channels; a long last axis alone is a signal; the rest are features."""
    rank = len(declared)
    readers = {node.op_type for node in graph.consumers(name)}
    if rank == 4:
        first, last = declared[1], declared[3]
        if first in (1, 3, 4) and not (first == 1 and _table(declared[2], declared[3])):
            return InputKind.PICTURE, False
        if (last in (1, 3, 4) and not isinstance(first, int | None)) or (
            last in (1, 3, 4) and readers <= {"Transpose", "Sub", "Mul", "Div", "Add"}
        ):
            return InputKind.PICTURE, True
        return InputKind.FEATURES, False
    if rank in (2, 3):
        last = declared[-1]
        if last is None or isinstance(last, str) or last >= 400:
            return InputKind.SIGNAL, False
    return InputKind.FEATURES, False


def _table(height: int | str | None, width: int | str | None) -> bool:
    """A one-channel plane so narrow or oblong that it is a spectrogram or a table rather than a picture."""
    if not isinstance(height, int) or not isinstance(width, int):
        return False
    return min(height, width) < 16 or max(height, width) > 3 * min(height, width)


def _sample_shape(
    sizes: tuple[int | str | None, ...], kind: InputKind, channels_last: bool
) -> tuple[tuple[int, ...], bool]:
    """Concrete sizes for one sample, and whether any had to be chosen."""
    free = any(not isinstance(size, int) for size in sizes)
    typical = {InputKind.PICTURE: TYPICAL_SIDE, InputKind.SIGNAL: TYPICAL_SIGNAL}.get(kind, TYPICAL_LENGTH)
    return tuple(size if isinstance(size, int) else typical for size in sizes), free


def _integers(
    value: Value, dtype: np.dtype[Any], declared: tuple[int | str | None, ...], graph: Graph, spec: InputSpec
) -> InputPlan:
    rank = len(declared)
    if rank == 0 or all(size == 1 for size in declared):
        number = spec.tokens[0] if spec.tokens else (int(spec.value_range[0]) if spec.value_range else SAMPLING_RATE)
        shape = tuple(1 for _ in declared)
        return InputPlan(value.name, InputKind.CONSTANT, dtype, shape, None, value=float(number), settled=True)
    shape = tuple(size if isinstance(size, int) else TYPICAL_LENGTH for size in declared[1:])
    free = any(not isinstance(size, int) for size in declared[1:])
    fixed = declared[0] if isinstance(declared[0], int) else None
    table = None if spec.tokens else _embedding_rows(value.name, graph)
    if dtype.kind == "b" or (table is None and spec.tokens is None):
        return InputPlan(value.name, InputKind.FLAGS, dtype, shape, 0, free, settled=True, value=1.0, fixed_batch=fixed)
    tokens = spec.tokens or (0, table or 2)
    return InputPlan(
        value.name, InputKind.TOKENS, dtype, shape, 0, free, settled=True, tokens=tokens, fixed_batch=fixed
    )


def _embedding_rows(name: str, graph: Graph) -> int | None:
    """The number of rows of the constant table that this input indexes, looking through casts and reshapes."""
    pending, seen = [name], set()
    while pending:
        tensor = pending.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        for node in graph.consumers(tensor):
            if node.op_type == "Gather" and node.input[1] == tensor and node.input[0] in graph.initializers:
                axis = int(attribute(node, "axis", 0))
                table = graph.initializers[node.input[0]]
                if table.dtype.kind == "f":
                    return int(table.shape[axis])
            elif node.op_type in ("Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Transpose"):
                pending.append(node.output[0])
    return None


def _state_batch_axis(value: Value, graph: Graph, outputs: set[tuple[str, Any]]) -> int | None:
    """The batch axis of a recurrent state (-1 where it has none), or None for any other input.

    A state comes back as an output of the same type and rank while another input carries the data.
    """
    if len(graph.inputs) < 2 or value.shape is None or len(value.shape) < 2:
        return None
    name = value.name.lower()
    alike = any(
        dtype == value.dtype and shape is not None and len(shape) == len(value.shape) and compatible(shape, value.shape)
        for dtype, shape in outputs
    )
    named = any(word in name for word in ("state", "hidden", "h0", "c0", "cache", "past", "h_in", "c_in"))
    if not (alike and (named or value is not graph.inputs[0])):
        return None
    symbols = {size for other in graph.inputs for size in (other.shape or ())[:1] if isinstance(size, str)}
    for axis, size in enumerate(value.shape):
        if isinstance(size, str) and size in symbols:
            return axis
    return -1


def compatible(one: tuple[int | str | None, ...], other: tuple[int | str | None, ...]) -> bool:
    """Whether two shapes of one rank differ in no size that both state."""
    return all(not isinstance(a, int) or not isinstance(b, int) or a == b for a, b in zip(one, other, strict=True))


def _stated(plan: InputPlan, spec: InputSpec) -> InputPlan:
    """The plan with the preprocessing that the owner stated, if any."""
    if spec.mean is not None or spec.std is not None:
        mean, std = spec.mean or (0.0,), spec.std or (1.0,)
        width = max(len(mean), len(std))
        mean, std = mean * width if len(mean) == 1 else mean, std * width if len(std) == 1 else std
        if len(mean) != len(std) or (width > 1 and plan.kind is InputKind.PICTURE and width != plan.channels):
            raise InvalidOption(
                f"mean and std of the input {plan.name!r} need one number, or one a channel.", field="inputs"
            )
        low, high = spec.value_range or (0.0, 255.0 if max(*mean, *std) > 2 else 1.0)  # what the mean is counted in
        if plan.kind is InputKind.PICTURE:
            scaling = Scaling(
                "stated: mean and deviation",
                tuple((high - low) / s for s in std),
                tuple((low - m) / s for m, s in zip(mean, std, strict=True)),
            )
        else:
            scaling = Scaling("stated: mean and deviation", std, mean)
        return replace(plan, scaling=scaling, settled=True)
    if spec.value_range is not None:
        low, high = spec.value_range
        if plan.kind is InputKind.PICTURE:
            return replace(plan, scaling=Scaling("stated: range", (high - low,), (low,)), settled=True)
        spread = (high - low) / 6  # three deviations to either side
        return replace(plan, scaling=Scaling("stated: range", (spread,), ((low + high) / 2,)), settled=True)
    return plan
