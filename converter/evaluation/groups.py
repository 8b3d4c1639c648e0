"""An output judged by its parts and by its use: boxes apart from scores, neighbours of embeddings.

A detector that keeps boxes of hundreds of pixels and scores below one in a single tensor has the ratio of its boxes;
its scores may be ruined unseen (24.9 dB in all, 3.0 in the scores).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from converter.findings import OutputGroup
from converter.graph import Array

__all__ = ["ChannelTally", "neighbours_kept", "split_channels"]

Doubles = NDArray[np.float64]

MOST_CHANNELS = 1024  # beyond it an axis counts places or a vocabulary, not kinds of values
APART = (
    8.0  # times as large: groups of one kind stay within it on the detectors tried, boxes over scores are 30 and more
)
EXPLAINED = 0.6  # of the variance of the logarithms, which the split must take away
DEEPEST = 2  # splits of splits, so four groups at most


@dataclass
class ChannelTally:
    """Power of signal and error by the channels of one output: the smallest axis behind the batch."""

    axis: int | None = None
    signal: Doubles = field(default_factory=lambda: np.zeros(0))
    error: Doubles = field(default_factory=lambda: np.zeros(0))
    count: int = 0

    def add(self, before: Array, after: Array) -> None:
        """Counts in one batch of an output of three or more axes; others, and infinite values, are left out."""
        if before.ndim < 3 or before.shape != after.shape:
            return
        if self.axis is None:
            self.axis = 1 + int(np.argmin(before.shape[1:]))
        channels = before.shape[self.axis]
        if not 2 <= channels <= MOST_CHANNELS or before.size == channels * len(before):
            return
        x, y = (np.moveaxis(each, self.axis, 0).reshape(channels, -1).astype(np.float64) for each in (before, after))
        if self.signal.size not in (0, channels) or not (np.isfinite(x).all() and np.isfinite(y).all()):
            return
        signal, error = np.square(x).sum(1), np.square(y - x).sum(1)
        self.signal = signal if self.signal.size == 0 else self.signal + signal
        self.error = error if self.error.size == 0 else self.error + error
        self.count += x.shape[1]

    def result(self, name: str) -> tuple[OutputGroup, ...]:
        """The groups of channels of different scale with the ratio of each; none where all are of one."""
        if self.count == 0 or self.axis is None:
            return ()
        bounds = split_channels(np.sqrt(self.signal / self.count))
        if len(bounds) < 2:
            return ()
        found = []
        for low, high in bounds:
            signal, error = float(self.signal[low:high].sum()), float(self.error[low:high].sum())
            ratio = 10 * math.log10(signal / error) if signal > 0 and error > 0 else None
            found.append(
                OutputGroup(
                    name=f"{name}, channels {low} to {high - 1}",
                    axis=self.axis,
                    first=low,
                    last=high - 1,
                    typical=math.sqrt(signal / self.count / (high - low)),
                    sqnr_db=ratio,
                )
            )
        return tuple(found)


def split_channels(sizes: Doubles, deepest: int = DEEPEST) -> list[tuple[int, int]]:
    """Neighbouring channels of one scale as [low, high); ``sizes`` are the channels' typical values."""
    logarithms = np.log(np.maximum(sizes, 1e-30 + 1e-9 * sizes.max(initial=0.0)))

    def part(low: int, high: int, depth: int) -> list[tuple[int, int]]:
        values = logarithms[low:high]
        if depth == 0 or len(values) < 2:
            return [(low, high)]
        whole = float(((values - values.mean()) ** 2).sum())
        rest = [
            float(((values[:k] - values[:k].mean()) ** 2).sum() + ((values[k:] - values[k:].mean()) ** 2).sum())
            for k in range(1, len(values))
        ]
        k = 1 + int(np.argmin(rest))
        distance = abs(float(values[:k].mean() - values[k:].mean()))
        if distance < math.log(APART) or rest[k - 1] > (1 - EXPLAINED) * whole:
            return [(low, high)]
        return [*part(low, low + k, depth - 1), *part(low + k, high, depth - 1)]

    return part(0, len(sizes), deepest)


def neighbours_kept(before: Doubles, after: Doubles) -> tuple[int, int] | None:
    """Of how many rows the nearest other row (by cosine, among FP32's) is the same for INT8's row, and of how many.

    None for fewer than eight rows or where a row is zero.
    """
    if len(before) < 8:
        return None
    norms = [np.linalg.norm(each, axis=1, keepdims=True) for each in (before, after)]
    if any(not np.isfinite(each).all() or each.min() <= 0 for each in norms):
        return None
    x, y = before / norms[0], after / norms[1]
    old, new = x @ x.T, y @ x.T
    for each in (old, new):
        np.fill_diagonal(each, -np.inf)
    return int((old.argmax(1) == new.argmax(1)).sum()), len(x)
