"""Models of a given size with random weights, for time and memory only: what they decide means nothing."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["resnet50"]

STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))  # blocks, filters, first stride


class _Network:
    """Nodes and weights, gathered in order."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def node(self, kind: str, inputs: list[str], **attributes: int | list[int]) -> str:
        name = f"{kind}_{len(self.nodes)}"
        node = helper.make_node(kind, inputs, [f"{name}.out"], name, **attributes)  # type: ignore[arg-type]
        self.nodes.append(node)
        return f"{name}.out"

    def convolution(self, data: str, channels: int, filters: int, size: int, stride: int = 1) -> str:
        """Convolution and batch normalization, as exporters leave them."""
        name, fan_in = f"c{len(self.nodes)}", channels * size * size
        drawn = self.draw.normal(0, math.sqrt(2 / fan_in), (filters, channels, size, size))
        pads = [size // 2] * 4
        data = self.node("Conv", [data, self.weight(f"{name}.w", drawn)], pads=pads, strides=[stride, stride])
        parts = {"scale": 0.5 + self.draw.random(filters), "bias": 0.1 * self.draw.normal(size=filters)}
        parts |= {"mean": 0.1 * self.draw.normal(size=filters), "var": 0.5 + self.draw.random(filters)}
        return self.node("BatchNormalization", [data, *(self.weight(f"{name}.{k}", v) for k, v in parts.items())])

    def bottleneck(self, data: str, channels: int, filters: int, stride: int) -> str:
        inner = self.node("Relu", [self.convolution(data, channels, filters, 1)])
        inner = self.node("Relu", [self.convolution(inner, filters, filters, 3, stride)])
        inner = self.convolution(inner, filters, 4 * filters, 1)
        if stride > 1 or channels != 4 * filters:
            data = self.convolution(data, channels, 4 * filters, 1, stride)
        return self.node("Relu", [self.node("Add", [inner, data])])


def resnet50(seed: int = 0) -> onnx.ModelProto:
    """ResNet-50 for 224x224 pictures: 25.6 million parameters, 4.1 GMAC."""
    network = _Network(seed)
    data = network.node("Relu", [network.convolution("image", 3, 64, 7, 2)])
    data = network.node("MaxPool", [data], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for blocks, filters, first in STAGES:
        for block in range(blocks):
            data = network.bottleneck(data, channels, filters, first if block == 0 else 1)
            channels = 4 * filters
    data = network.node("Flatten", [network.node("GlobalAveragePool", [data])])
    head = network.weight("head.w", network.draw.normal(0, 0.02, (1000, channels)))
    network.nodes.append(
        helper.make_node(
            "Gemm", [data, head, network.weight("head.b", np.zeros(1000))], ["logits"], name="head", transB=1
        )
    )
    graph = helper.make_graph(
        network.nodes,
        "resnet50",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1000])],
        network.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
