"""An integer model says how it was made, can be made again, and is told apart from any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from converter import Options, cli, convert
from converter.errors import InvalidModel, InvalidOption
from converter.provenance import Provenance
from converter.verification import verify
from tests.networks import depthwise, residual

OPTIONS = Options(samples=8, seed=5, exclude=("Gemm",), inputs={"x": "range=-2:2"})  # type: ignore[dict-item]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    source, target = tmp_path / "m.onnx", tmp_path / "m.int8.onnx"
    onnx.save(residual(), source)
    convert(source, OPTIONS).save(target)
    return target, source


def test_a_model_made_again_by_what_it_says_has_the_same_bytes(pair: tuple[Path, Path]) -> None:
    told = Provenance.read(onnx.load(pair[0]))
    assert told.options["seed"] == 5
    assert told.options["exclude"] == ["Gemm"]
    assert {"zsq", "onnxruntime", "torch"} <= set(told.packages)
    assert verify(*pair).same


def test_a_changed_weight_is_named(pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load(pair[0])
    tensor = next(each for each in model.graph.initializer if numpy_helper.to_array(each).size > 100)
    values = numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[0] += 1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, pair[0])
    found = verify(*pair)
    assert not found.same
    assert tensor.name in found.differences[0]
    assert cli.main(["verify", *map(str, pair)]) == 3
    assert tensor.name in capsys.readouterr().err


def test_another_source_is_refused(pair: tuple[Path, Path]) -> None:
    onnx.save(depthwise(), pair[1])
    with pytest.raises(InvalidModel, match=r"was not made from m\.onnx"):
        verify(*pair)


def test_a_model_that_says_nothing_is_refused(pair: tuple[Path, Path]) -> None:
    with pytest.raises(InvalidModel, match="does not say how it was made"):
        verify(pair[1], pair[1])


def test_own_calibration_data_are_asked_for_and_told_apart(tmp_path: Path) -> None:
    source, target, data = tmp_path / "m.onnx", tmp_path / "m.int8.onnx", tmp_path / "own.npz"
    onnx.save(residual(), source)
    values = np.random.default_rng(0).standard_normal((16, 8, 12, 12)).astype(np.float32)
    np.savez(data, x=values)
    convert(source, Options(samples=8, calibration=data)).save(target)
    with pytest.raises(InvalidOption, match="data of the owner"):
        verify(target, source)
    assert verify(target, source, data).same
    np.savez(data, x=values * 2)
    assert "The calibration data are others" in verify(target, source, data).differences[0]
