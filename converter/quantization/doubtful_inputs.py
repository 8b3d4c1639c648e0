"""The layers that an input of unsettled preprocessing reaches first stay in float: its grid must not lose everything.

Every other range lies behind a layer that training fitted to its inputs, and is as wide as the layer's results; the
grid of the input itself is only as right as the guess. On MobileNetV2 with a wrong guess, the input alone made the
difference between 54 and 92 % of unchanged decisions (a measurement of 2026-11-24).
"""

from __future__ import annotations

from collections.abc import Iterable

from converter.graph import Graph, weight_of
from converter.inputs.plans import CONVENTIONAL, SURE, InputPlan

__all__ = ["first_layers_in_doubt"]


def first_layers_in_doubt(graph: Graph, plans: Iterable[InputPlan]) -> dict[str, str]:
    """Every node from an unsettled input to the first layers with weights, these included, and why it stays in float.

    Empty where every preprocessing is stated or all but certain, and where no layer would be left for integers: ranges
    that cover what is open are then all that can be done.
    """
    kept: dict[str, str] = {}
    for plan in plans:
        if plan.kind not in CONVENTIONAL or plan.confidence >= SURE:
            continue
        reason = f"the scale of the input {plan.name} is only {plan.confidence:.0%} sure; stated, this runs on integers"
        pending, seen = [plan.name], {plan.name}
        while pending:
            for node in graph.consumers(pending.pop()):
                kept[node.name] = reason
                following = [each for each in node.output if each and each not in seen]
                seen.update(following)
                if not weight_of(node, graph):
                    pending += following
    others = any(weight_of(node, graph) and node.name not in kept for node in graph.nodes)
    return kept if others else {}
