"""Networks that get their state back: what errors become when each model goes its own way.

A small error of one step may grow in a loop, which single steps do not show. So an integer model is judged by how it
ends up apart from FP32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from converter.graph import Graph
from converter.inputs.plans import InputKind, InputPlan, assemble, batch_limit
from converter.inputs.states import TOGETHER, returned_states
from converter.sessions import open_session

__all__ = ["ClosedLoop", "run_closed_loop"]

STEPS = 32  # that the models go their own ways
EQUAL = 120.0  # dB


@dataclass(frozen=True)
class ClosedLoop:
    """How far the integer model is from FP32 over ``steps`` steps on its own states: the worst output's SQNR in dB.

    Minus infinity over no steps where the loop cannot be closed: a state that does not come back as it went in, or
    numbers that are none. A cache that is only appended to makes no loop.
    """

    sqnr_db: float
    steps: int

    def __str__(self) -> str:
        if self.sqnr_db == -math.inf:
            return "no loop could be followed, since a state does not come back as it went in or overflows"
        return f"over {self.steps} steps on its own states its worst output was {self.sqnr_db:.1f} dB above the error"


UNCLOSED = ClosedLoop(-math.inf, 0)


def run_closed_loop(
    float32: ModelProto,
    integer: ModelProto,
    graph: Graph,
    plans: tuple[InputPlan, ...],
    raw: Mapping[str, NDArray[Any]],
) -> ClosedLoop | None:
    """Both models over the samples one after another, each fed its own states; None without states."""
    pairs = returned_states(graph, plans)
    wanted = [plan.name for plan in plans if plan.kind is InputKind.STATE and not is_cache(plan.name, graph)]
    if not wanted:
        return None
    if len(pairs) < len(wanted):
        return UNCLOSED
    names = [output.name for output in graph.outputs if output.dtype.startswith("float")]
    count, size = len(next(iter(raw.values()))), batch_limit(plans, TOGETHER)
    results = []
    for model in (float32, integer):
        session, states, found = open_session(model), dict[str, NDArray[Any]](), list[list[NDArray[Any]]]()
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


def is_cache(state: str, graph: Graph) -> bool:
    """Whether the model only appends to this state, as decoders do to their keys and values.

    What is kept there is what one run over the whole sequence would compute: no error comes back into its own making,
    so that a figure of one step shows all of it.
    """
    return any(node.op_type == "Concat" and node.output[0] in graph.output_names for node in graph.consumers(state))


def _sqnr(reference: NDArray[Any], other: NDArray[Any]) -> float:
    """In dB, of what varies in an output, or of all of it where nothing does; ``EQUAL`` at most."""
    noise = float(np.square(reference - other, dtype=np.float64).mean())
    signal = float(reference.var(dtype=np.float64)) or float(np.square(reference, dtype=np.float64).mean())
    if not math.isfinite(noise):
        return -math.inf
    if noise == 0.0:
        return EQUAL
    return min(10 * math.log10(max(signal, 1e-30) / noise), EQUAL)
