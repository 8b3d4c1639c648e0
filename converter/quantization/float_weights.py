"""Nodes that stay in float and have integer weights in the file: 8 bits where that costs the outputs little, else 16.

A node stays in float because rounding what it reads or writes hurts, or saves no time. Its weights are another matter:
with a step for each channel they seldom hurt, and a file is mostly weights. So they are stored as the mix stores those
of tables, as far as the float model with them rounded errs by little beside what the integer model errs by anyway. What
costs most for the bytes it saves has 16 bits; what costs too much even then keeps FP32 weights.

Chosen before other weights are fitted, so that later layers make up for what is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from onnx import ModelProto, NodeProto

from converter.findings import StepTaken
from converter.graph import Graph
from converter.quantization.integer_weights import stored_weights
from converter.quantization.treatments import Treatment, treat
from converter.scores import judged_tensors
from converter.sessions import Array, Feeds, open_session, split

__all__ = ["FLOAT_WEIGHTS", "Stored", "choose_stored"]

FLOAT_WEIGHTS = "float-weights"  # the step's name
MOST_HALVED = 8  # parts of the weights: of a hundred layers that tells the few that cost most
PRICE = 0.07  # of the error there is anyway: 0.3 dB
NEGLIGIBLE = 1e-6  # of an output's variance: a thousandth of its deviation, far below what codes of 8 bits can show

Errors = Mapping[str, float]  # of each output, squared and relative to its variance


@dataclass(frozen=True)
class Stored:
    """The float nodes whose weights are to be integers of 8 and of 16 bits in the file, and what the report says."""

    narrow: frozenset[str] = frozenset()
    wide: frozenset[str] = frozenset()
    steps: tuple[StepTaken, ...] = ()


@dataclass(frozen=True)
class _Unit:
    """Nodes that share weights, which are in the file once."""

    nodes: tuple[str, ...]
    weights: int


@dataclass(frozen=True)
class _Part:
    """Units whose weights were rounded together, and what that cost each output."""

    units: tuple[_Unit, ...]
    errors: Errors

    def share(self, room: Errors) -> float:
        """The part of an output's room that they take, the largest of all outputs."""
        return max((error / max(room[name], 1e-30) for name, error in self.errors.items()), default=math.inf)

    def price(self, room: Errors) -> float:
        """The same for each weight that is stored."""
        return self.share(room) / sum(unit.weights for unit in self.units)


def choose_stored(
    model: ModelProto,
    able: AbstractSet[str],
    feeds: Sequence[Feeds],
    before: Errors | None,
    acceptable: float,
    *,
    sure: bool = True,
) -> Stored:
    """The widths of the weights of the float model's nodes ``able``, by what rounding them costs on ``feeds``.

    ``before`` is what rounding activations costs anyway, or None where nothing computes on integers: rounded weights
    are then all there is to lose, and may cost what is ``acceptable``. Else it may cost a small share of what the worst
    of the model's outputs loses anyway: what a file is judged by. It may not cost as much as that: a network of sounds
    fell from 39.7 to 22.1 dB that way (tests/bench/RESULTS.md). Where so few feeds are not ``sure`` to tell, 8 bits are
    not tried: on one sample a layer of a detector cost less than a fifth of what it did on others.
    """
    graph = Graph(model)
    units = _units(graph, able)
    if not units:
        return Stored()
    places = judged_tensors(graph)
    measure = _Measure(model, places, feeds)
    known = before or {}
    worst = max((known.get(name, 0.0) for name in graph.output_names), default=0.0)
    free = acceptable if before is None else max(PRICE * worst, NEGLIGIBLE)
    room = {name: max(PRICE * known.get(name, 0.0), free) for name in places}
    added: Errors = {}
    stored: dict[str, Treatment] = {}
    tried = (Treatment.WEIGHTS, Treatment.WIDE_WEIGHTS) if sure or before is None else (Treatment.WIDE_WEIGHTS,)
    for treatment in tried:
        left = [unit for unit in units if stored.keys().isdisjoint(unit.nodes)]
        rest = {name: max(each - added.get(name, 0.0), NEGLIGIBLE) for name, each in room.items()}
        chosen = _chosen(left, measure, rest, treatment)
        stored |= dict.fromkeys((name for unit in chosen for name in unit.nodes), treatment)
        added = measure.errors(stored) if stored else {}
    stored = dict(treat(model, stored).nodes)
    narrow, wide = (
        frozenset(name for name, each in stored.items() if each is wanted)
        for wanted in (Treatment.WEIGHTS, Treatment.WIDE_WEIGHTS)
    )
    left_out = sum(len(unit.nodes) for unit in units) - len(stored)
    step = StepTaken(
        name=FLOAT_WEIGHTS,
        applied=bool(narrow or wide),
        sentence=f"Weights of nodes that compute in float are integers in the file: of 8 bits in {len(narrow)}"
        f"{f', of 16 in {len(wide)}, where 8 would cost the outputs too much or may' if wide else ''}"
        f"{f'; {left_out} keep FP32 weights, since 16 would too or save nothing' if left_out else ''}.",
        measure="estimated error of the worst output, before other weights are fitted",
        before=max(known.values(), default=None),
        after=max((error + added.get(name, 0.0) for name, error in known.items()), default=None),
        unit="relative squared error",
    )
    return Stored(narrow, wide, (step,))


