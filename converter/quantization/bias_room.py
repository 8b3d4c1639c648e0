"""Room for biases: they are stored in 32 bits, in steps of the input's times the weight's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from onnx import NodeProto
from torch import Tensor

from converter.graph import Graph
from converter.quantization.product_biases import MOST_STEPS
from converter.quantization.qdq_writer import Range

__all__ = ["least_steps"]


def least_steps(node: NodeProto, graph: Graph, ranges: Mapping[str, Range]) -> Tensor | None:
    """[O], or [1] of a bias that all channels share: the weight's steps below which the layer's constant bias would
    overflow; None where it has none, or where its input has no range.
    """
    read = ranges.get(node.input[0])
    if read is None or len(node.input) < 3 or node.input[2] not in graph.initializers:
        return None
    step = max((read.widened().high - read.widened().low) / (read.levels - 1), 1e-12)
    bias = torch.from_numpy(np.array(graph.initializers[node.input[2]], np.float32)).reshape(-1)
    return bias.abs() / (step * MOST_STEPS)
