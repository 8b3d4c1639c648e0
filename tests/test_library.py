"""What the library's page promises, as its users would write it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import QuantFormat, quantize_static

import converter
from converter import InputSpec, Options, Progress, Stage
from converter.errors import InvalidModel, InvalidOption
from tests.digits import Digits


@pytest.fixture
def path(digits: Digits, tmp_path: Path) -> Path:
    onnx.save(digits.model, tmp_path / "digits.onnx")
    return tmp_path / "digits.onnx"


def test_calibration_with_your_own_data(path: Path, digits: Digits) -> None:
    class MyReader:
        def __init__(self) -> None:
            self.batches = iter(np.split(digits.pictures[:64], 8))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"image": batch}

    result = converter.convert(path, calibration=MyReader())
    assert result.report.synthesis.method == "own data"
    assert result.report.synthesis.samples == 64
    assert digits.agreement(result.model) > 0.97
    same = converter.convert(path, calibration={"image": digits.pictures[:64]})
    assert same.model == result.model


def test_excluding_nodes(path: Path) -> None:
    facts = converter.inspect(path)
    layers = [node.name for node in facts.nodes if node.operator == "Conv" and node.integer]
    result = converter.convert(path, Options(samples=8, exclude=(layers[0], "Gemm")))
    reasons = {kept.node: kept.reason for kept in result.report.quantization.kept_float}
    assert reasons[layers[0]] == f"excluded by {layers[0]!r}"
    assert "Gemm" not in result.report.quantization.quantized_operators
    assert "--exclude Gemm" in result.report.environment.command
    with pytest.raises(InvalidOption, match="fits 'no/such/") as refused:
        converter.convert(path, Options(exclude=("no/such/*",)))
    assert refused.value.remedy


def test_looking_before_converting(path: Path) -> None:
    facts = converter.inspect(path)
    (image,) = facts.inputs
    assert (image.name, image.shape) == ("image", (1, 8, 8))
    assert facts.refusals == ()
    assert f"taken for {image.kind}" in str(facts)
    stated = converter.inspect(path, Options(inputs={"image": InputSpec(value_range=(0, 16))}))
    assert stated.inputs[0].settled
    assert stated.inputs[0].scaling != image.scaling
    assert converter.inspect(path, Options(exclude=("none",))).refusals[0]["field"] == "exclude"


def test_synthesized_data_for_another_quantizer(path: Path, digits: Digits, tmp_path: Path) -> None:
    reader = converter.samples(path, Options(samples=16, seed=3), batch=4)
    quantize_static(path, tmp_path / "theirs.onnx", reader, quant_format=QuantFormat.QDQ)
    session = onnxruntime.InferenceSession(tmp_path / "theirs.onnx")
    (scores,) = session.run(None, {"image": digits.pictures})
    assert (scores.argmax(1) == digits.classify(digits.model)).mean() > 0.9
    reader.rewind()
    first, again = reader.get_next(), next(iter(converter.samples(path, Options(samples=16, seed=3), batch=4)))
    assert first is not None
    assert first["image"].shape == (4, 1, 8, 8)
    np.testing.assert_array_equal(first["image"], again["image"])


def test_a_file_as_a_torch_module(path: Path, digits: Digits) -> None:
    module = converter.reconstruct(str(path))
    scores = module(torch.from_numpy(digits.pictures[:8]))
    np.testing.assert_array_equal(scores.argmax(1).numpy(), digits.classify(digits.model)[:8])
    with pytest.raises(InvalidModel, match="absent"):
        converter.reconstruct("absent.onnx")


def test_progress_and_checkpoints_of_a_conversion(path: Path, tmp_path: Path) -> None:
    heard: list[Progress] = []
    first = converter.convert(path, Options(samples=8), progress=heard.append, checkpoints=str(tmp_path / "kept"))
    assert {each.stage for each in heard} == set(Stage)
    again = converter.convert(path, Options(samples=8), checkpoints=tmp_path / "kept")
    assert again.model == first.model
    assert [each.name for each in first.inputs] == ["image"]
    with pytest.raises(InvalidOption, match="no folder"):
        converter.convert(path, checkpoints=str(path))
