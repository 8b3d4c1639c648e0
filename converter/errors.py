"""Everything the converter raises on purpose.

ConversionError
  Refusal                 the file or the request cannot be served; nothing was written
    InvalidModel          not an ONNX file, damaged, or inconsistent with itself
    UnsupportedModel      a sound file with something in it that zsq does not do
    TooLarge              a limit on size, nodes, depth, expansion or elements was exceeded
    InvalidOption         an option, an input specification or validation data makes no sense for this model
    OutputNotWritable     the result cannot be put where it was asked for
  Stopped                 work began and a limit ended it
    OutOfTime
    OutOfMemory
    Cancelled
  VerificationFailed      a result contradicted its own check: a bug of ours, reported with what was compared
"""

from __future__ import annotations

__all__ = [
    "Cancelled",
    "ConversionError",
    "InvalidModel",
    "InvalidOption",
    "OutOfMemory",
    "OutOfTime",
    "OutputNotWritable",
    "Refusal",
    "Stopped",
    "TooLarge",
    "UnsupportedModel",
    "VerificationFailed",
    "allocation_failed",
]

ALLOCATION = ("allocate memory", "bad_alloc", "Failed to allocate", "out of memory")


class ConversionError(Exception):
    """What went wrong in one sentence, where in the model, and what the owner can do about it."""

    def __init__(
        self,
        message: str,
        *,
        node: str | None = None,
        operator: str | None = None,
        attribute: str | None = None,
        tensor: str | None = None,
        field: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.node = node
        self.operator = operator
        self.attribute = attribute
        self.tensor = tensor
        self.field = field
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}" if self.remedy else self.message

    def facts(self) -> dict[str, str]:
        """What a machine wants to know: the class, the sentence, and every place that is named."""
        places = ("node", "operator", "attribute", "tensor", "field", "remedy")
        named = {place: value for place in places if (value := getattr(self, place)) is not None}
        return {"kind": type(self).__name__, "message": self.message, **named}


class Refusal(ConversionError):
    """The file or the request cannot be served; nothing was written."""


class InvalidModel(Refusal):
    """Not an ONNX file, damaged, or inconsistent with itself."""


class UnsupportedModel(Refusal):
    """A sound file with something in it that zsq does not do."""


class TooLarge(Refusal):
    """A limit on size, nodes, depth, expansion or elements was exceeded."""


class InvalidOption(Refusal):
    """An option, an input specification or validation data makes no sense for this model."""


class OutputNotWritable(Refusal):
    """The result cannot be put where it was asked for."""


class Stopped(ConversionError):
    """Work began and a limit ended it."""


class OutOfTime(Stopped):
    """The wall-clock limit was reached."""


class OutOfMemory(Stopped):
    """The memory limit was reached."""


class Cancelled(Stopped):
    """The owner asked for an end."""


class VerificationFailed(ConversionError):
    """A result contradicted its own check: a bug of ours, reported with what was compared."""


def allocation_failed(problem: Exception) -> bool:
    """Whether memory ran out; torch and onnxruntime have no exception of their own for this."""
    return isinstance(problem, MemoryError) or any(phrase in str(problem) for phrase in ALLOCATION)
