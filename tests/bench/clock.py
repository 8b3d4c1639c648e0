"""How long one run takes, when several models share a noisy machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["medians"]


def medians(sessions: Sequence[Any], feed: Mapping[str, Any], seconds: float = 1.0, at_least: int = 25) -> list[float]:
    """Median seconds of one run of each session; they take turns, so that a busy moment hits all of them."""
    times: list[list[float]] = [[] for _ in sessions]
    deadline = time.perf_counter() + seconds
    while len(times[0]) < at_least + 3 or (time.perf_counter() < deadline and len(times[0]) < 1000):
        for session, record in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, dict(feed))
            record.append(time.perf_counter() - start)
    return [statistics.median(record[3:]) for record in times]  # the first runs allocate
