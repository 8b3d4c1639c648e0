"""The report of a conversion as data: what was done, what it cost, and how sure that is.

Knows nothing of onnx, onnxruntime or torch, so that the service's API process can validate and publish it. Numbers are
finite; a ratio in decibels is null where there is no error (``max_abs_error`` is 0) or no signal to compare with.
No number here is called accuracy: each says what was compared, on which inputs, on how many, and how far it may be off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, JsonValue

from converter.findings import (
    Caution,
    Culprit,
    Environment,
    Fidelity,
    Input,
    Isolation,
    Kernels,
    Latency,
    Layer,
    Model,
    Prediction,
    Quantization,
    Section,
    Size,
    Synthesis,
    Timings,
    Validation,
    Verdict,
)

__all__ = [
    "SCHEMA_VERSION",
    "Report",
]

SCHEMA_VERSION = "3.0"
"""What follows the point grows when something is added, what precedes it when something goes, is renamed or means
something else. ``schemas/`` holds the JSON schema of every published version, made from the classes here."""


def _plain(value: Any) -> Any:
    """Tuples and sets become lists, mapping keys strings in order, so that any options are JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(each) for each in value)
    return value


class Report(Section):
    """Everything known of one conversion."""

    schema_version: Literal["3.0"] = "3.0"
    verdict: Verdict
    model: Model
    options: Annotated[dict[str, JsonValue], BeforeValidator(_plain)]
    environment: Environment
    inputs: tuple[Input, ...]
    synthesis: Synthesis
    quantization: Quantization
    fidelity: Fidelity
    predicted: Prediction
    validation: Validation | None = None
    diagnosis: tuple[Culprit, ...] = ()
    layers: tuple[Layer, ...]
    kernels: Kernels | None = None
    latency: Latency | None = None
    size: Size
    timings: Timings
    warnings: tuple[Caution, ...] = ()

    def confined(self, isolation: Isolation) -> Self:
        """The same report, with the confinement as whoever ran the conversion knows it."""
        return self.model_copy(update={"environment": self.environment.model_copy(update={"isolation": isolation})})

    def to_json(self) -> str:
        """The report as JSON with keys in the order of the schema; equal reports give equal text."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON schema (2020-12) of what ``to_json`` writes."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"urn:zsq:report:{SCHEMA_VERSION}",
            **cls.model_json_schema(mode="serialization"),
        }

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The report that ``to_json`` wrote; raises pydantic.ValidationError on anything else."""
        return cls.model_validate_json(text)

    def to_html(self) -> str:
        """One self-contained page: no script, no network, readable by someone who has never quantized a model."""
        from converter.report.page import render  # jinja2 only when a page is wanted

        return render(self)
