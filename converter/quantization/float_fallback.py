"""Which nodes are better left in float: those whose rounding hurts the outputs most for the time that integers would
save.

Greedy: starting from every node on integers, the tensor whose removal from the integer model saves most damage for its
price is taken out with the nodes around it, until the price exceeds a small share of the whole. Some removals are free,
for onnxruntime's integer kernels are slower than its float ones on few channels: on MobileNetV1 0.25 leaving the first
two convolutions in float is faster and removes four fifths of the activations' damage (tests/bench/RESULTS.md). Prices
are estimates, never measurements, so that the same model always gives the same result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from onnx import NodeProto

from converter.families import RECTIFIERS
from converter.graph import Graph, multiply_adds, weight_of
from converter.options import Prefer
from converter.quantization.costs import crossing_cost, node_cost
from converter.quantization.placement import Placement, candidates, place, quantized_tensors
from converter.targets import ONNXRUNTIME, Convention

__all__ = ["ACCEPTABLE", "FEW_WEIGHTS", "Floor", "choose_precision", "integer_cost"]

Costs = Mapping[str, tuple[float, float]]  # of each node, in float and on integers

SLACK = 0.03  # of the all-integer model's estimated time
FLOAT_WEIGHTS = 0.03  # of all weights may stay float for accuracy's sake (0.02 kept ViT's worst layer on integers),
FEW_WEIGHTS = 4096  # or so many, 12 kB of the file, but no more than a quarter: DS-CNN's first layers are 14 % of it
LEAST_GAIN = 0.01  # of the whole damage, below which a removal is not worth its entry in the report
WORST = 12  # tensors considered at a time
ACCEPTABLE = {Prefer.ACCURACY: 0.01, Prefer.SPEED: 0.03}  # of an output's variance that rounding activations may cost
# 20 dB: below 15 dB on real inputs a result is not worth shipping; real inputs show 3.5 dB more error than synthesized
# ones (a factor of 0.67 in amplitude), and weights take the rest. 15 dB for who prefers speed.
FLOAT_OVER_INTEGER = 4  # a float is four bytes
ROUND = 0.25  # of the damage is left by one round of removals, at least, before the error is measured again


@dataclass(frozen=True)
class Floor:
    """The error of the outputs that a placement may have at most, relative to their variance, and how it is measured:
    with every activation of the placement rounded at once, on samples.
    """

    acceptable: float
    measure: Callable[[Placement], float]


@dataclass(frozen=True)
class _State:
    placement: Placement
    damage: float
    cost: float
    float_weights: int


def choose_precision(
    graph: Graph,
    damage: Mapping[str, float],
    elements: Mapping[str, int],
    kept_float: Mapping[str, str],
    few: int = FEW_WEIGHTS,
    floor: Floor | None = None,
    convention: Convention = ONNXRUNTIME,
) -> Placement:
    """The placement with the least damage within the time and size allowed for float nodes.

    Where the outputs' measured error is above the ``floor``, more nodes become float, those first that save most damage
    for their time, until it is not, or until integers would save no time.

    ``damage`` is each tensor's when rounded alone, ``elements`` the size of one sample of each tensor, ``few`` so many
    weights as may be float in the smallest network too.
    """
    estimate = _Estimate.of(graph, damage, elements, convention)
    weights = sum(estimate.weights.values())
    state = estimate.state(kept_float)
    limit, whole = state.cost * (1 + SLACK), max(state.damage, 1e-30)
    room = state.float_weights + max(FLOAT_WEIGHTS * weights, min(few, weights / 4))
    greedy = _Removals(estimate, whole)
    state = greedy.remove(state, lambda trial: trial.cost <= limit and trial.float_weights <= room)
    if floor is None:
        return state.placement
    slowest = max(estimate.state({node.name: "" for node in graph.nodes}).cost, state.cost)
    while (error := floor.measure(state.placement)) > floor.acceptable:
        goal = state.damage * max(floor.acceptable / error, ROUND)
        further = greedy.remove(state, lambda trial: trial.cost <= slowest, goal)
        if further is state:
            break
        state = further
    return state.placement


@dataclass(frozen=True)
class _Estimate:
    """What placements cost: of hundreds that are tried, each node is looked at once."""

    graph: Graph
    damage: Mapping[str, float]
    elements: Mapping[str, int]
    convention: Convention
    able: frozenset[str]
    weights: Mapping[str, int]  # of every node
    costs: Costs

    @classmethod
    def of(
        cls, graph: Graph, damage: Mapping[str, float], elements: Mapping[str, int], convention: Convention
    ) -> _Estimate:
        weights = {node.name: _weight_size(node, graph) for node in graph.nodes}
        costs = _node_costs(graph, elements, convention)
        return cls(graph, damage, elements, convention, candidates(graph, convention), weights, costs)

    def state(self, kept_float: Mapping[str, str]) -> _State:
        """The best placement that leaves these nodes in float, and what it costs."""
        placement = place(self.graph, kept_float, self.convention, self.able)
        harm = sum(self.damage.get(tensor, 0.0) for tensor in sorted(placement.rounded))
        cost = integer_cost(self.graph, placement, self.elements, self.convention, self.costs)
        in_float = sum(size for name, size in self.weights.items() if name not in placement.nodes)
        return _State(placement, harm, cost, in_float)


@dataclass(frozen=True)
class _Removals:
    """Tensors no longer rounded, one after another, the one first that saves most damage for its time."""

    estimate: _Estimate
    whole: float

    def remove(self, state: _State, allowed: Callable[[_State], bool], goal: float = 0.0) -> _State:
        """The state after removals that are allowed, until the damage is at most ``goal`` or none helps."""
        graph, damage = self.estimate.graph, self.estimate.damage
        while state.damage > goal:
            best: _State | None = None
            for tensor in _worst_tensors(state.placement, damage):
                share = damage[tensor] / self.whole
                kept = state.placement.asked_float | _around(tensor, graph, state.placement, share)
                trial = self.estimate.state(kept)
                gain = state.damage - trial.damage
                if gain < LEAST_GAIN * (state.damage if goal else self.whole) or not allowed(trial):
                    continue
                if not _any_layer(graph, trial.placement):  # then the result would be the model that came
                    continue
                if best is None or _worth(state, trial) > _worth(state, best):
                    best = trial
            if best is None:
                return state
            state = best
        return state


def _any_layer(graph: Graph, placement: Placement) -> bool:
    return any(node.name in placement.nodes and weight_of(node, graph) for node in graph.nodes)


def _worth(before: _State, after: _State) -> tuple[bool, float]:
    """Free removals first, the largest gain first; then the most gain for the price."""
    gain, price = before.damage - after.damage, after.cost - before.cost
    return (price <= 0, gain if price <= 0 else gain / price)


def _node_costs(graph: Graph, elements: Mapping[str, int], convention: Convention = ONNXRUNTIME) -> Costs:
    """What each node costs on one sample in float and on integers: microseconds, roughly.

    Of runtimes that nobody timed, multiply-adds: those in float count as many times as bytes fit into a float.
    """
    if not convention.onnxruntime:
        work = {node.name: multiply_adds(node, graph, elements) for node in graph.nodes}
        return {name: (count * FLOAT_OVER_INTEGER, count) for name, count in work.items()}
    return {
        node.name: (node_cost(node, graph, elements, integer=False), node_cost(node, graph, elements, integer=True))
        for node in graph.nodes
    }


def integer_cost(
    graph: Graph,
    placement: Placement,
    elements: Mapping[str, int],
    convention: Convention = ONNXRUNTIME,
    costs: Costs | None = None,
) -> float:
    """What one sample costs: all kernels, ``costs`` where somebody has them already, and all crossings between float
    and integers that onnxruntime makes.
    """
    costs = _node_costs(graph, elements, convention) if costs is None else costs
    cost = sum(each[name in placement.nodes] for name, each in costs.items())
    if not convention.onnxruntime:
        return cost
    for tensor in quantized_tensors(graph, placement.nodes, convention):
        producer = graph.producer(tensor)
        if producer is None or producer.name not in placement.nodes:
            cost += crossing_cost(tensor, graph, elements, inwards=True)
        if any(reader.name not in placement.nodes for reader in graph.consumers(tensor)):
            cost += crossing_cost(tensor, graph, elements, inwards=False)
    return cost


def _worst_tensors(placement: Placement, damage: Mapping[str, float]) -> list[str]:
    return sorted(placement.rounded, key=lambda tensor: (-damage.get(tensor, 0.0), tensor))[:WORST]


def _around(tensor: str, graph: Graph, placement: Placement, share: float) -> dict[str, str]:
    """The integer nodes that must become float so that this tensor is no longer rounded, with the reason."""
    reason = f"rounding {tensor} made {share:.0%} of the damage to the outputs"
    nodes: list[NodeProto] = list(graph.consumers(tensor))
    producer = graph.producer(tensor)
    while producer is not None:
        nodes.append(producer)
        if producer.op_type not in RECTIFIERS:
            break
        producer = graph.producer(producer.input[0])
    return {node.name: reason for node in nodes if node.name in placement.nodes}


def _weight_size(node: NodeProto, graph: Graph) -> int:
    found = weight_of(node, graph)
    return math.prod(graph.initializers[found[0]].shape) if found else 0
