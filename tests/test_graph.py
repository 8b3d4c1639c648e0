"""The read-only view of a graph."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.graph import Graph, Value, attribute, captures, skeleton
from tests.hostile import CONV, convolution

FLOAT = TensorProto.FLOAT


def test_makers_and_readers() -> None:
    graph = Graph(convolution(CONV, helper.make_node("Add", ["c", "c"], ["y"], name="add")))
    conv, add = graph.nodes
    assert graph.producer("c") is conv
    assert graph.producer("x") is graph.producer("w") is None
    assert graph.consumers("c") == (add,)
    assert graph.consumers("y") == ()
    assert [value.name for value in graph.inputs] == ["x"]
    assert graph.output_names == {"y"}


def test_a_node_reads_what_its_bodies_capture() -> None:
    inner = helper.make_graph(
        [helper.make_node("Relu", ["c"], ["t"])], "then", [], [helper.make_tensor_value_info("t", FLOAT, None)]
    )
    outer = helper.make_graph([], "else", [], [helper.make_tensor_value_info("x", FLOAT, None)])
    branch = helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=outer)
    model = convolution(CONV, branch)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    graph = Graph(model)
    assert captures(branch) == {"c", "x"}
    assert graph.consumers("c") == (graph.nodes[1],)
    assert graph.consumers("x") == (graph.nodes[0], graph.nodes[1])


def test_initializers_are_arrays_that_nobody_changes() -> None:
    graph = Graph(convolution())
    weight = graph.initializers["w"]
    assert weight.shape == graph.initializers.shape("w") == (4, 3, 3, 3)
    assert graph.initializers["w"] is weight
    assert list(graph.initializers) == ["w"]
    with pytest.raises(ValueError, match="read-only"):
        weight[0] = 0
    with pytest.raises(KeyError):
        graph.initializers["x"]


def test_shapes_have_numbers_symbols_and_none() -> None:
    graph = Graph(convolution(CONV, helper.make_node("Relu", ["c"], ["y"])))
    assert graph.shapes["c"] == graph.shapes["y"] == ("N", 4, 6, 6)
    assert graph.shapes["w"] == (4, 3, 3, 3)
    assert graph.element_types["c"] == FLOAT
    assert str(Value("a", FLOAT, ("N", None, 3))) == "a float32 [Nx?x3]"
    assert str(Value("a", TensorProto.INT64, None)) == "a int64 [unknown shape]"


def test_a_symbol_on_two_axes_of_one_input_says_nothing() -> None:
    model = convolution()
    for axis in (0, 2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = "?"
    shape = Graph(model).shapes["y"]
    assert shape[1] == 4
    assert "?" not in shape
    assert len(set(shape)) == 4  # symbols that inference made up, each of its own
    assert Graph(model).inputs[0].shape == ("?", 3, "?", "?")


def test_the_declared_shape_of_an_output_does_not_override_the_graph() -> None:
    model = convolution()
    for size in (9, 9, 9, 9):
        model.graph.output[0].type.tensor_type.shape.dim.add().dim_value = size
    assert Graph(model).shapes["y"] == ("N", 4, 6, 6)


def test_a_skeleton_has_the_shapes_but_not_the_weights() -> None:
    model = convolution()
    light = skeleton(model, largest=50)
    assert not light.graph.initializer
    assert [value.name for value in light.graph.input] == ["x", "w"]
    assert skeleton(model).graph.initializer == model.graph.initializer


def test_attributes_have_defaults_and_are_text() -> None:
    node = helper.make_node("Pad", ["x", "p"], ["y"], mode="edge")
    assert attribute(node, "mode") == "edge"
    assert attribute(node, "axis", 3) == 3
