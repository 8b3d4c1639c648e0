"""What bodies of If, Loop and Scan only pass around stands outside them: weights, and what a Loop carries unchanged.

Exporters put a layer's weights into a branch's own constants (spox, torch), or hand them from turn to turn of a Loop
as if each could change them (TensorFlow's recurrent layers). Outside, they are weights as any others.
"""

from __future__ import annotations

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from converter.graph import all_graphs, attribute, copied, opset, reads_of, set_nodes, subgraphs
from converter.normalization.constants import held_constant
from converter.normalization.folding import LEFT_ALONE, evaluate
from converter.normalization.rewriting import Change, Rewriting, rename_captured, tensor_of

__all__ = ["fold_body_constants", "lift_body_weights", "lift_invariants"]

CARRIED_FROM = 2  # a Loop and its body have the turn and the condition first, then what is carried


def fold_body_constants(model: ModelProto) -> tuple[ModelProto, Change]:
    """What a body computes from constants alone is among its initializers, which hold nothing that is not read."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    count = sum(_fold(body, constants, opset(model)) for node in model.graph.node for body in subgraphs(node))
    return model, Change("fold_body_constants", count, "Nodes in bodies replaced by the constants that they computed")


def _fold(body: GraphProto, outer: dict[str, TensorProto], version: int) -> int:
    known = {**outer, **{tensor.name: tensor for tensor in body.initializer}}
    for value in body.input:
        known.pop(value.name, None)
    made: dict[str, TensorProto] = {}
    kept: list[NodeProto] = []
    count = 0
    for node in body.node:
        found = _computed(node, known, version)
        for tensor in found:
            made[tensor.name] = known[tensor.name] = tensor
        if not found:
            kept.append(node)
            for name in node.output:
                known.pop(name, None)
        count += bool(found) and node.op_type != "Constant"
    count += sum(_fold(inner, known, version) for node in kept for inner in subgraphs(node))
    read = {name for node in kept for name in reads_of(node)} | {value.name for value in body.output}
    tensors = [copied(each) for each in (*body.initializer, *made.values()) if each.name in read]
    set_nodes(body, kept)
    del body.initializer[:]
    body.initializer.extend(tensors)
    return count


def _computed(node: NodeProto, known: dict[str, TensorProto], version: int) -> list[TensorProto]:
    """The node's results where they are constant and not larger than what they are made from; else nothing."""
    if (held := held_constant(node)) is not None:
        return [held]
    names = [name for name in node.input if name]
    if not names or node.op_type in LEFT_ALONE or subgraphs(node) or not all(name in known for name in names):
        return []
    values = {name: numpy_helper.to_array(known[name]) for name in names}
    given = sum(value.size for value in values.values())
    return [tensor_of(name, value) for name, value in evaluate(node, values, version, given).items()]


def lift_body_weights(model: ModelProto) -> tuple[ModelProto, Change]:
    """Float initializers of two axes or more that bodies compute with belong to the main graph, which has each once."""
    rewriting = Rewriting(model)
    lifted: dict[tuple[bytes, tuple[int, ...]], str] = {}
    count = 0
    for body in list(all_graphs(model.graph))[1:]:
        returned = {value.name for value in body.output}  # onnxruntime has no outer tensor returned as it is
        for tensor in [copied(each) for each in body.initializer]:
            name = tensor.name
            if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2 and name not in returned:
                content = (numpy_helper.to_array(tensor).tobytes(), tuple(tensor.dims))
                if content not in lifted:
                    lifted[content] = rewriting.fresh(name)
                    rewriting.adopt(tensor, lifted[content])
                del body.initializer[[each.name for each in body.initializer].index(name)]
                rename_captured(body, name, lifted[content])
                count += 1
    return rewriting.finish(), Change("lift_body_weights", count, "Weights that stood in bodies of If, Loop or Scan")


def lift_invariants(model: ModelProto) -> tuple[ModelProto, Change]:
    """No Loop of the main graph carries a tensor that its body hands back as it came, unless it is an output."""
    rewriting = Rewriting(model)
    count = 0
    for node in rewriting.nodes:
        if node.op_type == "Loop" and (fixed := _invariants(node, rewriting)):
            rewriting.replace(node, _without(node, fixed))
            for place in fixed:
                if place < len(node.output) and node.output[place]:
                    rewriting.redirect(node.output[place], node.input[place + CARRIED_FROM])
            count += len(fixed)
    return rewriting.finish(), Change("lift_invariants", count, "Tensors that a Loop carried without changing them")


def _invariants(node: NodeProto, rewriting: Rewriting) -> list[int]:
    """Which of the carried tensors every turn hands on unchanged and to no other place, counted from the first."""
    body: GraphProto = attribute(node, "body")
    returned = [value.name for value in body.output]
    copies = {each.output[0]: each.input[0] for each in body.node if each.op_type == "Identity"}
    found = []
    for place, given in enumerate(list(node.input)[CARRIED_FROM:]):
        carried, result = body.input[place + CARRIED_FROM].name, returned[place + 1]
        unchanged = result == carried or copies.get(result) == carried
        elsewhere = carried in returned[: place + 1] + returned[place + 2 :]
        seen = place < len(node.output) and node.output[place] in rewriting.outputs
        if unchanged and given and not elsewhere and not seen:
            found.append(place)
    return found


def _without(node: NodeProto, fixed: list[int]) -> NodeProto:
    """The Loop with a body that reads those tensors from outside."""
    body: GraphProto = copied(attribute(node, "body"))
    pairs = [(body.input[place + CARRIED_FROM].name, node.input[place + CARRIED_FROM]) for place in fixed]
    for place in reversed(fixed):
        del body.input[place + CARRIED_FROM]
        del body.output[place + 1]
    for inner, outer in pairs:
        rename_captured(body, inner, outer)
    inputs = [name for place, name in enumerate(node.input) if place - CARRIED_FROM not in fixed]
    outputs = [name for place, name in enumerate(node.output) if place not in fixed]
    return helper.make_node("Loop", inputs, outputs, name=node.name, body=body)
