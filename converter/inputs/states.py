"""Networks that get their state back at the next step: whose states calibration has seen, and what errors become.

A single step shows neither: at the start of a sequence every state is zero, and a small error of one step may grow in a
loop. So calibration hears a few steps first, and an integer model is judged by how it ends up apart from FP32 when each
goes its own way.
"""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converter.graph import Graph
from converter.inputs.plans import InputKind, InputPlan, assemble, batch_limit
from converter.inputs.recognition import compatible
from converter.reconstruction import Reconstruction

__all__ = ["returned_states", "settle_states"]

Raw = dict[str, NDArray[Any]]
SETTLING = 8  # steps before the one that calibrates
TOGETHER = 8  # sequences at a time


def returned_states(graph: Graph, plans: tuple[InputPlan, ...]) -> dict[str, str]:
    """The output that becomes each state input at the next step: of its type and shape, and of the likest name."""
    free = {output.name: output for output in graph.outputs}
    declared = {each.name: each for each in graph.inputs}
    pairs = {}
    for plan in plans:
        if plan.kind is not InputKind.STATE:
            continue
        given = declared[plan.name]
        fitting = [
            output.name
            for output in free.values()
            if output.dtype == given.dtype
            and output.shape is not None
            and given.shape is not None
            and len(output.shape) == len(given.shape)
            and compatible(output.shape, given.shape)
        ]
        if fitting:
            pairs[plan.name] = max(fitting, key=lambda name: SequenceMatcher(None, plan.name, name).ratio())
            del free[pairs[plan.name]]
    return pairs


def settle_states(network: Reconstruction, graph: Graph, plans: tuple[InputPlan, ...], raw: Raw) -> Raw:
    """The samples with the states that the network has after some steps of other samples instead of zeros.

    As they are where a state comes back in another shape.
    """
    pairs = returned_states(graph, plans)
    if not pairs:
        return raw
    count = len(next(iter(raw.values())))
    settled = dict(raw)
    for turn in range(SETTLING, 0, -1):
        heard = {name: values if name in pairs else np.roll(values, turn, axis=0) for name, values in settled.items()}
        size = batch_limit(plans, TOGETHER)
        parts = []
        for start in range(0, count, size):
            feeds = assemble(plans, heard, slice(start, start + size))
            with torch.no_grad():
                found = network.run(
                    {name: torch.from_numpy(each) for name, each in feeds.items()}, list(pairs.values())
                )
            if any(found[output].shape != feeds[name].shape for name, output in pairs.items()):
                return raw
            parts.append({name: found[output].numpy() for name, output in pairs.items()})
        settled |= {
            plan.name: np.concatenate([_by_sample(plan, part[plan.name]) for part in parts])
            for plan in plans
            if plan.name in pairs
        }
    return settled


def _by_sample(plan: InputPlan, state: NDArray[Any]) -> NDArray[Any]:
    """A state as raw samples have it: [N, *shape]."""
    return state[None] if plan.batch_axis is None else np.moveaxis(state, plan.batch_axis, 0)
