"""Recognizing inputs that the network itself makes: recurrent states, and caches of keys and values."""

from __future__ import annotations

from converter.families import CARRYING
from converter.graph import Graph, Shape, Value
from converter.inputs.dataflow import leads_to
from converter.inputs.evidence import Evidence, Finding, symbolic
from converter.inputs.naming import Hint, hints, stem
from converter.inputs.plans import InputKind

__all__ = ["compatible", "find_state", "returning_outputs"]

KEEPING = CARRYING | {"Concat", "Slice"}  # of a state: the oldest of it goes, what is new comes
FIRST_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}  # operands


def find_state(evidence: Evidence) -> Finding | None:
    """A cache or a state: more than an equal shape says so, namely what reads it, what it becomes, or both names."""
    value, graph = evidence.value, evidence.graph
    if len(graph.inputs) < 2 or len(evidence.shape) < 2 or not value.dtype.startswith("float"):
        return None
    grown = _grown(evidence)
    if grown is not None:
        return Finding(
            InputKind.CACHE,
            f"the graph appends to it and returns it as {grown}: what earlier steps left",
            returned=grown,
        )
    returned = returning_outputs(value, graph)
    first = next((use for use in evidence.uses if use.place in FIRST_STATES.get(use.operator, ())), None)
    if first is not None:
        return Finding(
            InputKind.STATE, f"a {first.operator} begins with it", returned=returned[0] if returned else None
        )
    if not returned or len(graph.outputs) < 2:  # a network that returns nothing but its state would be of no use
        return None
    alike = [name for name in returned if stem(name) and stem(name) == stem(value.name)]
    if alike:
        return Finding(InputKind.STATE, f"it has the shape and the name of the output {alike[0]}", returned=alike[0])
    if evidence.hints & {Hint.STATE, Hint.CACHE}:
        named = [name for name in returned if hints(name) & {Hint.STATE, Hint.CACHE}] or list(returned)
        return Finding(
            InputKind.STATE, f"its name speaks of a state, and the output {named[0]} has its shape", returned=named[0]
        )
    return None


def _grown(evidence: Evidence) -> str | None:
    """The output that is this input with something appended along an axis."""
    for use in evidence.uses:
        if use.operator == "Concat" and set(use.passed) <= KEEPING:
            output = leads_to(evidence.graph, use.node.output[0], KEEPING - {"Concat"})
            shape = _shape(evidence.graph, output)
            grows = any(symbolic(size) for size in evidence.shape[1:])
            if output is not None and grows and (shape is None or len(shape) == len(evidence.shape)):
                return output
    return None


def _shape(graph: Graph, output: str | None) -> Shape | None:
    return next((each.shape for each in graph.outputs if each.name == output), None)


def returning_outputs(value: Value, graph: Graph) -> list[str]:
    """The outputs of the type and shape of an input."""
    return [
        each.name
        for each in graph.outputs
        if each.dtype == value.dtype
        and each.shape is not None
        and value.shape is not None
        and len(each.shape) == len(value.shape)
        and compatible(each.shape, value.shape)
    ]


def compatible(one: Shape, other: Shape) -> bool:
    """Whether two shapes of one rank differ in no size that both state."""
    return all(not isinstance(a, int) or not isinstance(b, int) or a == b for a, b in zip(one, other, strict=True))
