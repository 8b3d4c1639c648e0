"""How much work running the model would be, as far as its file fixes that."""

from __future__ import annotations

import math

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from converter.admission.operators import name_of
from converter.admission.wire import shorten
from converter.errors import TooLarge
from converter.graph import Graph, all_graphs, constant_tensor
from converter.limits import Limits

__all__ = ["check_extent"]


def check_extent(model: ModelProto, limits: Limits) -> None:
    """No tensor of static shape is beyond the limit, and no Loop of constant count runs beyond it."""
    graph = Graph(model)
    for name, shape in graph.shapes.items():
        elements = math.prod(size for size in shape if isinstance(size, int))
        if elements > limits.activation_elements:
            maker = graph.producer(name)
            raise TooLarge(
                f"The tensor {shorten(name)!r} would have {elements:,} elements; at most "
                f"{limits.activation_elements:,} are accepted.",
                tensor=shorten(name),
                node=None if maker is None else name_of(maker),
                operator=None if maker is None else maker.op_type,
                remedy="Export the model for smaller inputs.",
            )
    for node, iterations in _loops(model):
        if iterations > limits.loop_iterations:
            raise TooLarge(
                f"The node {name_of(node)!r} (Loop) runs {iterations:,} times; at most {limits.loop_iterations:,} are "
                "accepted.",
                node=name_of(node),
                operator="Loop",
                remedy="Bound the loop.",
            )


def _loops(model: ModelProto) -> list[tuple[NodeProto, int]]:
    """Loops whose count is a constant, with it."""
    loops: list[NodeProto] = []
    constants: dict[str, TensorProto] = {}
    for graph in all_graphs(model.graph):
        constants.update({tensor.name: tensor for tensor in graph.initializer})
        for node in graph.node:
            tensor = constant_tensor(node)
            if tensor is not None:
                constants[node.output[0]] = tensor
            if node.op_type == "Loop":
                loops.append(node)
    counts = [(node, constants[node.input[0]]) for node in loops if node.input[0] in constants]
    return [
        (node, int(array.flat[0]))
        for node, tensor in counts
        if (array := np.asarray(numpy_helper.to_array(tensor))).size == 1
    ]
