"""The report of a conversion as data: what was done, what it cost, and how sure that is.

Knows nothing of onnx, onnxruntime or torch, so that the service's API process can validate and publish it. Numbers are
finite; a ratio in decibels is null where there is no error (``max_abs_error`` is 0) or no signal to compare with.
No number here is called accuracy: each says what was compared, on which inputs, on how many, and how far it may be off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, SupportsFloat

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

__all__ = [
    "SCHEMA_VERSION",
    "Caution",
    "Change",
    "Curve",
    "Decisions",
    "Environment",
    "Fidelity",
    "FloatNode",
    "FrontierPoint",
    "Histogram",
    "Hypothesis",
    "Input",
    "Interval",
    "Isolation",
    "KeptFloat",
    "Kernels",
    "Latency",
    "Layer",
    "Metric",
    "Model",
    "OutputFidelity",
    "Prediction",
    "Proportion",
    "Quantization",
    "Quartiles",
    "Report",
    "Scale",
    "Size",
    "StepTaken",
    "Synthesis",
    "TensorFact",
    "Timings",
    "Validation",
]

SCHEMA_VERSION = "1.0"


def _finite_or_none(value: Any) -> Any:
    """Infinity and NaN become None; everything else is left to the validator proper."""
    return None if isinstance(value, SupportsFloat) and not math.isfinite(value) else value


def _plain(value: Any) -> Any:
    """Tuples and sets become lists, mapping keys strings in order, so that any options are JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(each) for each in value)
    return value


def _ordered(value: Any) -> Any:
    return dict(sorted(value.items())) if isinstance(value, Mapping) else value


Decibels = Annotated[
    float | None,
    BeforeValidator(_finite_or_none),
    Field(description="10 log10(signal power / error power); null where there is no error or no signal"),
]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
Counts = Annotated[dict[str, Count], BeforeValidator(_ordered)]
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


class TensorFact(Section):
    """The name, element type and shape of a graph input or output; a dimension may be a number, a name or unknown."""

    name: str
    type: str
    shape: tuple[Dimension, ...] | None = None


class Change(Section):
    """A function-preserving rewriting of the graph: how often, and in words."""

    name: str
    count: Count
    sentence: str


class Model(Section):
    """The FP32 model as it came, and what was rewritten before quantization."""

    name: str
    sha256: str
    bytes: Count
    ir_version: int
    opset: int
    producer: str = ""
    nodes: Count
    parameters: Count
    macs: Annotated[Count | None, Field(description="multiply-adds of one inference")] = None
    operators: Counts = {}
    inputs: tuple[TensorFact, ...] = ()
    outputs: tuple[TensorFact, ...] = ()
    notes: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    rewriting_error: Annotated[
        float | None,
        Field(description="largest relative difference of the rewritten float model"),
    ] = None


class Isolation(Section):
    """How a service confined the process that ran the conversion; what could not be had is 0 or false."""

    level: Annotated[str, Field(description="full, partial, or limits: of resources only")]
    landlock: Annotated[
        int, Field(ge=0, description="version of Linux' rules for files that held it in its folder")
    ] = 0
    seccomp: Annotated[bool, Field(description="whether system calls were filtered")] = False
    network: Annotated[str, Field(description="none, no-tcp or open")] = "open"


class Environment(Section):
    """Where and how the conversion ran, enough to repeat it."""

    command: str
    seed: int
    threads: Annotated[int, Field(ge=1)]
    device: str = "cpu"
    cpu: str = "unknown"
    vnni: Annotated[bool | None, Field(description="whether 8-bit integers multiply at full speed")] = None
    platform: str = ""
    python: str = ""
    packages: Annotated[dict[str, str], BeforeValidator(_ordered)] = {}
    started: Annotated[str, Field(description="ISO 8601, UTC")] = ""
    isolation: Annotated[Isolation | None, Field(description="null outside a service")] = None


class Input(Section):
    """A graph input and what was fed to it."""

    name: str
    type: str
    shape: tuple[Dimension, ...] | None = None
    shape_used: tuple[int, ...]
    kind: Annotated[str, Field(description="what it was taken for: picture, signal, features, tokens, state, ...")]
    distribution: Annotated[str, Field(description="what was drawn, in words")]
    low: float | None = None
    high: float | None = None
    known_by: Annotated[str, Field(description="user, graph, or found: who said so")] = "found"


class Hypothesis(Section):
    """A guess at how an input is meant to be prepared, and how well the network took it."""

    input: str
    name: str
    score: Annotated[float | None, BeforeValidator(_finite_or_none)] = None
    taken: bool
    why: str = ""


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


