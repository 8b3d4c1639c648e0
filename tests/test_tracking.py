"""A conversion in MLflow, on a real server: what is there afterwards, once and twice, and what is said without one."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

from converter import Options, Report, convert
from converter.console import DONE, REFUSED
from converter.errors import InvalidOption
from converter.outputs import Outputs, write_result
from converter.registration import main
from converter.sessions import open_session
from converter.tracking import FOLDER, Place, register
from tests import networks
from tests.mlflow_server import MlflowServer

LOADING = """
import json, sys
import mlflow, numpy, onnxruntime
feeds = {"x": numpy.full((2, 8, 12, 12), 0.5, numpy.float32)}
loaded = mlflow.onnx.load_model(sys.argv[1])
once = onnxruntime.InferenceSession(loaded.SerializeToString()).run(None, feeds)[0]
predicted = mlflow.pyfunc.load_model(sys.argv[1]).predict(feeds)["y"]
print(json.dumps({"onnx": once.tolist(), "pyfunc": predicted.tolist()}))
"""
# a program of its own, as whoever uses the model has one: what MLflow brings along warns in many voices


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    """The files of one small conversion."""
    source = tmp_path_factory.mktemp("converted") / "small.onnx"
    onnx.save(networks.residual(), source)
    files = Outputs.beside(source)
    write_result(convert(source, Options(samples=16, seed=3)), files)
    return files


@pytest.fixture(scope="module")
def report(converted: Outputs) -> Report:
    return Report.from_json(converted.report.read_bytes())


def other_bytes(converted: Outputs, folder: Path) -> Path:
    """The same model with one more word in it."""
    model = onnx.load(converted.model)
    model.doc_string = "another"
    onnx.save(model, folder / "other.onnx")
    return folder / "other.onnx"


def test_a_version_is_loaded_and_decides_as_the_file(
    mlflow_server: MlflowServer, converted: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["register", str(converted.model), "--name", "loaded", "--uri", mlflow_server.uri, "--json"]) == DONE
    said = json.loads(capsys.readouterr().out)
    assert (said["event"], said["version"], said["new"]) == ("registered", "1", True)
    ended = subprocess.run(
        [sys.executable, "-c", LOADING, "models:/loaded@candidate"],
        env=os.environ | {"MLFLOW_TRACKING_URI": mlflow_server.uri}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(ended.stdout.splitlines()[-1])
    feeds = {"x": np.full((2, 8, 12, 12), 0.5, np.float32)}
    expected = open_session(onnx.load(converted.model)).run(None, feeds)[0]
    np.testing.assert_array_equal(np.asarray(found["onnx"], np.float32), expected)
    np.testing.assert_array_equal(np.asarray(found["pyfunc"], np.float32), expected)


def test_the_run_has_options_figures_and_both_reports(
    mlflow_server: MlflowServer, converted: Outputs, report: Report
) -> None:
    done = register(converted.model, report, Place(mlflow_server.uri, "noted"), {"zsq.job": "j1"})
    run = mlflow_server.client.get_run(done.run)
    assert run.info.status == "FINISHED"
    assert run.data.params["seed"] == "3"
    assert run.data.metrics["int8_bytes"] == report.size.int8_bytes
    assert run.data.tags["zsq.source_sha256"] == report.model.sha256
    [version] = mlflow_server.versions("noted")
    assert version.tags["zsq.job"] == "j1"
    files = {each.path for each in mlflow_server.client.list_artifacts(done.run)}
    assert {"report.json", "report.html", FOLDER} <= files


def test_twice_is_once(mlflow_server: MlflowServer, converted: Outputs, report: Report) -> None:
    place = Place(mlflow_server.uri, "twice")
    first, second = register(converted.model, report, place), register(converted.model, report, place)
    assert (first.new, second.new) == (True, False)
    assert (second.version, second.run) == (first.version, first.run)
    assert len(mlflow_server.versions("twice")) == 1


def test_at_once_is_once(mlflow_server: MlflowServer, converted: Outputs, report: Report, tmp_path: Path) -> None:
    model = other_bytes(converted, tmp_path)
    place = Place(mlflow_server.uri, "at once")
    threads = [threading.Thread(target=register, args=(model, report, place)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(mlflow_server.versions("at once")) == 1


def test_what_a_crash_left_half_done_is_finished(
    mlflow_server: MlflowServer, converted: Outputs, report: Report
) -> None:
    """A run without a version, as after a process was killed between the two."""
    done = register(converted.model, report, Place(mlflow_server.uri, "crashed"))
    mlflow_server.client.delete_model_version("crashed", done.version)
    again = register(converted.model, report, Place(mlflow_server.uri, "crashed"))
    assert again.run == done.run
    assert again.new


def test_an_alias_does_not_go_back(
    mlflow_server: MlflowServer, converted: Outputs, report: Report, tmp_path: Path
) -> None:
    place = Place(mlflow_server.uri, "aliased", "champion")
    register(converted.model, report, place)
    later = register(other_bytes(converted, tmp_path), report, place)
    assert mlflow_server.client.get_model_version_by_alias("aliased", "champion").version == later.version
    register(converted.model, report, place)
    assert mlflow_server.client.get_model_version_by_alias("aliased", "champion").version == later.version


def test_a_server_that_is_away_is_named_without_a_traceback(
    converted: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["register", str(converted.model), "--name", "m", "--uri", "http://127.0.0.1:1"]
    heard = logging.StreamHandler()  # what a library warns of reaches stderr wherever somebody listens
    logging.getLogger().addHandler(heard)
    try:
        assert main(given) == REFUSED
    finally:
        logging.getLogger().removeHandler(heard)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("zsq: MLflow at http://127.0.0.1:1 did not take the model: ")


@pytest.mark.parametrize("uri", ["http://ann:secret@mlflow.example", "https://secret@mlflow.example"])
def test_an_address_with_a_password_is_refused_without_repeating_it(uri: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        Place(uri, "m")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b", "a' or name='b"])
def test_names_that_mlflow_does_not_take(name: str) -> None:
    with pytest.raises(InvalidOption):
        Place("http://mlflow.example", name)
