"""What the owner of a model may state of one of its inputs, read from a line of text or from JSON."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self, TypeVar

from converter.errors import InvalidOption

__all__ = ["ChannelOrder", "InputSpec", "Layout", "StatedKind", "input_option"]

E = TypeVar("E", bound=StrEnum)


def input_option(name: str, specification: object) -> str:
    """What to type so that the input is taken for that, quoted for a shell whatever its name holds."""
    return f"--input {shlex.quote(f'{name}={specification}')}"


class StatedKind(StrEnum):
    """What an input carries, in its owner's words."""

    PICTURE = "picture"
    UINT8 = "uint8"  # a picture of whole numbers from 0 to 255, whatever their element type
    VIDEO = "video"
    MAP = "map"  # planes of both signs that are no colours: latents, depth, optical flow
    SOUND = "sound"  # in -1..1
    SIGNAL = "signal"
    SPECTRUM = "spectrum"  # spectrograms and cepstra
    FEATURES = "features"
    EMBEDDINGS = "embeddings"
    TOKENS = "tokens"
    MASK = "mask"
    TYPES = "types"
    POSITIONS = "positions"
    LENGTHS = "lengths"
    SCALAR = "scalar"
    STATE = "state"
    CACHE = "cache"


class ChannelOrder(StrEnum):
    """Which colour comes first."""

    RGB = "rgb"
    BGR = "bgr"


class Layout(StrEnum):
    """Where a picture's channels stand."""

    NCHW = "nchw"
    NHWC = "nhwc"


COLOURED = frozenset({StatedKind.PICTURE, StatedKind.UINT8, StatedKind.VIDEO})
PLANAR = COLOURED | {StatedKind.MAP}
WHOLE = frozenset({StatedKind.TOKENS, StatedKind.TYPES, StatedKind.POSITIONS})
SCALED = frozenset(StatedKind) - WHOLE - {StatedKind.UINT8, StatedKind.MASK, StatedKind.STATE, StatedKind.CACHE}
RETURNING = frozenset({StatedKind.STATE, StatedKind.CACHE})
FIELDS = {"range": "value_range"}  # words of the command line that are called otherwise here
KEYS = "range=LOW:HIGH, mean=M[,M..]:std=S[,S..], shape=1x3x224x224, tokens=LOW:HIGH, value=NUMBER, kind=KIND, "
LARGEST = 1e30  # a number beyond which float32 has no squares and soon no sums
REMEDY = f"Use {KEYS}order=rgb|bgr or layout=nchw|nhwc, joined by semicolons."


