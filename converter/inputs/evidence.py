"""What is found out of one input before anybody is asked, and what the rules that find it look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from converter.graph import Graph, Shape, Value
from converter.inputs.dataflow import Use, uses
from converter.inputs.naming import Hint, hints
from converter.inputs.plans import InputKind, Scaling

__all__ = ["Evidence", "Finding", "is_one", "symbolic"]


@dataclass(frozen=True)
class Finding:
    """What an input is taken for and why, in words that complete "it is taken for ..., since ...".

    ``returned`` is the output that comes back as a state; ``batched`` is False where one sample is all an input holds.
    """

    kind: InputKind
    reason: str
    channels_last: bool = False
    tokens: tuple[int, int] | None = None
    value: float = 0.0
    choices: tuple[float, ...] = ()
    batched: bool = True
    returned: str | None = None
    bands: int | None = None  # the axis of a spectrum that holds bands or coefficients
    side: int | None = None  # of the square pictures that flat features are
    scaling: Scaling | None = None  # that the graph itself states
    special: tuple[int | None, int | None, int | None] = (None, None, None)  # begin, end, padding


@dataclass(frozen=True)
class Evidence:
    """One input, its uses in the graph and its neighbours."""

    value: Value
    shape: Shape
    graph: Graph

    @cached_property
    def uses(self) -> tuple[Use, ...]:
        """Every use of the input, nearest first."""
        return uses(self.graph, self.value.name, len(self.shape))

    @cached_property
    def hints(self) -> frozenset[Hint]:
        """What its name hints at."""
        return hints(self.value.name)

    @property
    def others(self) -> tuple[Value, ...]:
        """The graph's other inputs."""
        return tuple(each for each in self.graph.inputs if each.name != self.value.name)

    def used(self, operators: Iterable[str], place: int | None = None) -> Use | None:
        """The nearest use by one of the operators, as the given operand."""
        wanted = frozenset(operators)
        return next(
            (each for each in self.uses if each.operator in wanted and (place is None or each.place == place)), None
        )


def symbolic(size: int | str | None) -> bool:
    """Whether a model leaves the size of an axis open."""
    return not isinstance(size, int)


def is_one(shape: Shape) -> bool:
    """Whether the shape has room for one number only."""
    return all(size == 1 for size in shape)