class Synthesis(Section):
    """How calibration data came about."""

    method: str
    description: str = ""
    samples: Count
    seconds: Seconds
    seed: int
    batch_norm_statistics: Annotated[Count, Field(description="tensors whose statistics were used")] = 0
    hypotheses: tuple[Hypothesis, ...] = ()
    loss: tuple[Curve, ...] = ()
    stopped_by: str = ""
    notes: tuple[str, ...] = ()


class StepTaken(Section):
    """One step of the quantizer with its measured effect; ``before`` and ``after`` are in ``unit``."""

    name: str
    applied: bool
    sentence: str
    measure: str = ""
    before: Annotated[float | None, BeforeValidator(_finite_or_none)] = None
    after: Annotated[float | None, BeforeValidator(_finite_or_none)] = None
    unit: str = ""
    seconds: Seconds | None = None


class KeptFloat(Section):
    """A node left in float, and why."""

    node: str
    operator: str
    reason: str


class FrontierPoint(Section):
    """One choice of bit widths: the size it gives and the divergence it is predicted to cost."""

    size_bytes: Count
    predicted_kl: float
    chosen: bool = False
    label: str = ""


class Quantization(Section):
    """What became integers, how, and what did not."""

    precision: str
    target: str
    weight_type: str
    activation_type: str
    per_channel: bool = True
    steps: tuple[StepTaken, ...] = ()
    nodes_quantized: Count
    nodes_float: Count
    quantized_operators: Counts = {}
    kept_float: tuple[KeptFloat, ...] = ()
    frontier: tuple[FrontierPoint, ...] | None = None


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


class Fidelity(Section):
    """INT8 against FP32 on synthetic inputs that were not used for calibration."""

    distribution: Annotated[str, Field(description="what the inputs were drawn from, in words")]
    samples: Count
    outputs: tuple[OutputFidelity, ...]
    decisions: Decisions | None = None
    seconds: Seconds = 0.0


class Prediction(Section):
    """What to expect on real data, as an interval, and on what that rests."""

    metric: str
    interval: Interval
    basis: str
    pairs: Annotated[int, Field(ge=1, description="measured models the mapping rests on")]
    provenance: str


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
    integer_operators: Counts = {}
    float_operators: Counts = {}
    float_nodes: tuple[FloatNode, ...] = ()
    integer_macs_share: Share | None = None


class Quartiles(Section):
    """The middle of a set of times, in milliseconds."""

    median_ms: Annotated[float, Field(ge=0)]
    lower_ms: Annotated[float, Field(ge=0)]
    upper_ms: Annotated[float, Field(ge=0)]


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
    shapes: Annotated[dict[str, tuple[int, ...]], BeforeValidator(_ordered)] = {}


class Size(Section):
    """Bytes on disk."""

    float32_bytes: Annotated[int, Field(ge=1)]
    int8_bytes: Annotated[int, Field(ge=1)]
    ratio: Annotated[float, Field(gt=0, description="FP32 bytes over INT8 bytes")]

    @classmethod
    def of(cls, float32_bytes: int, int8_bytes: int) -> Self:
        """The size section of two files."""
        return cls(float32_bytes=float32_bytes, int8_bytes=int8_bytes, ratio=float32_bytes / int8_bytes)


class Timings(Section):
    """Where the time went, in order of the stages, and the most memory held."""

    stages: dict[str, Seconds]
    total_seconds: Seconds
    peak_memory_bytes: Count | None = None


class Caution(Section):
    """Something the owner of the model should know; ``kind`` is stable, the message is for people."""

    kind: str
    message: str
    place: str | None = None


class Report(Section):
    """Everything known of one conversion."""

    schema_version: Literal["1.0"] = "1.0"
    model: Model
    options: Annotated[dict[str, JsonValue], BeforeValidator(_plain)]
    environment: Environment
    inputs: tuple[Input, ...]
    synthesis: Synthesis
    quantization: Quantization
    fidelity: Fidelity
    predicted: Prediction | None = None
    validation: Validation | None = None
    layers: tuple[Layer, ...]
    kernels: Kernels
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
    def from_json(cls, text: str | bytes) -> Self:
        """The report that ``to_json`` wrote; raises pydantic.ValidationError on anything else."""
        return cls.model_validate_json(text)

    def to_html(self) -> str:
        """One self-contained page: no script, no network, readable by someone who has never quantized a model."""
        from converter.report.page import render  # jinja2 only when a page is wanted

        return render(self)
