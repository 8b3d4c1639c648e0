"""Ranges of activations, observed in a stream: memory does not grow with the number of samples.

The samples reach onnxruntime's quantizer and our observers through the same ``CalibrationDataReader``. Each tensor
keeps a histogram of 2,048 bins whose width doubles when a value falls outside, which never loses a count, besides its
extremes in all and per channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader
from torch import Tensor

from converter.inputs.plans import tensors
from converter.quantization.activation_functions import Function
from converter.quantization.qdq_writer import Range
from converter.reconstruction import Reconstruction
from converter.sessions import Feeds
from converter.targets import SYMMETRIC

__all__ = ["Feeds", "Observer", "RangeRule", "SampleReader", "observe", "squared_error"]

BINS = 2048  # of a histogram, as many as onnxruntime's percentiles are taken from
PIECE = 1 << 17  # values counted at a time: they and their bins stay within a core's second-level cache
SHRINKS = np.linspace(1.0, 0.02, 50)  # of an end of a range; behind a function little of it may matter
MOST_TURNS = 4
FEW_CODES = 2  # an end so near to zero takes no more codes than this, and giving it up would save nothing


class RangeRule(StrEnum):
    """How a range is taken from what was observed."""

    MINMAX = "min/max"
    MSE = "least squared error"


class SampleReader(CalibrationDataReader):  # type: ignore[misc]
    """Yields batches of ready network inputs, and again from the start after ``rewind``; ``read`` begins a pass."""

    def __init__(self, read: Callable[[], Iterator[Feeds]]) -> None:
        self._read = read
        self._pass = read()

    def get_next(self) -> Feeds | None:
        """The next batch, or None at the end."""
        return next(self._pass, None)

    def rewind(self) -> None:
        """Starts over."""
        self._pass = self._read()

    def __iter__(self) -> Iterator[Feeds]:
        self.rewind()
        while (feeds := self.get_next()) is not None:
            yield feeds


@dataclass
class Observer:
    """What one tensor's values looked like so far."""

    low: float = np.inf
    high: float = -np.inf
    width: float = 0.0  # of a bin
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2 * BINS, np.int64))  # bins around zero

    def update(self, values: Tensor) -> None:
        """Takes in one batch; values that are not finite, such as a mask's, are left out."""
        flat = _in_memory(values.detach())
        if flat.numel() == 0:
            return
        low, high = (float(each) for each in flat.aminmax())
        if not np.isfinite(low) or not np.isfinite(high):
            self.update(flat[flat.isfinite()])
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        reach = max(abs(low), abs(high), 1e-12)
        if self.width == 0.0:
            self.width = reach * 1.0001 / BINS
        while reach >= self.width * BINS:
            self._widen()
        for start in range(0, len(flat), PIECE):
            piece = flat[start : start + PIECE].float()
            bins = (piece / self.width).add_(BINS).to(torch.int32)  # up to 2 BINS, where the sum was rounded up
            counts = torch.bincount(bins, minlength=2 * BINS + 1).numpy()
            self.counts += counts[:-1]
            self.counts[-1] += counts[-1]

    def _widen(self) -> None:
        """Doubles the bins' width by merging neighbours away from zero."""
        pairs = self.counts.reshape(-1, 2).sum(1)
        self.counts[:] = 0
        self.counts[BINS // 2 : BINS // 2 + BINS] = pairs
        self.width *= 2

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        return np.asarray((np.arange(2 * BINS) - BINS + 0.5) * self.width, np.float64)

    def range(self, rule: RangeRule, levels: int = 256, function: Function | None = None) -> Range:
        """The range by ``rule``, with zero in it; least errors are counted behind ``function``, through which alone the
        tensor is read.
        """
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if not np.isfinite(low + high) or self.counts.sum() == 0:
            return Range(0.0, 0.0, "never observed", levels)
        if rule is RangeRule.MSE:
            low, high = self._least_error(levels, function)
        return Range(low, high, str(rule), levels)

    def _least_error(self, levels: int, function: Function | None) -> tuple[float, float]:
        """The range of least squared rounding plus clipping error over the histogram: each end shrunk for itself, the
        upper and the lower one in turn, until neither moves.
        """
        ends = [min(self.low, 0.0), max(self.high, 0.0)]
        error = _Error(self, levels, function)
        if levels == SYMMETRIC:
            full = max(-ends[0], ends[1])
            least = min((full * each for each in SHRINKS), key=lambda end: error(-end, end))
            return -least, least
        best = error(*ends)
        for _ in range(MOST_TURNS):
            before = list(ends)
            for side in (1, 0):
                full = (self.low, self.high)[side] if ends[side] else 0.0
                if abs(full) <= FEW_CODES * (ends[1] - ends[0]) / (levels - 1):
                    continue
                for shrink in SHRINKS:
                    trial = [*ends]
                    trial[side] = full * shrink
                    if (found := error(*trial)) < best:
                        best, ends = found, trial
            if ends == before:
                break
        return ends[0], ends[1]


def squared_error(observer: Observer, taken: Range, function: Function | None = None) -> float:
    """Rounding and clipping errors of what was observed within a range, over its own square, behind ``function``."""
    error = _Error(observer, taken.levels, function, [taken.low, taken.high])
    return error(taken.low, taken.high) / max(float(error.moments[2][-1]), 1e-30)


class _Error:
    """The squared error of a range over a histogram, behind the function that follows, from running sums over bins."""

    def __init__(
        self, observer: Observer, levels: int, function: Function | None, others: Sequence[float] = ()
    ) -> None:
        filled = observer.counts > 0
        self.centres, counts = observer.centres[filled], observer.counts[filled].astype(np.float64)
        self.levels, self.function = levels, function
        self.ends: dict[float, float] = {}
        if function is None:
            after, slope = self.centres, np.ones_like(self.centres)
        else:
            after = function(self.centres)
            reach = observer.width / 2
            slope = (function(self.centres + reach) - function(self.centres - reach)) / observer.width
            ends = np.append(np.outer([observer.low, observer.high], SHRINKS), [0.0, *others])
            self.ends = dict(zip(ends.tolist(), function(ends).tolist(), strict=True))
        self.slopes = _running(counts * slope**2)
        self.moments = [_running(counts * after**power) for power in range(3)]

    def __call__(self, low: float, high: float) -> float:
        step = max((high - low) / (self.levels - 1), 1e-12)
        first, last = np.searchsorted(self.centres, low), np.searchsorted(self.centres, high, "right")
        below = [each[first] for each in self.moments]
        above = [each[-1] - each[last] for each in self.moments]
        rounded = (self.slopes[last] - self.slopes[first]) * step**2 / 12
        return float(rounded + self._clipped(below, low) + self._clipped(above, high))

    def _clipped(self, moments: list[float], end: float) -> float:
        """The error of values with these moments that all become the end of the range."""
        if end not in self.ends:
            self.ends[end] = end if self.function is None else float(self.function(np.array([end], np.float64))[0])
        count, total, squares = moments
        reached = self.ends[end]
        return max(squares - 2 * reached * total + reached**2 * count, 0.0)


def _running(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of all values before each place, and of all."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _in_memory(values: Tensor) -> Tensor:
    """All values, in the order in which they lie: of channels that lie last no copy is made."""
    last = values.dim() == 4 and values.is_contiguous(memory_format=torch.channels_last)
    return values.permute(0, 2, 3, 1).reshape(-1) if last else values.reshape(-1)


def observe(
    network: Reconstruction,
    names: Iterable[str],
    reader: Iterable[Feeds],
    progress: Callable[[float], None] = lambda _: None,
) -> dict[str, Observer]:
    """What each named tensor looks like over all batches of the reader."""
    observers = {name: Observer() for name in names}

    def watch(observer: Observer) -> Callable[[Tensor], Tensor]:
        def look(values: Tensor) -> Tensor:
            observer.update(values)
            return values

        return look

    hooks = {name: watch(observer) for name, observer in observers.items()}
    last = network.last_of(observers)  # the others are seen on the way, and freed
    with torch.no_grad():
        for number, feeds in enumerate(reader):
            network.run(tensors(feeds), last, edit=hooks)
            if isinstance(reader, Sized):
                progress((number + 1) / max(len(reader), 1))
    progress(1.0)
    return observers
