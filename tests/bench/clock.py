"""How long one run takes, when several models share a noisy machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import cycle, permutations
from typing import Any

__all__ = ["medians"]


def medians(sessions: Sequence[Any], feed: Mapping[str, Any], seconds: float = 1.0, at_least: int = 25) -> list[float]:
    """Median seconds of one run of each session; they take turns, so that a busy moment hits all of them.

    The turns go through all orders: who always follows the largest model finds its own weights gone from the cache,
    which cost ResNet-56 in INT8 6 % of its speed.
    """
    times: list[list[float]] = [[] for _ in sessions]
    deadline = time.perf_counter() + seconds
    orders = cycle(permutations(range(len(sessions))))
    while len(times[0]) < at_least + 3 or (time.perf_counter() < deadline and len(times[0]) < 1000):
        for which in next(orders):
            start = time.perf_counter()
            sessions[which].run(None, dict(feed))
            times[which].append(time.perf_counter() - start)
    return [statistics.median(record[3:]) for record in times]  # the first runs allocate