def _chosen(
    units: Sequence[_Unit],
    measure: _Measure,
    room: Errors,
    treatment: Treatment,
) -> list[_Unit]:
    """The units that may have the treatment.

    Costly parts are halved until what each costs is known, and those are taken that cost least for what they save. What
    all of them cost together is measured at the end: errors of different roundings are independent, but not quite.
    """

    def rounded(chosen: Sequence[_Unit]) -> _Part:
        names = [name for unit in chosen for name in unit.nodes]
        return _Part(tuple(chosen), measure.errors(dict.fromkeys(names, treatment)))

    if not units:
        return []
    whole = rounded(units)
    if _fits([whole], room):
        return list(units)
    parts = [whole]
    for _ in range(MOST_HALVED):
        taken = _taken(parts, room)
        left = [part for part in parts if len(part.units) > 1 and not any(part is each for each in taken)]
        if not left:
            break
        worst = max(left, key=lambda part: part.share(room))
        middle = len(worst.units) // 2
        parts = [each for each in parts if each is not worst]
        parts += [rounded(half) for half in (worst.units[:middle], worst.units[middle:])]
    taken = _taken(parts, room)
    while (found := [unit for part in taken for unit in part.units]) and not _fits([rounded(found)], room):
        taken.pop()
    return found


def _taken(parts: Sequence[_Part], room: Errors) -> list[_Part]:
    """As many parts as there is room for, those first that cost least for what they save."""
    taken: list[_Part] = []
    for part in sorted(parts, key=lambda part: part.price(room)):
        if _fits([*taken, part], room):
            taken.append(part)
    return taken


def _fits(parts: Sequence[_Part], room: Errors) -> bool:
    """Whether the outputs have room for these parts; not where none could be compared."""
    return any(part.errors for part in parts) and all(error <= room[name] for name, error in _sum(parts).items())


def _sum(parts: Sequence[_Part]) -> dict[str, float]:
    names = parts[0].errors if parts else ()
    return {name: sum(part.errors[name] for part in parts) for name in names}


def _units(graph: Graph, able: AbstractSet[str]) -> list[_Unit]:
    """The nodes in groups that share weights, in the order of the model."""
    groups: dict[str, list[NodeProto]] = {}  # by every weight in them
    for node in graph.nodes:
        if node.name not in able or not (weights := stored_weights(node, graph)):
            continue
        sharing = {id(groups[name]): groups[name] for name in weights if name in groups}
        merged = [*(each for some in sharing.values() for each in some), node]
        groups |= dict.fromkeys(_sizes(merged, graph), merged)
    distinct = {id(each): each for each in groups.values()}.values()
    return [_Unit(tuple(node.name for node in each), sum(_sizes(each, graph).values())) for each in distinct]


def _sizes(nodes: Iterable[NodeProto], graph: Graph) -> dict[str, int]:
    """Each weight of the nodes that could be integers, and how many numbers it has."""
    return {name: math.prod(graph.initializers.shape(name)) for node in nodes for name in stored_weights(node, graph)}


@dataclass(frozen=True)
class _Measure:
    """What rounding weights costs the float model's outputs, seen at ``places`` on samples."""

    model: ModelProto
    places: Sequence[str]
    feeds: Sequence[Feeds]

    def errors(self, stored: Mapping[str, Treatment]) -> Errors:
        """The error with these weights rounded, of all outputs that can be compared; infinite if no number."""
        found = self._run(treat(self.model, stored).model)
        errors: dict[str, float] = {}
        for name in self.places:
            pairs = [(one[name], other[name]) for one, other in zip(self._exact, found, strict=True)]
            if any(one.dtype.kind != "f" or one.shape != other.shape for one, other in pairs):
                continue
            values = np.concatenate([one.ravel() for one, _ in pairs]).astype(np.float64)
            difference = values - np.concatenate([other.ravel() for _, other in pairs])
            spread = float(np.square(values - values.mean()).sum())
            error = float(np.square(difference).sum()) / max(spread, 1e-30)
            errors[name] = error if math.isfinite(error) else math.inf
        return errors

    @cached_property
    def _exact(self) -> list[dict[str, Array]]:
        return self._run(self.model)

    def _run(self, model: ModelProto) -> list[dict[str, Array]]:
        outputs = {value.name for value in model.graph.output}
        session = open_session(model, also=[name for name in self.places if name not in outputs])
        return [
            dict(zip(self.places, map(np.asarray, session.run(list(self.places), part)), strict=True))
            for part, _ in split(session, self.feeds)
        ]
