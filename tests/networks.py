"""Small networks of the shapes that real ones have, with channels of very unequal ranges, as trained ones have too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from converter.graph import Graph
from converter.normalization import normalize
from converter.reconstruction import Reconstruction, reconstruct
from converter.sessions import Feeds, open_session

Array = NDArray[np.float32]
node = helper.make_node


def weights(*shape: int, seed: int = 0) -> Array:
    """Weights [O, I, ...] whose output channels differ in range by a factor of a hundred."""
    generator = np.random.default_rng([seed, *shape])
    fan = max(int(np.prod(shape[1:])), 1)
    spread = np.exp(generator.normal(0, 1, shape[0])).reshape(-1, *[1] * (len(shape) - 1))
    return np.asarray(generator.standard_normal(shape) * spread / np.sqrt(fan), np.float32)


def biases(channels: int, seed: int = 0) -> Array:
    return (np.random.default_rng([seed, channels, 7]).standard_normal(channels) * 0.2).astype(np.float32)


def model_of(
    nodes: Iterable[NodeProto],
    constants: Mapping[str, NDArray[Any]],
    shape: tuple[int | str, ...] = ("N", 8, 12, 12),
    outputs: Iterable[str] = ("y",),
    opset: int = 17,
    element_type: int = TensorProto.FLOAT,
) -> ModelProto:
    """x -> nodes -> outputs."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", element_type, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


HEAD = [
    node("GlobalAveragePool", ["last"], ["pooled"]),
    node("Flatten", ["pooled"], ["flat"]),
    node("Gemm", ["flat", "wh", "bh"], ["y"], transB=1),
]


def head(channels: int) -> dict[str, NDArray[Any]]:
    return {"wh": weights(5, channels, seed=9), "bh": biases(5)}


def residual() -> ModelProto:
    """Two blocks around one stream, so that three layers write the same channels."""
    return model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1] * 4),
            node("Relu", ["c0"], ["s0"]),
            node("Conv", ["s0", "w1", "b1"], ["c1"], pads=[1] * 4),
            node("Relu", ["c1"], ["r1"]),
            node("Conv", ["r1", "w2", "b2"], ["c2"], pads=[1] * 4),
            node("Add", ["c2", "s0"], ["a2"]),
            node("Relu", ["a2"], ["s2"]),
            node("Conv", ["s2", "w3", "b3"], ["c3"]),
            node("Add", ["c3", "s2"], ["a3"]),
            node("Relu", ["a3"], ["last"]),
            *HEAD,
        ],
        {
            "w0": weights(16, 8, 3, 3),
            "w1": weights(16, 16, 3, 3, seed=1),
            "w2": weights(16, 16, 3, 3, seed=2),
            "w3": weights(16, 16, 1, 1, seed=3),
            **{f"b{i}": biases(16, i) for i in range(4)},
            **head(16),
        },
    )


def depthwise() -> ModelProto:
    return model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"], strides=[2, 2], pads=[1] * 4),
            node("Relu", ["c0"], ["r0"]),
            node("Conv", ["r0", "w1", "b1"], ["c1"], group=16, pads=[1] * 4),
            node("Relu", ["c1"], ["r1"]),
            node("Conv", ["r1", "w2", "b2"], ["c2"]),
            node("Relu", ["c2"], ["last"]),
            *HEAD,
        ],
        {
            "w0": weights(16, 8, 3, 3),
            "b0": biases(16),
            "w1": weights(16, 1, 3, 3),
            "b1": biases(16, 1),
            "w2": weights(24, 16, 1, 1),
            "b2": biases(24),
            **head(24),
        },
    )


def shuffled() -> ModelProto:
    """Grouped convolutions with a channel shuffle between them, as ShuffleNet has."""
    return model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"]),
            node("Relu", ["c0"], ["r0"]),
            node("Reshape", ["r0", "apart"], ["p0"]),
            node("Transpose", ["p0"], ["p1"], perm=[0, 2, 1, 3, 4]),
            node("Reshape", ["p1", "together"], ["p2"]),
            node("Conv", ["p2", "w1", "b1"], ["c1"], group=4),
            node("Relu", ["c1"], ["last"]),
            *HEAD,
        ],
        {
            "w0": weights(16, 8, 1, 1),
            "b0": biases(16),
            "w1": weights(16, 4, 1, 1),
            "b1": biases(16, 1),
            "apart": np.array([0, 4, 4, 12, 12]),
            "together": np.array([0, 16, 12, 12]),
            **head(16),
        },
    )