@dataclass(frozen=True)
class InputSpec:
    """What the owner knows about one input; whatever is None is found out from the model.

    ``output`` is the output that comes back as a state. Raises InvalidOption for what contradicts itself.
    """

    value_range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    shape: tuple[int, ...] | None = None
    tokens: tuple[int, int] | None = None
    kind: StatedKind | None = None
    output: str | None = None
    order: ChannelOrder | None = None
    layout: Layout | None = None
    value: float | None = None

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise InvalidOption(f"The input specification is wrong: {problem}.", field="input", remedy=REMEDY)

    @property
    def stated(self) -> tuple[str, ...]:
        """The keys that were given, as the command line calls them."""
        words = {field: word for word, field in FIELDS.items()}
        return tuple(words.get(each.name, each.name) for each in fields(self) if getattr(self, each.name) is not None)

    def _problems(self) -> list[str]:
        """Everything in it that contradicts itself, in words; the fields may hold what a caller without types put."""
        problems = [problem for problem in (*self._wrong_numbers(), *self._wrong_words()) if problem]
        return problems or [problem for problem in self._contradictions() if problem]

    def _wrong_numbers(self) -> list[str]:
        problems = []
        floats = (*(self.value_range or ()), *(self.mean or ()), *(self.std or ()), *_one(self.value))
        if not all(math.isfinite(number) and abs(number) <= LARGEST for number in floats):
            problems.append(f"a number is not finite or beyond {LARGEST:g}")
        elif self.value_range is not None and not (
            len(self.value_range) == 2 and self.value_range[0] < self.value_range[1]
        ):
            problems.append("range needs LOW:HIGH with LOW below HIGH")
        if self.std is not None and (not self.std or min(self.std) < 1 / LARGEST):
            problems.append("std must be positive")
        if self.mean is not None and not self.mean:
            problems.append("mean needs a number")
        if self.mean and self.std and 1 < len(self.mean) != len(self.std) > 1:
            problems.append(f"mean has {len(self.mean)} numbers and std {len(self.std)}")
        if self.shape is not None and (not self.shape or min(self.shape) < 1):
            problems.append("every size in shape must be at least 1")
        if self.tokens is not None and not (len(self.tokens) == 2 and 0 <= self.tokens[0] < self.tokens[1]):
            problems.append("tokens needs LOW:HIGH with 0 <= LOW < HIGH")
        return problems

    def _wrong_words(self) -> list[str]:
        enums = (("kind", StatedKind), ("order", ChannelOrder), ("layout", Layout))
        return [
            f"{name}={given} is none of {', '.join(known)}"
            for name, known in enums
            if (given := getattr(self, name)) is not None and not isinstance(given, known)
        ]

    def _contradictions(self) -> list[str]:
        """What is not said of an input of the stated kind, and keys that exclude each other."""
        excluded = [
            ("value", {"range", "mean", "std", "tokens"}),
            ("tokens", {"range", "mean", "std", "order", "layout", "value"}),
        ]
        problems = [] if self.output is None or self.kind in RETURNING else ["an output is named, and no kind=state"]
        problems += [
            f"{key} and {other} cannot both be stated"
            for key, others in excluded
            if key in self.stated
            for other in self.stated
            if other in others
        ]
        if self.kind is None:
            return problems
        meant = {
            "range": SCALED,
            "mean": SCALED - {StatedKind.SCALAR, StatedKind.LENGTHS},
            "std": SCALED - {StatedKind.SCALAR, StatedKind.LENGTHS},
            "tokens": {StatedKind.TOKENS},
            "order": COLOURED,
            "layout": PLANAR,
            "value": {StatedKind.SCALAR, StatedKind.LENGTHS, StatedKind.MASK, StatedKind.TYPES},
        }
        kinds = ((key, meant[key]) for key in self.stated if key in meant)
        return problems + [f"{key} means nothing for kind={self.kind}" for key, fits in kinds if self.kind not in fits]

    @classmethod
    def parse(cls, text: str, name: str | None = None) -> Self:
        """``range=0:255``, ``mean=..:std=..``, ``shape=1x3x224x224``, ``kind=..``, joined by ``;`` or ``:``.

        Raises InvalidOption, which names the input where its ``name`` is given.
        """
        given: dict[str, list[str]] = {}
        for group in text.split(";"):
            key = None
            for part in group.split(":"):
                word, equals, value = part.partition("=")
                if equals:
                    key = word.strip()
                    if key in given:
                        raise _unreadable(text, f"{key} is stated twice", name)
                    given[key] = [value.strip()]
                elif key is None:
                    raise _unreadable(text, f"{part!r} is not KEY=VALUE", name)
                else:
                    given[key].append(part.strip())
        return cls._built(text, given, name)

    @classmethod
    def read(cls, given: str | Mapping[str, Any], name: str | None = None) -> Self:
        """A specification as ``parse`` reads it, or its JSON; raises InvalidOption."""
        if isinstance(given, str):
            return cls.parse(given, name)
        words = {field: word for word, field in FIELDS.items()}
        try:
            entries = {words.get(key, key): _spelled(key, value) for key, value in given.items() if value is not None}
        except (ValueError, TypeError, AttributeError) as problem:
            raise _unreadable(str(given), str(problem), name) from problem
        return cls._built(str(given), entries, name)

    @classmethod
    def _built(cls, text: str, given: Mapping[str, list[str]], name: str | None) -> Self:
        try:
            entries: dict[str, Any] = {}
            for key, values in given.items():
                entries |= _parsed(key, values)
            return cls(**entries)
        except ValueError as problem:
            raise _unreadable(text, str(problem), name) from problem
        except InvalidOption as problem:
            raise _unreadable(text, problem.message.partition(": ")[2].rstrip("."), name) from problem

    def __str__(self) -> str:
        """As ``parse`` reads it."""
        entries = {
            "kind": None if self.kind is None else ":".join(filter(None, (str(self.kind), self.output))),
            "range": None if self.value_range is None else ":".join(map(_written, self.value_range)),
            "tokens": None if self.tokens is None else ":".join(map(_written, self.tokens)),
            "mean": None if self.mean is None else ",".join(map(_written, self.mean)),
            "std": None if self.std is None else ",".join(map(_written, self.std)),
            "shape": None if self.shape is None else "x".join(map(str, self.shape)),
            "value": None if self.value is None else _written(self.value),
            "order": self.order,
            "layout": self.layout,
        }
        return ";".join(f"{key}={text}" for key, text in entries.items() if text is not None)

    def to_dict(self) -> dict[str, Any]:
        """What is stated, as plain JSON values that ``read`` takes."""
        return {
            each.name: str(value) if isinstance(value, StrEnum) else value
            for each in fields(self)
            if (value := getattr(self, each.name)) is not None
        }


def _written(number: float) -> str:
    """The number as short as it can be read back."""
    return str(int(number)) if float(number).is_integer() and abs(number) < 1e15 else repr(float(number))


def _one(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)


def _spelled(key: str, values: object) -> list[str]:
    """One entry of JSON as ``parse`` finds it between its colons."""
    if isinstance(values, str):
        return values.split(":")
    if isinstance(values, int | float) and not isinstance(values, bool) and key == "value":
        return [str(values)]
    if not isinstance(values, Sequence):
        raise TypeError(f"{key} cannot be {values!r}")
    words = [str(value) for value in values]
    return words if key in ("value_range", "range", "tokens") else [("x" if key == "shape" else ",").join(words)]


def _unreadable(text: str, why: str, name: str | None) -> InvalidOption:
    where = "" if name is None else f" of {name!r}"
    return InvalidOption(
        f"The input specification{where}, {text!r}, cannot be read: {why}.", field="input", remedy=REMEDY
    )


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _parsed(key: str, values: list[str]) -> dict[str, Any]:
    """The fields that one entry fills; raises ValueError."""
    match key, values:
        case "range", [low, high]:
            return {"value_range": (float(low), float(high))}
        case "mean" | "std", [text]:
            return {key: _numbers(text)}
        case "shape", [text]:
            return {"shape": tuple(int(size) for size in text.lower().split("x"))}
        case "tokens", [low, high]:
            return {"tokens": (int(low), int(high))}
        case "value", [text]:
            return {"value": float(text)}
        case "kind", ["state" | "cache" as kind, *output] if output:
            return {"kind": StatedKind(kind), "output": ":".join(output)}
        case "kind", [text]:
            return {"kind": _member(StatedKind, key, text)}
        case "order", [text]:
            return {"order": _member(ChannelOrder, key, text)}
        case "layout", [text]:
            return {"layout": _member(Layout, key, text)}
        case "output", _:
            return {"output": ":".join(values)}
    raise ValueError(f"{key}={':'.join(values)} is not known")


def _member(kinds: type[E], key: str, text: str) -> E:
    try:
        return kinds(text.lower())
    except ValueError:
        raise ValueError(f"{key}={text} is none of {', '.join(kinds)}") from None
