"""What the papers call the images: the adjustable inputs of a batch, in units in which N(0, 1) is the natural start.

The papers optimise normalised photographs. Here a picture of standardised units z is the raw picture
mean + deviation * z, kept within [0, 1], whatever scale the network wants; signals and features have unit deviation as
they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from converter.capacity import affordable, fitting, gradient_seconds
from converter.inputs.drawing import draw_inputs
from converter.inputs.plans import ADJUSTABLE, COLOURED, InputPlan, assemble, batch_limit, placed, tensors
from converter.synthesis.problem import Problem

__all__ = ["Canvas", "affordable_steps", "batch_size", "canvases", "join", "mean_curve", "settle_effort"]

MEAN, DEVIATION = 0.45, 0.25  # of photographs in [0, 1]; ImageNet's are 0.449 and 0.226
ENOUGH = 200  # steps, which are worth more than further samples
NODE_SECONDS = 3e-4  # of a step, forward and backward, that a node takes however small it is
PASSES = 2.5  # times a plain gradient step where layers are thin: statistics of all, in batches no cache holds
GRAPH_BYTES = 1 << 30  # that the activations of one batch may take while gradients flow

Free = dict[str, Tensor]


@dataclass(frozen=True)
class Canvas:
    """One batch: what may be adjusted (``plans``) and raw samples of everything else, drawn from the priors."""

    plans: tuple[InputPlan, ...]
    others: tuple[InputPlan, ...]
    fixed: Mapping[str, NDArray[Any]]
    start: int
    count: int

    def noise(self, generator: torch.Generator) -> Free:
        """N(0, 1) for every adjustable input."""
        return {plan.name: torch.randn((self.count, *plan.shape), generator=generator) for plan in self.plans}

    def feeds(self, free: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Network inputs, differentiable with respect to ``free``."""
        feeds = tensors(assemble(self.others, self.fixed))
        for plan in self.plans:
            scale, offset = plan.affine(self.start, self.count)
            raw = _raw(plan, free[plan.name])
            feeds[plan.name] = placed(plan, raw * torch.from_numpy(scale) + torch.from_numpy(offset))
        return feeds

    def clamp(self, free: Mapping[str, Tensor]) -> None:
        """Pictures are pictures again: nothing darker than black or brighter than white."""
        with torch.no_grad():
            for plan in self.plans:
                if plan.kind in COLOURED:
                    free[plan.name].clamp_(-MEAN / DEVIATION, (1 - MEAN) / DEVIATION)

    def raw(self, free: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
        """Raw samples of every input."""
        made = {plan.name: _raw(plan, free[plan.name].detach()).clone() for plan in self.plans}
        for plan in self.plans:
            if plan.kind in COLOURED:
                made[plan.name].clamp_(0, 1)
        return dict(self.fixed) | {name: value.float().numpy() for name, value in made.items()}


def _raw(plan: InputPlan, standardised: Tensor) -> Tensor:
    return MEAN + DEVIATION * standardised if plan.kind in COLOURED else standardised


def canvases(problem: Problem, count: int, wanted: int, seed: int) -> list[Canvas]:
    """``count`` samples in batches of about ``wanted``, fewer where the network's activations are large."""
    size, unit = batch_size(problem, wanted), batch_limit(problem.plans, 1)
    count = -(-count // unit) * unit  # a model that fixes its batches takes whole ones only
    generator = np.random.default_rng(seed)
    plans = tuple(plan for plan in problem.plans if plan.kind in ADJUSTABLE)
    others = tuple(plan for plan in problem.plans if plan.kind not in ADJUSTABLE)
    made = []
    for start in range(0, count, size):
        number = min(size, count - start)
        fixed = draw_inputs(others, number, generator)
        made.append(Canvas(plans, others, fixed, start, number))
    return made


def batch_size(problem: Problem, wanted: int) -> int:
    """How many samples share their statistics: ``wanted``, less where memory or the model does not allow it."""
    limit = batch_limit(problem.plans, wanted)
    if limit == 1 and all(plan.batch_axis is not None for plan in problem.plans):
        limit = wanted  # a graph for single samples takes batches in torch
    unit = batch_limit(problem.plans, 1)
    return max(affordable(problem.elements, min(wanted, limit), GRAPH_BYTES) // unit, 1) * unit


def affordable_steps(problem: Problem, wanted: int, samples: int) -> int:
    """How many of ``wanted`` steps fit the time, by the network's size and, where it is tiny, its number of nodes."""
    work, elements = samples * problem.multiply_adds, PASSES * samples * problem.elements
    one = gradient_seconds(work, elements, NODE_SECONDS * len(problem.graph.nodes))
    return fitting(one, problem.seconds, wanted, least=0)


def settle_effort(problem: Problem, count: int, steps: int, batch: int) -> tuple[int, int]:
    """How many samples and steps fit the time: fewer samples, but one batch, where steps would be too few."""
    affordable = affordable_steps(problem, steps, count)
    if affordable >= min(ENOUGH, steps):
        return count, affordable
    share = affordable / min(ENOUGH, steps)
    fewer = min(count, max(round(count * share), batch))
    return fewer, affordable_steps(problem, steps, fewer)


def mean_curve(curves: list[list[float]]) -> tuple[float, ...]:
    """The mean loss of the batches that came so far, step by step."""
    longest = max(map(len, curves), default=0)
    return tuple(float(np.mean([each[step] for each in curves if step < len(each)])) for step in range(longest))


def join(parts: list[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The raw samples of all batches after one another."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
