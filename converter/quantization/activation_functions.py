"""What becomes of a tensor's numbers before anything else sees them: the function of one number that follows it.

Rounding matters where it is felt. A SiLU maps everything below -6 to nearly nothing, so codes spent there are lost;
the error of a range is therefore judged behind the function, on the numbers that the next layer gets.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import NodeProto

from converter.graph import Graph
from converter.reconstruction import Reconstruction

__all__ = ["Function", "function_after"]

Function = Callable[[NDArray[np.float64]], NDArray[np.float64]]

POINTWISE = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Neg", "Abs", "Pow", "Sqrt", "Exp", "Log", "Erf", "Tanh", "Sigmoid", "HardSigmoid",
        "HardSwish", "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Mish", "Softplus", "Softsign", "Clip", "Min",
        "Max", "ThresholdedRelu", "Swish",
    }
)  # fmt: skip


def function_after(tensor: str, graph: Graph, network: Reconstruction) -> Function | None:
    """The function through which alone the tensor is read, or None where it is read as it is.

    Behind a SiLU written as Sigmoid and Mul it is x * sigmoid(x): every reader is followed until one tensor is left
    that others read.
    """
    end = _single_exit(tensor, graph)
    if end is None:
        return None

    def evaluate(values: NDArray[np.float64]) -> NDArray[np.float64]:
        with torch.no_grad():
            found = network.run({tensor: torch.from_numpy(values.astype(np.float32))}, [end])[end]
        return np.asarray(found.numpy(), np.float64).reshape(values.shape)

    return evaluate


def _single_exit(tensor: str, graph: Graph) -> str | None:
    """The nearest tensor that everything read from ``tensor`` goes through, a pointwise function of it alone."""
    members = {tensor}
    for node in graph.nodes:
        if members.isdisjoint(node.input) or not _pointwise_of(node, members, graph):
            continue
        members.add(node.output[0])
        exits = [name for name in members if _read_outside(name, members, graph)]
        if len(exits) == 1 and exits[0] != tensor:
            return exits[0]
    return None


def _pointwise_of(node: NodeProto, members: set[str], graph: Graph) -> bool:
    """Whether the node computes each number from numbers of the members at its place, and from single constants."""
    if node.op_type not in POINTWISE or len(node.output) != 1:
        return False
    others = [name for name in node.input if name and name not in members]
    return all(name in graph.initializers and graph.initializers[name].size == 1 for name in others)


def _read_outside(name: str, members: set[str], graph: Graph) -> bool:
    readers = graph.consumers(name)
    inside = all(reader.output[0] in members for reader in readers)
    return name in graph.output_names or not readers or not inside
