"""Propagated moments against closed forms, against Monte Carlo, and against a trained network's real activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from converter.demo import digits, to_onnx, train
from converter.graph import Graph
from converter.inputs.recognition import describe_inputs
from converter.inputs.scaling import settle_scalings
from converter.normalization import normalize
from converter.reconstruction import reconstruct
from converter.specifications import InputSpec
from converter.synthesis.gaussians import Moments, clipped, input_moments
from converter.synthesis.moments import channel_axis, propagate

SHAPE = (1, 3, 6, 6)
DRAWN = 10_000


def build(
    nodes: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray] | None = None, shape: Sequence[int] = SHAPE
) -> onnx.ModelProto:
    """A model of the nodes from ``x`` to ``y``; the batch is free."""
    tensors = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    declared = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape[1:]])]
    result = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    for index, node in enumerate(nodes):
        node.name = node.name or f"node{index}"
    graph = helper.make_graph(list(nodes), "g", declared, result, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weight(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32) * 0.3


def gaussian(shape: Sequence[int]) -> tuple[Moments, torch.Tensor]:
    """Moments that differ from element to element, and samples of them."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(tuple(shape), generator=generator)
    deviation = 0.5 + torch.rand(tuple(shape), generator=generator)
    samples = mean + deviation * torch.randn((DRAWN, *shape[1:]), generator=generator)
    return Moments(mean, deviation.square()), samples


CASES: dict[str, Callable[[], onnx.ModelProto]] = {
    "Conv": lambda: build(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2])],
        {"w": weight(4, 3, 3, 3), "b": weight(4)},
    ),
    "depthwise Conv": lambda: build([helper.make_node("Conv", ["x", "w"], ["y"], group=3)], {"w": weight(3, 1, 3, 3)}),
    "ConvTranspose": lambda: build(
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])], {"w": weight(3, 2, 2, 2)}
    ),
    "Gemm": lambda: build(
        [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1)],
        {"w": weight(5, 108), "b": weight(5)},
    ),
    "Relu": lambda: build([helper.make_node("Relu", ["x"], ["y"])]),
    "Clip": lambda: build(
        [helper.make_node("Clip", ["x", "low", "high"], ["y"])],
        {"low": np.array(-0.2, np.float32), "high": np.array(0.7, np.float32)},
    ),
    "HardSwish": lambda: build([helper.make_node("HardSwish", ["x"], ["y"])]),
    "SiLU in pieces": lambda: build(
        [helper.make_node("Sigmoid", ["x"], ["s"]), helper.make_node("Mul", ["x", "s"], ["y"])]
    ),
    "GELU in pieces": lambda: build(
        [
            helper.make_node("Div", ["x", "root"], ["a"]),
            helper.make_node("Erf", ["a"], ["b"]),
            helper.make_node("Add", ["b", "one"], ["c"]),
            helper.make_node("Mul", ["x", "c"], ["d"]),
            helper.make_node("Mul", ["d", "half"], ["y"]),
        ],
        {"root": np.array(math.sqrt(2), np.float32), "one": np.array(1, np.float32), "half": np.array(0.5, np.float32)},
    ),
    "gated by its mean": lambda: build(
        [
            helper.make_node("GlobalAveragePool", ["x"], ["p"]),
            helper.make_node("Sigmoid", ["p"], ["s"]),
            helper.make_node("Mul", ["x", "s"], ["y"]),
        ]
    ),
    "Concat, Transpose and Slice": lambda: build(
        [
            helper.make_node("Relu", ["x"], ["r"]),
            helper.make_node("Concat", ["x", "r"], ["c"], axis=1),
            helper.make_node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
            helper.make_node("Slice", ["t", "from", "to"], ["y"]),
        ],
        {"from": np.array([0, 0, 1, 0]), "to": np.array([10**6, 5, 6, 6])},
    ),
    "AveragePool": lambda: build([helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])]),
    "Pad": lambda: build(
        [helper.make_node("Pad", ["x", "p"], ["y"])], {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)}
    ),
    "without a rule": lambda: build([helper.make_node("Softmax", ["x"], ["y"], axis=1)]),
}


