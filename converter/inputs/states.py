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
from converter.inputs.returning import compatible
from converter.reconstruction import Reconstruction

__all__ = ["fill_caches", "returned_states", "settle_states"]

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
        if plan.returned in free:
            pairs[plan.name] = plan.returned
            del free[plan.returned]
            continue
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


def settle_states(
    network: Reconstruction, graph: Graph, plans: tuple[InputPlan, ...], raw: Raw, together: int = TOGETHER
) -> Raw:
    """The samples with the states that the network has after some steps of other samples instead of zeros.

    As they are where a state comes back in another shape. Caches hold what the network makes of earlier tokens.
    """
    raw = fill_caches(network, plans, raw)
    pairs = returned_states(graph, plans)
    if not pairs or not raw:
        return raw
    count = len(next(iter(raw.values())))
    settled = dict(raw)
    for turn in range(SETTLING, 0, -1):
        heard = {name: values if name in pairs else np.roll(values, turn, axis=0) for name, values in settled.items()}
        size = batch_limit(plans, together)
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


def fill_caches(network: Reconstruction, plans: tuple[InputPlan, ...], raw: Raw) -> Raw:
    """The samples with the keys and values that the network itself makes of other samples' tokens in their caches.

    They have the means, deviations and directions of real ones. Without an output that appends to them, caches stay as
    they are.
    """
    caches = [plan for plan in plans if plan.kind is InputKind.CACHE and plan.returned is not None]
    if not caches or not raw:
        return raw
    count, size = len(next(iter(raw.values()))), batch_limit(plans, TOGETHER)
    filled = dict(raw)
    for _ in range(2):  # first on zeros, then on what those made
        made: dict[str, list[NDArray[Any]]] = {plan.name: [] for plan in caches}
        for start in range(0, count, size):
            feeds = assemble(plans, filled, slice(start, start + size))
            outputs = [plan.returned for plan in caches if plan.returned is not None]
            with torch.no_grad():
                found = network.run({name: torch.from_numpy(each) for name, each in feeds.items()}, outputs)
            for plan in caches:
                appended = _appended(feeds[plan.name], found[plan.returned or ""].numpy())
                if appended is None:
                    return raw
                made[plan.name].append(_by_sample(plan, appended))
        filled |= {plan.name: _earlier(np.concatenate(made[plan.name]), raw[plan.name].shape) for plan in caches}
    return filled


def _appended(before: NDArray[Any], after: NDArray[Any]) -> NDArray[Any] | None:
    """What a cache has gained, along the one axis along which it grew; None where it grew along none."""
    axes = [axis for axis, (old, new) in enumerate(zip(before.shape, after.shape, strict=True)) if new > old]
    if len(axes) != 1 or before.ndim != after.ndim:
        return None
    return np.moveaxis(np.moveaxis(after, axes[0], 0)[before.shape[axes[0]] :], 0, axes[0])


def _earlier(made: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """[N, *] of the shape of a cache, from the steps [N, *] of the samples before each: N times in turn if too few."""
    axis = next((each for each in range(1, made.ndim) if made.shape[each] != shape[each]), None)
    if axis is None:
        return np.roll(made, 1, axis=0)
    places = np.arange(shape[axis])
    steps = np.moveaxis(made, axis, 1)  # [N, steps, ...]
    samples = (np.arange(len(made))[:, None] - 1 - places // steps.shape[1]) % len(made)
    return np.moveaxis(steps[samples, places % steps.shape[1]], 1, axis)


def _by_sample(plan: InputPlan, state: NDArray[Any]) -> NDArray[Any]:
    """A state as raw samples have it: [N, *shape]."""
    return state[None] if plan.batch_axis is None else np.moveaxis(state, plan.batch_axis, 0)
