"""The table of operators: name to function, or to functions by the opset version since which they hold."""

from __future__ import annotations

from converter.operators import (
    activations,
    arithmetic,
    attention,
    casting,
    control,
    convolution,
    detection,
    indexing,
    logic,
    normalization,
    pooling,
    recurrent,
    reductions,
    resizing,
    shape,
    signal,
    text,
)
from converter.operators.signatures import Operator, Table

__all__ = ["STEPWISE", "TABLE", "select"]

FAMILIES = (
    activations,
    arithmetic,
    attention,
    casting,
    control,
    convolution,
    detection,
    indexing,
    logic,
    normalization,
    pooling,
    recurrent,
    reductions,
    resizing,
    shape,
    signal,
    text,
)

TABLE: Table = {name: entry for family in FAMILIES for name, entry in family.TABLE.items()}


STEPWISE = frozenset(  # of floats they make steps or counts, through which no gradient passes
    {"Ceil", "DynamicQuantizeLinear", "Floor", "QuantizeLinear", "Round", "Sign", "TfIdfVectorizer"}
)


def select(name: str, opset: int) -> Operator | None:
    """The newest function of an operator that is not above the opset; None where there is none."""
    entry = TABLE.get(name)
    if entry is None or callable(entry):
        return entry
    versions = [version for version in entry if version <= opset]
    return entry[max(versions)] if versions else None
