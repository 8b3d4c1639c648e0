"""What each input of a graph is taken for, and why; what nothing tells is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from converter.errors import InvalidOption, UnsupportedModel
from converter.graph import Graph, Shape, Value, attribute
from converter.inputs.evidence import Evidence, Finding, is_one, symbolic
from converter.inputs.floats import recognize_floats
from converter.inputs.integers import find_index, recognize_integers
from converter.inputs.naming import Hint, hints
from converter.inputs.plans import ADJUSTABLE, BYTES, SHARED, InputKind, InputPlan
from converter.inputs.returning import find_state
from converter.inputs.statements import apply_statement, finding_of, question
from converter.specifications import InputSpec

__all__ = ["describe_inputs"]

TYPICAL_SIDE = 224  # of a picture whose size the model leaves open
TYPICAL_LENGTH = 64  # of a sequence
TYPICAL_SIGNAL = 16_000  # one second of speech
TYPICAL_PAST = 16  # tokens in a cache
TYPICAL_FRAMES = 8  # of a film
CODES = (0, 2)
RECURRENT = ("LSTM", "GRU", "RNN")


def describe_inputs(graph: Graph, specs: Mapping[str, InputSpec]) -> tuple[InputPlan, ...]:
    """The plan of every input, scales of pictures and features still open where the owner did not state them.

    Raises InvalidOption for specifications that fit no input and for inputs that nobody can tell the kind of, which it
    asks for, and UnsupportedModel for element types without a meaning.
    """
    names = [each.name for each in graph.inputs]
    for name in specs:
        if name not in names:
            raise InvalidOption(
                f"There is no input {name!r}.", field="inputs", remedy=f"The inputs are {', '.join(names)}."
            )
    plans = [_describe(each, graph, specs.get(each.name, InputSpec())) for each in graph.inputs]
    return tuple(_among(plan, plans) for plan in plans)


def _describe(value: Value, graph: Graph, spec: InputSpec) -> InputPlan:
    dtype = np.dtype(value.dtype)
    if dtype.kind not in "iubf":
        raise UnsupportedModel(f"The input {value} has an element type that zsq cannot make up.", tensor=value.name)
    shape = value.shape
    if spec.shape is not None:
        _check_shape(value, spec.shape)
        shape = spec.shape
    if shape is None:
        raise question(value, "its number of axes is unknown", "shape=1x3x224x224")
    evidence = Evidence(value, shape, graph)
    finding = finding_of(evidence, spec) or _recognize(evidence)
    if finding is None:
        raise question(value, "nothing in the graph tells what it carries", _example(evidence))
    plan = _plan(evidence, finding, dtype)
    if spec.shape is not None:
        plan = replace(plan, free_size=False)
    return apply_statement(plan, spec)


def _recognize(evidence: Evidence) -> Finding | None:
    state = find_state(evidence)
    if state is not None:
        return state
    if evidence.value.dtype.startswith(("float", "double", "bfloat")):
        return find_index(evidence) or recognize_floats(evidence)
    return recognize_integers(evidence)


def _example(evidence: Evidence) -> str:
    """What its owner may have to type."""
    if is_one(evidence.shape):
        return "kind=scalar;value=1"
    return "kind=mask" if evidence.value.dtype == "bool" else "tokens=0:1000"


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


# ---------------------------------------------------------------------------------------------------------------- plans


def _plan(evidence: Evidence, finding: Finding, dtype: np.dtype[Any]) -> InputPlan:
    """The plan that a finding makes, with typical sizes wherever the model leaves them open."""
    shape, value = evidence.shape, evidence.value
    axis = _batch_axis(evidence, finding)
    rest = shape if axis is None else (*shape[:axis], *shape[axis + 1 :])
    fixed = shape[axis] if axis is not None else None
    plan = InputPlan(
        value.name,
        finding.kind,
        dtype,
        _sizes(rest, finding),
        axis,
        any(symbolic(size) for size in rest),
        finding.channels_last,
        fixed_batch=fixed if isinstance(fixed, int) else None,
        reason=finding.reason,
        value=finding.value,
        choices=finding.choices,
        special=finding.special,
        side=finding.side,
        bands=finding.bands if finding.bands is None or axis is None or finding.bands < axis else finding.bands - 1,
        returned=finding.returned,
        tokens=finding.tokens or CODES,
        settled=finding.kind not in ADJUSTABLE,
    )
    if finding.scaling is not None:
        plan = replace(plan, scaling=finding.scaling, settled=True)
    if dtype.kind in "iu" and finding.kind is InputKind.PICTURE:
        plan = replace(plan, scaling=BYTES, settled=True)
    return plan


def _batch_axis(evidence: Evidence, finding: Finding) -> int | None:
    """Where samples are side by side: the first axis, unless that is another input's or there is none."""
    shape = evidence.shape
    if not shape or not finding.batched:
        return None
    for use in evidence.uses:  # a recurrent layer has its samples on the second axis, unless it says otherwise
        if use.operator in RECURRENT and use.place in (0, 5, 6) and use.axes is not None and len(use.axes) == 3:
            return use.axes[0 if attribute(use.node, "layout", 0) else 1]
    firsts = {size for other in evidence.others for size in (other.shape or ())[:1] if isinstance(size, str)}
    if finding.kind in (InputKind.STATE, InputKind.CACHE):
        named = [axis for axis, size in enumerate(shape) if isinstance(size, str) and size in firsts]
        if not named and finding.kind is InputKind.CACHE and (symbolic(shape[0]) or not firsts):
            return 0
        return named[0] if named else None
    if finding.kind is InputKind.CONSTANT:
        return None
    if finding.kind in SHARED and shape[0] == 1 and firsts:
        return None  # the same for all samples, which broadcasts
    if finding.kind in (InputKind.POSITIONS, InputKind.MASK) and len(shape) == 1 and not _is_batch(shape[0], firsts):
        return None
    batches = [axis for axis, size in enumerate(shape) if isinstance(size, str) and Hint.BATCH in hints(size)]
    return batches[0] if batches and batches[0] == 1 and not isinstance(shape[0], int) else 0


