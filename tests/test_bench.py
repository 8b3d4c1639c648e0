"""The benchmark's own judgement: bars, tables, and what it counts as one process's memory."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.architectures import resnet50
from tests.bench.bars import MIB, Measured, verdicts
from tests.bench.evaluator import Baseline
from tests.bench.results import RESULTS, table, write_section
from tests.bench.zoo import _watch

GOOD = Measured("cifar10_x", "top-1 %", -0.2, 98.0, 3.9, 5 * MIB, 0.99, 10.0, 500 * MIB, 1.0)
REAL = Baseline(90.0, -0.1, 98.2)


def unmet(measured: Measured, real: Baseline | None = REAL) -> list[str]:
    return [bar.what for bar in verdicts(measured, real) if not bar.met]


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({}, []),
        ({"difference": -0.61}, ["metric"]),
        ({"agreement": 97.6}, ["agreement"]),
        ({"size_ratio": 3.4}, ["size"]),
        ({"size_ratio": 3.4, "fp32_bytes": MIB}, []),
        ({"speed_against_real": 0.9}, ["speed"]),
        ({"seconds": 16.0}, ["time"]),
        ({"seconds": 40.0, "name": "imagenet_squeezenet1_1"}, []),
        ({"peak_bytes": 1600 * MIB}, ["memory"]),
        ({"seconds": None, "peak_bytes": None, "speed_against_real": None}, []),
    ],
)
def test_each_bar_is_missed_by_what_it_forbids(change: dict[str, object], missed: list[str]) -> None:
    assert unmet(replace(GOOD, **change)) == missed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("metric", "difference", "real", "missed"),
    [
        ("mAP50-95 %", -2.0, -1.1, []),
        ("mAP50-95 %", -2.2, -1.1, ["metric"]),
        ("PSNR-Y dB", -0.19, -0.1, []),
        ("PSNR-Y dB", -0.21, -0.1, ["metric"]),
        ("NLL nats/token", 0.045, 0.027, []),
        ("NLL nats/token", 0.048, 0.027, ["metric"]),
    ],
)
def test_other_metrics_have_bars_of_their_own(metric: str, difference: float, real: float, missed: list[str]) -> None:
    measured = replace(GOOD, name="x", metric=metric, difference=difference, agreement=None)
    assert unmet(measured, Baseline(0.0, real, 20.0)) == missed


def test_a_section_replaces_its_own_and_no_other(tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    for title, body in (("One", "1"), ("Two", "2"), ("One", "uno"), ("Three", "3")):
        write_section(title, body, results)
    assert results.read_text().split("## ")[1:] == ["One\n\nuno\n\n", "Two\n\n2\n\n", "Three\n\n3\n"]
    assert list(tmp_path.iterdir()) == [results]


def test_tables_are_markdown() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


@pytest.mark.parametrize("mebibytes", [0, 200])
def test_memory_is_that_of_the_process_and_not_of_its_parent(mebibytes: int) -> None:
    ballast = bytearray(300 * MIB)  # what wait4 would have counted
    program = f"import time; held = bytearray({mebibytes} << 20); time.sleep(1)"
    process = subprocess.Popen([sys.executable, "-c", program])
    peak = _watch(process)
    assert mebibytes <= peak / MIB < mebibytes + 60
    assert len(ballast) == 300 * MIB


def test_the_large_model_is_resnet50() -> None:
    model = resnet50()
    sizes = [each.dims for each in model.graph.initializer]
    assert 25.5e6 < sum(len(each.raw_data) // 4 for each in model.graph.initializer) < 25.7e6
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 53
    assert [64, 3, 7, 7] in [list(size) for size in sizes]


def test_the_readme_claims_no_figure_that_was_not_measured() -> None:
    readme = (RESULTS.parents[2] / "README.md").read_text()
    rows = [line.split("|")[2:6] for line in readme.splitlines() if line.startswith("| ") and line.endswith(" |")]
    claimed = {number for row in rows for cell in row for number in re.findall(r"\d+\.\d+", cell)}
    measured = set(re.findall(r"\d+\.\d+", RESULTS.read_text()))
    assert len(claimed) > 30
    assert claimed <= measured
