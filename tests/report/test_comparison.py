"""Two reports side by side."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from converter import Options, Report, cli, convert
from converter.report.comparison import compare
from tests.networks import residual


@pytest.fixture(scope="module")
def reports() -> tuple[Report, Report]:
    first = convert(residual(), Options(samples=8)).report
    return first, convert(residual(), Options(samples=8, seed=1, exclude=("Conv",))).report


def test_what_differs_stands_beside_each_other(reports: tuple[Report, Report]) -> None:
    rows = {(row.section, row.name): row for row in compare(*reports).rows}
    assert (rows["options", "seed"].first, rows["options", "seed"].second) == ("0", "1")
    assert ("options", "samples") not in rows
    nodes = rows["nodes", "on integers"]
    assert int(nodes.difference) == int(nodes.second) - int(nodes.first) < 0
    assert rows["size", "file"].difference.startswith("+")
    assert not rows["model", "SHA-256"].differs


def test_a_report_differs_from_itself_in_nothing(reports: tuple[Report, Report]) -> None:
    assert not any(row.differs for row in compare(reports[0], reports[0]).rows)


def test_the_command_prints_a_table_and_writes_a_page(
    reports: tuple[Report, Report], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b<b>.json"]
    for path, report in zip(paths, reports, strict=True):
        path.write_text(report.to_json())
    assert cli.main(["compare", *map(str, paths), "--html", str(tmp_path / "both.html")]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["a.json", "b<b>.json", "difference"]
    assert any(line.startswith("options: seed") for line in lines)
    page = (tmp_path / "both.html").read_text()
    assert "b&lt;b&gt;.json" in page
    assert "b<b>" not in page
    assert cli.main(["compare", *map(str, paths), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["event"] == "comparison"


def test_what_is_no_report_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text("{}")
    assert cli.main(["compare", str(tmp_path / "a.json"), str(tmp_path / "a.json")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is no report" in line
