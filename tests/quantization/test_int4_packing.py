from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from converter.errors import UnsupportedModel
from converter.evaluation.grids import read_grids
from converter.evaluation.kernels import count_kernels
from converter.graph import Array, Graph, opset
from converter.quantization.int4_packing import OPSET, pack, packed_bytes, raise_opset
from converter.quantization.qdq_writer import Plan, Range, WeightGrid, quantize
from converter.sessions import open_session


def network(channels: int = 5) -> ModelProto:
    """x -> Conv -> Relu -> GlobalAveragePool -> Flatten -> Gemm, weights on grids of 4 bits."""
    generator = np.random.default_rng(0)
    weight = generator.integers(-7, 8, (channels, 3, 3, 3)).astype(np.float32) * 0.1
    head = generator.integers(-7, 8, (4, channels)).astype(np.float32) * 0.2
    values = {
        "w": weight,
        "b": generator.standard_normal(channels).astype(np.float32),
        "head": head,
        "head_b": np.zeros(4, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "head", "head_b"], ["y"], "gemm", transB=1),
    ]
    return model_of(nodes, values, [2, 3, 8, 8], [2, 4])


def model_of(
    nodes: list[onnx.NodeProto], values: dict[str, Array], given: list[int], made: list[int | str], version: int = 17
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, made)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def quantized(levels: int = 256) -> tuple[ModelProto, ModelProto]:
    source = raise_opset(network())
    ranges = {"x": Range(-3, 3, "test"), "r": Range(0, 6, "test", levels), "p": Range(0, 3, "test", levels)}
    ranges["f"] = ranges["p"]
    grids = {"w": WeightGrid(np.full(5, 0.1, np.float32), 0, 4), "head": WeightGrid(np.full(4, 0.2, np.float32), 0, 4)}
    plan = Plan(frozenset({"conv", "relu", "pool", "flatten", "gemm"}), ranges, grids)
    return source, quantize(source, plan, None)


def run(model: ModelProto) -> Array:
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    result: Array = open_session(model).run(None, {"x": x})[0]
    return result


def test_packed_weights_give_the_same_outputs_in_half_the_bytes() -> None:
    _, eight = quantized()
    four = pack(eight, ["w", "head"])
    onnx.checker.check_model(four, full_check=True)
    np.testing.assert_array_equal(run(four), run(eight))
    stored = {tensor.name: tensor for tensor in four.graph.initializer}
    assert stored["w:c"].data_type == TensorProto.INT4
    assert len(stored["w:c"].raw_data) == packed_bytes(5 * 27, 4) == 68  # an odd number of codes
    assert four.ir_version == 10
    assert opset(four) == OPSET


def test_packed_weights_still_run_in_integer_kernels() -> None:
    source, eight = quantized()
    four = count_kernels(source, pack(eight, ["w", "head"]))
    assert four.integer_operators == count_kernels(source, eight).integer_operators
    assert four.integer_operators["QLinearConv"] == 1


def test_the_codes_are_those_of_the_weight() -> None:
    source, eight = quantized()
    grids = {grid.name: grid for grid in read_grids(Graph(source), Graph(pack(eight, ["w"])))}
    assert grids["w"].limits[0] == "int4"
    assert grids["head"].limits[0] == "int8"
    stored = next(each for each in pack(eight, ["w"]).graph.initializer if each.name == "w:c")
    expected = next(each for each in source.graph.initializer if each.name == "w")
    np.testing.assert_allclose(
        grids["w"].decode(numpy_helper.to_array(stored).astype(np.int8)), numpy_helper.to_array(expected), atol=1e-6
    )


def test_activations_of_4_bits_have_16_levels_and_run() -> None:
    source, eight = quantized(levels=16)
    model = pack(eight, ["w", "head"], widen=False)
    onnx.checker.check_model(model, full_check=True)
    run(model)
    grids = {grid.name: grid for grid in read_grids(Graph(source), Graph(model))}
    assert grids["r"].limits[0] == "uint4"
    assert grids["r"].scale == pytest.approx(6 / 15)
    assert grids["x"].limits[0] == "uint8"
    x = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)
    values = open_session(model, also=[grids["r"].readable]).run([grids["r"].readable], {"x": x})[0]
    assert len(np.unique(values)) <= 16


