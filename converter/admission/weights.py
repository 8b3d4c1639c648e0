"""Whether the model has weights to quantize and whether they are numbers."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from converter.admission.operators import name_of
from converter.admission.wire import shorten
from converter.errors import InvalidModel, UnsupportedModel
from converter.families import CARRYING, WEIGHTED
from converter.graph import all_graphs, attribute, constant_tensor

__all__ = ["check_weights"]

LAYERS = WEIGHTED | {"ConvTranspose", "LSTM", "GRU", "RNN", "Einsum", "Attention", "DeformConv"}
SCALED = {"BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization", "PRelu"}


def check_weights(model: ModelProto) -> None:
    """At least one node has constant weights to quantize, and all such weights are finite and not empty."""
    found = False
    constants, nodes = _constants_and_nodes(model)
    for node in nodes:
        if node.op_type in LAYERS | SCALED:
            weights = [(name, constants[name]) for name in node.input if name in constants]
            for name, tensor in weights:
                _check_values(name, tensor, node)
            if node.op_type == "BatchNormalization" and node.input[4] in constants:
                _check_variance(node.input[4], constants[node.input[4]], node)
            found = found or (bool(weights) and node.op_type in LAYERS)
    if not found:
        raise UnsupportedModel(
            "The model has nothing to quantize: no convolution, matrix product or recurrent layer with weights.",
            field="graph",
            remedy="Give a neural network with trained weights.",
        )


def _constants_and_nodes(model: ModelProto) -> tuple[dict[str, TensorProto], list[NodeProto]]:
    """Of all bodies: constants by name, those that pass through a reshape or cast included; and nodes."""
    constants: dict[str, TensorProto] = {}
    nodes: list[NodeProto] = []
    for graph in all_graphs(model.graph):
        constants.update({tensor.name: tensor for tensor in graph.initializer})
        for node in graph.node:
            tensor = constant_tensor(node)
            if tensor is not None:
                constants[node.output[0]] = tensor
            elif node.op_type in CARRYING and node.input and node.input[0] in constants:
                constants[node.output[0]] = constants[node.input[0]]
            nodes.append(node)
    return constants, nodes


def _check_variance(name: str, tensor: TensorProto, node: NodeProto) -> None:
    least = float(numpy_helper.to_array(tensor).min())
    if least + attribute(node, "epsilon", 1e-5) <= 0:
        raise InvalidModel(
            f"The variance {shorten(name)!r} of node {name_of(node)!r} (BatchNormalization) is negative ({least:.3g}).",
            tensor=shorten(name),
            node=name_of(node),
            operator=node.op_type,
            remedy="The file is damaged; give a sound checkpoint.",
        )


def _check_values(name: str, tensor: TensorProto, node: NodeProto) -> None:
    name = shorten(tensor.name or name)
    if 0 in tensor.dims:
        raise InvalidModel(
            f"The weight {name!r} of node {name_of(node)!r} ({node.op_type}) has an axis of size 0.",
            tensor=name,
            node=name_of(node),
            operator=node.op_type,
            remedy="Export the model again.",
        )
    if tensor.data_type != TensorProto.FLOAT:
        return
    array = numpy_helper.to_array(tensor)
    if not np.isfinite(array).all():
        what = "NaN" if np.isnan(array).any() else "an infinity"
        raise InvalidModel(
            f"The weight {name!r} of node {name_of(node)!r} ({node.op_type}) contains {what}.",
            tensor=name,
            node=name_of(node),
            operator=node.op_type,
            remedy="The training diverged or the file is damaged; give a sound checkpoint.",
        )
