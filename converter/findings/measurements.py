"""What was measured of an INT8 model: fidelity, layers, kernels, latency and validation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from converter.findings.judgements import MarginErrors
from converter.findings.values import (
    Count,
    Counts,
    Decibels,
    Histogram,
    Interval,
    Proportion,
    Quartiles,
    Seconds,
    Section,
    Share,
    ordered,
)

__all__ = [
    "Decisions",
    "Fidelity",
    "FloatNode",
    "Kernels",
    "Latency",
    "Layer",
    "Metric",
    "OutputFidelity",
    "OutputGroup",
    "Scale",
    "Validation",
]


class OutputGroup(Section):
    """Neighbouring channels of an output whose values are of one size, such as its boxes or its scores."""

    name: str
    axis: Annotated[int, Field(ge=1)]
    first: Count
    last: Count
    typical: Annotated[float, Field(ge=0, description="root of the mean square of FP32's values")]
    sqnr_db: Decibels = None


class OutputFidelity(Section):
    """How close one output of the INT8 model is to FP32's, over all samples."""

    name: str
    shape: tuple[int, ...]
    samples: Count
    sqnr_db: Decibels = None
    sqnr_interval: Annotated[
        Interval | None, Field(description="of the ratio of mean powers over samples; null below 4 samples")
    ] = None
    cosine: float | None = None
    max_abs_error: float
    equal_share: Annotated[Share | None, Field(description="equal values, of integer and boolean outputs")] = None
    not_compared: Annotated[Count, Field(description="samples with other shapes, or infinities in one model only")] = 0
    groups: Annotated[
        tuple[OutputGroup, ...], Field(description="where values of different size share the tensor; else empty")
    ] = ()
    neighbour_kept: Annotated[
        Proportion | None, Field(description="samples whose nearest other sample, by cosine, is FP32's; of embeddings")
    ] = None
    boxes_found: Annotated[
        Proportion | None,
        Field(description="FP32's boxes that one of INT8's overlaps by half; where their number changes"),
    ] = None
    tokens_kept: Annotated[Share | None, Field(description="positions whose first token is FP32's; of sequences")] = (
        None
    )
    constant: Annotated[bool, Field(description="whether FP32 gave the same for every sample, which tests nothing")] = (
        False
    )


class Decisions(Section):
    """What a classifier decided before and after."""

    output: str
    judged_by: Annotated[str, Field(description="why this output is taken for class scores")] = ""
    classes: Annotated[int, Field(ge=2)]
    probabilities: Annotated[bool, Field(description="whether the model itself ends in probabilities")]
    agreement: Proportion
    mean_kl: Annotated[float, Field(ge=0, description="mean KL(FP32 || INT8) in nats")]
    margins: Annotated[Histogram, Field(description="FP32's probability of its first class minus that of its second")]
    distinct_classes: Annotated[Count, Field(description="how many classes FP32 chose at least once")]
    margin_errors: MarginErrors | None = None


class Fidelity(Section):
    """INT8 against FP32 on synthetic inputs that were not used for calibration."""

    distribution: Annotated[str, Field(description="what the inputs were drawn from, in words")]
    samples: Count
    outputs: tuple[OutputFidelity, ...]
    decisions: Decisions | None = None
    seconds: Seconds = 0.0


class Metric(Section):
    """One metric on the user's data: FP32, INT8, their difference and the paired standard error of it."""

    name: str
    float32: float
    int8: float
    difference: Annotated[float, Field(description="INT8 minus FP32")]
    standard_error: Annotated[float, Field(ge=0)]
    n: Annotated[int, Field(ge=1)]


class Validation(Section):
    """INT8 against FP32 on data the user gave."""

    source: str
    samples: Annotated[int, Field(ge=1)]
    labelled: bool
    preparation: Annotated[str, Field(description="how files became inputs, in words")]
    metrics: tuple[Metric, ...] = ()
    decisions: Decisions | None = None
    outputs: tuple[OutputFidelity, ...] = ()
    notes: tuple[str, ...] = ()


class Scale(Section):
    """The steps of a tensor's grid: one, or one a channel, summarized."""

    count: Annotated[int, Field(ge=1)]
    minimum: Annotated[float, Field(ge=0)]
    median: Annotated[float, Field(ge=0)]
    maximum: Annotated[float, Field(ge=0)]


class Layer(Section):
    """One quantized tensor: its grid, the range that covers, how that was chosen, and what it costs."""

    tensor: str
    kind: Literal["activation", "weight", "bias"]
    node: str
    operator: str
    bits: Annotated[int, Field(ge=1, le=32)]
    type: str
    scale: Scale | None = None
    zero_point: int | None = None
    low: float | None = None
    high: float | None = None
    observed_low: float | None = None
    observed_high: float | None = None
    method: str = ""
    sqnr_alone_db: Annotated[Decibels, Field(description="only this tensor rounded to its own grid")] = None
    sqnr_in_place_db: Annotated[Decibels, Field(description="in the INT8 model, all errors before it included")] = None
    contribution: Annotated[
        Share | None,
        Field(description="share of the output error when each tensor alone is quantized"),
    ] = None
    steps: tuple[str, ...] = ()
    kept_float: bool = False
    kept_float_reason: str | None = None


class FloatNode(Section):
    """A node that computes in float after onnxruntime's optimizer; ``original`` is its name in the user's model."""

    name: str
    operator: str
    original: str | None = None
    macs: Count | None = None


class Kernels(Section):
    """What onnxruntime runs after its own optimizer."""

    optimizer: str
    nodes: Count
    integer: Count
    float_compute: Count
    conversions: Annotated[Count, Field(description="QuantizeLinear and DequantizeLinear that remain")]
    other: Annotated[Count, Field(description="shapes, copies, casts, layout")]
    integer_operators: Counts = Field(default_factory=dict)
    float_operators: Counts = Field(default_factory=dict)
    float_nodes: tuple[FloatNode, ...] = ()
    integer_macs_share: Share | None = None


class Latency(Section):
    """FP32 and INT8 run in turns on this machine."""

    float32: Quartiles
    int8: Quartiles
    speedup: Annotated[float, Field(gt=0, description="median FP32 time over median INT8 time")]
    speedup_interval: Annotated[Interval | None, Field(description="quartiles of the pairwise ratios")] = None
    slower: bool
    pairs: Annotated[int, Field(ge=1)]
    threads: Annotated[int, Field(ge=1)]
    cpu: str
    vnni: bool | None = None
    shapes: Annotated[dict[str, tuple[int, ...]], BeforeValidator(ordered)] = Field(default_factory=dict)
