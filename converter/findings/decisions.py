"""What a conversion found and did: the model, its inputs, the data made for it, and the decisions of quantization."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BeforeValidator, Field

from converter.findings.values import (
    Count,
    Counts,
    Curve,
    Dimension,
    Proportion,
    Seconds,
    Section,
    finite_or_none,
    ordered,
)

__all__ = [
    "Caution",
    "Change",
    "Environment",
    "Example",
    "FrontierPoint",
    "Hypothesis",
    "Input",
    "Isolation",
    "KeptFloat",
    "Model",
    "Quantization",
    "Size",
    "StepTaken",
    "Synthesis",
    "TargetForm",
    "TensorFact",
    "Timings",
]


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
    operators: Counts = Field(default_factory=dict)
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
    packages: Annotated[dict[str, str], BeforeValidator(ordered)] = Field(default_factory=dict)
    started: Annotated[str, Field(description="ISO 8601, UTC")] = ""
    isolation: Annotated[Isolation | None, Field(description="null outside a service")] = None


class Hypothesis(Section):
    """A guess at how an input is meant to be prepared, how sure it is, and what INT8 keeps if it is the right one."""

    input: str
    name: str
    probability: Annotated[float | None, BeforeValidator(finite_or_none)] = None
    taken: Annotated[bool, Field(description="whether calibration covers it")]
    why: str = ""
    specification: Annotated[str, Field(description="what --input NAME= takes to say that this is it")] = ""
    agreement: Annotated[Proportion | None, Field(description="decisions INT8 keeps, were it so; of classifiers")] = (
        None
    )
    sqnr_db: Annotated[
        float | None, BeforeValidator(finite_or_none), Field(description="of the noisiest output, were it so")
    ] = None


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
    reason: Annotated[str, Field(description="why it is taken for that, in words")] = ""
    overrule: Annotated[str, Field(description="the option that says otherwise")] = ""
    hypotheses: Annotated[
        tuple[Hypothesis, ...],
        Field(description="what else it may be scaled like, likeliest first; empty where stated"),
    ] = ()


class Example(Section):
    """One input that was made up: a picture as PNG in base64, or the peaks of a signal."""

    input: str
    png: Annotated[str | None, Field(pattern=r"^[A-Za-z0-9+/=]*$")] = None
    wave: tuple[float, ...] = ()


class Synthesis(Section):
    """How calibration data came about."""

    method: str
    description: str = ""
    samples: Count
    seconds: Seconds
    seed: int
    batch_norm_statistics: Annotated[Count, Field(description="tensors whose statistics were used")] = 0
    loss: tuple[Curve, ...] = ()
    stopped_by: str = ""
    examples: tuple[Example, ...] = ()
    notes: tuple[str, ...] = ()


class StepTaken(Section):
    """One step of the quantizer with its measured effect; ``before`` and ``after`` are in ``unit``."""

    name: str
    applied: bool
    sentence: str
    measure: str = ""
    before: Annotated[float | None, BeforeValidator(finite_or_none)] = None
    after: Annotated[float | None, BeforeValidator(finite_or_none)] = None
    unit: str = ""
    seconds: Seconds | None = None


class KeptFloat(Section):
    """A node that computes in float, and why."""

    node: str
    operator: str
    reason: str
    weights_stored: Annotated[bool, Field(description="whether its weights are integers in the file")] = False


class FrontierPoint(Section):
    """One choice of bit widths: the size it gives and the divergence it is predicted to cost."""

    size_bytes: Count
    predicted_kl: float
    chosen: bool = False
    label: str = ""


class TargetForm(Section):
    """The form of integers that one runtime takes, what that changes and gives up, and how far this model would go."""

    name: str
    runs: Annotated[str, Field(description="what runs the file")]
    chosen: Annotated[bool, Field(description="whether this file is written for it")] = False
    activations: Annotated[str, Field(description="type and zero point of what flows between layers")]
    biases: str
    nodes: Annotated[Count | None, Field(description="that could be integers of fixed ranges; null if not written")] = (
        None
    )
    changes: str
    gives_up: str


class Quantization(Section):
    """What became integers, how, and what did not."""

    precision: str
    target: str
    weight_type: str
    activation_type: str
    per_channel: bool = True
    steps: tuple[StepTaken, ...] = ()
    nodes_quantized: Annotated[Count, Field(description="that compute on integers")]
    nodes_stored: Annotated[Count, Field(description="that compute in float, their weights integers in the file")] = 0
    nodes_float: Annotated[Count, Field(description="with no integers at all")]
    quantized_operators: Counts = Field(default_factory=dict)
    stored_operators: Counts = Field(default_factory=dict)
    kept_float: tuple[KeptFloat, ...] = ()
    frontier: tuple[FrontierPoint, ...] | None = None
    targets: tuple[TargetForm, ...] = ()


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
