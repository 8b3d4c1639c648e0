"""Kernels: what onnxruntime's optimizer makes of a QDQ graph, counted."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from converter.evaluation.kernels import count_kernels, count_macs
from converter.graph import Graph


def model(
    nodes: list[NodeProto], sizes: list[int | str], weights: dict[str, np.ndarray], output: str = "y"
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def grid(name: str, tensor: str, result: str) -> list[NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [tensor, "s", "z"], [f"{name}_q"], name=f"{name}_q"),
        helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [result], name=f"{name}_d"),
    ]


WEIGHT = np.ones((8, 4, 3, 3), np.float32)
CONV = helper.make_node("Conv", ["x", "w"], ["y"], name="first/conv")


def test_a_float_model_has_float_kernels_only() -> None:
    float32 = model([CONV], ["N", 4, 8, 8], {"w": WEIGHT})
    kernels = count_kernels(float32, float32)
    assert (kernels.integer, kernels.conversions) == (0, 0)
    assert kernels.integer_macs_share == 0
    (node,) = [each for each in kernels.float_nodes if each.original == "first/conv"]
    assert node.macs == 36 * 4 * 8 * 9


def test_a_convolution_between_grids_becomes_an_integer_kernel_and_keeps_its_name() -> None:
    float32 = model([CONV], ["N", 4, 8, 8], {"w": WEIGHT})
    nodes = [
        *grid("in", "x", "xd"),
        helper.make_node("DequantizeLinear", ["wq", "s", "wz"], ["wd"], name="w_d"),
        helper.make_node("Conv", ["xd", "wd"], ["c"], name="first/conv"),
        *grid("out", "c", "y"),
    ]
    weights: dict[str, np.ndarray] = {
        "wq": WEIGHT.astype(np.int8),
        "wz": np.array(0, np.int8),
        "s": np.array(0.1, np.float32),
        "z": np.array(128, np.uint8),
    }
    int8 = model(nodes, ["N", 4, 8, 8], weights)
    kernels = count_kernels(float32, int8)
    assert kernels.integer_operators == {"QLinearConv": 1}
    assert (kernels.float_compute, kernels.conversions) == (0, 2)
    assert kernels.integer_macs_share == 1


def test_an_island_is_seen_as_float() -> None:
    """Gelu has no integer kernel: between two grids it computes in float and costs conversions."""
    nodes = [*grid("in", "x", "a"), helper.make_node("Erf", ["a"], ["b"], name="erf"), *grid("out", "b", "y")]
    float32 = model([helper.make_node("Erf", ["x"], ["y"], name="erf")], ["N", 4], {})
    int8 = model(nodes, ["N", 4], {"s": np.array(0.1, np.float32), "z": np.array(128, np.uint8)})
    kernels = count_kernels(float32, int8)
    assert kernels.float_operators == {"Erf": 1}
    assert [node.original for node in kernels.float_nodes] == ["erf"]
    assert kernels.conversions == 4
    assert kernels.integer_macs_share is None


def test_moving_integers_is_integer_and_moving_floats_is_neither() -> None:
    reshape = helper.make_node("Reshape", ["x", "shape"], ["r"], name="reshape")
    pool = helper.make_node("MaxPool", ["r"], ["y"], name="pool", kernel_shape=[2, 2])
    weights = {"shape": np.array([1, 1, 4, 4], np.int64)}
    kernels = count_kernels(*[model([reshape, pool], [1, 16], weights)] * 2)
    assert (kernels.integer, kernels.float_compute) == (0, 1)
    assert kernels.float_operators == {"MaxPool": 1}


@pytest.mark.parametrize(
    ("node", "sizes", "weights", "macs"),
    [
        (CONV, ["N", 4, 8, 8], {"w": WEIGHT}, 36 * 8 * 36),
        (helper.make_node("Gemm", ["x", "w"], ["y"], name="n"), ["N", 6], {"w": np.ones((6, 3), np.float32)}, 18),
        (helper.make_node("MatMul", ["x", "w"], ["y"], name="n"), ["N", 5, 6], {"w": np.ones((6, 3), np.float32)}, 90),
        (
            helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="n", strides=[2, 2]),
            ["N", 4, 5, 5],
            {"w": np.ones((4, 2, 3, 3), np.float32)},
            4 * 25 * 18,
        ),
    ],
)
def test_macs_of_one_sample(node: NodeProto, sizes: list[int | str], weights: dict[str, np.ndarray], macs: int) -> None:
    assert list(count_macs(Graph(model([node], sizes, weights))).values()) == [macs]


def test_macs_are_unknown_where_sizes_are() -> None:
    assert count_macs(Graph(model([CONV], ["N", 4, "H", "W"], {"w": WEIGHT}))) == {}


def test_the_share_of_macs_is_left_open_where_a_size_is() -> None:
    float32 = model([CONV], ["N", 4, "H", "W"], {"w": WEIGHT})
    assert count_kernels(float32, float32).integer_macs_share is None
