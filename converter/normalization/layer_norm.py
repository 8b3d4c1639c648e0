"""Layer normalization, which exporters below opset 17 wrote as nine small nodes, as the one operator it is.

Left in pieces it would be quantized in pieces: the square of the deviations alone spans twice the bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, helper

from converter.graph import Array, Graph, attribute
from converter.normalization.rewriting import Change, Rewriting

__all__ = ["restore_layer_norm"]


def restore_layer_norm(model: ModelProto) -> tuple[ModelProto, Change]:
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta over the last axis is LayerNormalization."""
    graph = Graph(model)
    rewriting = Rewriting(model)
    count = 0
    for node in rewriting.nodes:
        found = _match(node, rewriting) if node.op_type == "Div" and rewriting.is_present(node) else None
        if found is not None:
            count += _replace(found, graph, rewriting)
    change = Change("restore_layer_norm", count, "Layer normalizations written as one operator")
    return rewriting.finish(), change


@dataclass(frozen=True)
class Found:
    """A normalization in pieces: its input, its nodes up to the division, and the constant beside the variance."""

    source: str
    nodes: tuple[NodeProto, ...]
    epsilon: float


def _match(divide: NodeProto, rewriting: Rewriting) -> Found | None:
    """x -> d = x - mean(x) -> d / sqrt(mean(d * d) + epsilon), read from the division backwards."""
    centre, root = rewriting.maker(divide.input[0]), rewriting.maker(divide.input[1])
    if centre is None or centre.op_type != "Sub" or root is None or root.op_type != "Sqrt":
        return None
    add = rewriting.maker(root.input[0])
    if add is None or add.op_type != "Add":
        return None
    place = 0 if rewriting.is_constant(add.input[1]) else 1
    epsilon = rewriting.constant_input(add, 1 - place)
    variance, mean = rewriting.maker(add.input[place]), rewriting.maker(centre.input[1])
    if epsilon is None or epsilon.size != 1 or variance is None or mean is None:
        return None
    square = rewriting.maker(variance.input[0])
    source = centre.input[0]
    whole = (
        _is_last_mean(mean, rewriting)
        and mean.input[0] == source
        and _is_last_mean(variance, rewriting)
        and square is not None
        and _is_square(square, divide.input[0], rewriting)
    )
    if not whole or square is None:
        return None
    nodes = (mean, centre, square, variance, add, root, divide)
    inside = {id(each) for each in nodes}
    for each in nodes[:-1]:
        result = each.output[0]
        if result in rewriting.outputs or any(id(reader) not in inside for reader in rewriting.readers(result)):
            return None
    return Found(source, nodes, float(epsilon.reshape(-1)[0]))


def _is_last_mean(node: NodeProto, rewriting: Rewriting) -> bool:
    last = rewriting.reduced_axes(node) == [-1]
    return node.op_type == "ReduceMean" and last and attribute(node, "keepdims", 1) == 1


def _is_square(node: NodeProto, tensor: str, rewriting: Rewriting) -> bool:
    if node.op_type == "Mul":
        return list(node.input) == [tensor, tensor]
    power = rewriting.constant_input(node, 1)
    return node.op_type == "Pow" and node.input[0] == tensor and power is not None and bool((power == 2).all())


def _replace(found: Found, graph: Graph, rewriting: Rewriting) -> bool:
    shape = graph.shapes.get(found.source)
    size = shape[-1] if shape else None
    if not isinstance(size, int):
        return False
    last = found.nodes[-1]
    gamma, last, scaled = _following(last, "Mul", size, rewriting)
    beta, last, moved = _following(last, "Add", size, rewriting)
    scale = np.ones(size, np.float32) if gamma is None else gamma
    result = last.output[0]
    inputs = [found.source, rewriting.add_constant(f"{result}_gamma", scale)]
    if beta is not None:
        inputs.append(rewriting.add_constant(f"{result}_beta", beta))
    name = f"{found.nodes[-1].name}_normalization"
    whole = helper.make_node("LayerNormalization", inputs, [result], name=name, axis=-1, epsilon=found.epsilon)
    for node in (*found.nodes, *scaled, *moved):
        if node is not last:
            rewriting.remove(node)
    rewriting.replace(last, whole)
    return True


def _following(
    node: NodeProto, operator: str, size: int, rewriting: Rewriting
) -> tuple[Array | None, NodeProto, tuple[NodeProto, ...]]:
    """The constant per feature that the one next node multiplies or adds, if it does; and where the chain now ends."""
    reader = rewriting.sole_reader(node.output[0])
    if reader is None or reader.op_type != operator or list(reader.input).count(node.output[0]) != 1:
        return None, node, ()
    constant = rewriting.constant_input(reader, 1 - list(reader.input).index(node.output[0]))
    if constant is None or constant.dtype != np.float32 or constant.size not in (1, size):
        return None, node, ()
    if any(length != 1 for length in constant.shape[:-1]) or (constant.ndim > 1 and constant.shape[-1] != size):
        return None, node, ()
    return np.broadcast_to(constant.reshape(-1), (size,)).copy(), reader, (reader,)
