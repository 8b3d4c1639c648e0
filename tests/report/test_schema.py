"""The published schema: made from the classes that write reports, one file an edition, and kept by every report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from converter import InputSpec, Options, Precision, Target, convert
from converter.cli import main
from converter.report import SCHEMA_VERSION, Report, schema
from tests.networks import residual
from tests.report.test_report import make

EDITIONS = Path(schema.__file__).with_name("schemas")
STATED = {"x": InputSpec.read("mean=0;std=1", "x")}


def published(version: str) -> dict[str, Any]:
    return dict(json.loads((EDITIONS / f"{version}.json").read_text()))


def check(report: Report) -> None:
    """The report's JSON follows the published schema of the edition that it names."""
    written = json.loads(report.to_json())
    jsonschema.Draft202012Validator(published(written["schema_version"])).validate(written)


def test_a_changed_schema_is_another_edition() -> None:
    """Where this fails, raise SCHEMA_VERSION and write ``zsq schema`` into a new file; the old one stays as it is."""
    assert published(SCHEMA_VERSION) == Report.json_schema()


def test_every_edition_names_itself() -> None:
    for file in EDITIONS.glob("*.json"):
        edition = json.loads(file.read_text())
        jsonschema.Draft202012Validator.check_schema(edition)
        assert edition["$id"] == f"urn:zsq:report:{file.stem}"
        assert edition["properties"]["schema_version"]["const"] == file.stem


def test_nothing_is_left_open() -> None:
    """Every object of the schema says what it holds and holds nothing else, but for counts and options by name."""
    for name, each in published(SCHEMA_VERSION)["$defs"].items():
        if each.get("type") == "object":
            assert each["additionalProperties"] is False, name


@pytest.mark.parametrize(
    "report", [make(), make(validation=None, latency=None, kernels=None, layers=0)], ids=["all", "little"]
)
def test_reports_made_by_hand_follow_it(report: Report) -> None:
    check(report)


@pytest.mark.parametrize(
    "wanted",
    [
        {"precision": Precision.INT8},
        {"precision": Precision.MIXED},
        {"precision": Precision.DYNAMIC},
        {"precision": Precision.WEIGHTS},
        {"target": Target.TENSORRT},
        {"exclude": ("Conv",)},
    ],
    ids=str,
)
def test_reports_of_conversions_follow_it(wanted: Mapping[str, Any]) -> None:
    check(convert(residual(), Options(samples=8, time_budget=1, inputs=STATED, **wanted)).report)


def test_a_validated_report_follows_it(tmp_path: Path) -> None:
    data = tmp_path / "own.npz"
    generator = np.random.default_rng(0)
    np.savez(data, x=generator.standard_normal((12, 8, 12, 12), np.float32), labels=np.arange(12) % 5)
    report = convert(residual(), Options(samples=8, time_budget=1, inputs=STATED, validation=data)).report
    assert report.validation is not None
    check(report)


def test_what_does_not_follow_it_is_told() -> None:
    written = json.loads(make().to_json())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(published(SCHEMA_VERSION)).validate(written | {"accuracy": 1.0})
    del written["fidelity"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(published(SCHEMA_VERSION)).validate(written)


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == published(SCHEMA_VERSION)
