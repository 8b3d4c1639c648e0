"""Layers and ablation: what each quantized tensor costs, on files that onnxruntime's quantizer writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from converter.evaluation.ablation import contributions
from converter.evaluation.fidelity import compare
from converter.evaluation.grids import read_grids
from converter.evaluation.kernels import count_kernels
from converter.evaluation.layers import layer_fidelity
from converter.findings import Layer
from converter.graph import Graph


def network() -> ModelProto:
    """image -> Conv -> Relu -> Conv -> Clip -> GlobalAveragePool -> Flatten -> Gemm -> scores."""
    generator = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(
            (generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32), name
        )

    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="conv2"),
        helper.make_node("Clip", ["c2", "zero", "six"], ["r2"], name="clip2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w3"], ["scores"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])],
        [
            weight("w1", 16, 3, 3, 3),
            weight("b1", 16),
            weight("w2", 32, 16, 3, 3),
            weight("w3", 32, 10),
            numpy_helper.from_array(np.array(0, np.float32), "zero"),
            numpy_helper.from_array(np.array(6, np.float32), "six"),
        ],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def images(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(seed)
    return [{"image": generator.standard_normal((4, 3, 16, 16)).astype(np.float32)} for _ in range(count // 4)]


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self.left = iter(images(16, seed=0))

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.left, None)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelProto, ModelProto]:
    folder: Path = tmp_path_factory.mktemp("quantized")
    float32 = network()
    onnx.save(float32, folder / "float.onnx")
    quantize_static(
        folder / "float.onnx",
        folder / "int8.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return float32, onnx.load(folder / "int8.onnx")


@pytest.fixture(scope="module")
def layers(pair: tuple[ModelProto, ModelProto]) -> dict[str, Layer]:
    return {layer.tensor: layer for layer in layer_fidelity(*pair, images(16, seed=1))}


def test_every_grid_of_the_file_is_found_under_the_name_of_the_float_model(layers: dict[str, Layer]) -> None:
    weights = {name for name, layer in layers.items() if layer.kind == "weight"}
    assert weights == {"w1", "w2", "w3"}
    assert {"image", "r1", "r2", "scores"} <= set(layers)
    assert layers["b1"].kind == "bias"
    assert layers["w1"].scale is not None
    assert layers["w1"].scale.count == 16
    assert layers["r1"].type == "uint8"
    assert (layers["w2"].node, layers["w2"].operator) == ("conv2", "Conv")


def test_a_clip_that_the_quantizer_removed_is_compared_after_it(layers: dict[str, Layer]) -> None:
    assert "c2" not in layers
    assert layers["r2"].observed_low is not None
    assert layers["r2"].observed_low >= 0
    assert layers["r2"].sqnr_in_place_db is not None
    assert layers["r2"].sqnr_in_place_db > 20


def test_alone_is_the_error_of_the_own_grid_only(pair: tuple[ModelProto, ModelProto], layers: dict[str, Layer]) -> None:
    tensor = next(each for each in read_grids(Graph(pair[0]), Graph(pair[1])) if each.name == "image")
    x = np.concatenate([feed["image"] for feed in images(16, seed=1)])
    error = tensor.round(x) - x
    assert layers["image"].sqnr_alone_db == pytest.approx(10 * np.log10((x**2).sum() / (error**2).sum()), abs=1e-3)
    assert layers["image"].sqnr_in_place_db == pytest.approx(layers["image"].sqnr_alone_db, abs=1e-3)


def test_in_place_is_never_much_better_than_alone(layers: dict[str, Layer]) -> None:
    for layer in layers.values():
        if layer.sqnr_alone_db is not None and layer.sqnr_in_place_db is not None:
            assert layer.sqnr_in_place_db <= layer.sqnr_alone_db + 1


def test_the_last_activation_in_place_is_the_output(
    pair: tuple[ModelProto, ModelProto], layers: dict[str, Layer]
) -> None:
    output = compare(*pair, images(16, seed=1)).outputs[0]
    assert layers["scores"].sqnr_in_place_db == pytest.approx(output.sqnr_db, abs=0.05)


def test_ranges_cover_what_their_integers_can_say(layers: dict[str, Layer]) -> None:
    for layer in layers.values():
        if layer.kind == "activation":
            assert layer.low is not None
            assert layer.high is not None
            assert layer.low <= 0 <= layer.high
            assert layer.scale is not None
            assert layer.high - layer.low == pytest.approx(255 * layer.scale.median, rel=1e-4)


def test_contributions_are_shares_of_one_whole(pair: tuple[ModelProto, ModelProto], layers: dict[str, Layer]) -> None:
    shares = contributions(*pair, images(16, seed=1))
    assert set(shares) == {name for name, layer in layers.items() if layer.kind != "bias"}
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) >= 0


def test_a_coarse_weight_contributes_most(pair: tuple[ModelProto, ModelProto]) -> None:
    """Four bits' worth of steps in one weight dwarf the eight of all others."""
    float32, int8 = pair
    coarse = ModelProto()
    coarse.CopyFrom(int8)
    for tensor in coarse.graph.initializer:
        if tensor.name == "w2_scale":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 16, tensor.name))
        if tensor.name == "w2_quantized":
            codes = np.rint(numpy_helper.to_array(tensor) / 16).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(codes, tensor.name))
    shares = contributions(float32, coarse, images(16, seed=1))
    assert shares["w2"] > 0.8


def test_a_large_model_has_the_shares_of_its_suspects(
    pair: tuple[ModelProto, ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where work allows no more, the foremost suspects are measured, as shares of no less than the model's error."""
    monkeypatch.setattr("converter.evaluation.ablation.LEAST_TENSORS", 2)
    every = contributions(*pair, images(16, seed=1))
    some = contributions(*pair, images(16, seed=1), multiply_adds=10**15, suspects=["w2", "r1", "w1"])
    assert set(some) == {"w2", "r1"}
    assert 0 < sum(some.values()) < 1
    assert len(every) > 2


def test_a_float_model_has_no_quantized_tensors(pair: tuple[ModelProto, ModelProto]) -> None:
    assert layer_fidelity(pair[0], pair[0], images(4, seed=1)) == ()
    assert contributions(pair[0], pair[0], images(4, seed=1)) == {}


def test_all_macs_run_on_integers(pair: tuple[ModelProto, ModelProto]) -> None:
    kernels = count_kernels(*pair)
    assert kernels.integer_macs_share == 1
    assert kernels.integer_operators["QLinearConv"] == 2
    assert kernels.nodes == kernels.integer + kernels.float_compute + kernels.conversions + kernels.other
