"""Where constants live and what things are called: initializers, named nodes, nothing unused."""

from __future__ import annotations

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper

from converter.graph import Array, captures, constant_tensor, copied, set_nodes, walk
from converter.normalization.rewriting import Change

__all__ = ["held_constant", "hoist_constants", "name_nodes", "remove_unused", "separate_inputs", "strip_annotations"]


def strip_annotations(model: ModelProto) -> tuple[ModelProto, Change]:
    """Nodes and values carry no exporter's notes and no remembered shapes; the model keeps its own description."""
    count = 0
    for node, graph in walk(model.graph):
        count += bool(node.doc_string or node.metadata_props)
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        if graph.value_info:
            graph.ClearField("value_info")
    model.graph.ClearField("quantization_annotation")
    return model, Change("strip_annotations", count, "Nodes whose notes by the exporter were left out")


def separate_inputs(model: ModelProto) -> tuple[ModelProto, Change]:
    """No initializer is an input as well, as files of IR 3 have it."""
    initialized = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in initialized]
    count = len(model.graph.input) - len(kept)
    if count:
        copies = [type(value).FromString(value.SerializeToString()) for value in kept]
        del model.graph.input[:]
        model.graph.input.extend(copies)
    return model, Change("separate_inputs", count, "Weights listed as inputs that are constants now")


def hoist_constants(model: ModelProto) -> tuple[ModelProto, Change]:
    """Constant nodes of the main graph are initializers under the same name."""
    graph = model.graph
    kept: list[NodeProto] = []
    for node in graph.node:
        tensor = held_constant(node)
        if tensor is not None:
            graph.initializer.append(tensor)
        else:
            kept.append(node)
    count = len(graph.node) - len(kept)
    if count:
        set_nodes(graph, kept)
    return model, Change("hoist_constants", count, "Constant nodes that became initializers")


def held_constant(node: NodeProto) -> TensorProto | None:
    """What a Constant node holds, in whichever of its forms, under the name of its output."""
    tensor = constant_tensor(node)
    if tensor is not None:
        named = copied(tensor)
        named.name = node.output[0]
        named.ClearField("doc_string")
        return named
    array = _constant_array(node) if node.op_type == "Constant" else None
    return None if array is None else numpy_helper.from_array(array, node.output[0])


def _constant_array(node: NodeProto) -> Array | None:
    for each in node.attribute:
        match each.name, each.type:
            case "value_float", AttributeProto.FLOAT:
                return np.array(each.f, np.float32)
            case "value_floats", AttributeProto.FLOATS:
                return np.array(each.floats, np.float32)
            case "value_int", AttributeProto.INT:
                return np.array(each.i, np.int64)
            case "value_ints", AttributeProto.INTS:
                return np.array(each.ints, np.int64)
    return None


def name_nodes(model: ModelProto) -> tuple[ModelProto, Change]:
    """Every node, in bodies too, has a name of its own, made of operator and place where the file had none."""
    nodes = [node for node, _ in walk(model.graph)]
    taken: set[str] = {node.name for node in nodes if node.name}
    seen: set[str] = set()
    count = 0
    for index, node in enumerate(nodes):
        if not node.name or node.name in seen:
            hint = node.name or f"{node.op_type}_{index}"
            name, number = hint, 0
            while name in taken:
                number += 1
                name = f"{hint}_{number}"
            node.name = name
            taken.add(name)
            count += 1
        seen.add(node.name)
    return model, Change("name_nodes", count, "Nodes given a name")


def remove_unused(model: ModelProto) -> tuple[ModelProto, Change]:
    """Everything in the main graph contributes to an output."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(filter(None, node.output)):
            needed.update(filter(None, node.input), captures(node))
            kept.append(node)
    count = len(graph.node) - len(kept)
    if count:
        set_nodes(graph, reversed(kept))
    for index in range(len(graph.initializer) - 1, -1, -1):
        if graph.initializer[index].name not in needed:
            del graph.initializer[index]
            count += 1
    return model, Change("remove_unused", count, "Nodes and constants removed that no output needs")
