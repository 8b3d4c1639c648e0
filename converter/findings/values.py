"""Numbers with their meaning: shares, decibels, intervals, histograms; all finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Self, SupportsFloat

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

__all__ = [
    "Count",
    "Counts",
    "Curve",
    "Decibels",
    "Dimension",
    "Histogram",
    "Interval",
    "Proportion",
    "Quartiles",
    "Seconds",
    "Section",
    "Share",
    "finite_or_none",
    "ordered",
]


def finite_or_none(value: Any) -> Any:
    """Infinity and NaN become None; everything else is left to the validator proper."""
    return None if isinstance(value, SupportsFloat) and not math.isfinite(value) else value


def ordered(value: Any) -> Any:
    return dict(sorted(value.items())) if isinstance(value, Mapping) else value


Decibels = Annotated[
    float | None,
    BeforeValidator(finite_or_none),
    Field(description="10 log10(signal power / error power); null where there is no error or no signal"),
]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Counts = Annotated[dict[str, Count], BeforeValidator(ordered)]
Dimension = int | str | None


class Section(BaseModel):
    """A part of the report: unchangeable, without unknown fields, without infinities."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, from_attributes=True, protected_namespaces=()
    )


class Interval(Section):
    """Where a value lies with the given confidence."""

    low: float
    high: float
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError("low must not be above high")
        return self


class Proportion(Section):
    """A share of samples, with its Wilson interval."""

    value: Share
    successes: Count
    n: Annotated[int, Field(ge=1)]
    interval: Interval


class Curve(Section):
    """A quantity over steps, such as a loss."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float, ...]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if len(self.steps) != len(self.values):
            raise ValueError("steps and values must be equally long")
        return self


class Histogram(Section):
    """Counts between edges, of all samples and of those whose decision changed."""

    edges: tuple[float, ...]
    all: tuple[Count, ...]
    flipped: tuple[Count, ...]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if not len(self.all) == len(self.flipped) == len(self.edges) - 1:
            raise ValueError("there must be one more edge than counts")
        return self


class Quartiles(Section):
    """The middle of a set of times, in milliseconds."""

    median_ms: Annotated[float, Field(ge=0)]
    lower_ms: Annotated[float, Field(ge=0)]
    upper_ms: Annotated[float, Field(ge=0)]
