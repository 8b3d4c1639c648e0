"""Whether several samples may go through a model at once: a graph may declare any number and mean one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from onnx import ModelProto

from converter.admission.loading import load
from converter.inputs.drawing import draw_inputs
from converter.inputs.plans import InputKind, InputPlan, assemble
from converter.reconstruction.batching import BATCH_TOLERANCE
from converter.sessions import Array

__all__ = ["with_honest_batch"]

SEED = 0


def with_honest_batch(model: ModelProto, plans: tuple[InputPlan, ...]) -> tuple[InputPlan, ...]:
    """The plans, bound to single samples where two at once do not run or do not give what each gives alone.

    A Reshape that says [1, ...], rows that the data number as after NonMaxSuppression, and a mean over the batch are
    three ways to that; each output must have its samples along one axis.
    """
    open_batch = [plan for plan in plans if plan.batch_axis is not None]
    if not open_batch or any(plan.fixed_batch is not None for plan in plans):
        return plans
    if any(plan.kind is InputKind.STATE for plan in plans):
        return plans
    generator = np.random.default_rng(SEED)
    raw = draw_inputs(plans, 2, generator)
    for plan in plans:
        if plan.batch_axis is None:  # whoever goes through at once shares it
            raw[plan.name] = np.repeat(raw[plan.name][:1], 2, axis=0)
    session = load(model)
    try:
        alone = [session.run(None, assemble(plans, raw, slice(each, each + 1))) for each in range(2)]
    except Exception:  # boundary: onnxruntime's exceptions share no base; whoever runs it next says what is wrong
        return plans
    try:
        together = session.run(None, assemble(plans, raw))
    except Exception:  # boundary: as above; here it is the answer
        return _single(plans)
    honest = all(_parts(both, pair) for both, *pair in zip(together, *alone, strict=True))
    return plans if honest else _single(plans)


def _single(plans: tuple[InputPlan, ...]) -> tuple[InputPlan, ...]:
    return tuple(replace(plan, fixed_batch=1) if plan.batch_axis is not None else plan for plan in plans)


def _parts(both: object, singles: Sequence[object]) -> bool:
    """Whether the result of two samples holds the results of either, side by side along some axis or the same."""
    if not isinstance(both, np.ndarray) or not all(isinstance(each, np.ndarray) for each in singles):
        return False
    first, second = (np.asarray(each) for each in singles)
    if first.ndim != both.ndim or second.ndim != both.ndim:
        return False
    if both.shape == first.shape == second.shape and _equal(both, first) and _equal(both, second):
        return True
    return any(
        both.shape[axis] == first.shape[axis] + second.shape[axis]
        and first.shape[:axis] + first.shape[axis + 1 :] == second.shape[:axis] + second.shape[axis + 1 :]
        and _equal(both, np.concatenate([first, second], axis))
        for axis in range(both.ndim)
    )


def _equal(one: Array, other: Array) -> bool:
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    finite = np.abs(other[np.isfinite(other)])
    largest = float(finite.max()) if finite.size else 0.0
    return bool(np.allclose(one, other, rtol=BATCH_TOLERANCE, atol=BATCH_TOLERANCE * largest, equal_nan=True))
