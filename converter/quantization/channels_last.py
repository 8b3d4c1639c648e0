"""Residual streams that come from a float layer are brought to onnxruntime's integer layout once, not in every block.

onnxruntime's integer convolutions read and write channels-last tensors. Its optimizer carries that layout through a sum
only if both terms have it already; a stream from a float layer has not, and then every block that follows transposes
twice: a tenth of ResNet-56's time (tests/bench/RESULTS.md). A depthwise convolution of 1x1 with weights of one, exact
on codes, is the cheapest operator that hands its input on in that layout.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from onnx import ModelProto, NodeProto, helper

from converter.families import RECTIFIERS
from converter.graph import Graph, copied
from converter.normalization.rewriting import Rewriting
from converter.quantization.qdq_writer import Plan, WeightGrid

__all__ = ["keep_channels_last"]

LARGEST_CODE = 127


def keep_channels_last(model: ModelProto, plan: Plan) -> tuple[ModelProto, Plan]:
    """The model and its plan with an identity convolution wherever an integer sum reads what a float layer wrote."""
    graph = Graph(model)
    entering = [
        (node, index)
        for node in graph.nodes
        if node.op_type == "Add" and node.name in plan.nodes
        for index, tensor in enumerate(node.input)
        if _enters(tensor, graph, plan) and _channels_last(node.input[1 - index], graph, plan)
    ]
    if not entering:
        return model, plan
    rewriting = Rewriting(copied(model))
    sums = {node.name: node for node in rewriting.nodes}
    made: dict[str, NodeProto] = {}
    weights, ranges = dict(plan.weights), dict(plan.ranges)
    for node, index in entering:
        tensor = node.input[index]
        if tensor not in made:
            channels = int((graph.shapes[tensor] or ())[1])  # type: ignore[arg-type]  # _enters saw that it is a number
            identity = made[tensor] = _identity(tensor, channels)
            rewriting.make_constant(identity.input[1], np.ones((channels, 1, 1, 1), np.float32))
            rewriting.insert(sums[node.name], before=[identity])
            weights[identity.input[1]] = WeightGrid(np.full(channels, 1 / LARGEST_CODE, np.float32), 0)
            ranges[identity.output[0]] = plan.ranges[tensor]
        read = [made[tensor].output[0] if at == index else name for at, name in enumerate(sums[node.name].input)]
        rewriting.set_inputs(sums[node.name], read)
    names = plan.nodes | {identity.name for identity in made.values()}
    return rewriting.finish(), replace(plan, nodes=names, weights=weights, ranges=ranges)


def _enters(tensor: str, graph: Graph, plan: Plan) -> bool:
    """Whether a picture-like tensor with a known number of channels goes from float into the integers here.

    Not into 4 bits: onnxruntime has no integer kernels for those.
    """
    shape, producer, rounded = graph.shapes.get(tensor), graph.producer(tensor), plan.ranges.get(tensor)
    known = shape is not None and len(shape) == 4 and isinstance(shape[1], int)
    eight_bit = rounded is not None and rounded.levels == 256
    return known and eight_bit and producer is not None and producer.name not in plan.nodes


def _channels_last(tensor: str, graph: Graph, plan: Plan) -> bool:
    """Whether an integer convolution writes the tensor, so that it has the layout already."""
    producer = graph.producer(tensor)
    if producer is not None and producer.op_type in RECTIFIERS:
        producer = graph.producer(producer.input[0])
    return producer is not None and producer.op_type == "Conv" and producer.name in plan.nodes


def _identity(tensor: str, channels: int) -> NodeProto:
    name = f"{tensor}_channels_last"
    node = helper.make_node("Conv", [tensor, f"{name}_ones"], [name], name, kernel_shape=[1, 1])
    node.attribute.append(helper.make_attribute("group", channels))
    return node
