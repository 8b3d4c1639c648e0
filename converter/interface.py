"""The types of a model's inputs and outputs as its callers know them, around a float32 inside.

A model of half or double precision is computed with in float32. Whoever calls it goes on handing over and getting what
they did before: a Cast behind each such input and before each such output.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, NodeProto, TensorProto, helper

from converter.graph import all_graphs

__all__ = ["declared_types", "restore_types"]

PRECISIONS = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
INSIDE = ":float32"


def declared_types(model: ModelProto) -> dict[str, int]:
    """The element types of inputs and outputs that are neither float32 nor integers, by name."""
    values = (*model.graph.input, *model.graph.output)
    return {
        each.name: each.type.tensor_type.elem_type for each in values if each.type.tensor_type.elem_type in PRECISIONS
    }


def restore_types(model: ModelProto, types: Mapping[str, int]) -> None:
    """The model's inputs and outputs have these types again, with casts to and from float32 inside.

    Left as it is: what is an input and an output at once, or an output that no node makes.
    """
    graph = model.graph
    made = {name for node in graph.node for name in node.output}
    taken_in = {each.name for each in graph.input} & types.keys() - {each.name for each in graph.output}
    given_out = {each.name for each in graph.output} & types.keys() & made
    renamed = {name: name + INSIDE for name in taken_in | given_out}
    for body in all_graphs(graph):
        for node in body.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    names[index] = renamed.get(name, name)
        if body is not graph:
            for value in body.output:  # a body may hand out what it captured
                value.name = renamed.get(value.name, value.name)
    for value in (*graph.input, *graph.output):
        if value.name in renamed:
            value.type.tensor_type.elem_type = types[value.name]
    nodes = list(graph.node)
    first = [_cast(name, renamed[name], TensorProto.FLOAT) for name in sorted(taken_in)]
    last = [_cast(renamed[name], name, types[name]) for name in sorted(given_out)]
    if first or last:
        del graph.node[:]
        graph.node.extend([*first, *nodes, *last])


def _cast(source: str, result: str, element_type: int) -> NodeProto:
    return helper.make_node("Cast", [source], [result], name=f"{result}/Cast", to=element_type)