def test_a_float_layer_with_a_clip_before_activations_of_4_bits_loads() -> None:
    generator = np.random.default_rng(0)
    values = {name: generator.integers(-7, 8, (4, 4, 3, 3)).astype(np.float32) * 0.1 for name in ("w1", "w2")}
    first = np.ones((4, 3, 3, 3), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], "conv0", pads=[1] * 4),
        helper.make_node("Clip", ["c0", "low", "high"], ["r0"], "clip"),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], "conv1", pads=[1] * 4),
        helper.make_node("Relu", ["c1"], ["r1"], "relu"),
        helper.make_node("Conv", ["r1", "w2"], ["y"], "conv2", pads=[1] * 4),
    ]
    bounds = {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    source = raise_opset(model_of(nodes, {"w0": first, **values, **bounds}, [2, 3, 8, 8], [2, 4, 8, 8]))
    ranges = {name: Range(0, 6, "test", 16) for name in ("r0", "r1")} | {"y": Range(-9, 9, "test")}
    grids = {name: WeightGrid(np.full(4, 0.1, np.float32), 0, 4) for name in values}
    model = pack(quantize(source, Plan(frozenset({"conv1", "relu", "conv2"}), ranges, grids), None), values, False)
    onnx.checker.check_model(model, full_check=True)
    assert np.isfinite(run(model)).all()
    assert {grid.name: grid.limits[0] for grid in read_grids(Graph(source), Graph(model))}["r0"] == "uint4"


def test_codes_that_need_8_bits_are_not_packed() -> None:
    source = network()
    plan = Plan(frozenset({"conv"}), {"x": Range(-3, 3, "test"), "c": Range(-6, 6, "test")})
    with pytest.raises(ValueError, match="do not fit"):
        pack(quantize(raise_opset(source), plan, None), ["w"])


OLD: dict[str, tuple[list[onnx.NodeProto], dict[str, Array]]] = {
    "ReduceMax": ([helper.make_node("ReduceMax", ["x"], ["y"], "n", axes=[2, 3], keepdims=0)], {}),
    "ReduceL2 of all": ([helper.make_node("ReduceL2", ["x"], ["y"], "n")], {}),
    "Split": (
        [helper.make_node("Split", ["x"], ["a", "b"], "n", axis=3), helper.make_node("Add", ["a", "b"], ["y"], "add")],
        {},
    ),
    "GridSample": (
        [helper.make_node("GridSample", ["x", "grid"], ["y"], "n", mode="bicubic")],
        {"grid": np.linspace(-1, 1, 2 * 2 * 2 * 2, dtype=np.float32).reshape(2, 2, 2, 2)},
    ),
    "Resize": (
        [helper.make_node("Resize", ["x", "", "s"], ["y"], "n", mode="linear")],
        {"s": np.array([1, 1, 2, 2], np.float32)},
    ),
}


@pytest.mark.parametrize("case", OLD)
def test_opset_21_computes_the_same(case: str) -> None:
    nodes, values = OLD[case]
    rank = {"ReduceMax": 2}.get(case, 4)
    old = model_of(nodes, values, [2, 3, 8, 8], [f"d{axis}" for axis in range(rank)])
    new = raise_opset(old)
    onnx.checker.check_model(new, full_check=True)
    assert opset(new) == OPSET
    np.testing.assert_allclose(run(new), run(old), rtol=1e-5, atol=1e-6)


def test_group_normalization_of_opset_18_is_refused() -> None:
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], "norm", num_groups=1)
    ones = {"s": np.ones(1, np.float32), "b": np.zeros(1, np.float32)}
    model = model_of([helper.make_node("Identity", ["x"], ["y"])], ones, [2, 3, 8, 8], [2, 3, 8, 8], 18)
    model.graph.node[0].CopyFrom(node)  # onnx's own checker calls it deprecated
    with pytest.raises(UnsupportedModel, match="norm"):
        raise_opset(model)


def test_newer_opsets_stay() -> None:
    model = raise_opset(network())
    assert raise_opset(model) is model
