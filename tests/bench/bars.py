"""What a conversion of a zoo model must reach, relative to onnxruntime's own build with real data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tests.bench.evaluator import Baseline

__all__ = ["Bar", "Measured", "verdicts"]

MIB = 2**20


@dataclass(frozen=True)
class Measured:
    """The figures of one model that the bars speak of; None where something was not measured."""

    name: str
    metric: str
    difference: float  # INT8 minus FP32, in the metric's unit
    agreement: float | None  # % of equal top-1 decisions, classifiers only
    size_ratio: float  # FP32 bytes over INT8 bytes
    fp32_bytes: int
    weight_share: float  # weights of rank 2 and more, as a share of the FP32 file
    seconds: float | None = None
    peak_bytes: int | None = None
    speed_against_real: float | None = None  # real-data build's time over ours


@dataclass(frozen=True)
class Bar:
    """One demand and whether it was met."""

    what: str
    met: bool
    detail: str


def verdicts(mine: Measured, real: Baseline | None) -> list[Bar]:
    """Every bar that applies to this model."""
    bars: list[Bar] = []
    if real is not None:
        bars += _fidelity(mine, real)
    if mine.weight_share >= 0.97 and mine.fp32_bytes >= 4 * MIB:  # in smaller ones nodes and scales take their part
        bars.append(Bar("size", mine.size_ratio >= 3.5, f"{mine.size_ratio:.2f} times smaller, 3.5 demanded"))
    if mine.speed_against_real is not None:
        speed = mine.speed_against_real
        bars.append(Bar("speed", speed >= 0.95, f"{speed:.2f} of the real-data build's speed, 0.95 demanded"))
    allowed = _seconds_allowed(mine.name)
    if mine.seconds is not None and allowed is not None:
        bars.append(Bar("time", mine.seconds <= allowed, f"{mine.seconds:.0f} s, {allowed} s allowed"))
    if mine.peak_bytes is not None:
        bars.append(Bar("memory", mine.peak_bytes <= 1536 * MIB, f"{mine.peak_bytes / MIB:.0f} MiB, 1536 MiB allowed"))
    return bars


def _fidelity(mine: Measured, real: Baseline) -> list[Bar]:
    if mine.agreement is not None:
        drop, allowed = -mine.difference, -real.difference + 0.5
        least = real.fidelity - 0.5
        return [
            Bar("metric", drop <= allowed + 1e-9, f"drop {drop:.2f} points, {allowed:.2f} allowed"),
            Bar("agreement", mine.agreement >= least - 1e-9, f"{mine.agreement:.2f} %, {least:.2f} % demanded"),
        ]
    if mine.metric.startswith("NLL"):  # 2 % of perplexity, which is exp(NLL)
        excess, allowed = mine.difference - real.difference, math.log(1.02)
        return [
            Bar("metric", excess <= allowed, f"perplexity {math.expm1(excess):+.2%} against real data, 2 % allowed")
        ]
    short, allowed = real.difference - mine.difference, 0.1 if "dB" in mine.metric else 1.0
    return [Bar("metric", short <= allowed + 1e-9, f"{short:+.2f} below the real-data build, {allowed} allowed")]


def _seconds_allowed(name: str) -> int | None:
    """On two cores: CIFAR nets 15 s, 224x224 nets of at most 0.3 GMAC 45 s."""
    if name.startswith("cifar10_"):
        return 15
    if name.startswith(("imagenet_mobilenet", "imagenet_squeezenet")):
        return 45
    return None
