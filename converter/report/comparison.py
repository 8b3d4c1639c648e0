"""Two reports side by side: what was asked for, what came out, and the difference."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from converter.findings import Metric
from converter.report.schema import Report
from converter.report.words import bytes_, milliseconds, percent, span

__all__ = ["Comparison", "Row", "compare"]

MISSING = "–"


@dataclass(frozen=True)
class Row:
    """One fact of both reports in words, and their difference where that is a number."""

    section: str
    name: str
    first: str
    second: str
    difference: str = ""

    @property
    def differs(self) -> bool:
        """Whether the two reports say different things."""
        return self.first != self.second


@dataclass(frozen=True)
class Comparison:
    """All rows in the order of the report; ``names`` are what the two reports are called."""

    names: tuple[str, str]
    rows: tuple[Row, ...]

    def __str__(self) -> str:
        table = [("", *self.names, "difference")]
        table += [(f"{row.section}: {row.name}", row.first, row.second, row.difference) for row in self.rows]
        widths = [max(len(line[column]) for line in table) for column in range(4)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table
        )

    def to_dict(self) -> dict[str, object]:
        """The comparison as plain JSON values."""
        rows = [
            {"section": row.section, "name": row.name, "first": row.first, "second": row.second, "by": row.difference}
            for row in self.rows
        ]
        return {"names": list(self.names), "rows": rows}

    def to_html(self) -> str:
        """One page with one table; rows that differ are bold."""
        lines = []
        for row in self.rows:
            weight = " class=differs" if row.differs else ""
            cells = (f"{row.section}: {row.name}", row.first, row.second, row.difference)
            lines.append(f"<tr{weight}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
        heads = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *self.names, "difference"))
        return PAGE.format(title=html.escape(" and ".join(self.names)), heads=heads, rows="\n".join(lines))


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }}
table {{ border-collapse: collapse; width: 100% }}
th, td {{ border-bottom: 1px solid #ccc; padding: .35rem .75rem; text-align: left; vertical-align: top }}
td + td {{ font-variant-numeric: tabular-nums }}
.differs {{ font-weight: 600 }}
</style>
<h1>{title}</h1>
<table>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</html>
"""


def compare(first: Report, second: Report, names: tuple[str, str] = ("first", "second")) -> Comparison:
    """What the two reports say, fact by fact."""
    rows: list[Row] = []

    def add(section: str, name: str, read: Callable[[Report], str | None]) -> None:
        values = [read(each) or MISSING for each in (first, second)]
        if values != [MISSING, MISSING]:
            rows.append(Row(section, name, values[0], values[1]))

    def weigh(
        section: str,
        name: str,
        read: Callable[[Report], float | None],
        words: Callable[[float], str],
        by: Callable[[float], str],
    ) -> None:
        values = [read(each) for each in (first, second)]
        if values != [None, None]:
            both = None not in values
            difference = by((values[1] or 0) - (values[0] or 0)) if both else ""
            texts = [MISSING if value is None else words(value) for value in values]
            rows.append(Row(section, name, texts[0], texts[1], difference))

    add("model", "name", lambda report: report.model.name)
    add("model", "SHA-256", lambda report: report.model.sha256[:16])
    for option in sorted(first.options.keys() | second.options.keys()):
        if first.options.get(option) != second.options.get(option):
            add("options", option, partial(_option, option))
    for package in sorted(first.environment.packages.keys() | second.environment.packages.keys()):
        if first.environment.packages.get(package) != second.environment.packages.get(package):
            add("made with", package, partial(_package, package))
    add("made on", "processor", lambda report: report.environment.cpu)
    add("data", "calibration", lambda report: report.synthesis.description)
    for name in dict.fromkeys(each.name for report in (first, second) for each in report.inputs):
        add("input", name, partial(_input, name))
    weigh("size", "file", lambda report: report.size.int8_bytes, lambda value: bytes_(int(value)), _signed_bytes)
    weigh("nodes", "on integers", lambda report: report.quantization.nodes_quantized, "{:.0f}".format, "{:+.0f}".format)
    weigh("nodes", "weights alone", lambda report: report.quantization.nodes_stored, "{:.0f}".format, "{:+.0f}".format)
    weigh("nodes", "left in float", lambda report: report.quantization.nodes_float, "{:.0f}".format, "{:+.0f}".format)
    weigh("fidelity", "decisions as FP32's", _agreement, percent, _points)
    weigh("fidelity", "worst output", _worst_ratio, "{:.1f} dB".format, "{:+.1f} dB".format)
    add("expected on real data", "agreement", _expected)
    for name in dict.fromkeys(metric.name for report in (first, second) for metric in _metrics(report)):
        weigh("your data", name, partial(_metric, name), "{:.4g}".format, "{:+.4g}".format)
    weigh("time", "INT8, median", _latency, milliseconds, lambda value: f"{value:+.3g} ms")
    weigh("time", "FP32's over INT8's", _speedup, "{:.2f}".format, "{:+.2f}".format)
    add("warnings", "of the report", lambda report: "; ".join(each.message for each in report.warnings))
    return Comparison(names, tuple(rows))


def _option(name: str, report: Report) -> str:
    return str(report.options.get(name))


def _package(name: str, report: Report) -> str | None:
    return report.environment.packages.get(name)


def _input(name: str, report: Report) -> str | None:
    return next((f"{each.kind}: {each.distribution}" for each in report.inputs if each.name == name), None)


def _agreement(report: Report) -> float | None:
    decisions = report.fidelity.decisions
    return None if decisions is None else decisions.agreement.value


def _worst_ratio(report: Report) -> float | None:
    return min((each.sqnr_db for each in report.fidelity.outputs if each.sqnr_db is not None), default=None)


def _expected(report: Report) -> str | None:
    expected = report.predicted.agreement
    return None if expected is None else span(expected.interval)


def _metrics(report: Report) -> tuple[Metric, ...]:
    return () if report.validation is None else report.validation.metrics


def _metric(name: str, report: Report) -> float | None:
    return next((each.int8 for each in _metrics(report) if each.name == name), None)


def _latency(report: Report) -> float | None:
    return None if report.latency is None else report.latency.int8.median_ms


def _speedup(report: Report) -> float | None:
    return None if report.latency is None else report.latency.speedup


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f} points"


def _signed_bytes(difference: float) -> str:
    return ("−" if difference < 0 else "+") + bytes_(abs(int(difference)))
