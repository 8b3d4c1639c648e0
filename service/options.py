"""The options of a conversion as they come over HTTP: typed, explained, and checked by the converter's own rules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError

from converter.errors import InvalidOption
from converter.options import Effort, Method, Options, OutputKind, Precision, Prefer, Step, Target, read_size
from service.problems import invalid_fields

__all__ = ["CHOICES", "NOT_TAKEN", "Choices", "ConversionOptions", "canonical", "read_options"]

DEFAULTS = Options()

NOT_TAKEN = {
    "validation": "Validation data are taken by the command line only; run zsq convert --validation.",
    "calibration": "Calibration data are taken by the command line only; run zsq convert --calibration.",
    "threads": "The operator of the service decides on the number of threads.",
}
"""Options of the converter that the service does not take, and what to do instead."""

CHOICES: Mapping[StrEnum, str] = {
    Method.AUTO: "Natural inputs, a share of them moved towards the classes or detections that the model knows.",
    Method.ZEROQ: "Optimizes inputs to match the model's batch-norm statistics.",
    Method.GZSQ: "Optimizes inputs to match statistics that follow from the weights alone.",
    Method.GZNQ: "A generator that learns to match the model's statistics and classes.",
    Method.GENIE: "A generator and its inputs optimized together; slow, for low precisions.",
    Method.NOISE: "Plain noise in the input's range; fast, and a baseline to compare with.",
    Precision.INT8: "8-bit weights and activations; runs everywhere.",
    Precision.W4A8: "4-bit weights, 8-bit activations; smaller, loses more.",
    Precision.W4A4: "4-bit weights and activations; for research.",
    Precision.MIXED: "Bits for each layer as it needs them, within the size budget.",
    Precision.DYNAMIC: "8-bit products whose ranges are found at run time; for transformers and LSTMs.",
    Precision.WEIGHTS: "8-bit weights, float activations: the most faithful, as fast as FP32.",
    Target.X64_VNNI: "Intel and AMD processors with VNNI only, most since about 2019.",
    Target.X64: "Every Intel and AMD processor: no 8-bit product saturates, with VNNI or without.",
    Target.ARM64: "ARM servers, phones and Apple silicon.",
    Target.OPENVINO: "OpenVINO on Intel and AMD processors.",
    Target.TENSORRT: "TensorRT on NVIDIA GPUs: symmetric integers, float biases.",
    Prefer.ACCURACY: "Stays closer to FP32 where the two disagree.",
    Prefer.SPEED: "Runs faster where the two disagree.",
    Effort.FAST: "Answers soon, and leaves out what gains least.",
    Effort.NORMAL: "What most models need.",
    Effort.BEST: "Takes its time for the last bit of quality.",
    OutputKind.CLASSES: "One score a class; the largest is the decision.",
    OutputKind.DETECTIONS: "Boxes, scores or other facts of many places.",
    OutputKind.EMBEDDING: "A vector whose direction matters.",
    OutputKind.PICTURE: "A picture or a map of values.",
    OutputKind.SEQUENCE: "Scores of tokens, one row a step.",
    Step.EQUALIZATION: "Scales channels of neighbouring layers to like ranges; done at w4a4 only.",
    Step.MIGRATION: "Moves outliers from activations into weights, unless weights alone get 4 bits.",
    Step.BIAS_CORRECTION: "Takes the mean error out of each layer.",
    Step.ROUNDING: "Learns for each weight whether to round up or down.",
    Step.RANGE_SEARCH: "Searches for clipping ranges of least error.",
    Step.FLOAT_FALLBACK: "Leaves the most sensitive layers in float.",
}
"""Every value of every choice in one sentence; a test keeps it complete."""


def _read_size(given: object) -> object:
    """Bytes or a share where the size is a text; pydantic tells of texts that are neither."""
    if not isinstance(given, str):
        return given
    try:
        return read_size(given)
    except InvalidOption as problem:
        raise ValueError(problem.remedy) from problem


class Choices(BaseModel):
    """What decides a conversion besides the model and its inputs; all of it has a default."""

    model_config = ConfigDict(extra="forbid")

    method: Method = Field(default=DEFAULTS.method, description="How calibration data come about.")
    precision: Precision = Field(default=DEFAULTS.precision, description="What weights and activations become.")
    samples: int = Field(
        default=DEFAULTS.samples, ge=8, le=4096, description="How many synthetic inputs the ranges are taken from."
    )
    seed: int = Field(
        default=DEFAULTS.seed,
        ge=0,
        le=2**32 - 1,
        description="Equal seed and options, equal model, bit for bit.",
    )
    time_budget: float = Field(
        default=DEFAULTS.time_budget, ge=1, le=86_400, description="Seconds for synthesis and optimization together."
    )
    target: Target = Field(default=DEFAULTS.target, description="What will run the result.")
    min_agreement: float | None = Field(
        default=DEFAULTS.min_agreement,
        ge=0,
        le=1,
        description="Share of equal decisions below which the report says that the goal was missed.",
    )
    size_budget: Annotated[float, BeforeValidator(_read_size, json_schema_input_type=float | str)] = Field(
        default=DEFAULTS.size_budget,
        gt=0,
        allow_inf_nan=False,
        description="For mixed precision, the weights' size: a share of INT8's such as 0.75, or a size such as 1.5MiB.",
        examples=[0.75, "1.5MiB"],
    )
    max_drop: float | None = Field(
        default=DEFAULTS.max_drop, ge=0, le=1, description="Loss of accuracy that the report is to exclude, as a share."
    )
    expected_accuracy: float | None = Field(
        default=DEFAULTS.expected_accuracy, ge=0, le=1, description="The FP32 model's own accuracy, if it is known."
    )
    prefer: Prefer = Field(default=DEFAULTS.prefer, description="What decides where speed and accuracy disagree.")
    effort: Effort = Field(default=DEFAULTS.effort, description="How much time the last bit of quality is worth.")
    skip: list[Step] = Field(default_factory=list, max_length=len(Step), description="Steps to leave out.")


class ConversionOptions(Choices):
    """Everything that decides a conversion besides the model; all of it has a default."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"method": "auto", "seed": 1, "time_budget": 30}]})

    inputs: dict[str, str | dict[str, JsonValue]] = Field(
        default_factory=dict,
        max_length=64,
        description=(
            "What is known of an input, by its name: range=0:255, mean=0.5,0.5,0.5:std=0.2,0.2,0.2, "
            "shape=1x3x224x224, tokens=0:30522, kind=mask, order=bgr or layout=nhwc, joined by semicolons, or "
            "an object of these."
        ),
        examples=[{"image": "range=0:255", "ids": {"kind": "tokens", "tokens": [0, 30522]}}],
    )
    outputs: dict[str, OutputKind] = Field(
        default_factory=dict,
        max_length=64,
        description="What an output carries, by its name, where the guess would be wrong.",
        examples=[{"scores": "classes"}],
    )
    exclude: list[str] = Field(
        default_factory=list,
        max_length=256,
        description="Nodes to leave in float: names, patterns such as /head/*, or operator types.",
    )
    include: list[str] = Field(
        default_factory=list, max_length=256, description="The only nodes that may become integers, named likewise."
    )


