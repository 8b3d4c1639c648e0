"""What the owner of a model may ask for, and may know about its inputs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

from converter.errors import InvalidOption
from converter.specifications import InputSpec
from converter.targets import CONVENTIONS, Convention, Precision, Target

E = TypeVar("E", bound=StrEnum)

__all__ = [
    "RANGELESS",
    "Effort",
    "InputSpec",
    "Method",
    "Options",
    "OutputKind",
    "Precision",
    "Prefer",
    "Step",
    "Target",
    "read_size",
]

SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?([KMG]i?B|B)?", re.IGNORECASE)
UNITS = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}


class Method(StrEnum):
    """How calibration data come about."""

    AUTO = "auto"
    ZEROQ = "zeroq"
    GZSQ = "gzsq"
    GZNQ = "gznq"
    GENIE = "genie"
    NOISE = "noise"


RANGELESS = frozenset({Precision.DYNAMIC, Precision.WEIGHTS})  # activations have no range that is fixed beforehand


class Prefer(StrEnum):
    """What decides where integers are slower than float, or float closer than integers."""

    ACCURACY = "accuracy"
    SPEED = "speed"


class Effort(StrEnum):
    """How much time may be spent on a result that is nearly as good already."""

    FAST = "fast"
    NORMAL = "normal"
    BEST = "best"


class OutputKind(StrEnum):
    """What an output carries, which decides how it is compared; nobody needs to state it."""

    CLASSES = "classes"
    DETECTIONS = "detections"
    EMBEDDING = "embedding"
    PICTURE = "picture"
    SEQUENCE = "sequence"


class Step(StrEnum):
    """The function-preserving and error-correcting steps, each of which can be left out."""

    EQUALIZATION = "equalization"
    MIGRATION = "migration"
    BIAS_CORRECTION = "bias-correction"
    ROUNDING = "rounding"
    RANGE_SEARCH = "range-search"
    FLOAT_FALLBACK = "float-fallback"


@dataclass(frozen=True)
class Options:
    """Everything that decides a conversion besides the model; equal options give an equal result.

    ``calibration`` is data of the owner's (.npz or a folder of pictures) that ranges are taken from instead of
    synthesized inputs. ``exclude`` names nodes that stay in float, ``include`` the only ones that may not: names or
    patterns (``*``, ``?``, ``[..]``) of nodes, or operator types. ``outputs`` says what an output carries where the
    guess would be wrong. ``max_drop`` is the loss of accuracy that the report must exclude, as a share, and
    ``expected_accuracy`` the float model's own, which sharpens that.
    ``time_budget`` bounds synthesis and optimization together, in seconds; where a network is so large that ``samples``
    of them do not fit, there are fewer, and steps that do not fit on a single one are left out. ``skip`` names steps
    to leave out.
    ``size_budget`` (mixed precision) is the weights' size: up to 1 a fraction of INT8's, above 1 bytes, or a text that
    ``read_size`` reads, such as 1.5MiB.
    """

    method: Method = Method.AUTO
    precision: Precision = Precision.INT8
    samples: int = 64
    seed: int = 0
    time_budget: float = 60.0
    threads: int = 1
    min_agreement: float | None = None
    validation: Path | None = None
    inputs: Mapping[str, InputSpec] = field(default_factory=dict)
    target: Target = Target.X64
    skip: frozenset[Step] = frozenset()
    size_budget: float = 0.75
    calibration: Path | None = None
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    outputs: Mapping[str, OutputKind] = field(default_factory=dict)
    max_drop: float | None = None
    expected_accuracy: float | None = None
    prefer: Prefer = Prefer.ACCURACY
    effort: Effort = Effort.NORMAL

    def __post_init__(self) -> None:
        coerced: dict[str, Any] = {
            "method": _member(Method, "method", self.method),
            "precision": _member(Precision, "precision", self.precision),
            "target": _member(Target, "target", self.target),
            "skip": frozenset(_member(Step, "skip", step) for step in self.skip),
            "size_budget": _size(self.size_budget),
            "validation": None if self.validation is None else Path(self.validation),
            "calibration": None if self.calibration is None else Path(self.calibration),
            "exclude": _patterns("exclude", self.exclude),
            "include": _patterns("include", self.include),
            "outputs": MappingProxyType(
                {name: _member(OutputKind, "outputs", kind) for name, kind in self.outputs.items()}
            ),
            "prefer": _member(Prefer, "prefer", self.prefer),
            "effort": _member(Effort, "effort", self.effort),
            "inputs": MappingProxyType(
                {
                    name: spec if isinstance(spec, InputSpec) else InputSpec.read(spec, name)
                    for name, spec in self.inputs.items()
                }
            ),
        }
        for name, value in coerced.items():
            object.__setattr__(self, name, value)
        for name in ("samples", "seed", "threads"):
            _check(_is_whole(getattr(self, name)), name, "must be a whole number")
        for name in ("time_budget", "min_agreement", "size_budget", "max_drop", "expected_accuracy"):
            _check(isinstance(getattr(self, name), int | float | None), name, "must be a number")
        _check(self.samples >= 8 and self.samples <= 4096, "samples", "must be from 8 to 4096")
        _check(0 <= self.seed < 2**32, "seed", "must be from 0 to 4294967295")
        _check(1 <= self.time_budget <= 86_400, "time_budget", "must be from 1 to 86400 seconds")
        _check(1 <= self.threads <= 256, "threads", "must be from 1 to 256")
        for name, example in (("min_agreement", 0.99), ("max_drop", 0.01), ("expected_accuracy", 0.76)):
            share = getattr(self, name)
            _check(share is None or 0 <= share <= 1, name, f"must be from 0 to 1, such as {example}")
        _check(self.size_budget > 0 and math.isfinite(self.size_budget), "size_budget", "must be positive")
        if self.precision not in self.convention.precisions:
            known = " or ".join(sorted(self.convention.precisions))
            raise InvalidOption(
                f"The option precision cannot be {self.precision} for the target {self.target}, which has no kernels "
                "for that.",
                field="precision",
                remedy=f"Use {known}, or another target.",
            )

    @property
    def convention(self) -> Convention:
        """How the target wants integers written."""
        return CONVENTIONS[self.target]

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Self:
        """Options from plain JSON values; raises InvalidOption naming the field that is unknown or wrong."""
        known = {each.name for each in fields(cls)}
        for name in given:
            _check(name in known, name, f"is not an option; known are {', '.join(sorted(known))}")
        try:
            return replace(cls(), **{name: value for name, value in given.items() if value is not None})
        except (TypeError, AttributeError, ValueError) as problem:
            raise InvalidOption(f"The options cannot be read: {problem}.", field="options") from problem

    def to_dict(self) -> dict[str, Any]:
        """The options as plain JSON values."""
        return {
            **{each.name: getattr(self, each.name) for each in fields(self)},
            "method": str(self.method),
            "precision": str(self.precision),
            "target": str(self.target),
            "skip": sorted(map(str, self.skip)),
            "validation": None if self.validation is None else self.validation.name,
            "calibration": None if self.calibration is None else self.calibration.name,
            "exclude": list(self.exclude),
            "include": list(self.include),
            "outputs": {name: str(kind) for name, kind in self.outputs.items()},
            "prefer": str(self.prefer),
            "effort": str(self.effort),
            "inputs": {name: spec.to_dict() for name, spec in self.inputs.items()},
        }


def read_size(text: str) -> float:
    """A share such as 0.75, or bytes from a size such as 1.5MiB or 800kB; raises InvalidOption."""
    found = SIZE.fullmatch(text)
    if found is None:
        raise InvalidOption(
            f"The option size_budget cannot be {text!r}.",
            field="size_budget",
            remedy="Use a share of INT8's size such as 0.75, or a size such as 1.5MiB or 800kB.",
        )
    return float(found[1]) * UNITS[(found[2] or "b").lower()]


def _size(given: object) -> object:
    return read_size(given) if isinstance(given, str) else given


def _patterns(name: str, given: object) -> tuple[str, ...]:
    several = isinstance(given, Sequence) and not isinstance(given, str)
    _check(several, name, "must be a list of names or patterns")
    assert isinstance(given, Sequence)
    for each in given:
        _check(isinstance(each, str) and each != "", name, "must hold names or patterns that are not empty")
    return tuple(given)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check(holds: bool, name: str, rule: str) -> None:
    if not holds:
        raise InvalidOption(f"The option {name} {rule}.", field=name)


def _member(kind: type[E], name: str, value: object) -> E:
    try:
        return kind(str(value))
    except ValueError:
        raise InvalidOption(
            f"The option {name} cannot be {str(value)!r}; it is one of {', '.join(kind)}.", field=name
        ) from None
