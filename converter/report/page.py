"""The report as one page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from converter.report.schema import Report

__all__ = ["render"]


def render(report: Report) -> str:
    """One self-contained page of the report."""
    raise NotImplementedError
