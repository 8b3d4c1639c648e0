"""Fits the law of flips to what ``tests.bench.prediction`` measured, and says how well it predicts what it never saw.

    python -m tests.bench.prediction_fit MEASURED.jsonl ... [--write]

One line of logarithms without, and one with FP32's accuracy. Each architecture is predicted by a line fitted on all
others, and its interval is the quantiles of the others' errors, so that coverage is counted, not supposed. ``--write``
puts the constants into ``converter/evaluation/flip_law.json`` and the figures into RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.evaluation.flip_law import CONSTANTS, MANY_FLIPS, features
from converter.findings import Decisions
from tests.bench.results import publish, table

Doubles = NDArray[np.float64]

AS_MADE = "as made"
LEVEL = 0.9
MISFED = "int16"  # waveforms of this scale are guessed wrongly and cannot be stated: a wrong hypothesis, not in the law
ALONE = ("kl", "margin")
WITH_ACCURACY = ("error", "kl", "margin", "doubt")
RIDGE = 0.01
OWN_SPREAD = 0.15  # variance of the law itself beside counting, in logarithms squared


@dataclass(frozen=True)
class Measured:
    """The lines as arrays."""

    rows: list[dict[str, Any]]
    known: list[dict[str, float]]
    flips: Doubles  # real, as a share
    loss: Doubles  # of accuracy, as a share
    counts: Doubles  # of flips
    groups: NDArray[np.str_]  # architectures

    @property
    def as_made(self) -> NDArray[np.bool_]:
        return np.array([row["variant"] == AS_MADE for row in self.rows])

    @property
    def target(self) -> Doubles:
        n = np.array([row["real"]["n"] for row in self.rows])
        share = np.minimum((self.counts + 0.5) / (n + 1), 1 - 1e-3)
        return np.asarray(np.log(-np.log1p(-share)))


def read(paths: Sequence[Path]) -> Measured:
    """Everything measured under a right preprocessing."""
    rows = [json.loads(line) for path in paths for line in path.open()]
    rows = [row for row in rows if MISFED not in row["network"]]
    real = [row["real"] for row in rows]
    return Measured(
        rows,
        [_features(row) for row in rows],
        np.array([each["flips"] / each["n"] for each in real]),
        np.array([(each["before"] - each["after"]) / each["n"] for each in real]),
        np.array([each["flips"] for each in real], float),
        np.array([row["architecture"] for row in rows]),
    )


def _features(row: dict[str, Any]) -> dict[str, float]:
    row["decisions"]["margin_errors"]["small_margin"] = float(np.quantile(row["margins"], 0.25))
    return features(Decisions.model_validate(row["decisions"]), row["real"]["before"] / row["real"]["n"])


@dataclass(frozen=True)
class Fit:
    """A law with its errors on what was left out, and the accuracy lost."""

    names: tuple[str, ...]
    line: Doubles
    low: float
    high: float
    small: tuple[float, float]
    large: tuple[float, float]
    usual: float
    bar: float
    residuals: Doubles  # of each row, by the line that never saw its architecture
    covered: NDArray[np.bool_]
    lows: Doubles  # of agreement
    highs: Doubles
    middles: Doubles
    loss_covered: NDArray[np.bool_]
    loss_widths: Doubles


def solve(data: Measured, names: Sequence[str], use: NDArray[np.bool_]) -> Doubles:
    """Weighted least squares; a row counts by how well its flips are known."""
    design = np.array([[1.0, *(each[name] for name in names)] for each in data.known])[use]
    weights = 1 / (OWN_SPREAD + 1 / (data.counts[use] + 0.5))
    penalty = RIDGE * np.diag([0.0] + [1.0] * len(names))
    return np.asarray(
        np.linalg.solve(design.T @ (weights[:, None] * design) + penalty, design.T @ (weights * data.target[use]))
    )


def share(logarithm: Doubles | float) -> Any:
    return -np.expm1(-np.exp(logarithm))


def left_out(values: Doubles, groups: NDArray[np.str_], tail: float) -> tuple[Doubles, Doubles]:
    """For every row the two quantiles of the rows of other architectures."""
    lows, highs = np.zeros(len(values)), np.zeros(len(values))
    for group in set(groups):
        out = groups == group
        lows[out], highs[out] = np.quantile(values[~out], (tail, 1 - tail))
    return lows, highs


def covering_tail(values: Doubles, groups: NDArray[np.str_]) -> float:
    """The largest tails whose intervals, made by other architectures, hold as many rows as they say.

    Networks of one architecture err alike, so the tails of independent cases would be a little too short.
    """
    for tail in np.arange((1 - LEVEL) / 2, 0, -0.0025):
        lows, highs = left_out(values, groups, float(tail))
        if ((lows <= values) & (values <= highs)).mean() >= LEVEL:
            return float(tail)
    return 0.0


def fit(data: Measured, names: tuple[str, ...]) -> Fit:
    """The law on all, and each architecture judged by one that never saw it."""
    design = np.array([[1.0, *(each[name] for name in names)] for each in data.known])
    predicted, groups = np.zeros(len(data.rows)), sorted(set(data.groups))
    for group in groups:
        out = data.groups == group
        predicted[out] = design[out] @ solve(data, names, ~out)
    residuals = data.target - predicted
    middles = share(predicted)
    tail = covering_tail(residuals, data.groups)
    lows, highs = (share(predicted + each) for each in left_out(residuals, data.groups, tail))
    low, high = np.quantile(residuals, (tail, 1 - tail))
    lost = data.loss / highs
    loss_low, loss_high = np.zeros(len(lost)), np.zeros(len(lost))
    ends: list[tuple[float, float]] = []
    few = middles < MANY_FLIPS
    for regime in (few, ~few):
        tail = covering_tail(lost[regime], data.groups[regime])
        least, most = left_out(lost[regime], data.groups[regime], tail)
        loss_low[regime], loss_high[regime] = least * highs[regime], most * highs[regime]
        low_end, high_end = np.quantile(lost[regime], (tail, 1 - tail))
        ends.append((float(low_end), float(high_end)))
    return Fit(
        names,
        solve(data, names, np.ones(len(residuals), bool)),
        float(low),
        float(high),
        ends[0],
        ends[1],
        float(np.median((data.loss / middles)[few])),
        _bar(1 - data.flips, 1 - middles),
        residuals,
        (data.flips >= lows) & (data.flips <= highs),
        1 - highs,
        1 - lows,
        1 - middles,
        (data.loss >= loss_low) & (data.loss <= loss_high),
        loss_high - loss_low,
    )


def _bar(real: Doubles, expected: Doubles) -> float:
    """The expected agreement below which use is advised against: bad ones missed and good ones refused as seldom."""
    bad, good = expected[real < 0.9], expected[real >= 0.97]
    trials = np.arange(0.85, 0.985, 0.001)
    return float(min(trials, key=lambda bar: max(float((bad >= bar).mean()), float((good < bar).mean()))))


def stored(law: Fit) -> dict[str, Any]:
    """The constants as JSON."""

    def rounded(values: Iterable[float]) -> list[float]:
        return [round(float(value), 4) for value in values]

    return {
        "intercept": round(float(law.line[0]), 4),
        "slopes": dict(zip(law.names, rounded(law.line[1:]), strict=True)),
        "low": round(law.low, 4),
        "high": round(law.high, 4),
        "loss_of_few": rounded(law.small),
        "loss_of_many": rounded(law.large),
        "usual_loss": round(law.usual, 4),
        "refuse_below": round(law.bar, 3),
    }


def figures(data: Measured, law: Fit, title: str) -> list[str]:
    """One row of the table."""
    made, real = data.as_made, 1 - data.flips
    bad, good = real < 0.9, real >= 0.97
    width = law.highs - law.lows
    return [
        title,
        f"{law.covered.mean():.0%}, {law.covered[made].mean():.0%}",
        f"{100 * np.median(np.abs(real - law.middles)[made]):.2f}",
        f"{100 * np.median(width[made]):.1f}",
        f"{law.loss_covered.mean():.0%}, {law.loss_covered[made].mean():.0%}",
        f"{100 * np.median(law.loss_widths[made]):.1f}",
        f"{(law.middles[bad] < law.bar).mean():.0%} of {bad.sum()}",
        f"{(law.middles[good] < law.bar).mean():.0%} of {good.sum()}",
    ]


def zoo_table(data: Measured, laws: Sequence[Fit]) -> str:
    """Every classifier of the zoo as zsq made it: real, and the intervals of laws that never saw its architecture."""
    rows = []
    for index, row in enumerate(data.rows):
        if row["source"] == "zoo" and row["variant"] == AS_MADE:
            spans = [f"{100 * law.lows[index]:.1f} to {100 * law.highs[index]:.1f}" for law in laws]
            rows.append(
                [row["network"], f"{100 * (1 - data.flips[index]):.1f}", *spans, f"{-100 * data.loss[index]:+.1f}"]
            )
    return table(["network", "real agreement %", "predicted", "accuracy stated", "real change, points"], sorted(rows))


def main() -> None:
    """The law is fitted and judged, and written if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measured", type=Path, nargs="+")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    data = read(given.measured)
    laws = [fit(data, ALONE), fit(data, WITH_ACCURACY)]
    networks = {row["network"] for row in data.rows}
    command = "python -m tests.bench.prediction_fit " + " ".join(path.name for path in given.measured) + " --write"
    body = table(
        [
            "law",
            "intervals that held agreement: all, INT8 as made",
            "median error at INT8, points",
            "median width at INT8, points",
            "intervals that held the change of accuracy: all, as made",
            "median width at INT8, points",
            "bad (< 90 %) refused",
            "good (>= 97 %) refused",
        ],
        [figures(data, laws[0], "synthetic inputs alone"), figures(data, laws[1], "and FP32's accuracy")],
    )
    head = (
        f"{len(networks)} classifiers of {len(set(data.groups))} architectures, {len(data.rows)} INT8 models of them "
        f"({int(data.as_made.sum())} as zsq makes them, the others spoilt), preprocessing stated, each architecture "
        "predicted without it."
    )
    zoo = zoo_table(data, laws)
    if given.write:
        constants = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "command": command,
            "basis": f"the flips of {len(networks)} measured classifiers under {len(data.rows)} quantizations",
            "level": LEVEL,
            "alone": stored(laws[0]),
            "with_accuracy": stored(laws[1]),
        }
        CONSTANTS.write_text(json.dumps(constants, indent=1) + "\n")
    print(zoo)
    print({name: round(math.exp(law.high), 2) for name, law in zip(("alone", "with"), laws, strict=True)})
    arguments = [*(path.name for path in given.measured), "--write"]
    publish("Prediction of agreement on real data", "prediction_fit", arguments, head, zoo, body, dry=not given.write)


if __name__ == "__main__":
    main()
