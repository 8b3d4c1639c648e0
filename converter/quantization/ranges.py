"""The range of every quantized activation: stated by the graph, or chosen by what was observed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from converter.families import SIGMOIDS
from converter.graph import Graph, attribute
from converter.quantization.activation_functions import function_after
from converter.quantization.calibration import Observer, RangeRule
from converter.quantization.joined_ranges import join_ranges
from converter.quantization.qdq_writer import Range
from converter.reconstruction import Reconstruction
from converter.targets import SYMMETRIC

__all__ = ["choose_ranges", "stated_bounds"]

STATED = "stated by the graph"


def choose_ranges(
    network: Reconstruction,
    graph: Graph,
    observed: Mapping[str, Observer],
    nodes: frozenset[str],
    shared: Mapping[str, str],
    rule: RangeRule,
    coarse: Collection[str] = (),
    margin: float = 1.0,
    stated: Mapping[str, Range] = MappingProxyType({}),
    levels: int = 256,
) -> dict[str, Range]:
    """The range of each observed tensor, for ``nodes`` on integers.

    ``shared`` maps each quantized tensor to the one whose range it has, ``coarse`` are tensors of 16 codes, ``margin``
    widens what was observed, ``stated`` ranges are taken as they are. ``levels`` are the codes of all others; of
    symmetric ones every range is so far below zero as above.
    """
    ranges = {}
    for name, observer in observed.items():
        function = function_after(name, graph, network) if rule is RangeRule.MSE else None
        chosen = observer.range(rule, 16 if name in coarse else levels, function)
        widened = chosen if name in coarse or rule is RangeRule.MINMAX else chosen.scaled(margin)
        found = stated.get(name) or stated_bounds(name, graph, widened)
        ranges[name] = replace(found, levels=levels).widened() if levels == SYMMETRIC else found
    return join_ranges(graph, nodes, shared, ranges)


def stated_bounds(name: str, graph: Graph, observed: Range) -> Range:
    """The bounds that the graph itself states for a tensor, else what was observed."""
    node = graph.producer(name)
    if node is None:
        return observed
    if node.op_type in SIGMOIDS | {"Softmax"}:
        return Range(0.0, 1.0, STATED, observed.levels)
    if node.op_type == "Clip" and observed.levels != 16:
        bounds = [graph.initializers.get(each) if each else None for each in (*node.input[1:3], "", "")[:2]]
        low = float(bounds[0].item()) if bounds[0] is not None else float(attribute(node, "min", -np.inf))
        high = float(bounds[1].item()) if bounds[1] is not None else float(attribute(node, "max", np.inf))
        if observed.high > high / 2 and high != np.inf:  # an activation that never nears its bound would waste codes
            return Range(max(low, min(observed.low, 0.0)), high, STATED, observed.levels)
    return observed
