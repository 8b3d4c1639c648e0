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
from collections.abc import Mapping
from dataclasses import dataclass

from onnx import NodeProto

from converter.families import RECTIFIERS
from converter.graph import Graph, weight_of
from converter.quantization.costs import crossing_cost, node_cost
from converter.quantization.placement import Placement, place, quantized_tensors

__all__ = ["FEW_WEIGHTS", "choose_precision", "integer_cost"]

SLACK = 0.03  # of the all-integer model's estimated time
FLOAT_WEIGHTS = 0.03  # of all weights may stay float for accuracy's sake,
FEW_WEIGHTS = 4096  # or so many, 12 kB of the file, but no more than a quarter
LEAST_GAIN = 0.01  # of the whole damage, below which a removal is not worth its entry in the report
WORST = 12  # tensors considered at a time


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
) -> Placement:
    """The placement with the least damage within the time and size allowed for float nodes.

    ``damage`` is each tensor's when rounded alone, ``elements`` the size of one sample of each tensor, ``few`` so many
    weights as may be float in the smallest network too.
    """
    weights = sum(_weight_size(node, graph) for node in graph.nodes)
    state = _evaluate(graph, damage, elements, kept_float)
    limit, whole = state.cost * (1 + SLACK), max(state.damage, 1e-30)
    room = state.float_weights + max(FLOAT_WEIGHTS * weights, min(few, weights / 4))
    while True:
        best: _State | None = None
        for tensor in _worst_tensors(graph, state.placement, damage):
            kept = state.placement.asked_float | _around(tensor, graph, state.placement, damage[tensor] / whole)
            trial = _evaluate(graph, damage, elements, kept)
            gain = state.damage - trial.damage
            if gain < LEAST_GAIN * whole or trial.cost > limit or trial.float_weights > room:
                continue
            if best is None or _worth(state, trial) > _worth(state, best):
                best = trial
        if best is None:
            return state.placement
        state = best


def _worth(before: _State, after: _State) -> tuple[bool, float]:
    """Free removals first, the largest gain first; then the most gain for the price."""
    gain, price = before.damage - after.damage, after.cost - before.cost
    return (price <= 0, gain if price <= 0 else gain / price)


def _evaluate(
    graph: Graph, damage: Mapping[str, float], elements: Mapping[str, int], kept_float: Mapping[str, str]
) -> _State:
    placement = place(graph, kept_float)
    rounded = quantized_tensors(graph, placement.nodes)
    harm = sum(damage.get(tensor, 0.0) for tensor in sorted(set(rounded.values())))
    cost = integer_cost(graph, placement, elements)
    float_weights = sum(_weight_size(node, graph) for node in graph.nodes if node.name not in placement.nodes)
    return _State(placement, harm, cost, float_weights)


def integer_cost(graph: Graph, placement: Placement, elements: Mapping[str, int]) -> float:
    """Microseconds, roughly, of one sample: all kernels, and all crossings between float and integers."""
    cost = sum(node_cost(node, graph, elements, node.name in placement.nodes) for node in graph.nodes)
    for tensor in quantized_tensors(graph, placement.nodes):
        producer = graph.producer(tensor)
        if producer is None or producer.name not in placement.nodes:
            cost += crossing_cost(tensor, graph, elements, inwards=True)
        if any(reader.name not in placement.nodes for reader in graph.consumers(tensor)):
            cost += crossing_cost(tensor, graph, elements, inwards=False)
    return cost


def _worst_tensors(graph: Graph, placement: Placement, damage: Mapping[str, float]) -> list[str]:
    rounded = set(quantized_tensors(graph, placement.nodes).values())
    return sorted(rounded, key=lambda tensor: (-damage.get(tensor, 0.0), tensor))[:WORST]


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
