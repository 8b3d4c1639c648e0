"""What to expect on real data, from models of which both figures were measured.

The share of decisions that change on synthetic inputs is not the share that changes on real ones, but over measured
models the one tells something of the other. A straight line through the log-odds of both is fitted, and its error on
each model when that model is left out gives the interval. Without measurements, or far from them, nothing is predicted.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converter.findings import Decisions, Interval, Prediction

__all__ = ["MEASUREMENTS", "FlipPair", "Measurements", "load_measurements", "predict"]

MEASUREMENTS = Path(__file__).with_name("flip_rates.json")
Doubles = NDArray[np.float64]

LEAST_PAIRS = 8
MARGIN = 0.5  # log-odds beyond the measured models that a prediction may still reach


@dataclass(frozen=True)
class FlipPair:
    """One model: how many decisions INT8 changed, of how many, on synthetic and on real inputs."""

    model: str
    synthetic_flips: int
    synthetic_n: int
    real_flips: int
    real_n: int


@dataclass(frozen=True)
class Measurements:
    """The measured models, and how they were measured."""

    pairs: tuple[FlipPair, ...]
    provenance: str


def load_measurements(path: Path = MEASUREMENTS) -> Measurements | None:
    """The measurements in the file ``{"date", "command", "pairs": [..]}``, or None where there is no such file."""
    if not path.is_file():
        return None
    stored = json.loads(path.read_text())
    pairs = tuple(FlipPair(**pair) for pair in stored["pairs"])
    return Measurements(pairs, f"{stored['date']}, {stored['command']}")


def predict(decisions: Decisions | None, measurements: Measurements | None) -> Prediction | None:
    """Where top-1 agreement on real data lies in 19 of 20 cases, or None where nothing measured supports it."""
    if decisions is None or measurements is None or len(measurements.pairs) < LEAST_PAIRS:
        return None
    pairs = measurements.pairs
    x = np.array([_log_odds(pair.synthetic_flips, pair.synthetic_n) for pair in pairs])
    y = np.array([_log_odds(pair.real_flips, pair.real_n) for pair in pairs])
    agreement = decisions.agreement
    here = _log_odds(agreement.n - agreement.successes, agreement.n)
    if not x.min() - MARGIN <= here <= x.max() + MARGIN or np.ptp(x) == 0:
        return None
    residuals = [
        y[left_out] - _line(np.delete(x, left_out), np.delete(y, left_out), x[left_out]) for left_out in range(len(x))
    ]
    spread = _student(len(pairs) - 2) * math.sqrt(float(np.mean(np.square(residuals))))
    centre = _line(x, y, here)
    low, high = (1 - 1 / (1 + math.exp(-(centre + side * spread))) for side in (1, -1))
    return Prediction(
        metric="top-1 agreement with FP32",
        interval=Interval(low=low, high=high),
        basis=(
            f"{len(pairs)} classifiers of which agreement on synthetic and on real labelled inputs was measured; the "
            "interval is that of the error on each when it is left out. Inputs unlike theirs may do worse."
        ),
        pairs=len(pairs),
        provenance=measurements.provenance,
    )


def _log_odds(flips: int, n: int) -> float:
    """The log-odds of a change, with half a sample added to each side so that none and all are finite."""
    return math.log((flips + 0.5) / (n - flips + 0.5))


def _line(x: Doubles, y: Doubles, at: float) -> float:
    """The least-squares line through the points, read at one place; its slope is kept from 0 to 2."""
    variance = float(x.var())
    slope = float(np.mean((x - x.mean()) * (y - y.mean()))) / variance if variance > 0 else 0.0
    return float(y.mean()) + min(2.0, max(0.0, slope)) * (at - float(x.mean()))


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, by the expansion of Cornish and Fisher; right to 0.3 % from 5 degrees on."""
    z = 1.959963984540054
    first = (z**3 + z) / (4 * freedom)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    return z + first + second + third
