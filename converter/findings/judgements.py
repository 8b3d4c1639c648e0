"""What is concluded from the measurements: what to expect on real data, and what to do with the INT8 model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from converter.findings.values import Count, Interval, Section, Share

__all__ = [
    "Advice",
    "Cause",
    "Culprit",
    "Expectation",
    "MarginErrors",
    "Prediction",
    "PredictionUnder",
    "Remedy",
    "Verdict",
]


class MarginErrors(Section):
    """What INT8 changed of the scores' margins between FP32's first two classes, in units of the scores.

    Scores are log-probabilities where the model ends in probabilities.
    """

    error: Annotated[float, Field(ge=0, description="1.4826 times the median size of the change: its deviation")]
    bias: Annotated[float, Field(description="mean change; negative where INT8 takes from FP32's first class")]
    tail: Annotated[float, Field(ge=0, description="95th percentile of the change's size over its deviation")]
    median_margin: Annotated[float, Field(ge=0, description="FP32's margin in the middle sample")]
    small_margin: Annotated[float, Field(ge=0, description="lower quartile of FP32's margins")]
    mean_confidence: Annotated[Share, Field(description="mean probability that FP32 gives its first class")]
    samples: Annotated[Count, Field(description="with finite scores")]


class Expectation(Section):
    """Where a figure on real data is expected to lie; it is below ``middle`` as often as above."""

    interval: Interval
    middle: float


class PredictionUnder(Section):
    """What to expect if one input is prepared as one hypothesis says."""

    input: str
    name: Annotated[str, Field(description="of the hypothesis")]
    probability: Annotated[Share | None, Field(description="of the hypothesis; null where none was reckoned")] = None
    agreement: Expectation | None = None
    accuracy_change: Expectation | None = None
    reason: Annotated[str | None, Field(description="why something is unknown")] = None


class Prediction(Section):
    """What to expect on real data of the kind the model was made for; null where nothing measured supports it."""

    metric: Annotated[str, Field(description="what agreement and accuracy_change are about")] = ""
    agreement: Annotated[Expectation | None, Field(description="share of decisions as FP32's")] = None
    accuracy_change: Annotated[
        Expectation | None, Field(description="INT8's share of right decisions minus FP32's")
    ] = None
    refuse_below: Annotated[
        Share, Field(description="an agreement in the middle below which real ones were too often under 90 %")
    ] = 0.9
    level: Annotated[float, Field(gt=0, lt=1, description="share of cases that the intervals hold")] = 0.9
    basis: Annotated[str, Field(description="what the intervals rest on")]
    reason: Annotated[str | None, Field(description="why something is unknown")] = None
    hypotheses: Annotated[
        tuple[PredictionUnder, ...], Field(description="one a hypothesis of the inputs that is open; the worst counts")
    ] = ()
    guessed: Annotated[tuple[str, ...], Field(description="inputs whose preparation nobody stated")] = ()
    max_drop: Share | None = None
    certified: Annotated[
        bool | None, Field(description="whether the loss of accuracy stays within max_drop; null if not asked")
    ] = None
    certified_why: str = ""

    @model_validator(mode="after")
    def _reasoned(self) -> Prediction:
        if (self.agreement is None or self.accuracy_change is None) and not self.reason:
            raise ValueError("what is unknown needs a reason")
        return self


class Advice(StrEnum):
    """What to do with the INT8 model."""

    USE = "use"
    USE_WITH_FLOAT = "use-with-layers-in-float"
    DO_NOT_USE = "do-not-use"


class Remedy(Section):
    """Layers to leave in float, the option that does it, and what that is predicted to gain and to cost."""

    option: str
    nodes: tuple[str, ...]
    agreement: Annotated[Expectation | None, Field(description="expected with these layers in float")] = None
    error_removed: Annotated[Share, Field(description="of the outputs' error")]
    work_in_float: Annotated[Share | None, Field(description="of the model's multiply-adds that leave integers")] = None


class Verdict(Section):
    """What to do with the INT8 model, in one sentence, and the evidence."""

    advice: Advice
    sentence: str
    evidence: tuple[str, ...] = ()
    conditions: Annotated[tuple[str, ...], Field(description="what must hold for it, and was not known")] = ()
    remedy: Remedy | None = None


class Cause(StrEnum):
    """Why a tensor's rounding costs much."""

    OUTLIERS = "range-outliers"
    SATURATION = "saturation"
    DEPTHWISE = "depthwise-imbalance"
    GATE = "gate"
    ATTENTION = "attention"
    SHARED_SCALE = "shared-scale"
    SENSITIVE = "sensitive"


class Culprit(Section):
    """A tensor that costs the outputs much, why, and what to type."""

    tensor: str
    node: str
    operator: str
    share: Annotated[Share, Field(description="of the outputs' error")]
    cause: Cause
    why: str
    option: str
