"""Branches that a Concat alone reads have its grid; all others keep their own."""

from __future__ import annotations

import pytest
from onnx import NodeProto

from converter.graph import Graph
from converter.quantization.joined_ranges import join_ranges
from converter.quantization.placement import place, quantized_tensors
from converter.quantization.qdq_writer import Range
from tests.networks import HEAD, biases, head, model_of, node, prepare, weights

CONSTANTS = {
    **{f"w{index}": weights(8, 8, 1, 1, seed=index) for index in range(4)},
    **{f"b{index}": biases(8, seed=index) for index in range(4)},
}


def conv(source: str, index: int, result: str) -> NodeProto:
    return node("Conv", [source, f"w{index}", f"b{index}"], [result])


BRANCHES = [
    conv("x", 0, "a"),
    conv("x", 1, "b"),
    node("Relu", ["b"], ["c"]),
    node("MaxPool", ["c"], ["d"], kernel_shape=[1, 1]),
    conv("x", 2, "e"),
    node("Concat", ["a", "d", "e"], ["joined"], axis=1),
    conv("e", 3, "f"),
    node("Concat", ["joined", "f"], ["last"], axis=1),
    *HEAD,
]


@pytest.fixture
def graph() -> Graph:
    return prepare(model_of(BRANCHES, {**CONSTANTS, **head(32)})).graph


def joined(graph: Graph, levels: dict[str, int] | None = None, dropped: dict[str, str] | None = None) -> dict[str, str]:
    """Of every tensor with a range of its own, the tensor whose range it was given."""
    nodes = place(graph, dropped or {}).nodes
    shared = quantized_tensors(graph, nodes)
    ranges = {name: Range(0.0, 1.0, name, (levels or {}).get(name, 256)) for name in shared.values()}
    return {name: each.method for name, each in join_ranges(graph, nodes, shared, ranges).items()}


def test_a_branch_that_only_joins_read_has_the_last_ones_range(graph: Graph) -> None:
    found = joined(graph)
    assert found["a"] == found["c"] == found["joined"] == found["f"] == found["last"] == "last"
    assert found["e"] == "e"  # a convolution reads it too
    assert found["x"] == "x"


def test_a_join_in_float_joins_nothing(graph: Graph) -> None:
    names = {each.output[0]: each.name for each in graph.nodes}
    found = joined(graph, dropped={names["last"]: "as an example"})
    assert all(name == own for name, own in found.items())


def test_grids_of_other_widths_are_left_alone(graph: Graph) -> None:
    assert joined(graph, {"a": 16})["a"] == "a"


def test_what_the_network_returns_keeps_its_range() -> None:
    model = model_of(BRANCHES, {**CONSTANTS, **head(32)}, outputs=("y", "a"))
    found = joined(prepare(model).graph)
    assert found["a"] == "a"
    assert found["c"] == "last"
