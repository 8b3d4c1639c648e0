"""Steps that a conversion can do without: one that fails is left out and named, and the conversion goes on."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from converter.errors import InvalidOption, Stopped, allocation_failed
from converter.findings import Caution, StepTaken

__all__ = ["MOST_SAID", "Attempts", "LeftOut"]

MOST_SAID = 160  # characters of a library's message that a report quotes


@dataclass(frozen=True)
class LeftOut:
    """A step that failed, and the sentence that says so."""

    step: str
    sentence: str

    def as_step(self) -> StepTaken:
        """What the report lists among the steps of the quantizer."""
        return StepTaken(name=self.step, applied=False, sentence=self.sentence)

    def as_caution(self) -> Caution:
        """What the report lists among its warnings."""
        return Caution(kind="left-out", message=self.sentence, place=self.step)


@dataclass
class Attempts:
    """What was tried and left out so far."""

    left_out: list[LeftOut] = field(default_factory=list)

    @contextmanager
    def optional(self, step: str, what: str) -> Iterator[None]:
        """Whatever fails inside is left out and remembered; ``what`` names it at the start of a sentence.

        Not caught are the ends that somebody wants, a refused option, and memory that ran out: they are no failure of
        the step.
        """
        try:
            yield
        except (Stopped, InvalidOption, MemoryError):
            raise
        except Exception as problem:  # boundary: an optional step may fail in any way its libraries have
            if allocation_failed(problem):
                raise
            if os.environ.get("ZSQ_DEBUG"):
                traceback.print_exc(file=sys.stderr)
            self.left_out.append(LeftOut(step, f"{what} was left out, since it failed ({_said(problem)})."))


def _said(problem: Exception) -> str:
    """The problem's class and the first of its words, on one line."""
    words = " ".join(str(problem).split()).rstrip(".")
    return f"{type(problem).__name__}: {words[:MOST_SAID]}" if words else type(problem).__name__
