"""``zsq validate``: a converted model on data of its owner's, as the conversion itself would have measured it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from converter import Options, convert
from converter.console import DISAPPOINTED, DONE, REFUSED
from converter.errors import InvalidModel, InvalidOption
from converter.trial import main
from converter.validation import validate
from tests import networks

SHAPE = (40, 8, 12, 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """fp32.onnx, int8.onnx and data.npz, labelled with FP32's own decisions."""
    folder = tmp_path_factory.mktemp("trial")
    model = networks.residual()
    onnx.save(model, folder / "fp32.onnx")
    x = np.random.default_rng(5).standard_normal(SHAPE).astype(np.float32)
    [scores] = networks.run(model, {"x": x})
    np.savez(folder / "data.npz", x=x, labels=scores.argmax(1))
    result = convert(folder / "fp32.onnx", Options(samples=16, seed=2, validation=folder / "data.npz"))
    onnx.save(result.model, folder / "int8.onnx")
    (folder / "report.json").write_text(result.report.to_json())
    return folder


def test_it_finds_what_the_conversion_found(folder: Path) -> None:
    found = validate(folder / "int8.onnx", folder / "fp32.onnx", folder / "data.npz")
    assert found.model_dump(mode="json") == json.loads((folder / "report.json").read_text())["validation"]
    assert found.metrics[0].float32 == 1.0
    assert found.decisions is not None
    assert found.decisions.agreement.value == found.metrics[0].int8


def test_a_model_of_half_precision_is_fed_as_both_take_it(tmp_path: Path) -> None:
    model = networks.residual()
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float16), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, tmp_path / "half.onnx")
    onnx.save(convert(tmp_path / "half.onnx", Options(samples=16)).model, tmp_path / "int8.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(5).standard_normal(SHAPE).astype(np.float16))
    found = validate(tmp_path / "int8.onnx", tmp_path / "half.onnx", tmp_path / "data.npz")
    assert found.decisions is not None
    assert found.decisions.agreement.value > 0.5


def test_another_model_and_other_data_are_refused(folder: Path, tmp_path: Path) -> None:
    onnx.save(networks.depthwise(), tmp_path / "other.onnx")
    with pytest.raises(InvalidModel, match="was not made from"):
        validate(folder / "int8.onnx", tmp_path / "other.onnx", folder / "data.npz")
    with pytest.raises(InvalidModel, match="does not say how it was made"):
        validate(folder / "fp32.onnx", folder / "fp32.onnx", folder / "data.npz")
    np.savez(tmp_path / "other.npz", y=np.zeros(3))
    with pytest.raises(InvalidOption, match="no array for the input 'x'"):
        validate(folder / "int8.onnx", folder / "fp32.onnx", tmp_path / "other.npz")
    with pytest.raises(InvalidOption, match="no validation data"):
        validate(folder / "int8.onnx", folder / "fp32.onnx", tmp_path / "absent.npz")


def test_the_command_tells_it_and_judges(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = [str(folder / name) for name in ("int8.onnx", "fp32.onnx", "data.npz")]
    assert main([*given, "-o", str(tmp_path / "out.json"), "--json"]) == DONE
    told = json.loads(capsys.readouterr().out)
    assert told["validation"] == json.loads((tmp_path / "out.json").read_text())
    assert main([*given, "--min-agreement", "0.999"]) == DISAPPOINTED  # 40 samples show no more than 91 %
    said = capsys.readouterr()
    assert "agree   the same decision as FP32 on" in said.out
    assert "top-1   FP32 100.0%" in said.out
    assert main([*given[:2], str(tmp_path / "absent.npz")]) == REFUSED
