"""``zsq submit`` against a real ``zsq serve``: the same files, exit codes and sentences as ``zsq convert``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.console import DONE, REFUSED, run
from service.cli import app
from tests.service.running import serving


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("served")) as (_, address):
        yield address


def model(tmp_path: Path, weight: float = 1.0) -> Path:
    """A convolution and a linear head on 8x8 pictures."""
    draw = np.random.default_rng(0)
    weights = {"w": weight * draw.normal(size=(8, 3, 3, 3)), "h": draw.normal(size=(5, 8))}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("GlobalAveragePool", ["r"], ["g"], name="pool"),
            helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
            helper.make_node("Gemm", ["f", "h"], ["y"], name="head", transB=1),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    path = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def submit(url: str, *arguments: object) -> int:
    return run(app, ["submit", *map(str, arguments), "--url", url, "--wait", "--json"])


def test_the_files_come_back_whole(url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = model(tmp_path)
    assert submit(url, source, "-o", tmp_path / "out", "--samples", 8, "--input", "x=range=0:1") == DONE
    events = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [event["event"] for event in events[-1:]] == ["result"]
    assert any(event["message"] == "waits for its turn" for event in events if event["event"] == "progress")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["small.int8.onnx", "small.int8.report.html", "small.int8.report.json"]
    session = onnxruntime.InferenceSession(tmp_path / "out" / names[0], providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"x": np.zeros((2, 3, 8, 8), np.float32)})
    assert scores.shape == (2, 5)
    report = json.loads((tmp_path / "out" / names[2]).read_text())
    assert report["options"]["samples"] == 8


def test_a_refusal_is_the_converters_own(url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert submit(url, model(tmp_path, float("nan")), "-o", tmp_path / "out") == REFUSED
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("zsq: ")
    assert "'w'" in line
    assert list((tmp_path / "out").iterdir()) == []
