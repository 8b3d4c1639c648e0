"""Drawing with little: SVG elements as escaped text, linear scales, round ticks, frames that can be read aloud."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["Frame", "Scale", "bent_ticks", "clip", "element", "figure", "path", "text", "ticks"]


def clip(name: str, longest: int = 160) -> str:
    """The name, its middle left out where it is too long to show."""
    if len(name) <= longest:
        return name
    tail = (longest - 1) * 2 // 3
    return f"{name[: longest - 1 - tail]}…{name[-tail:]}"


def element(tag: str, *children: str, **attributes: str | float | None) -> Markup:
    """One element; ``cls`` becomes class, underscores hyphens, numbers short, and everything is escaped."""
    words = [tag]
    for key, value in attributes.items():
        if value is not None:
            name = "class" if key == "cls" else key.replace("_", "-")
            words.append(f'{name}="{escape(_short(value) if isinstance(value, (int, float)) else value)}"')
    inside = Markup("").join(escape(child) for child in children)
    return Markup(f"<{' '.join(words)}>{inside}</{tag}>" if inside else f"<{' '.join(words)}/>")


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def text(content: str, x: float, y: float, *, cls: str = "", anchor: str = "start") -> Markup:
    """A line of text."""
    return element("text", content, x=float(x), y=float(y), cls=cls or None, text_anchor=anchor)


def path(points: Sequence[tuple[float, float]], cls: str) -> Markup:
    """A line through the points."""
    steps = " ".join(f"{'M' if index == 0 else 'L'}{_short(x)} {_short(y)}" for index, (x, y) in enumerate(points))
    return element("path", d=steps, cls=cls)


def figure(
    name: str,
    title: str,
    description: str,
    width: float,
    height: float,
    parts: Iterable[str],
    cls: str = "",
    stretch: bool = False,
) -> Markup:
    """A picture as wide as its place, with a title and a description for those who cannot see it.

    With ``stretch`` its height is the page's to decide.
    """
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        role="img",
        viewBox=f"0 0 {_short(width)} {_short(height)}",
        cls=f"chart {cls}".strip(),
        preserveAspectRatio="none" if stretch else None,
        **{"aria-labelledby": f"{name}-title {name}-desc"},
    )


@dataclass(frozen=True)
class Scale:
    """Numbers from ``low`` to ``high`` laid out from ``start`` to ``end``, bent by ``bend`` if given."""

    low: float
    high: float
    start: float
    end: float
    bend: Callable[[float], float] = float

    def __call__(self, value: float) -> float:
        low, high = self.bend(self.low), self.bend(self.high)
        share = (self.bend(min(max(value, self.low), self.high)) - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """About ``wanted`` round numbers from low to high."""
    if not high > low:
        return [low]
    raw = (high - low) / wanted
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def bent_ticks(scale: Scale, apart: float = 26) -> list[float]:
    """Zero and numbers of one digit (1, 2, 5) of either sign, the largest first, that lie ``apart`` on the scale."""
    kept = [0.0] if scale.low <= 0 <= scale.high else []
    for sign, end in ((1, scale.high), (-1, -scale.low)):
        if end <= 0:
            continue
        top = math.floor(math.log10(end))
        for value in (sign * digit * 10.0**power for power in range(top, top - 4, -1) for digit in (5, 2, 1)):
            if abs(value) <= end and all(abs(scale(value) - scale(other)) >= apart for other in kept):
                kept.append(value)
    return sorted(kept)


@dataclass(frozen=True)
class Frame:
    """The plotting area of a chart with axes."""

    width: float = 960
    height: float = 300
    left: float = 52
    right: float = 16
    top: float = 16
    bottom: float = 40

    @property
    def x(self) -> tuple[float, float]:
        """The left and the right end."""
        return self.left, self.width - self.right

    @property
    def y(self) -> tuple[float, float]:
        """The lower and the upper end."""
        return self.height - self.bottom, self.top

    def horizontal_lines(self, scale: Scale, values: Iterable[tuple[float, str]], right: bool = False) -> list[Markup]:
        """Grid lines with labels on the left, or on the right."""
        lines = []
        for value, label in values:
            y = scale(value)
            if not right:
                lines.append(element("line", x1=self.x[0], x2=self.x[1], y1=y, y2=y, cls="grid"))
            place = (self.x[1] + 8, "start") if right else (self.x[0] - 8, "end")
            lines.append(text(label, place[0], y + 4, cls="tick", anchor=place[1]))
        return lines

    def below(self, scale: Scale, values: Iterable[tuple[float, str]]) -> list[Markup]:
        """Labels below the plotting area."""
        return [text(label, scale(value), self.y[0] + 18, cls="tick", anchor="middle") for value, label in values]

    def caption(self, words: str) -> Markup:
        """What the horizontal axis shows."""
        return text(words, (self.x[0] + self.x[1]) / 2, self.height - 4, cls="axis", anchor="middle")
