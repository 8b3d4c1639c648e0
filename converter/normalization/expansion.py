"""Operators younger than opset 21 that the standard itself defines by older ones, written out as that."""

from __future__ import annotations

import onnx
from onnx import FunctionProto, ModelProto, NodeProto, TypeProto, helper

from converter.admission.functions import write_out
from converter.graph import Graph, copied, opset
from converter.normalization.rewriting import Change

__all__ = ["HIGHEST", "expand_new_operators", "fits"]

HIGHEST = 21
DOMAIN = "expanded"


def expand_new_operators(model: ModelProto) -> tuple[ModelProto, Change]:
    """Attention, RMSNormalization, RotaryEmbedding and Swish of the main graph are what the standard says they mean."""
    version = opset(model)
    new = [node for node in model.graph.node if version > HIGHEST and not fits(node, HIGHEST)]
    graph = Graph(model) if new else None
    count = 0
    for node in new:
        if node.op_type == "Attention" and len(node.output) > 3 and node.output[3]:
            continue  # the products before the mask: their -inf are not written out alike
        definition = _definition(node, version, graph) if graph is not None else None
        if definition is None:
            continue
        count += 1
        definition.name, definition.domain = f"{node.op_type}_{count}", DOMAIN
        model.functions.append(definition)
        if not definition.attribute and not definition.attribute_proto:
            del node.attribute[:]
        node.op_type, node.domain = definition.name, DOMAIN
    if count:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        model = write_out(model)
    return model, Change("expand_new_operators", count, "Operators newer than opset 21 written out")


def fits(node: NodeProto, version: int) -> bool:
    """The operator existed at that opset with all that the node uses."""
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return False
    known = all(each.name in schema.attributes for each in node.attribute)
    return known and len(node.input) <= schema.max_input and len(node.output) <= schema.max_output


def _definition(node: NodeProto, version: int, graph: Graph) -> FunctionProto | None:
    schema = onnx.defs.get_schema(node.op_type, version, "")
    if schema.has_function:  # type: ignore[attr-defined]
        return copied(schema.function_body)
    if not schema.has_context_dependent_function:  # type: ignore[attr-defined]
        return None
    types = [_type(name, graph).SerializeToString() for name in node.input]
    definition = FunctionProto()
    definition.ParseFromString(schema.get_context_dependent_function(node.SerializeToString(), types))  # type: ignore[attr-defined]
    return definition


def _type(name: str, graph: Graph) -> TypeProto:
    value = graph.values.get(name)
    return TypeProto() if value is None else helper.make_tensor_type_proto(value.element_type, value.shape)
