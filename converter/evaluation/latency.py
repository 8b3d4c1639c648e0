"""How fast INT8 runs beside FP32 on this machine: in turns, so that whatever else the machine does hits both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from onnx import ModelProto

from converter.findings import Interval, Latency, Quartiles
from converter.findings.gains import NOTICEABLE
from converter.sessions import Feeds, open_session

__all__ = ["Processor", "measure_latency", "processor", "summarize"]

LEAST_PAIRS, MOST_PAIRS, WARM_UPS = 5, 100, 2
VNNI = frozenset({"avx512_vnni", "avx_vnni", "avx512vnni"})


@dataclass(frozen=True)
class Processor:
    """The processor's own name, and whether it multiplies 8-bit integers at full speed; None where that is unknown."""

    name: str
    vnni: bool | None


@cache
def processor(path: Path = Path("/proc/cpuinfo")) -> Processor:
    """The processor this runs on, as Linux describes it."""
    entries: dict[str, str] = {}
    if path.is_file():
        for line in path.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            entries.setdefault(key.strip().lower(), value.strip())
    name = entries.get("model name") or entries.get("hardware") or entries.get("cpu model") or "unknown processor"
    flags = entries.get("flags")
    return Processor(name, None if flags is None else bool(VNNI & set(flags.split())))


def measure_latency(
    float32: ModelProto | bytes,
    int8: ModelProto | bytes,
    feed: Feeds,
    *,
    threads: int = 1,
    seconds: float = 2.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Latency:
    """Medians and quartiles of both models on one feed, in turns until ``seconds`` are over, 5 pairs at least."""
    sessions = [open_session(model, threads, spinning=True) for model in (float32, int8)]
    names = {entry.name for entry in sessions[0].get_inputs()}
    given = {name: value for name, value in feed.items() if name in names}
    for _ in range(WARM_UPS):
        for session in sessions:
            session.run(None, given)
    times: tuple[list[float], list[float]] = ([], [])
    began = clock()
    while len(times[0]) < LEAST_PAIRS or (len(times[0]) < MOST_PAIRS and clock() - began < seconds):
        turn = (0, 1) if len(times[0]) % 2 == 0 else (1, 0)
        for which in turn:
            start = clock()
            sessions[which].run(None, given)
            times[which].append(clock() - start)
    shapes = {name: tuple(value.shape) for name, value in given.items()}
    return summarize(times[0], times[1], threads=threads, cpu=processor(), shapes=shapes)


def summarize(
    float32: Sequence[float],
    int8: Sequence[float],
    *,
    threads: int,
    cpu: Processor,
    shapes: dict[str, tuple[int, ...]],
) -> Latency:
    """The latency section of times in seconds, pair by pair."""
    ratios = [max(a, 1e-9) / max(b, 1e-9) for a, b in zip(float32, int8, strict=True)]
    low, high = np.quantile(ratios, (0.25, 0.75))
    speedup = max(statistics.median(float32), 1e-9) / max(statistics.median(int8), 1e-9)
    return Latency(
        float32=_quartiles(float32),
        int8=_quartiles(int8),
        speedup=speedup,
        speedup_interval=Interval(low=float(low), high=float(high), confidence=0.5),
        slower=speedup < NOTICEABLE,
        pairs=len(ratios),
        threads=threads,
        cpu=cpu.name,
        vnni=cpu.vnni,
        shapes=shapes,
    )


def _quartiles(times: Sequence[float]) -> Quartiles:
    lower, median, upper = (float(value) * 1000 for value in np.quantile(times, (0.25, 0.5, 0.75)))
    return Quartiles(median_ms=median, lower_ms=lower, upper_ms=upper)
