"""Gates: what a pipeline asks of reports, and how it is told."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from converter.console import DISAPPOINTED, DONE, REFUSED, run
from service.cli import app
from tests.service import child_report


def report(folder: Path, low: float | None) -> Path:
    facts = json.loads(json.dumps(child_report.REPORT))
    if low is not None:
        facts["predicted"]["agreement"] = {"middle": low, "interval": {"low": low, "high": 1.0}}
        facts["predicted"]["accuracy_change"] = {"middle": low - 1, "interval": {"low": low - 1, "high": 0.0}}
    path = folder / f"{low}.json"
    path.write_text(json.dumps(facts))
    return path


@pytest.mark.parametrize(
    ("low", "code", "said"), [(0.995, DONE, "passed"), (0.9, DISAPPOINTED, "failed"), (None, DISAPPOINTED, "unknown")]
)
def test_a_gate_opens_only_for_what_is_known_to_be_good(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], low: float | None, code: int, said: str
) -> None:
    junit, summary = tmp_path / "out.xml", tmp_path / "out.md"
    summary.write_text("before\n")
    given = [report(tmp_path, low), "--min-agreement", 0.99, "--max-drop", 0.01, "--junit", junit, "--summary", summary]
    assert run(app, ["gate", *map(str, given)]) == code
    assert capsys.readouterr().out.startswith(said)
    [suite] = ElementTree.parse(junit).getroot()
    assert suite.attrib["tests"] == "2"
    assert suite.attrib["failures"] == ("0" if code == DONE else "2")
    assert len(suite.findall("testcase/failure")) == int(suite.attrib["failures"])
    before, _, *table = summary.read_text().splitlines()
    assert before == "before"
    assert f"| agreement | {said} |" in "\n".join(table)


def test_a_gate_without_a_wish_or_a_report_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(app, ["gate", str(report(tmp_path, 0.9))]) == REFUSED
    (tmp_path / "no.json").write_text("{}")
    assert run(app, ["gate", str(tmp_path / "no.json"), "--max-drop", "0.1"]) == REFUSED
    assert "no.json is not a report" in capsys.readouterr().err
