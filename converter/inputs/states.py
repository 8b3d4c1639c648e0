"""Networks that get their state back at the next step: whose states calibration has seen, and what errors become.

A single step shows neither: at the start of a sequence every state is zero, and a small error of one step may grow in a
loop. So calibration hears a few steps first, and an integer model is judged by how it ends up apart from FP32 when each
goes its own way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from converter.graph import Graph
from converter.inputs.plans import Feeds, InputKind, InputPlan, assemble, batch_limit, compatible
from converter.reconstruction import Reconstruction
from converter.sessions import open_session

__all__ = ["ClosedLoop", "returned_states", "run_closed_loop", "settle_states"]

Raw = dict[str, NDArray[Any]]
SETTLING = 8  # steps before the one that calibrates
TOGETHER = 8  # sequences at a time
STEPS = 32  # that the models go their own ways
EQUAL = 120.0  # dB


@dataclass(frozen=True)
class ClosedLoop:
    """How far the integer model is from FP32 over ``steps`` steps on its own states: the worst output's SQNR in dB.

    Minus infinity over no steps where the loop cannot be closed: a state that does not come back as it went in, such as
    a cache that grows, or numbers that are none.
    """

    sqnr_db: float
    steps: int

    def __str__(self) -> str:
        if self.sqnr_db == -math.inf:
            return "no loop could be followed, since a state does not come back as it went in or overflows"
        return f"over {self.steps} steps on its own states its worst output was {self.sqnr_db:.1f} dB above the error"


UNCLOSED = ClosedLoop(-math.inf, 0)


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


def run_closed_loop(
    float32: ModelProto,
    integer: ModelProto,
    graph: Graph,
    plans: tuple[InputPlan, ...],
    raw: Mapping[str, NDArray[Any]],
) -> ClosedLoop | None:
    """Both models over the samples one after another, each fed its own states; None without states."""
    pairs = returned_states(graph, plans)
    wanted = [plan.name for plan in plans if plan.kind is InputKind.STATE]
    if not wanted:
        return None
    if len(pairs) < len(wanted):
        return UNCLOSED
    names = [output.name for output in graph.outputs if output.dtype.startswith("float")]
    count, size = len(next(iter(raw.values()))), batch_limit(plans, TOGETHER)
    results = []
    for model in (float32, integer):
        session, states, found = open_session(model), Feeds(), list[list[NDArray[Any]]]()
        for step in range(STEPS):
            first = step * size % max(count - size + 1, 1)
            feeds = assemble(plans, raw, slice(first, first + size)) | states
            values = dict(zip(names, session.run(names, feeds), strict=True))
            states = {name: values[output] for name, output in pairs.items()}
            if any(states[name].shape != feeds[name].shape for name in wanted):
                return UNCLOSED
            found.append([values[name] for name in names])
        results.append([np.stack(series) for series in zip(*found, strict=True)])
    worst = min(_sqnr(*series) for series in zip(*results, strict=True))
    return ClosedLoop(worst, STEPS)


def _sqnr(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """In dB, of what varies in an output, or of all of it where nothing does; ``EQUAL`` at most."""
    noise = float(np.square(reference - other, dtype=np.float64).mean())
    signal = float(reference.var(dtype=np.float64)) or float(np.square(reference, dtype=np.float64).mean())
    if not math.isfinite(noise):
        return -math.inf
    if noise == 0.0:
        return EQUAL
    return min(10 * math.log10(max(signal, 1e-30) / noise), EQUAL)