def concatenated() -> ModelProto:
    return model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"]),
            node("Relu", ["c0"], ["r0"]),
            node("Conv", ["r0", "w1"], ["c1"], pads=[1] * 4),
            node("Relu", ["c1"], ["r1"]),
            node("MaxPool", ["r0"], ["m"], kernel_shape=[3, 3], pads=[1] * 4),
            node("Concat", ["r0", "r1", "m"], ["cat"], axis=1),
            node("Conv", ["cat", "w2", "b2"], ["c2"]),
            node("Relu", ["c2"], ["last"]),
            *HEAD,
        ],
        {
            "w0": weights(12, 8, 1, 1),
            "b0": biases(12),
            "w1": weights(10, 12, 3, 3),
            "w2": weights(16, 34, 1, 1),
            "b2": biases(16),
            **head(16),
        },
    )


def parted() -> ModelProto:
    """One half of the channels goes through a layer, the other around it."""
    return model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"]),
            node("Relu", ["c0"], ["r0"]),
            node("Split", ["r0", "halves"], ["left", "right"], axis=1),
            node("Conv", ["right", "w1"], ["c1"], pads=[1] * 4),
            node("Relu", ["c1"], ["r1"]),
            node("Concat", ["left", "r1"], ["cat"], axis=1),
            node("Conv", ["cat", "w2", "b2"], ["c2"]),
            node("Relu", ["c2"], ["last"]),
            *HEAD,
        ],
        {
            "w0": weights(16, 8, 1, 1),
            "b0": biases(16),
            "w1": weights(8, 8, 3, 3),
            "w2": weights(12, 16, 1, 1),
            "b2": biases(12),
            "halves": np.array([8, 8]),
            **head(12),
        },
    )


def gated() -> ModelProto:
    """Squeeze and excitation: channels multiplied by what a small side network makes of their means."""
    return model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1] * 4),
            node("Relu", ["c0"], ["r0"]),
            node("GlobalAveragePool", ["r0"], ["g"]),
            node("Conv", ["g", "w1", "b1"], ["g1"]),
            node("Relu", ["g1"], ["g2"]),
            node("Conv", ["g2", "w2", "b2"], ["g3"]),
            node("Sigmoid", ["g3"], ["gate"]),
            node("Mul", ["r0", "gate"], ["m"]),
            node("Conv", ["m", "w3", "b3"], ["c3"]),
            node("Relu", ["c3"], ["last"]),
            *HEAD,
        ],
        {
            "w0": weights(16, 8, 3, 3),
            "b0": biases(16),
            "w1": weights(8, 16, 1, 1),
            "b1": biases(8),
            "w2": weights(16, 8, 1, 1),
            "b2": biases(16, 1),
            "w3": weights(12, 16, 1, 1),
            "b3": biases(12),
            **head(12),
        },
    )


def transformer() -> ModelProto:
    """A feed-forward block of a transformer: normalization, two products, and the stream around them."""
    return model_of(
        [
            node("MatMul", ["x", "w0"], ["m0"]),
            node("Add", ["m0", "b0"], ["stream"]),
            node("LayerNormalization", ["stream", "gamma", "beta"], ["normal"], axis=-1),
            node("MatMul", ["normal", "w1"], ["m1"]),
            node("Add", ["m1", "b1"], ["h"]),
            node("Relu", ["h"], ["r"]),
            node("MatMul", ["r", "w2"], ["m2"]),
            node("Add", ["m2", "b2"], ["inner"]),
            node("Add", ["inner", "stream"], ["y"]),
        ],
        {
            "w0": weights(16, 24).T.copy(),
            "b0": biases(16),
            "gamma": np.exp(biases(16, 3) * 8),
            "beta": biases(16, 4),
            "w1": weights(32, 16).T.copy(),
            "b1": biases(32),
            "w2": weights(16, 32).T.copy(),
            "b2": biases(16, 5),
        },
        shape=("N", 6, 24),
    )


def clipped() -> ModelProto:
    return model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"]),
            node("Clip", ["c0", "zero", "six"], ["r0"]),
            node("Conv", ["r0", "w1", "b1"], ["c1"], group=16, pads=[1] * 4),
            node("Clip", ["c1", "zero", "six"], ["r1"]),
            node("Conv", ["r1", "w2"], ["last"]),
            *HEAD,
        ],
        {
            "w0": weights(16, 8, 1, 1),
            "b0": biases(16),
            "w1": weights(16, 1, 3, 3),
            "b1": biases(16, 1),
            "w2": weights(12, 16, 1, 1),
            "zero": np.array(0, np.float32),
            "six": np.array(6, np.float32),
            **head(12),
        },
    )


