"""If nodes whose condition is known: the branch taken stands in their place."""

from __future__ import annotations

from onnx import GraphProto, ModelProto, NodeProto, helper

from converter.graph import Array, attribute, copied, subgraphs, walk
from converter.normalization.rewriting import Change, Rewriting

__all__ = ["take_known_branches"]


def take_known_branches(model: ModelProto) -> tuple[ModelProto, Change]:
    """No If of the main graph has a constant condition."""
    rewriting = Rewriting(model)
    count = 0
    for node in rewriting.nodes:
        condition = rewriting.constant_input(node, 0) if node.op_type == "If" else None
        if condition is not None and condition.size == 1:
            rewriting.replace(node, *_taken(node, condition, rewriting))
            count += 1
    return rewriting.finish(), Change("take_known_branches", count, "If nodes decided beforehand")


def _taken(node: NodeProto, condition: Array, rewriting: Rewriting) -> list[NodeProto]:
    """The branch's nodes under names of the main graph; its outputs have the names of the If's."""
    body: GraphProto = copied(attribute(node, "then_branch" if condition.reshape(-1)[0] else "else_branch"))
    names = {tensor.name for tensor in body.initializer} | {name for each in body.node for name in each.output if name}
    renamed = {name: rewriting.fresh(f"{node.output[0]}_{name}") for name in sorted(names)}
    for inner, _ in walk(body):
        _rename(inner, renamed)
    for tensor in body.initializer:
        rewriting.adopt(tensor, renamed[tensor.name])
    nodes = list(body.node)
    for value, result in zip(body.output, node.output, strict=True):
        if result:
            source = renamed.get(value.name, value.name)
            nodes.append(helper.make_node("Identity", [source], [result], name=f"{node.name}_{result}"))
    return nodes


def _rename(node: NodeProto, renamed: dict[str, str]) -> None:
    """The node reads and makes the new names; a body that defines such a name itself is left with its own."""
    for names in (node.input, node.output):
        for index, name in enumerate(names):
            names[index] = renamed.get(name, name)
    for body in subgraphs(node):
        for value in body.output:
            value.name = renamed.get(value.name, value.name)
