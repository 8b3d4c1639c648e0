"""What a client of the service sees of it: conversions, their events, and refusals.

ClientError
  Unreachable             no answer, however often it was tried
  Problem                 the service refused and said why (RFC 9457); subclasses by status
    Unauthorized          401, 403
    NotFound              404
    NotReady              409
    TooLarge              413
    Busy                  429, 503
  ConversionFailed        the conversion ended without a result
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

__all__ = [
    "FINAL",
    "Busy",
    "ClientError",
    "Conversion",
    "ConversionFailed",
    "Event",
    "NotFound",
    "NotReady",
    "Page",
    "Problem",
    "TooLarge",
    "Unauthorized",
    "Unreachable",
    "problem",
]

FINAL = ("succeeded", "failed", "cancelled")


class ClientError(Exception):
    """Anything that this module raises on purpose."""


class Unreachable(ClientError):
    """No answer, however often it was tried."""


class Problem(ClientError):
    """The service refused; ``status`` and ``details`` are those of its problem document."""

    def __init__(self, status: int, details: Mapping[str, Any]) -> None:
        self.status = status
        self.details = dict(details)
        said = str(details.get("detail") or details.get("title") or f"the service answered {status}")
        remedy = details.get("remedy")
        super().__init__(f"{said} {remedy}" if remedy and str(remedy) not in said else said)


class Unauthorized(Problem):
    """No key, a wrong one, or one without the right to do this."""


class NotFound(Problem):
    """There is no such conversion, or it is somebody else's."""


class NotReady(Problem):
    """The conversion has no result yet, or never will."""


class TooLarge(Problem):
    """The service takes no model of this size."""


class Busy(Problem):
    """The queue is full, or too much was asked in too short a time."""


class ConversionFailed(ClientError):
    """The conversion ended without a result; ``conversion.error`` says where and why."""

    def __init__(self, conversion: Conversion) -> None:
        self.conversion = conversion
        error = conversion.error or {}
        said = [str(error[key]) for key in ("message", "remedy") if error.get(key)]
        super().__init__(" ".join(said) or f"The conversion was {conversion.status}.")


PROBLEMS = {401: Unauthorized, 403: Unauthorized, 404: NotFound, 409: NotReady, 413: TooLarge, 429: Busy, 503: Busy}


def problem(status: int, body: bytes) -> Problem:
    """The refusal that an answer with this status and body is."""
    try:
        details = json.loads(body)
    except ValueError:
        details = {}
    return PROBLEMS.get(status, Problem)(status, details if isinstance(details, dict) else {})


@dataclass(frozen=True)
class Conversion:
    """The state of one conversion; ``facts`` is everything that the service said of it."""

    id: str
    status: str
    stage: str | None = None
    progress: float = 0.0
    error: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> Self:
        error = facts.get("error")
        progress = float(facts.get("progress") or 0.0)
        return cls(str(facts["id"]), str(facts["status"]), facts.get("stage"), progress, error or None, facts)

    @property
    def finished(self) -> bool:
        return self.status in FINAL

    def after(self, event: Event) -> Self:
        """The conversion as the event leaves it."""
        known = {name: value for name, value in event.data.items() if name != "id"}
        return self.read({**self.facts, "status": self.status, **known, "id": self.id})


@dataclass(frozen=True)
class Event:
    """One thing that happened to a conversion, numbered by the service."""

    id: str
    kind: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Page:
    """Some of the conversions, newest first, and where the next page begins."""

    conversions: tuple[Conversion, ...]
    next_cursor: str | None
