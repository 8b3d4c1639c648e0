"""The mean over all positions, which exporters write as ReduceMean, as the pooling that has an integer kernel."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper

from converter.graph import Graph, attribute
from converter.normalization.rewriting import Change, Rewriting

__all__ = ["restore_global_pooling"]

FARTHEST = 6  # nodes between a one-dimensional convolution and its pooling


def restore_global_pooling(model: ModelProto) -> tuple[ModelProto, Change]:
    """ReduceMean over all positions is GlobalAveragePool, followed by Squeeze if it dropped their axes."""
    graph = Graph(model)
    rewriting = Rewriting(model)
    count = 0
    for node in rewriting.nodes:
        shape = graph.shapes.get(node.input[0]) if node.op_type == "ReduceMean" else None
        if shape is None or not 3 <= len(shape) <= 5:
            continue
        if len(shape) == 3 and not _follows_convolution(node.input[0], rewriting):
            continue  # the mean over the features of a token is no pooling
        spatial = list(range(2, len(shape)))
        axes = rewriting.reduced_axes(node)
        if axes is None or sorted(axis % len(shape) for axis in axes) != spatial:
            continue
        rewriting.replace(node, *_pooling(node, spatial, rewriting))
        count += 1
    change = Change("restore_global_pooling", count, "Means over all positions written as GlobalAveragePool")
    return rewriting.finish(), change


def _follows_convolution(tensor: str, rewriting: Rewriting) -> bool:
    for _ in range(FARTHEST):
        maker = rewriting.maker(tensor)
        if maker is None or maker.op_type == "Conv":
            return maker is not None
        tensor = next(filter(None, maker.input), "")
    return False


def _pooling(node: NodeProto, spatial: list[int], rewriting: Rewriting) -> list[NodeProto]:
    source, result = node.input[0], node.output[0]
    if attribute(node, "keepdims", 1):
        return [helper.make_node("GlobalAveragePool", [source], [result], name=node.name)]
    pooled = rewriting.fresh(f"{result}_pooled")
    axes = rewriting.add_constant(f"{result}_axes", np.array(spatial, np.int64))
    return [
        helper.make_node("GlobalAveragePool", [source], [pooled], name=node.name),
        helper.make_node("Squeeze", [pooled, axes], [result], name=f"{node.name}_squeeze"),
    ]
