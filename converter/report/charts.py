"""The charts with axes, each a function from a part of the report to SVG; colours are CSS variables of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup

from converter.findings import Curve, FrontierPoint, Histogram, Layer
from converter.report.svg import Frame, Scale, bent_ticks, clip, element, figure, path, text, ticks
from converter.report.words import bytes_, error_share, number

__all__ = ["draw_frontier", "draw_losses", "draw_margins", "draw_ranges", "draw_sqnr"]

MOST_COLUMNS = 240  # of a chart: more would be narrower than two pixels


def _thinned(layers: Sequence[Layer], worst: Callable[[Layer], float]) -> list[Layer]:
    """At most MOST_COLUMNS layers in order: of each run of neighbours the worst."""
    if len(layers) <= MOST_COLUMNS:
        return list(layers)
    size = math.ceil(len(layers) / MOST_COLUMNS)
    return [min(layers[start : start + size], key=worst) for start in range(0, len(layers), size)]


def _decibels(layer: Layer) -> float:
    value = layer.sqnr_in_place_db if layer.sqnr_in_place_db is not None else layer.sqnr_alone_db
    return math.inf if value is None else value


def draw_sqnr(layers: Sequence[Layer]) -> Markup:
    """Signal over error of each activation from input to output: its own rounding, and all errors up to there."""
    shown = _thinned([each for each in layers if each.kind == "activation" and not each.kept_float], _decibels)
    known = [value for each in shown for value in (each.sqnr_alone_db, each.sqnr_in_place_db) if value is not None]
    if len(shown) < 2 or not known:
        return Markup("")
    frame = Frame(height=330, top=30, right=64)
    low, high = min(0.0, *known), max(50.0, *known)
    y, x = Scale(low, high, *frame.y), Scale(0, len(shown) - 1, frame.x[0] + 10, frame.x[1] - 10)
    marks = ticks(low, high, 6)
    parts = frame.horizontal_lines(y, [(mark, f"{mark:g} dB") for mark in marks])
    parts += frame.horizontal_lines(
        y, [(m, f"{100 * error_share(m):.2g} %") for m in marks if 10 <= m <= 60], right=True
    )
    parts.append(text("error", frame.x[1] + 8, frame.y[1] - 14, cls="tick"))
    for values, cls in (
        ([each.sqnr_alone_db for each in shown], "alone"),
        ([each.sqnr_in_place_db for each in shown], "in-place"),
    ):
        points = [(x(index), y(value)) for index, value in enumerate(values) if value is not None]
        parts.append(path(points, f"line {cls}"))
        radius = 3.5 if len(shown) < 120 else 2
        parts += [element("circle", cx=px, cy=py, r=radius, cls=f"dot {cls}") for px, py in points]
    width = (frame.x[1] - frame.x[0]) / len(shown)
    for index, each in enumerate(shown):
        tip = (
            f"{clip(each.node or each.tensor, 100)} ({clip(each.operator, 40)})\nalone {_db(each.sqnr_alone_db)}, "
            f"in place {_db(each.sqnr_in_place_db)}"
        )
        parts.append(_column(x(index), width, frame, tip))
    parts.append(frame.caption("activations from input to output"))
    worst = min(shown, key=_decibels)
    description = (
        f"Signal-to-noise ratio of {len(shown)} activations. The lowest in place is {_db(worst.sqnr_in_place_db)} at "
        f"{clip(worst.node or worst.tensor, 80)}."
    )
    return figure("sqnr", "Signal over error, layer by layer", description, frame.width, frame.height, parts, "wide")


def _db(value: float | None) -> str:
    return "no error" if value is None else f"{value:.1f} dB"


def _column(x: float, width: float, frame: Frame, tip: str) -> Markup:
    """An invisible column that shows its words when pointed at."""
    height = frame.y[0] - frame.y[1]
    tipped = element("title", tip)
    return element("rect", tipped, x=x - width / 2, y=frame.y[1], width=width, height=height, cls="hover")


def draw_ranges(layers: Sequence[Layer]) -> Markup:
    """The interval that each activation's integers cover, and what was seen, on an axis bent like a logarithm."""
    bounded = [each for each in layers if each.kind == "activation" and each.low is not None and each.high is not None]
    shown = _thinned(bounded, lambda each: (each.low or 0) - (each.high or 0))
    if len(shown) < 2:
        return Markup("")
    ends = [value for each in shown for value in (each.low, each.high, each.observed_low, each.observed_high) if value]
    low, high = min(0.0, *ends, 0.0), max(0.0, *ends, 0.0)
    if not high > low:
        return Markup("")
    spans = sorted((each.high or 0) - (each.low or 0) for each in shown)
    unit = max(spans[len(spans) // 2] / 4, (high - low) * 1e-6, 1e-12)
    frame = Frame(height=280)
    y = Scale(low, high, *frame.y, bend=lambda value: math.asinh(value / unit))
    x = Scale(0, len(shown) - 1, frame.x[0] + 10, frame.x[1] - 10)
    parts = frame.horizontal_lines(y, [(mark, number(mark)) for mark in bent_ticks(y)])
    step = (frame.x[1] - frame.x[0]) / len(shown)
    thick = min(14.0, max(2.0, step * 0.7))
    thin = min(2.0, thick / 3)
    for index, each in enumerate(shown):
        centre = x(index)
        top, bottom = y(each.high or 0), y(each.low or 0)
        parts.append(
            element("rect", x=centre - thick / 2, y=top, width=thick, height=max(bottom - top, 1), rx=1, cls="range")
        )
        if each.observed_low is not None and each.observed_high is not None:
            ys = y(each.observed_low), y(each.observed_high)
            parts.append(
                element(
                    "line",
                    x1=centre,
                    x2=centre,
                    y1=min(ys[0], bottom),
                    y2=max(ys[1], top),
                    cls="observed",
                    stroke_width=thin,
                )
            )
            for outside, edge in ((ys[0], max(ys[0], bottom)), (min(ys[1], top), top)):
                start, end = (bottom, edge) if edge > bottom else (outside, edge)
                if end - start > 1:
                    parts.append(element("line", x1=centre, x2=centre, y1=start, y2=end, cls="cut", stroke_width=thin))
        tip = (
            f"{clip(each.node or each.tensor, 100)} ({clip(each.operator, 40)})\n"
            f"integers cover {number(each.low)} to {number(each.high)}"
            + (f" ({clip(each.method, 60)})" if each.method else "")
            + f"\nseen {number(each.observed_low)} to {number(each.observed_high)}"
        )
        parts.append(_column(centre, step, frame, tip))
    parts.append(frame.caption("activations from input to output"))
    description = f"Ranges of {len(shown)} activations; the widest reaches from {number(low)} to {number(high)}."
    return figure("ranges", "Ranges of activations", description, frame.width, frame.height, parts, "wide")


def draw_margins(margins: Histogram) -> Markup:
    """How sure FP32 was of its choices, and how sure of those that changed."""
    frame = Frame(width=480, height=250, left=40)
    most = max(1, *margins.all)
    x = Scale(margins.edges[0], margins.edges[-1], *frame.x)
    y = Scale(0, most, *frame.y)
    parts = frame.horizontal_lines(y, [(mark, f"{mark:g}") for mark in ticks(0, most, 4) if mark == int(mark)])
    for low, high, count, flipped in zip(margins.edges, margins.edges[1:], margins.all, margins.flipped, strict=False):
        tip = f"margin {low:g} to {high:g}: {count} inputs, {flipped} changed"
        left, width = x(low) + 1, max(x(high) - x(low) - 2, 1)
        for value, cls in ((count, "before"), (flipped, "bad")):
            if value:
                top = y(value)
                parts.append(element("rect", x=left, y=top, width=width, height=frame.y[0] - top, rx=1, cls=cls))
        parts.append(_column(left + width / 2, width, frame, tip))
    parts += frame.below(x, [(mark, f"{mark:g}") for mark in ticks(margins.edges[0], margins.edges[-1], 5)])
    parts.append(frame.caption("probability of the first class minus that of the second, FP32"))
    description = f"Of {sum(margins.all)} inputs {sum(margins.flipped)} changed their class."
    return figure("margins", "How sure the original was", description, frame.width, frame.height, parts, "half")


def draw_losses(curves: Sequence[Curve]) -> Markup:
    """Losses over steps; the axis is logarithmic where they span two orders of magnitude."""
    drawn = [curve for curve in curves if len(curve.steps) > 1][:6]
    if not drawn:
        return Markup("")
    values = [value for curve in drawn for value in curve.values]
    low, high = min(values), max(values)
    logarithmic = low > 0 and high > 100 * low
    frame = Frame(width=480, height=250, left=52)
    if logarithmic:
        marks = [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
        y = Scale(low, high, *frame.y, bend=math.log10)
    else:
        low, high = min(low, 0.0), high if high > min(low, 0.0) else low + 1
        marks, y = ticks(low, high, 4), Scale(low, high, *frame.y)
    last = max(curve.steps[-1] for curve in drawn)
    x = Scale(min(curve.steps[0] for curve in drawn), max(last, 1), *frame.x)
    parts = frame.horizontal_lines(y, [(mark, f"{mark:g}") for mark in marks])
    key = []
    for index, curve in enumerate(drawn):
        points = list(zip(curve.steps, curve.values, strict=True))
        points = points[:: max(1, len(points) // 300)]
        parts.append(path([(x(step), y(value)) for step, value in points], f"line c{index}"))
        key.append(element("li", element("i", " ", cls=f"c{index}"), clip(curve.name, 60)))
    parts += frame.below(x, [(mark, f"{mark:g}") for mark in ticks(x.low, x.high, 5)])
    parts.append(frame.caption("step"))
    spoken = "; ".join(f"{clip(c.name, 60)} from {number(c.values[0])} to {number(c.values[-1])}" for c in drawn)
    chart = figure(
        "losses", "Loss while inputs were synthesized", f"{spoken}.", frame.width, frame.height, parts, "half"
    )
    return chart + element("ul", *key, cls="key")


def draw_frontier(points: Sequence[FrontierPoint]) -> Markup:
    """Size against predicted divergence of the choices of bit widths, the one taken filled."""
    shown = list(points)[:: max(1, len(points) // 300)]
    shown += [point for point in points if point.chosen and point not in shown]
    if not shown:
        return Markup("")
    frame = Frame(width=480, height=280, left=64)
    sizes, costs = [point.size_bytes for point in shown], [point.predicted_kl for point in shown]
    x = Scale(min(sizes) * 0.98, max(sizes) * 1.02, *frame.x)
    y = Scale(min(0.0, *costs, 0.0), max(*costs, 1e-12, 1e-12) * 1.05, *frame.y)
    parts = frame.horizontal_lines(y, [(mark, f"{mark:.3g}") for mark in ticks(y.low, y.high, 4)])
    ordered = sorted(shown, key=lambda point: point.size_bytes)
    parts.append(path([(x(point.size_bytes), y(point.predicted_kl)) for point in ordered], "line alone"))
    for point in ordered:
        label = f"{clip(point.label, 80)} " if point.label else ""
        tip = f"{label}{bytes_(point.size_bytes)}, predicted divergence {number(point.predicted_kl)}"
        place = {"cx": x(point.size_bytes), "cy": y(point.predicted_kl)}
        parts.append(
            element(
                "circle",
                element("title", tip),
                r=7 if point.chosen else 4,
                cls="after" if point.chosen else "dot alone",
                **place,
            )
        )
    parts += frame.below(x, [(mark, bytes_(int(mark))) for mark in ticks(x.low, x.high, 3)])
    parts.append(frame.caption("size of the weights"))
    taken = next((point for point in points if point.chosen), None)
    spoken = "" if taken is None else f"Taken: {bytes_(taken.size_bytes)} at {number(taken.predicted_kl)}."
    title = "Size against predicted divergence"
    return figure("frontier", title, f"{len(points)} choices. {spoken}", frame.width, frame.height, parts, "half")
