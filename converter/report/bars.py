"""The small pictures of the page: bars, intervals and stacks; colours are CSS variables of the page."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from converter.findings import Interval, Kernels, Latency, Prediction, Quartiles, Size, Timings
from converter.report.svg import Scale, element, figure, path, text
from converter.report.words import bytes_, milliseconds, percent, seconds, span

__all__ = [
    "draw_expected",
    "draw_interval",
    "draw_kernels",
    "draw_latency",
    "draw_share",
    "draw_size",
    "draw_timings",
    "draw_wave",
]


def draw_size(size: Size) -> Markup:
    """Two bars: the file before and after."""
    rows = [("FP32", size.float32_bytes, "before"), ("INT8", size.int8_bytes, "after")]
    description = f"{bytes_(size.float32_bytes)} before, {bytes_(size.int8_bytes)} after."
    return _two_bars("size", "Size of the file", description, [(a, float(b), bytes_(b), c, None) for a, b, c in rows])


def draw_latency(latency: Latency) -> Markup:
    """Two bars with quartiles: the time of one inference before and after."""

    def row(name: str, each: Quartiles, cls: str) -> tuple[str, float, str, str, tuple[float, float]]:
        return name, each.median_ms, milliseconds(each.median_ms), cls, (each.lower_ms, each.upper_ms)

    description = (
        f"Medians of {latency.pairs} runs in turns: {milliseconds(latency.float32.median_ms)} before, "
        f"{milliseconds(latency.int8.median_ms)} after; the thin lines span the quartiles."
    )
    after = "after bad" if latency.slower else "after"
    rows = [row("FP32", latency.float32, "before"), row("INT8", latency.int8, after)]
    return _two_bars("latency", "Time of one inference", description, rows)


def _two_bars(
    name: str, title: str, description: str, rows: Sequence[tuple[str, float, str, str, tuple[float, float] | None]]
) -> Markup:
    largest = max(max(value, *(whisker or (0.0,))) for _, value, _, _, whisker in rows)
    scale = Scale(0, largest, 42, 142)
    parts: list[Markup] = []
    for index, (label, value, shown, cls, whisker) in enumerate(rows):
        y = 8 + 34 * index
        end = scale(value)
        parts += [
            text(label, 0, y + 15, cls="tick"),
            element("rect", element("title", shown), x=42, y=y, width=max(end - 42, 2), height=22, rx=3, cls=cls),
        ]
        if whisker:
            low, high = scale(whisker[0]), scale(whisker[1])
            parts.append(element("line", x1=low, x2=high, y1=y + 11, y2=y + 11, cls="whisker"))
            end = max(end, high)
        parts.append(text(shown, end + 8, y + 16, cls="value"))
    return figure(name, title, description, 220, 70, parts, "small")


def draw_expected(predicted: Prediction, floor: float | None = None) -> Markup:
    """The expected agreement as a band on an axis up to 100 %, its middle as a dot, and the bar that was asked for."""
    assert predicted.agreement is not None
    interval, middle = predicted.agreement.interval, predicted.agreement.middle
    lowest = min(interval.low, floor if floor is not None else 1)
    start = next((each for each in (0.98, 0.95, 0.9, 0.8, 0.5) if each <= lowest), 0.0)
    scale = Scale(start, 1, 14, 706)
    parts = [element("line", x1=14, x2=706, y1=40, y2=40, cls="rail")]
    for index in range(6):
        share = start + (1 - start) * index / 5
        anchor = "start" if index == 0 else "end" if index == 5 else "middle"
        parts.append(element("line", x1=scale(share), x2=scale(share), y1=50, y2=56, cls="grid"))
        parts.append(text(f"{share * 100:.4g} %", scale(share), 72, cls="tick", anchor=anchor))
    low, high = scale(interval.low), scale(interval.high)
    said = f"{predicted.level:.0%} interval {span(interval)}"
    parts.append(
        element("rect", element("title", said), x=low, y=29, width=max(high - low, 4), height=22, rx=11, cls="band")
    )
    parts.append(element("circle", element("title", percent(middle)), cx=scale(middle), cy=40, r=9, cls="after"))
    parts.append(text(percent(interval.low), low, 20, cls="value", anchor="start"))
    if high - low > 130:
        parts.append(text(percent(interval.high), high, 20, cls="value", anchor="end"))
    if floor is not None:
        bar = f"asked for: at least {percent(floor)}"
        parts.append(element("line", element("title", bar), x1=scale(floor), x2=scale(floor), y1=24, y2=58, cls="bar"))
    asked = "" if floor is None else f" At least {percent(floor)} were asked for."
    description = f"Between {span(interval)}, most likely near {percent(middle)}.{asked}"
    return figure("expected", "Expected agreement on real data", description, 720, 80, parts, "band-wide")


def draw_wave(wave: Sequence[float]) -> Markup:
    """A signal as a small curve around its middle."""
    largest = max((abs(value) for value in wave), default=0.0) or 1.0
    points = [(2 + 156 * at / max(len(wave) - 1, 1), 32 - 28 * value / largest) for at, value in enumerate(wave)]
    line = path(points, "line c0")
    return element(
        "svg", line, xmlns="http://www.w3.org/2000/svg", viewBox="0 0 160 64", cls="wave", aria_hidden="true"
    )


def draw_interval(name: str, title: str, value: float | None, interval: Interval, floor: float | None = None) -> Markup:
    """A share of one with its interval on an axis from a round number up to 100 %, and the bar that was asked for."""
    lowest = min(interval.low, value if value is not None else 1, floor if floor is not None else 1)
    start = next((each for each in (0.98, 0.95, 0.9, 0.8, 0.5) if each <= lowest), 0.0)
    scale = Scale(start, 1, 8, 212)
    parts = [element("line", x1=8, x2=212, y1=26, y2=26, cls="rail")]
    for share in (start, (start + 1) / 2, 1.0):
        anchor = "start" if share == start else "end" if share == 1 else "middle"
        parts.append(element("line", x1=scale(share), x2=scale(share), y1=34, y2=39, cls="grid"))
        parts.append(text(f"{share * 100:g} %", scale(share), 54, cls="tick", anchor=anchor))
    low, high = scale(interval.low), scale(interval.high)
    shown = f"{interval.confidence:.0%} interval {span(interval)}"
    parts.append(
        element("rect", element("title", shown), x=low, y=19, width=max(high - low, 3), height=14, rx=7, cls="band")
    )
    if value is not None:
        parts.append(element("circle", element("title", percent(value)), cx=scale(value), cy=26, r=7, cls="after"))
    if floor is not None:
        bar = f"asked for: at least {percent(floor)}"
        parts.append(element("line", element("title", bar), x1=scale(floor), x2=scale(floor), y1=10, y2=42, cls="bar"))
    spoken = shown if value is None else f"{percent(value)}, {shown}"
    return figure(name, title, spoken + ".", 220, 60, parts, "small")


def draw_share(share: float, largest: float) -> Markup:
    """A bar as long as the share of the largest, for a cell of a table; its neighbour says the number."""
    bar = element("rect", x=0, y=3, width=max(100 * share / max(largest, 1e-9), 0.5), height=9, cls="after")
    return element("svg", bar, viewBox="0 0 100 14", cls="share", preserveAspectRatio="none", **{"aria-hidden": "true"})


def draw_kernels(kernels: Kernels) -> Markup:
    """One bar of all nodes by what they run on."""
    rows = [
        ("integer", kernels.integer, "after"),
        ("conversion", kernels.conversions, "convert"),
        ("float", kernels.float_compute, "bad"),
        ("shapes and copies", kernels.other, "before"),
    ]
    return _stacked(
        "kernels", "Nodes by the kind of kernel that runs them", [(a, float(b), str(b), c) for a, b, c in rows]
    )


def draw_timings(timings: Timings) -> Markup:
    """One bar of the whole time by stage."""
    shades = ("s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8")
    rows = [(name, value, seconds(value), shades[i % 8]) for i, (name, value) in enumerate(timings.stages.items())]
    return _stacked("timings", "Time by stage", rows)


def _stacked(name: str, title: str, rows: Sequence[tuple[str, float, str, str]]) -> Markup:
    total = sum(value for _, value, _, _ in rows)
    rows = [row for row in rows if row[1] > 0]
    if total <= 0:
        return Markup("")
    parts: list[Markup] = []
    x = 0.0
    for label, value, shown, cls in rows:
        width = 600 * value / total
        tip = element("title", f"{label}: {shown}")
        parts.append(element("rect", tip, x=x, y=0, width=max(width - 1.5, 0.5), height=20, rx=2, cls=cls))
        x += width
    spoken = ", ".join(f"{label} {shown}" for label, _, shown, _ in rows)
    chart = figure(name, title, f"{spoken}.", 600, 20, parts, "stack", stretch=True)
    key = Markup("").join(
        element("li", element("i", " ", cls=cls), f"{label} ", element("b", shown)) for label, _, shown, cls in rows
    )
    return chart + element("ul", key, cls="key")
