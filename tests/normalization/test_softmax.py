"""A softmax in pieces becomes one operator, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, NodeProto

from converter.graph import Graph
from converter.normalization import normalize, probe, verify_equivalence
from converter.scores import class_output
from tests.networks import model_of, node, weights

LOGITS = node("MatMul", ["x", "w"], ["l"])


def keras(axis: int = -1) -> list[NodeProto]:
    """As Keras and torch decompositions have it: reductions that keep their axis."""
    return [
        node("ReduceMax", ["l"], ["m"], axes=[axis], keepdims=1),
        node("Sub", ["l", "m"], ["d"]),
        node("Exp", ["d"], ["e"]),
        node("ReduceSum", ["e", "axis"], ["s"], keepdims=1),
        node("Div", ["e", "s"], ["y"]),
    ]


def jax() -> list[NodeProto]:
    """As jax2tf has it: reductions that drop their axis, which Reshape and Expand bring back."""
    return [
        node("ReduceMax", ["l"], ["m0"], axes=[1], keepdims=0),
        node("Max", ["lowest", "m0"], ["m1"]),
        node("Reshape", ["m1", "column"], ["m2"]),
        node("Shape", ["l"], ["whole"]),
        node("Expand", ["m2", "whole"], ["m"]),
        node("Sub", ["l", "m"], ["d"]),
        node("Exp", ["d"], ["e"]),
        node("ReduceSum", ["e", "axis"], ["s0"], keepdims=0),
        node("Reshape", ["s0", "column"], ["s"]),
        node("Div", ["e", "s"], ["y"]),
    ]


def bare() -> list[NodeProto]:
    return [
        node("Exp", ["l"], ["e"]),
        node("ReduceSum", ["e", "axis"], ["s"], keepdims=1),
        node("Div", ["e", "s"], ["y"]),
    ]


def model(nodes: list[NodeProto], axis: int = -1) -> ModelProto:
    constants = {"w": weights(12, 7), "axis": np.array([axis]), "column": np.array([-1, 1])}
    return model_of([LOGITS, *nodes], constants | {"lowest": np.array(-np.inf, np.float32)}, ("N", 12))


@pytest.mark.parametrize("nodes", [keras(), jax(), bare()], ids=["keras", "jax", "bare"])
def test_a_softmax_in_pieces_is_one_and_tells_of_classes(nodes: list[NodeProto]) -> None:
    given = model(nodes)
    normalized = normalize(given).model
    assert [each.op_type for each in normalized.graph.node if each.op_type != "Identity"] == ["MatMul", "Softmax"]
    assert verify_equivalence(given, normalized, probe(given)) <= 1e-6
    found = class_output(Graph(normalized))
    assert found is not None
    assert found.reason == "the model ends in Softmax"


def test_a_maximum_along_another_axis_stays_outside() -> None:
    nodes = keras()
    nodes[3] = node("ReduceSum", ["e", "samples"], ["s"], keepdims=1)
    given = model_of(
        [LOGITS, *nodes], {"w": weights(12, 7), "axis": np.array([-1]), "samples": np.array([0])}, ("N", 12)
    )
    normalized = normalize(given).model
    assert [each.op_type for each in normalized.graph.node] == ["MatMul", "ReduceMax", "Sub", "Softmax"]
    assert verify_equivalence(given, normalized, probe(given)) <= 1e-6


@pytest.mark.parametrize(
    "last",
    [
        [node("ReduceSum", ["d", "axis"], ["s"], keepdims=1), node("Div", ["e", "s"], ["y"])],  # of something else
        [node("ReduceSum", ["e", "axis"], ["s"], keepdims=1), node("Div", ["s", "e"], ["y"])],  # upside down
    ],
)
def test_what_only_looks_like_one_is_left(last: list[NodeProto]) -> None:
    given = model([*keras()[:3], *last])
    normalized = normalize(given).model
    assert [each.op_type for each in normalized.graph.node][-2:] == ["ReduceSum", "Div"]
    assert verify_equivalence(given, normalized, probe(given)) <= 1e-6
