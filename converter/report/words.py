"""Numbers as people read them, and the few sentences at the head of the page."""

from __future__ import annotations

import math
from dataclasses import dataclass

from converter.findings import Advice, Interval, Isolation, OutputFidelity
from converter.findings.gains import faster, gains_little, smaller
from converter.report.schema import Report

__all__ = [
    "Headline",
    "bytes_",
    "confinement",
    "error_share",
    "headline",
    "milliseconds",
    "number",
    "percent",
    "plural",
    "points",
    "seconds",
    "sentence",
    "span",
    "thousands",
    "worst_output",
]


SPACE = "\u00a0"  # keeps a figure and its unit on one line


def percent(share: float, digits: int = 1) -> str:
    """98.4 %; never rounded up to 100 % and never down to 0 %."""
    return f"{_hundredths(share, digits)}{SPACE}%"


def _hundredths(share: float, digits: int) -> str:
    value = share * 100
    if value in (0, 100):
        return f"{value:.0f}"
    shown = f"{value:.{digits}f}"
    if float(shown) >= 100 > value:
        return f"{math.floor(value * 1000) / 1000:g}"
    if float(shown) == 0 < value:
        return f"{value:.2g}" if value >= 1e-4 else "under 0.0001"
    return shown


def span(interval: Interval, digits: int = 1) -> str:
    """91.7 to 99.7 %."""
    return f"{_hundredths(interval.low, digits)} to {percent(interval.high, digits)}"


def points(interval: Interval) -> str:
    """−0.8 to +0.2 points, of an interval of shares."""
    low, high = (f"{value * 100:+.1f}".replace("-", "−") for value in (interval.low, interval.high))
    return f"{low} to {high}{SPACE}points"


def confinement(isolation: Isolation) -> str:
    """What held the conversion, and what did not."""
    network = {"none": "no network", "no-tcp": "no TCP connections"}.get(isolation.network, "an open network")
    files = f"only its own files (Landlock {isolation.landlock})" if isolation.landlock else "its user's files"
    calls = "filtered system calls (seccomp)" if isolation.seccomp else "all system calls"
    return f"Isolation {isolation.level}: a process of its own with limits, {files}, {network}, {calls}."


def sentence(words: str) -> str:
    """The words with a capital first and a full stop last."""
    words = words.strip()
    return words and words[0].upper() + words[1:] + ("" if words[-1] in ".!?:" else ".")


def plural(count: int, word: str) -> str:
    """1 node, 2 nodes."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def bytes_(count: int) -> str:
    """1.24 MB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


def milliseconds(value: float) -> str:
    """0.40 ms."""
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def seconds(value: float) -> str:
    """4.2 s."""
    return f"{value:.2g} s" if value < 1 else f"{value:.1f} s" if value < 100 else f"{value / 60:.1f} min"


def number(value: float | None) -> str:
    """A number with four digits that matter; a dash for none."""
    return "–" if value is None else f"{value:.4g}".replace("-", "−", 1 if value < 0 else 0)


def thousands(count: int) -> str:
    """1.2 million, 3,400."""
    for name, size in (("billion", 1e9), ("million", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {name}"
    return f"{count:,}"


def error_share(decibels: float) -> float:
    """The size of the error relative to the signal: 20 dB is a tenth."""
    return float(10 ** (-decibels / 20))


@dataclass(frozen=True)
class Headline:
    """The page in a few sentences, and which of them are bad news."""

    advice: str
    cls: str
    expected: str
    size: str
    larger: bool
    speed: str
    slower: bool
    worst: OutputFidelity | None


ADVICE = {
    Advice.USE: ("Use it", "good"),
    Advice.USE_WITH_FLOAT: ("Use it with some layers in float", "fair"),
    Advice.DO_NOT_USE: ("Don't use it", "poor"),
}


def headline(report: Report) -> Headline:
    """What to do, what to expect, and what was gained."""
    advice, cls = ADVICE[report.verdict.advice]
    if report.verdict.advice is Advice.USE and report.verdict.conditions:
        advice += ", if its input is what it was taken for"
    latency = report.latency
    if report.verdict.advice is Advice.USE and gains_little(
        report.size.ratio, None if latency is None else latency.speedup
    ):
        advice += "; but it gains little"
    return Headline(
        f"{advice}.",
        cls,
        _expected(report),
        f"The file is {smaller(report.size.ratio)}.",
        report.size.ratio < 1,
        "" if latency is None else f"It is {faster(latency.speedup)} on this computer.",
        latency is not None and latency.slower,
        worst_output(report.fidelity.outputs),
    )


def _expected(report: Report) -> str:
    """What is known of real data, else of the outputs on synthetic inputs."""
    if report.validation is not None and report.validation.metrics:
        metric = report.validation.metrics[0]
        return (
            f"On your own {metric.n} samples {metric.name} went from {percent(metric.float32)} to "
            f"{percent(metric.int8)} (standard error of the difference {100 * metric.standard_error:.1f} points)."
        )
    expected, change = report.predicted.agreement, report.predicted.accuracy_change
    if expected is not None and change is not None:
        return (
            f"On real data expect INT8 to decide as the original on {span(expected.interval)} of inputs, and accuracy "
            f"to change by {points(change.interval)}."
        )
    worst = worst_output(report.fidelity.outputs)
    if worst is None:
        return f"No output could be compared on {report.fidelity.samples} synthetic inputs."
    if worst.sqnr_db is None:
        return f"The outputs do not differ on {worst.samples} synthetic inputs."
    which = "The output" if len(report.fidelity.outputs) == 1 else "The output that changed most"
    return (
        f"{which} differs from the original's by {percent(error_share(worst.sqnr_db))} of its size "
        f"({worst.sqnr_db:.1f}{SPACE}dB) over {worst.samples} synthetic inputs, which are not your data."
    )


def worst_output(outputs: tuple[OutputFidelity, ...]) -> OutputFidelity | None:
    """The output whose worst group has the lowest ratio, as that group; None without outputs that were compared."""
    compared = [_as_its_worst_group(output) for output in outputs if output.samples]
    return min(compared, key=lambda output: math.inf if output.sqnr_db is None else output.sqnr_db, default=None)


def _as_its_worst_group(output: OutputFidelity) -> OutputFidelity:
    known = [(group.sqnr_db, group.name) for group in output.groups if group.sqnr_db is not None]
    if not known:
        return output
    ratio, name = min(known)
    return output.model_copy(update={"name": name, "sqnr_db": ratio, "sqnr_interval": None})
