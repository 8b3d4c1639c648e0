"""The report as one page that needs nothing else: no script, no network, every word from the model escaped.

What grows with the model is limited here, so that the page of a network with thousands of layers stays below 2 MB; the
JSON has everything.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from converter.findings import Layer, gains
from converter.report import bars, charts, words
from converter.report.schema import Report
from converter.report.svg import clip

__all__ = ["render"]

MOST_LAYERS = 300
MOST_ROWS = 100
MOST_CONTRIBUTORS = 10


def render(report: Report) -> str:
    """One self-contained page of the report."""
    layers = report.layers
    given = report.options.get("min_agreement")
    asked = float(given) if isinstance(given, (int, float)) else None
    return _template().render(
        report=report,
        head=words.headline(report),
        bars=bars,
        charts=charts,
        asked=asked,
        layers=_worst_in_order(layers),
        contributors=_contributors(layers),
        reasons=Counter(entry.reason for entry in report.quantization.kept_float).most_common(12),
        guesses=[guess for each in report.inputs for guess in each.hypotheses],
        most=MOST_ROWS,
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("converter.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": words.percent,
        "span": words.span,
        "points": words.points,
        "bytes": words.bytes_,
        "faster": gains.faster,
        "smaller": gains.smaller,
        "ms": words.milliseconds,
        "seconds": words.seconds,
        "number": words.number,
        "plural": words.plural,
        "thousands": words.thousands,
        "error_share": words.error_share,
        "clip": clip,
        "sentence": words.sentence,
        "confinement": words.confinement,
        "shape": _shape,
    }
    return environment.get_template("template.html")


def _shared(words: set[str]) -> str | None:
    """The words if all are the same, to be said once."""
    return next(iter(words)) if len(words) == 1 else None


def _shape(sizes: Sequence[int | str | None] | None) -> str:
    """1×3×224×224, with ? for what is open."""
    if sizes is None:
        return "unknown"
    return "×".join("?" if size is None else clip(str(size), 20) for size in sizes) or "one number"


def _worst_in_order(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that fit on the page, those with the lowest ratios first chosen, in the order of the model."""
    if len(layers) <= MOST_LAYERS:
        return list(layers)

    def badness(place: int) -> float:
        known = (layers[place].sqnr_in_place_db, layers[place].sqnr_alone_db)
        return min((value for value in known if value is not None), default=math.inf)

    chosen = sorted(range(len(layers)), key=badness)[:MOST_LAYERS]
    return [layers[place] for place in sorted(chosen)]


def _contributors(layers: Sequence[Layer]) -> list[tuple[Layer, float]]:
    """The tensors that cost the outputs most, with their shares."""
    known = [(layer, layer.contribution) for layer in layers if layer.contribution is not None]
    return sorted(known, key=lambda entry: -entry[1])[:MOST_CONTRIBUTORS]