def read_options(text: str | bytes) -> dict[str, Any]:
    """The options that a JSON object names; raises InvalidOption."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise InvalidOption("The options are not JSON.", field="options") from problem
    if not isinstance(given, dict):
        raise InvalidOption("The options are not a JSON object.", field="options", remedy='Send {"method": "auto"}.')
    given = {name: value for name, value in given.items() if value is not None}
    for name, remedy in NOT_TAKEN.items():
        if name in given:
            raise InvalidOption(f"The option {name} is not taken by the service.", field=name, remedy=remedy)
    try:
        read = ConversionOptions.model_validate_json(json.dumps(given), strict=True)
    except ValidationError as problem:
        first = invalid_fields(problem.errors())[0]
        known = ", ".join(ConversionOptions.model_fields)
        raise InvalidOption(
            f"The option {first.field} is not usable: {first.rule}.",
            field=first.field,
            remedy=None if first.field.split(".")[0] in ConversionOptions.model_fields else f"Known are {known}.",
        ) from problem
    return read.model_dump(mode="json", exclude_unset=True)


def canonical(given: Mapping[str, Any]) -> dict[str, Any]:
    """All options, defaults filled in, so that equal wishes have equal names; raises InvalidOption."""
    options = Options.from_dict(given)
    inputs = {name: str(spec) for name, spec in sorted(options.inputs.items())}
    if any("\0" in text for pair in inputs.items() for text in pair):  # PostgreSQL stores no NUL
        raise InvalidOption("The name of an input holds a NUL character.", field="inputs")
    kept = {name: value for name, value in options.to_dict().items() if name not in NOT_TAKEN and value is not None}
    return kept | {"inputs": inputs}
