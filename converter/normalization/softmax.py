"""A softmax in pieces, as JAX and older Keras write it, as the one operator it is.

In pieces nobody sees that a network ends in class scores, and exponentials would be rounded on a grid of their own.
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto, helper

from converter.families import RENAMING
from converter.graph import Graph
from converter.normalization.rewriting import Change, Rewriting

__all__ = ["restore_softmax"]

SPREADING = RENAMING | {"Expand"}  # what brings one number a row back to its row


def restore_softmax(model: ModelProto) -> tuple[ModelProto, Change]:
    """exp(x - max(x)) / sum(exp(x - max(x))) over one axis is Softmax, with or without the maximum."""
    graph = Graph(model)
    rewriting = Rewriting(model)
    count = 0
    for node in rewriting.nodes:
        found = _match(node, graph, rewriting) if node.op_type == "Div" else None
        if found is not None:
            source, axis = found
            result = node.output[0]
            rewriting.replace(node, helper.make_node("Softmax", [source], [result], name=node.name, axis=axis))
            count += 1
    return rewriting.finish(), Change("restore_softmax", count, "Softmaxes written as one operator")


def _match(divide: NodeProto, graph: Graph, rewriting: Rewriting) -> tuple[str, int] | None:
    """What goes into a softmax that ends in this division, and its axis."""
    powers = rewriting.maker(divide.input[0])
    shape = graph.shapes.get(divide.input[0])
    if powers is None or powers.op_type != "Exp" or shape is None:
        return None
    axis = _reduced(divide.input[1], "ReduceSum", divide.input[0], graph, rewriting)
    if axis is None:
        return None
    centred = rewriting.maker(powers.input[0])
    if centred is not None and centred.op_type == "Sub":
        source = centred.input[0]
        if _reduced(centred.input[1], "ReduceMax", source, graph, rewriting) == axis:
            return source, axis
    return powers.input[0], axis


def _reduced(tensor: str, operator: str, source: str, graph: Graph, rewriting: Rewriting) -> int | None:
    """The one axis along which the tensor has a row's sum or maximum at every place of the row; None if it has not."""
    rank = len(graph.shapes.get(source) or ())
    spread = [tensor]
    node = rewriting.maker(tensor)
    while node is not None and (node.op_type in SPREADING or _is_idle_maximum(node, rewriting)):
        place = 1 if node.op_type == "Max" and rewriting.is_constant(node.input[0]) else 0
        spread.append(node.input[place])
        node = rewriting.maker(node.input[place])
    if node is None or node.op_type != operator or node.input[0] != source:
        return None
    axes = rewriting.reduced_axes(node)
    if axes is None or len(axes) != 1:
        return None
    axis = axes[0] % rank if rank else 0
    rows = [shape for each in spread if (shape := graph.shapes.get(each)) is not None and len(shape) == rank]
    return axis if any(shape[axis] == 1 for shape in rows) else None


def _is_idle_maximum(node: NodeProto, rewriting: Rewriting) -> bool:
    """Whether the node takes the larger of a number and minus infinity."""
    values = [rewriting.constant(name) for name in node.input]
    return node.op_type == "Max" and len(values) == 2 and any(v is not None and bool((v < -1e37).all()) for v in values)
