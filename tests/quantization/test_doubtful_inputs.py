"""An input of unsettled preprocessing is not what an integer grid is laid over."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from converter.graph import Graph
from converter.inputs.plans import InputKind, InputPlan, Scaling
from converter.quantization.doubtful_inputs import first_layers_in_doubt
from tests.networks import biases, model_of, node, weights

ONE, OTHER = Scaling("0..1", (1.0,), (0.0,)), Scaling("-1..1", (2.0,), (-1.0,))


@pytest.fixture
def graph() -> Graph:
    model = model_of(
        [
            node("Transpose", ["x"], ["t"], perm=[0, 1, 3, 2]),
            node("Conv", ["t", "w", "b"], ["c"]),
            node("Relu", ["c"], ["r"]),
            node("Conv", ["r", "v"], ["y"]),
        ],
        {"w": weights(4, 3, 3, 3), "b": biases(4), "v": weights(5, 4, 1, 1)},
        shape=("N", 3, 8, 8),
    )
    for number, each in enumerate(model.graph.node):
        each.name = f"n{number}"
    return Graph(model)


def plan(sure: float) -> InputPlan:
    considered = (replace(ONE, probability=sure), replace(OTHER, probability=1 - sure))
    kind, dtype = InputKind.PICTURE, np.dtype(np.float32)
    return InputPlan("x", kind, dtype, (3, 8, 8), scaling=considered[0], considered=considered)


def test_doubt_keeps_the_way_to_the_first_layer_in_float(graph: Graph) -> None:
    kept = first_layers_in_doubt(graph, [plan(0.7)])
    kinds = {each.op_type for each in graph.nodes if each.name in kept}
    assert kinds == {"Transpose", "Conv"}
    assert len(kept) == 2
    assert all("70% sure" in reason for reason in kept.values())


def test_what_is_settled_or_stated_runs_on_integers(graph: Graph) -> None:
    assert first_layers_in_doubt(graph, [plan(0.995)]) == {}
    assert first_layers_in_doubt(graph, [replace(plan(0.5), considered=())]) == {}
