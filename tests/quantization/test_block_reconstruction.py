"""GENIE-M: where blocks are cut, and that learning the bits of a trained network beats rounding them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from converter.demo import digits, to_onnx, train
from converter.graph import Graph
from converter.normalization import normalize
from converter.quantization.block_reconstruction import affordable_steps, find_blocks, reconstruct_blocks
from converter.quantization.calibration import RangeRule, observe
from converter.quantization.correction import apply_correction
from converter.quantization.placement import place, quantized_tensors
from converter.quantization.qdq_writer import Range
from converter.reconstruction import Reconstruction, reconstruct

BITS = 4


def residual() -> onnx.ModelProto:
    """Stem, a residual block of two convolutions, a head."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("Conv", ["b", "w1"], ["c"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c", "w2"], ["d"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "d"], ["e"], name="add"),
        helper.make_node("GlobalAveragePool", ["e"], ["f"], name="pool"),
        helper.make_node("Flatten", ["f"], ["g"], name="flatten"),
        helper.make_node("Gemm", ["g", "w3"], ["y"], name="head", transB=1),
    ]
    random = np.random.default_rng(0)
    shapes = {"w0": (4, 1, 3, 3), "w1": (4, 4, 3, 3), "w2": (4, 4, 3, 3), "w3": (5, 4)}
    weights = [
        numpy_helper.from_array(random.standard_normal(each).astype(np.float32), name) for name, each in shapes.items()
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_blocks_are_cut_where_one_tensor_passes() -> None:
    blocks = find_blocks(Graph(residual()), frozenset({"stem", "first", "second", "head"}))
    assert [[node.name for node in block.nodes] for block in blocks] == [
        ["stem"],
        ["relu", "first", "second", "add"],
        ["pool", "flatten", "head"],
    ]
    assert [(block.inputs, block.outputs) for block in blocks] == [
        (("x",), ("a",)),
        (("a",), ("e",)),
        (("e",), ("y",)),
    ]


def test_steps_follow_the_size_of_the_network() -> None:
    assert affordable_steps(10**9, 8, 0, 10.0) == int(10 * 20e9 / (3 * 10**9 * 8))
    assert affordable_steps(1, 8, 10, 10.0) == pytest.approx(500, abs=1)  # tiny layers cost their overhead
    assert affordable_steps(1, 8, 10, 1e6) == 20_000
    assert affordable_steps(10**15, 8, 10, 1.0) == 0


@pytest.fixture(scope="module")
def trained() -> tuple[onnx.ModelProto, torch.Tensor]:
    (pictures, labels), (held_out, _) = digits()
    return normalize(to_onnx(train(pictures, labels, epochs=4))).model, torch.from_numpy(held_out)


def ranges(
    network: Reconstruction, graph: Graph, nodes: frozenset[str], batches: list[dict[str, torch.Tensor]]
) -> dict[str, Range]:
    shared = quantized_tensors(graph, nodes)
    seen = observe(network, set(shared.values()), [{k: v.numpy() for k, v in each.items()} for each in batches])
    return {name: seen[source].range(RangeRule.MINMAX) for name, source in shared.items()}


def test_learned_bits_beat_nearest_rounding(trained: tuple[onnx.ModelProto, torch.Tensor]) -> None:
    model, held_out = trained
    network, graph = reconstruct(model), Graph(model)
    nodes = place(graph, {}).nodes
    batches = [{"image": part} for part in torch.split(held_out[:128], 16)]
    quantized = ranges(network, graph, nodes, batches)
    weights = {name: BITS for node in graph.nodes for name in node.input[1:2]}
    made = {
        steps: reconstruct_blocks(network, graph, nodes, quantized, batches, weights, steps, 0) for steps in (0, 150)
    }
    errors = {}
    for steps, correction in made.items():
        rounded = reconstruct(apply_correction(model, correction))
        with torch.no_grad():
            errors[steps] = float((rounded(held_out[128:]) - network(held_out[128:])).square().mean())
        for name, grid in correction.grids.items():
            scale = np.moveaxis(np.broadcast_to(grid.scale, correction.weights[name].shape[::-1]), -1, 0)
            value = np.moveaxis(correction.weights[name], grid.axis, 0)
            codes = value.reshape(len(value), -1) / grid.scale[:, None]
            assert scale.size == value.size
            np.testing.assert_allclose(codes, codes.round(), atol=1e-3)
            assert np.abs(codes).max() <= 7.001
    assert errors[150] < 0.6 * errors[0]


def test_same_seed_same_bits(trained: tuple[onnx.ModelProto, torch.Tensor]) -> None:
    model, held_out = trained
    network, graph = reconstruct(model), Graph(model)
    nodes = place(graph, {}).nodes
    batches = [{"image": part} for part in torch.split(held_out[:32], 16)]
    quantized = ranges(network, graph, nodes, batches)
    shares: list[float] = []
    first, again = (
        reconstruct_blocks(network, graph, nodes, quantized, batches, {}, 5, 0, shares.append).weights for _ in range(2)
    )
    assert len(first) == 4
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert shares == [0.25, 0.5, 0.75, 1.0] * 2
