"""Two samples go through together only where each gets what it would get alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto, NodeProto

from converter.graph import Graph
from converter.inputs.batching import with_honest_batch
from converter.inputs.recognition import describe_inputs
from tests.networks import Array, model_of, node, weights

CONSTANTS = {
    "w": weights(4, 8, 3, 3),
    "one": np.array([1, 400]),
    "any": np.array([0, -1]),
    "flat": np.array([-1]),
    "half": np.array([0.5], np.float32),
}


def fixed_batch(layers: list[NodeProto], shape: tuple[int | str, ...] = ("N", 8, 12, 12)) -> int | None:
    used = {name for each in layers for name in each.input}
    constants: dict[str, Array] = {name: value for name, value in CONSTANTS.items() if name in used}
    model: ModelProto = model_of(layers, constants, shape)
    plans = tuple(replace(plan, settled=True) for plan in describe_inputs(Graph(model), {}))
    (plan,) = with_honest_batch(model, plans)
    return plan.fixed_batch


CONV = node("Conv", ["x", "w"], ["c"])


@pytest.mark.parametrize(
    ("tail", "wanted"),
    [
        ([node("Reshape", ["c", "any"], ["y"])], None),
        ([node("Transpose", ["c"], ["y"], perm=[1, 0, 2, 3])], None),
        ([node("Shape", ["w"], ["s"]), node("Cast", ["s"], ["y"], to=1)], None),
        ([node("Reshape", ["c", "one"], ["y"])], 1),
        ([node("ReduceMean", ["c"], ["m"], axes=[0]), node("Sub", ["c", "m"], ["y"])], 1),
        ([node("Greater", ["c", "half"], ["g"]), node("NonZero", ["g"], ["i"]), node("Cast", ["i"], ["y"], to=1)], 1),
    ],
    ids=["reshape", "second axis", "constant", "written down", "mean over the batch", "rows by the data"],
)
def test_samples_go_together_only_where_they_stay_apart(tail: list[NodeProto], wanted: int | None) -> None:
    assert fixed_batch([CONV, *tail]) == wanted


def test_a_batch_that_the_model_declares_is_kept() -> None:
    assert fixed_batch([CONV, node("Relu", ["c"], ["y"])], (5, 8, 12, 12)) == 5
