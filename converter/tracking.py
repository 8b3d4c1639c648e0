"""What a conversion leaves in MLflow: a run with its files, figures and options, and a version of a registered model.

The same bytes are the same version: run and version are found again by the model's SHA-256, so that doing it twice,
after a crash or on two machines at once, leaves one. ``mlflow.onnx.load_model`` reads the run's folder ``model``, which
is written from what the report says; the model itself, which may be a stranger's, is not opened.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from converter.errors import InvalidOption, Refusal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

    from converter.findings import TensorFact
    from converter.report import Report

__all__ = ["ALIAS", "EXPERIMENT", "Place", "Registered", "register"]

ALIAS, EXPERIMENT = "candidate", "zsq"
IDENTITY = "zsq.sha256"  # the tag of runs and versions by which they are found again
FOLDER, FILE = "model", "model.onnx"
OF_THIS_MACHINE = frozenset({"validation", "calibration"})  # options that are paths
LONGEST = 500  # characters of a parameter's value that every version of the server takes
SURROUNDINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # seconds of waiting; by default it is minutes until a dead server is one
}
TAKEN, GONE = "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"


@dataclass(frozen=True)
class Place:
    """A server, and what is to be said to it; raises InvalidOption for what it could not take.

    Who we are is in MLflow's own variables: MLFLOW_TRACKING_TOKEN, or ..._USERNAME and ..._PASSWORD.
    """

    uri: str
    name: str
    alias: str = ALIAS
    experiment: str = EXPERIMENT

    def __post_init__(self) -> None:
        if "@" in urlsplit(self.uri).netloc:
            raise InvalidOption(
                "The address of the MLflow server holds a user or a password, which logs would show.",
                field="uri",
                remedy="Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead.",
            )
        if not self.name.strip() or any(sign in self.name for sign in "/:'\""):
            raise InvalidOption(f"A registered model cannot be named {self.name!r}.", field="name")


@dataclass(frozen=True)
class Registered:
    """The version that holds these bytes, and whether it was made just now."""

    name: str
    version: str
    run: str
    new: bool


def register(model: Path, report: Report, place: Place, tags: Mapping[str, str] | None = None) -> Registered:
    """The INT8 model is a version, and the alias is on it unless it is on a later one already.

    Raises Refusal where the server is away or does not take it.
    """
    client, failures = _client(place)
    facts = {
        IDENTITY: _digest(model),
        "zsq.source_sha256": report.model.sha256,
        "zsq.version": report.environment.packages.get("zsq", ""),
        "zsq.advice": str(report.verdict.advice),
        **(tags or {}),
    }
    try:
        known = _versions(client, place, facts[IDENTITY])
        version = known[0] if known else _make(client, model, report, place, facts)
        _point(client, place, version)
    except failures as problem:
        said = " ".join(str(problem).split())[:500].rstrip(".")
        raise Refusal(
            f"MLflow at {place.uri} did not take the model: {said}.",
            remedy="See that it runs and that MLFLOW_TRACKING_... say who you are; then register the model again.",
        ) from problem
    return Registered(place.name, str(version.version), str(version.run_id), not known)


def _digest(model: Path) -> str:
    with model.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _client(place: Place) -> tuple[MlflowClient, tuple[type[Exception], ...]]:
    """A client of the server, and what it raises where something is wrong there."""
    for variable, value in SURROUNDINGS.items():
        os.environ.setdefault(variable, value)
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from requests import RequestException
    except ModuleNotFoundError as problem:
        raise Refusal(
            f"MLflow's client is not installed: there is no {problem.name}.",
            remedy="pip install 'zsq[mlflow]' does it.",
        ) from problem
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a try in vain is told once, in our sentence
    return MlflowClient(tracking_uri=place.uri, registry_uri=place.uri), (MlflowException, RequestException)


def _make(client: MlflowClient, model: Path, report: Report, place: Place, tags: dict[str, str]) -> ModelVersion:
    """A version of these bytes with its run; of two who make it at the same time, one's is left."""
    experiment = _experiment(client, place.experiment)
    found = client.search_runs([experiment], f"tags.`{IDENTITY}` = '{tags[IDENTITY]}'")
    run = found[0] if found else client.create_run(experiment, tags=tags, run_name=report.model.name)
    _log(client, run, report)
    _store(client, run, model, report)
    client.set_terminated(run.info.run_id)
    _unless(TAKEN, partial(client.create_registered_model, place.name))
    client.create_model_version(
        place.name,
        f"{run.info.artifact_uri}/{FOLDER}",
        run.info.run_id,
        tags=tags,
        description=report.verdict.sentence,
    )
    first, *others = _versions(client, place, tags[IDENTITY])
    for each in others:
        _unless(GONE, partial(client.delete_model_version, place.name, each.version))
    return first


