"""ZeroQ's distilled data (Cai et al., CVPR 2020, arXiv 2001.00281; code amirgholami/ZeroQ).

From noise x, minimise over the pixels (eq. 3 of the paper)
    sum_i ||mean_i(x) - mu_i||^2 + ||std_i(x) - sigma_i||^2,   i = 0 the picture itself with mu = 0 and sigma = 1,
mu_i and sigma_i being the running statistics of BatchNorm i and mean_i(x), std_i(x) those of its input, by Adam.

``Variant.PAPER`` starts from N(0, 1) and takes the statistics over the batch. ``Variant.CODE`` does what the published
code does: it starts from uniform numbers of deviation 0.0136 (a variance took the place of a deviation there), and asks
every single sample to have the statistics of the whole population.

Departures, of both: statistics are matched at the very tensor that each BatchNorm read, never by the order of modules;
where BatchNorm was folded, its output is matched in the units of its input, which is the same; where the file never
had one, propagated moments are the targets. Pictures stay within black and white, because the integer input spans no
more. The code's 500 steps are cut to what the time allows, its patience of the learning rate (0.5 in the code, 0.1
in its second file, which did better here within few steps) in proportion.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from enum import StrEnum

import torch
from torch import Tensor

from converter.inputs.plans import COLOURED
from converter.synthesis.canvas import Canvas, affordable_steps, canvases, join
from converter.synthesis.problem import Problem, Samples
from converter.synthesis.statistics import Target, find_targets, squared_distance

__all__ = ["BATCH", "STEPS", "Variant", "adjust", "synthesize_zeroq"]

BATCH = 32  # samples distilled together, in one batch as in the code
STEPS = 500
RATE = 0.1
FLOOR = 1e-4
DECAYS = 5  # patiences of the learning rate in a run, as in the code

Values = dict[str, Tensor]
Loss = Callable[[Canvas, Values, Values], Tensor]  # of a batch, its adjustable inputs and fetched tensors


class Variant(StrEnum):
    """The method as the paper tells it, or as its code does it."""

    PAPER = "paper"
    CODE = "code"


def synthesize_zeroq(problem: Problem, count: int, seed: int, steps: int, variant: Variant = Variant.PAPER) -> Samples:
    """One batch of distilled samples whose statistics approach BatchNorm's, or propagated ones."""
    targets = find_targets(problem, seed)
    generator = torch.Generator().manual_seed(seed)
    canvas = canvases(problem, min(count, BATCH), BATCH, seed)[0]
    steps = affordable_steps(problem, steps, canvas.count)
    free = canvas.noise(generator)
    if variant is Variant.CODE:
        free = {
            name: (torch.rand(value.shape, generator=generator) - 0.5) * 255 / 5418.75 for name, value in free.items()
        }
    distance = squared_distance if variant is Variant.PAPER else _per_sample
    loss = adjust(
        problem,
        canvas,
        free,
        [each.tensor for each in targets],
        lambda canvas, inputs, values: distance(values, targets) + distance(inputs, image_targets(canvas, inputs)),
        steps,
        RATE,
    )
    source = targets[0].source if targets else "no layer"
    words = f"{canvas.count} samples distilled from noise towards statistics by {source} (ZeroQ, {variant})"
    return Samples(join([canvas.raw(free)]), tuple(loss), words)


def image_targets(canvas: Canvas, inputs: Values) -> list[Target]:
    """Layer 0: each picture has mean 0 and deviation 1 in every channel; of other inputs nobody knows."""
    targets = []
    for plan in canvas.plans:
        if plan.kind in COLOURED:
            axis = inputs[plan.name].dim() - 1 if plan.channels_last else 1
            one = torch.ones(plan.channels)
            targets.append(Target(plan.name, axis, torch.zeros(plan.channels), one, one, "N(0, 1)"))
    return targets


def _per_sample(values: Values, targets: Sequence[Target]) -> Tensor:
    """The distance of every sample by itself, averaged, as in the code."""
    count = len(values[targets[0].tensor]) if targets else 0
    parts = [
        squared_distance({each.tensor: values[each.tensor][index : index + 1] for each in targets}, targets)
        for index in range(count)
    ]
    return torch.stack(parts).mean() if parts else torch.zeros(())


def adjust(
    problem: Problem,
    canvas: Canvas,
    free: Values,
    fetch: Sequence[str],
    loss: Loss,
    steps: int,
    rate: float,
    share: tuple[float, float] = (0.0, 1.0),
) -> list[float]:
    """``free`` has been moved down the loss by Adam, in place; returns the loss before every step.

    ``share`` is the part of the method's progress that these steps are.
    """
    if not free:
        return []
    for value in free.values():
        value.requires_grad_(True)
    optimizer = torch.optim.Adam(list(free.values()), lr=rate)
    patience = max(steps // DECAYS, 1)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, min_lr=FLOOR, patience=patience)
    curve: list[float] = []
    for step in range(steps):
        value = loss(canvas, free, problem.network.run(canvas.feeds(free), fetch))
        curve.append(value.item())
        if not math.isfinite(curve[-1]) or not value.requires_grad or time.monotonic() > problem.deadline:
            break
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step(curve[-1])
        canvas.clamp(free)
        problem.progress(share[0] + (share[1] - share[0]) * (step + 1) / steps)
    for each in free.values():
        each.requires_grad_(False)
    return curve
