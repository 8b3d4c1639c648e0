"""How much INT8 moves the margin between FP32's first two classes: what decides how many decisions change.

A decision changes where the change of the margin exceeds the margin, so agreement on real data follows from the size of
that change and from how often real margins are small (``converter.evaluation.prediction``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from converter.findings import MarginErrors

__all__ = ["MarginTally"]

Doubles = NDArray[np.float64]

DEVIATION = 1.4826  # times the median size is the deviation of a normal variable, and outliers do not move it
LEAST_PROBABILITY = 1e-7  # float32's resolution beside a probability of one; INT8's Softmax gives exact zeros below


def scores(values: Doubles, probabilities: bool) -> Doubles:
    """The values, or their logarithms where they are ``probabilities``."""
    logarithms: Doubles = np.log(np.maximum(values, LEAST_PROBABILITY))
    return logarithms if probabilities else values


@dataclass
class MarginTally:
    """Margins before and after, sample by sample."""

    margins: list[float] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)

    def add(self, before: Doubles, after: Doubles, confidences: Doubles, probabilities: bool) -> None:
        """Counts in finite scores [n, classes] of both models, and FP32's first probabilities [n]."""
        x, y = scores(before, probabilities), scores(after, probabilities)
        second, first = np.argsort(x, axis=1, kind="stable")[:, -2:].T
        here = np.arange(len(x))
        margins = x[here, first] - x[here, second]
        self.margins += margins.tolist()
        self.changes += (y[here, first] - y[here, second] - margins).tolist()
        self.confidences += confidences.tolist()

    def result(self) -> MarginErrors | None:
        """The statistics, or None without samples."""
        if not self.changes:
            return None
        changes = np.array(self.changes)
        error = DEVIATION * float(np.median(np.abs(changes)))
        return MarginErrors(
            error=error,
            bias=float(changes.mean()),
            tail=float(np.quantile(np.abs(changes), 0.95)) / error if error > 0 else 0.0,
            median_margin=float(np.median(self.margins)),
            small_margin=float(np.quantile(self.margins, 0.25)),
            mean_confidence=min(1.0, float(np.mean(self.confidences))),
            samples=len(changes),
        )
