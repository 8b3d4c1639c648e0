"""Weight steps with which no pair of products overflows 16 bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from converter import InputSpec, Options, Target, convert
from converter.quantization.rounding import max_scale
from converter.quantization.saturation import PAIR_LIMIT, pair_scale, paired_rows


def convolution(group: int = 1) -> NodeProto:
    return helper.make_node("Conv", ["x", "w"], ["y"], group=group)


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (16, 3, 7, 7), (5, 1, 1, 1), (8, 5, 4)])
def test_no_two_neighbours_can_overflow(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rows = weight.flatten(1)
    scale = torch.maximum(max_scale(rows, 8), pair_scale(convolution(), weight, rows))
    codes = (rows / scale[:, None]).round()
    assert int(codes.abs().max()) <= 127
    for pairs in paired_rows(convolution(), weight, codes):
        assert int(pairs.clamp_min(0).sum(-1).max()) <= PAIR_LIMIT
        assert int(pairs.clamp_max(0).sum(-1).min()) >= -PAIR_LIMIT


def test_a_channel_follows_its_neighbour_of_the_same_place() -> None:
    weight = torch.zeros(1, 2, 1, 3)
    weight[0, :, 0, 1] = torch.tensor([1.0, 0.5])  # one pair: both channels of the middle place
    assert pair_scale(convolution(), weight, weight.flatten(1)) == pytest.approx(1.5 / 127)
    weight[0, 1, 0, 1] = -0.5  # of other sign: nothing adds up
    assert pair_scale(convolution(), weight, weight.flatten(1)) == pytest.approx(1.0 / 127)


def test_depthwise_kernels_widen_each_product() -> None:
    weight = torch.randn(8, 1, 3, 3)
    assert not pair_scale(convolution(8), weight, weight.flatten(1)).any()


def wide_layer(weights: NDArray[np.float32]) -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weights.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weights.shape[0]])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_the_worst_inputs_give_what_float_gives() -> None:
    """Every weight positive, every activation at the top: a kernel that saturates would lose half of each sum."""
    import onnxruntime

    weights = np.random.default_rng(0).uniform(0.7, 1.0, (16, 64)).astype(np.float32)
    options = Options(samples=8, inputs={"x": InputSpec(value_range=(0.0, 6.0))})
    made = convert(wide_layer(weights), options).model
    x = np.full((4, 64), 3.0, np.float32)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    assert np.abs(y - x @ weights.T).max() < 0.02 * np.abs(x @ weights.T).max()


def test_a_processor_that_cannot_saturate_keeps_all_codes() -> None:
    weights = np.random.default_rng(0).uniform(0.7, 1.0, (16, 64, 1, 1)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16, 4, 4])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    largest = {}
    for target in (Target.X64, Target.X64_VNNI):
        made = convert(model, Options(samples=8, target=target)).model
        stored = [numpy_helper.to_array(each) for each in made.graph.initializer if each.data_type == TensorProto.INT8]
        largest[target] = max(int(np.abs(each).max()) for each in stored if each.ndim == 4)
    assert largest[Target.X64] <= PAIR_LIMIT / 2 + 12
    assert largest[Target.X64_VNNI] == 127
