"""What a conversion says of itself while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum

__all__ = ["Listener", "Progress", "Reporter", "Stage", "silent"]


class Stage(StrEnum):
    """The stages of a conversion, in order."""

    ADMISSION = "admission"
    NORMALIZATION = "normalization"
    RECONSTRUCTION = "reconstruction"
    SYNTHESIS = "synthesis"
    OPTIMIZATION = "optimization"
    QUANTIZATION = "quantization"
    FIDELITY = "fidelity"
    REPORT = "report"


SHARE = {
    Stage.ADMISSION: 0.02,
    Stage.NORMALIZATION: 0.04,
    Stage.RECONSTRUCTION: 0.04,
    Stage.SYNTHESIS: 0.35,
    Stage.OPTIMIZATION: 0.30,
    Stage.QUANTIZATION: 0.10,
    Stage.FIDELITY: 0.13,
    Stage.REPORT: 0.02,
}


BELIEF = 0.1  # of all that is expected: as much weight has the expectation beside the time that was really taken


@dataclass(frozen=True)
class Progress:
    """One moment of a conversion: ``progress`` and ``stage_progress`` run from 0 to 1, times are in seconds."""

    stage: Stage
    stage_progress: float
    progress: float
    message: str
    elapsed: float
    seconds_left: float | None

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", about {self.seconds_left:.0f} s left"
        return f"{self.progress:4.0%} {self.stage}: {self.message}{left}"

    def facts(self) -> dict[str, object]:
        """The moment as plain values for one line of JSON."""
        return {"event": "progress", **asdict(self)}


Listener = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Listens to nothing."""


@dataclass
class Reporter:
    """Turns "this far into that stage" into progress of the whole, with the time left estimated from the time spent.

    The whole never goes back, even where a stage corrects what it said. Once ``expect`` was told what the stages take,
    they have that much of the bar, and the time left is what is expected of the rest, times how much longer than
    expected the part behind took.
    """

    listener: Listener = silent
    started: float = field(default_factory=time.monotonic)
    furthest: float = 0.0
    expected: Mapping[Stage, float] = field(default_factory=dict)  # seconds of the stages to come
    told: float = 0.0  # when that was, on the monotonic clock
    begun: float = 0.0  # the whole at that time
    worked: float = 0.0  # expected seconds of what has been done since

    def expect(self, seconds: Mapping[Stage, float]) -> None:
        """The stages named are to come, and take so many seconds each, as far as one can tell."""
        self.expected, self.told, self.begun, self.worked = dict(seconds), time.monotonic(), self.furthest, 0.0

    def __call__(self, stage: Stage, stage_progress: float, message: str) -> None:
        if stage in self.expected:
            self._tell_expected(stage, stage_progress, message)
            return
        before = sum(share for other, share in SHARE.items() if list(Stage).index(other) < list(Stage).index(stage))
        whole = max(self.furthest, min(1.0, before + SHARE[stage] * min(1.0, max(0.0, stage_progress))))
        self.furthest = whole
        elapsed = time.monotonic() - self.started
        left = elapsed * (1 - whole) / whole if whole >= 0.1 else None
        self.listener(Progress(stage, stage_progress, whole, message, elapsed, left))

    def _tell_expected(self, stage: Stage, stage_progress: float, message: str) -> None:
        total, order = sum(self.expected.values()), list(Stage)
        before = sum(each for other, each in self.expected.items() if order.index(other) < order.index(stage))
        done = before + self.expected[stage] * min(1.0, max(0.0, stage_progress))
        self.worked = max(self.worked, done)
        self.furthest = max(self.furthest, min(1.0, self.begun + (1 - self.begun) * self.worked / total))
        now, belief = time.monotonic(), BELIEF * total
        pace = (now - self.told + belief) / (self.worked + belief)
        left = max(total - self.worked, 0.0) * pace
        self.listener(Progress(stage, stage_progress, self.furthest, message, now - self.started, left))