def _is_batch(size: int | str | None, firsts: set[str]) -> bool:
    return isinstance(size, str) and (size in firsts or Hint.BATCH in hints(size))


def _sizes(rest: Shape, finding: Finding) -> tuple[int, ...]:
    """Sizes of one sample, typical ones where the model leaves them open."""
    typical = {
        InputKind.PICTURE: TYPICAL_SIDE,
        InputKind.SIGNAL: TYPICAL_SIGNAL,
        InputKind.CACHE: TYPICAL_PAST,
        InputKind.STATE: 1,
    }.get(finding.kind, TYPICAL_LENGTH)
    if finding.kind is InputKind.VIDEO and len(rest) == 4:
        axes = [TYPICAL_FRAMES, TYPICAL_FRAMES, TYPICAL_SIDE, TYPICAL_SIDE]
        return tuple(size if isinstance(size, int) else axes[place] for place, size in enumerate(rest))
    return tuple(size if isinstance(size, int) else typical for size in rest)


def _among(plan: InputPlan, plans: list[InputPlan]) -> InputPlan:
    """The plan with what the other inputs say: samples end early where a mask or lengths beside them tell the end."""
    ends = [each for each in plans if each.kind in (InputKind.MASK, InputKind.LENGTHS)]
    tokens = [each for each in plans if each.kind is InputKind.TOKENS and each.shape]
    match plan.kind:
        case InputKind.TOKENS:
            beside = any(each.kind is InputKind.LENGTHS or each.shape[-1:] == plan.shape[-1:] for each in ends)
            return replace(plan, varied=bool(plan.shape) and (beside or plan.special[2] is not None))
        case InputKind.MASK:
            return replace(plan, varied=bool(tokens) or _ends_early(plan, plans))
        case InputKind.LENGTHS:
            return replace(plan, varied=True)
    return plan


def _ends_early(plan: InputPlan, plans: list[InputPlan]) -> bool:
    """Whether a mask of places runs along the steps of embeddings or features."""
    return any(
        len(each.shape) >= 2 and plan.shape[-1:] == each.shape[-2:-1]
        for each in plans
        if each.kind in (InputKind.EMBEDDINGS, InputKind.FEATURES, InputKind.SPECTRUM)
    ) or not any(each.kind in ADJUSTABLE for each in plans)