def _experiment(client: MlflowClient, name: str) -> str:
    _unless(TAKEN, partial(client.create_experiment, name))
    found = client.get_experiment_by_name(name)
    if found is None:
        raise Refusal(f"MLflow has an experiment {name!r} and does not show it.", field="experiment")
    return str(found.experiment_id)


def _versions(client: MlflowClient, place: Place, identity: str) -> list[ModelVersion]:
    """The versions of these bytes, the first one first."""
    found = client.search_model_versions(f"name='{place.name}' and tags.`{IDENTITY}` = '{identity}'")
    return sorted(found, key=lambda each: int(each.version))


def _point(client: MlflowClient, place: Place, version: ModelVersion) -> None:
    """The alias never goes back: a model registered once more does not replace those that came after it."""
    now = client.get_registered_model(place.name).aliases.get(place.alias)
    if now is None or int(now) < int(version.version):
        client.set_registered_model_alias(place.name, place.alias, str(version.version))


def _unless(code: str, call: Callable[[], object]) -> None:
    """The call is made; that its effect was there before is no error."""
    from mlflow.exceptions import MlflowException

    try:
        call()
    except MlflowException as problem:
        if problem.error_code != code:
            raise


def _log(client: MlflowClient, run: Run, report: Report) -> None:
    """Options as parameters, those alone that the run has not got yet, for they cannot change; figures as metrics."""
    from mlflow.entities import Metric, Param

    at = int(time.time() * 1000)
    options = {name: value for name, value in report.options.items() if name not in OF_THIS_MACHINE}
    params = [
        Param(name, (value if isinstance(value, str) else json.dumps(value))[:LONGEST])
        for name, value in options.items()
        if value is not None and name not in run.data.params
    ]
    metrics = [Metric(name, float(value), at, 0) for name, value in _figures(report) if math.isfinite(value)]
    client.log_batch(run.info.run_id, metrics, params)


def _figures(report: Report) -> Iterator[tuple[str, float]]:
    yield "float32_bytes", report.size.float32_bytes
    yield "int8_bytes", report.size.int8_bytes
    yield "size_ratio", report.size.ratio
    if report.latency is not None:
        yield "speedup", report.latency.speedup
    for name, expected in (
        ("agreement", report.predicted.agreement),
        ("accuracy_change", report.predicted.accuracy_change),
    ):
        if expected is not None:
            yield f"predicted_{name}_low", expected.interval.low
            yield f"predicted_{name}_high", expected.interval.high
    ratios = [each.sqnr_db for each in report.fidelity.outputs if each.sqnr_db is not None]
    if ratios:
        yield "sqnr_db_worst_output", min(ratios)
    if report.validation is not None and report.validation.decisions is not None:
        yield "validation_agreement", report.validation.decisions.agreement.value
    yield "conversion_seconds", report.timings.total_seconds


def _store(client: MlflowClient, run: Run, model: Path, report: Report) -> None:
    """Model and reports are among the run's files; links, so that a large model is not copied here."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        folder = root / FOLDER
        folder.mkdir()
        (folder / FILE).symlink_to(model.resolve())
        known = report.environment.packages
        needed = [f"{name}=={known[name]}" for name in ("onnx", "onnxruntime", "numpy") if name in known]
        (folder / "requirements.txt").write_text("\n".join([*needed, "mlflow", ""]))
        (folder / "MLmodel").write_text(json.dumps(_flavors(run, report), indent=1))
        (root / "report.json").write_text(report.to_json())
        (root / "report.html").write_text(report.to_html())
        client.log_artifacts(run.info.run_id, scratch)


def _flavors(run: Run, report: Report) -> dict[str, Any]:
    """MLflow's description of a folder with an ONNX model; written as JSON, which is YAML too."""
    return {
        "flavors": {
            "onnx": {
                "data": FILE,
                "onnx_version": report.environment.packages.get("onnx"),
                "providers": ["CPUExecutionProvider"],
                "code": None,
            },
            "python_function": {
                "data": FILE,
                "loader_module": "mlflow.onnx",
                "python_version": platform.python_version(),
                "env": {"virtualenv": "requirements.txt"},
            },
        },
        "model_uuid": run.info.run_id,
        "run_id": run.info.run_id,
        "artifact_path": FOLDER,
        "signature": {
            "inputs": json.dumps([_tensor(each) for each in report.model.inputs]),
            "outputs": json.dumps([_tensor(each) for each in report.model.outputs]),
            "params": None,
        },
    }


def _tensor(fact: TensorFact) -> dict[str, Any]:
    shape = [each if isinstance(each, int) else -1 for each in fact.shape or ()]
    return {"type": "tensor", "name": fact.name, "tensor-spec": {"dtype": fact.type, "shape": shape}}