@pytest.mark.parametrize("name", CASES)
def test_propagated_moments_are_those_of_samples(name: str) -> None:
    model = CASES[name]()
    network, (moments, samples) = reconstruct(model), gaussian(SHAPE)
    found = propagate(network, Graph(model), {"x": moments})["y"]
    with torch.no_grad():
        real = network.run({"x": samples}, ["y"])["y"]
    axis = channel_axis(Graph(model), "y", real.dim())
    channels = real.movedim(axis, 0).flatten(1).double()
    spread = float(channels.std())
    loose = 4 if name == "without a rule" else 1  # of sixteen samples
    np.testing.assert_allclose(found.mean, channels.mean(1), atol=0.03 * spread * loose, rtol=0.02)
    np.testing.assert_allclose(found.std, channels.std(1), rtol=0.06 * loose)
    assert found.low <= float(channels.quantile(0.001, dim=1).min()) + 0.3 * spread
    assert found.high >= float(channels.quantile(0.999, dim=1).max()) - 0.3 * spread


def test_an_independent_residual_adds_variances() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c", "x"], ["y"]),
    ]
    model = build(nodes, {"w": weight(3, 3, 3, 3)})
    moments, _ = gaussian(SHAPE)
    found = propagate(reconstruct(model), Graph(model), {"x": moments})
    within = [found[name].std ** 2 for name in ("c", "x")]
    assert (found["y"].std ** 2 <= 1.8 * (within[0] + within[1])).all()
    assert (found["y"].std ** 2 >= 0.4 * (within[0] + within[1])).all()


def test_layer_normalization_gives_unit_spread() -> None:
    shape = (1, 4, 16)
    model = build(
        [helper.make_node("LayerNormalization", ["x", "g", "b"], ["y"])],
        {"g": np.full(16, 2, np.float32), "b": np.full(16, 1, np.float32)},
        shape,
    )
    moments, samples = gaussian(shape)
    found = propagate(reconstruct(model), Graph(model), {"x": moments})["y"]
    with torch.no_grad():
        real = reconstruct(model).run({"x": samples}, ["y"])["y"].flatten(0, 1)
    np.testing.assert_allclose(found.mean, real.mean(0), atol=0.15)
    np.testing.assert_allclose(found.std, real.std(0), rtol=0.12)


@pytest.mark.parametrize(("low", "high"), [(0.0, math.inf), (0.0, 6.0), (-math.inf, 1.0), (-math.inf, math.inf)])
def test_clipped_gaussian_in_closed_form(low: float, high: float) -> None:
    mean, deviation = torch.tensor([-8.0, -1.0, 0.0, 0.5, 7.0]), torch.tensor([1.0, 2.0, 1.0, 0.3, 3.0])
    samples = (mean + deviation * torch.randn(400_000, 5, generator=torch.Generator().manual_seed(0))).clamp(low, high)
    expected, variance = clipped(mean, deviation, low, high)
    torch.testing.assert_close(expected, samples.mean(0), atol=0.02, rtol=0.01)
    torch.testing.assert_close(variance, samples.var(0), atol=0.02, rtol=0.02)


def test_smoothness_tells_averaging_filters_from_edges() -> None:
    """On smooth inputs a filter that averages keeps the variance, one that differentiates loses it."""
    filters = np.stack([np.ones((1, 3, 3)), [[[-1, 0, 1]] * 3]]).astype(np.float32)[:, :, :, :].reshape(2, 1, 3, 3)
    model = build([helper.make_node("Conv", ["x", "w"], ["y"])], {"w": filters}, (1, 1, 8, 8))
    smooth = Moments(torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8), smoothness=0.9)
    network, graph = reconstruct(model), Graph(model)
    correlated = propagate(network, graph, {"x": smooth})["y"].std
    independent = propagate(network, graph, {"x": smooth}, independent=True)["y"].std
    assert correlated[0] > 2 * independent[0]
    assert correlated[1] < 0.5 * independent[1]


def test_moments_of_a_trained_network_without_its_statistics() -> None:
    """Nothing but folded weights and how inputs deviate: the moments come near those of real digits."""
    (pictures, labels), _ = digits()
    model = normalize(to_onnx(train(pictures, labels, epochs=4))).model
    network, graph = reconstruct(model), Graph(model)
    plans = settle_scalings(
        network, graph, describe_inputs(graph, {"image": InputSpec.parse("kind=features;mean=0.3;std=0.4")}), (), 0
    )
    inputs = input_moments(plans, 0)
    layers = [node.output[0] for node in graph.nodes if node.op_type == "Conv"]
    with torch.no_grad():
        real = network.run({"image": torch.from_numpy(pictures)}, layers)
    found = propagate(network, graph, inputs)
    assert set(layers) <= set(found)
    for name in layers:
        channels = real[name].movedim(1, 0).flatten(1)
        spread = channels.std(1).numpy()
        assert np.median(np.abs(found[name].mean - channels.mean(1).numpy()) / spread) < 1.0
        assert np.median(np.abs(np.log(found[name].std / spread))) < 1.0
