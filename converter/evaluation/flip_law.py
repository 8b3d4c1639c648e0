"""The law that tells real flips of decisions from errors of margins, with constants fitted on measured networks.

A decision flips where the error of its margin exceeds the margin: P(flip) is about 0.4 s f(0), with s the deviation of
the errors and f(0) the density of real margins at zero. Synthetic inputs show s, within a factor of 1.4, but not f(0):
that is about one minus the accuracy, which the owner may know; else the divergence of all scores and the small margins
say a little of it. So a line through logarithms goes from what synthetic inputs show to what real ones did; its
constants and the quantiles of its error are written by ``tests/bench/prediction_fit.py``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from converter.findings import Decisions, Interval

__all__ = ["CONSTANTS", "MANY_FLIPS", "FlipLaw", "Law", "features", "load_laws"]

CONSTANTS = Path(__file__).with_suffix(".json")

SMALLEST_ERROR = 1e-6  # of margins: below it nothing flips that could be measured
SMALLEST_DIVERGENCE = 1e-7  # nats; what float32 leaves of equal scores
MANY_FLIPS = 0.1  # beyond it flips are no longer between classes that are right equally often
SMALLEST_DOUBT = 0.01  # one minus a stated accuracy: labels themselves are wrong about as often


def features(decisions: Decisions, expected_accuracy: float | None) -> dict[str, float]:
    """What the laws may use, as logarithms; empty where margins were not measured."""
    found = decisions.margin_errors
    if found is None or not found.samples:
        return {}
    known = {
        "error": math.log(max(found.error, SMALLEST_ERROR)),
        "margin": math.log(max(found.small_margin, SMALLEST_ERROR)),
        "kl": math.log(max(decisions.mean_kl, SMALLEST_DIVERGENCE)),
    }
    if expected_accuracy is not None:
        known["doubt"] = math.log(max(1 - expected_accuracy, SMALLEST_DOUBT))
    return known


@dataclass(frozen=True)
class FlipLaw:
    """log(-log(1 - flips)) = ``intercept`` + sum of ``slopes`` times features, off by ``low`` to ``high``."""

    intercept: float
    slopes: Mapping[str, float]
    low: float
    high: float
    loss_of_few: tuple[float, float]  # least and most accuracy lost, as a share of the flips at the interval's end,
    loss_of_many: tuple[float, float]  # and where MANY_FLIPS are expected
    usual_loss: float  # as a share of the flips in the middle
    refuse_below: float  # agreement expected in the middle, below which real agreement was too often under 90 %

    def flips(self, known: Mapping[str, float], classes: int) -> tuple[Interval, float]:
        """The share of decisions that change on real data, and its middle."""
        centre = self.intercept + sum(slope * known[name] for name, slope in self.slopes.items())
        most = 1 - 1 / classes  # what guessing changes
        low, middle, high = (min(most, -math.expm1(-math.exp(centre + off))) for off in (self.low, 0.0, self.high))
        return Interval(low=low, high=high, confidence=0.9), middle

    @classmethod
    def read(cls, stored: Mapping[str, Any]) -> Self:
        """The law of a JSON object."""
        return cls(
            stored["intercept"],
            dict(stored["slopes"]),
            stored["low"],
            stored["high"],
            tuple(stored["loss_of_few"]),
            tuple(stored["loss_of_many"]),
            stored["usual_loss"],
            stored["refuse_below"],
        )


@dataclass(frozen=True)
class Law:
    """Both laws, without and with the accuracy of FP32, and what they were fitted on in words."""

    alone: FlipLaw
    with_accuracy: FlipLaw
    level: float
    basis: str


@cache
def load_laws(path: Path = CONSTANTS) -> Law:
    """The fitted laws of the file."""
    stored = json.loads(path.read_text())
    return Law(
        FlipLaw.read(stored["alone"]),
        FlipLaw.read(stored["with_accuracy"]),
        stored["level"],
        stored["basis"],
    )