def squashed() -> ModelProto:
    """Sigmoids between the layers, whose argument nobody may scale."""
    return model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"]),
            node("Sigmoid", ["c0"], ["r0"]),
            node("Conv", ["r0", "w1", "b1"], ["y"], pads=[1] * 4),
        ],
        {"w0": weights(16, 8, 1, 1), "b0": biases(16), "w1": weights(16, 16, 3, 3), "b1": biases(16, 1)},
    )


def pooled() -> ModelProto:
    return model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"]),
            node("Relu", ["c0"], ["r0"]),
            node("AveragePool", ["r0"], ["p0"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", ["p0", "w1"], ["c1"]),
            node("LeakyRelu", ["c1"], ["l1"], alpha=0.1),
            node("MaxPool", ["l1"], ["p1"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", ["p1", "w2"], ["last"]),
            *HEAD,
        ],
        {"w0": weights(16, 8, 1, 1), "b0": biases(16), "w1": weights(12, 16, 1, 1), "w2": weights(16, 12, 1, 1)}
        | head(16),
    )


def upsampled() -> ModelProto:
    """Down and up again by a transposed convolution, for which onnxruntime has no integer kernel."""
    return model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"], strides=[2, 2]),
            node("Relu", ["c0"], ["r0"]),
            node("ConvTranspose", ["r0", "w1"], ["t1"], strides=[2, 2]),
            node("Relu", ["t1"], ["r1"]),
            node("Conv", ["r1", "w2"], ["y"]),
        ],
        {"w0": weights(16, 8, 1, 1), "b0": biases(16), "w1": weights(16, 12, 2, 2), "w2": weights(8, 12, 1, 1)},
    )


NETWORKS: dict[str, Callable[[], ModelProto]] = {
    each.__name__: each
    for each in (
        *(residual, depthwise, shuffled, concatenated, parted, gated),
        *(transformer, clipped, squashed, pooled, upsampled),
    )
}


@dataclass(frozen=True)
class Prepared:
    """A small network as the stages get it: normalized, with its graph, its reconstruction and inputs."""

    model: ModelProto
    graph: Graph
    network: Reconstruction
    batches: list[Feeds]


def prepare(model: ModelProto, samples: int = 16) -> Prepared:
    """The network with ``samples`` inputs in batches of 8."""
    normalized = normalize(model).model
    graph = Graph(normalized)
    shape = [size if isinstance(size, int) else 8 for size in graph.inputs[0].shape or ()]
    generator = np.random.default_rng(1)
    batches: list[Feeds] = [
        {graph.inputs[0].name: generator.standard_normal(shape, np.float32)} for _ in range(samples // 8)
    ]
    return Prepared(normalized, graph, reconstruct(normalized), batches)


def run(model: ModelProto, feeds: Feeds) -> list[Array]:
    """The outputs by onnxruntime."""
    return [np.asarray(each, np.float32) for each in open_session(model).run(None, feeds)]


def difference(one: list[Array], other: list[Array]) -> float:
    """The largest difference, relative to the largest value of its output."""
    return max(float(np.abs(a - b).max() / max(float(np.abs(a).max()), 1e-12)) for a, b in zip(one, other, strict=True))


def recurrent() -> ModelProto:
    """A step of a recurrent network: its state goes in and comes out, beside a sampling rate that is a scalar."""
    graph = helper.make_graph(
        [
            node("Gemm", ["x", "w"], ["g"], transB=1),
            node("Gemm", ["h0", "u", "b"], ["k"], transB=1),
            node("Add", ["g", "k"], ["a"]),
            node("Tanh", ["a"], ["hn"]),
            node("Cast", ["sr"], ["rate"], to=TensorProto.FLOAT),
            node("Mul", ["hn", "rate"], ["loud"]),
            node("Div", ["loud", "rate"], ["same"]),
            node("Gemm", ["same", "v"], ["y"], transB=1),
        ],
        "small",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 16]),
            helper.make_tensor_value_info("h0", TensorProto.FLOAT, ["N", 12]),
            helper.make_tensor_value_info("sr", TensorProto.INT64, []),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5]),
            helper.make_tensor_value_info("hn", TensorProto.FLOAT, ["N", 12]),
        ],
        [
            numpy_helper.from_array(value, name)
            for name, value in {
                "w": weights(12, 16),
                "u": weights(12, 12, seed=1),
                "b": biases(12),
                "v": weights(5, 12),
            }.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
