"""GENIE-D (Jeon, Lee, Kim, CVPR 2023, arXiv 2212.04780; code SamsungLabs/Genie, distill.py).

For every batch a fresh generator and the batch's latent vectors, N(0, 1) of 256 numbers each, are trained together to
    sum over BatchNorms of ||mean - mu||^2 + ||std - sigma||^2, plus the image's own mean and deviation against 0 and 1,
so that nothing is amortised over batches and the generator is only a prior for pictures. Every convolution with a
stride reads its input reflect-padded by one and cropped back at a random place (swing convolution), one draw a step for
the whole batch, which spares the samples the checkerboards that fixed strides put into gradients.

Learning rates as the code has them, which is the opposite of what its arguments are called: 0.1 for latent vectors
(reduced on plateaus, floor 1e-4), 0.01 for the generator (times 0.95 every 100 steps).

Departures: 4,000 steps on batches of 128 become what the time allows on batches of 32; the schedule shrinks along. The
sum over layers weighs channels by the target's deviation (in the code's plain sum the widest layers decide, which long
training makes up for), and where the file has no BatchNorm the targets are propagated moments, without which
the method would be no more than normalised generator noise. Swing shifts a tensor only if every layer that reads it
has a stride, since a residual sum would otherwise add up displaced pictures.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from converter.graph import Graph, attribute
from converter.synthesis.canvas import Canvas, canvases, join, mean_curve, settle_effort
from converter.synthesis.generators import LATENT, new_generators
from converter.synthesis.problem import Problem, Samples
from converter.synthesis.statistics import Target, find_targets, normalized_distance
from converter.synthesis.zeroq import BATCH, FLOOR, image_targets

__all__ = ["STEPS", "swings", "synthesize_genie"]

STEPS = 4000
LATENT_RATE = 0.1
GENERATOR_RATE = 0.01
DECAY = 0.95
DECAYS = 40  # in a run: every 100 of 4,000 steps

Edit = Callable[[Tensor], Tensor]


def synthesize_genie(problem: Problem, count: int, seed: int, steps: int) -> Samples:
    """Samples of a generator trained for each batch, whose statistics approach BatchNorm's, or propagated ones."""
    targets = find_targets(problem, seed)
    batches = canvases(problem, count, BATCH, seed)
    if not batches[0].plans:
        return Samples(join([canvas.raw({}) for canvas in batches]), (), "drawn from the prior: no input to generate")
    cost = problem.multiply_adds + new_generators(batches[0].plans, seed).multiply_adds
    count, steps = settle_effort(replace(problem, multiply_adds=cost), count, steps, BATCH)
    batches = canvases(problem, count, BATCH, seed)
    parts, curves = [], []
    for index, canvas in enumerate(batches):
        share = (index / len(batches), (index + 1) / len(batches))
        free, curve = _train(problem, canvas, targets, steps, seed + index, share)
        parts.append(canvas.raw(free))
        curves.append(curve)
    source = targets[0].source if targets else "no layer"
    words = f"{count} samples of generators trained towards statistics by {source} (GENIE-D)"
    return Samples(join(parts), mean_curve(curves), words)


def _train(
    problem: Problem, canvas: Canvas, targets: tuple[Target, ...], steps: int, seed: int, share: tuple[float, float]
) -> tuple[dict[str, Tensor], list[float]]:
    """One batch and the loss before every step."""
    generators = new_generators(canvas.plans, seed)
    random = torch.Generator().manual_seed(seed)
    latent = torch.randn((canvas.count, LATENT), generator=random).requires_grad_(True)
    on_latent = torch.optim.Adam([latent], lr=LATENT_RATE)
    on_generator = torch.optim.Adam(generators.parameters(), lr=GENERATOR_RATE)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(on_latent, min_lr=FLOOR, patience=max(steps // DECAYS, 1))
    decay = torch.optim.lr_scheduler.StepLR(on_generator, max(steps // DECAYS, 1), DECAY)
    edits = swings(problem.graph, random)
    curve: list[float] = []
    for step in range(steps):
        free = generators(latent)
        values = problem.network.run(canvas.feeds(free), [each.tensor for each in targets], edit=edits)
        loss = normalized_distance(values, targets) + normalized_distance(free, image_targets(canvas, free))
        curve.append(loss.item())
        if not math.isfinite(curve[-1]) or time.monotonic() > problem.deadline:
            break
        on_latent.zero_grad()
        on_generator.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        on_latent.step()
        on_generator.step()
        plateau.step(curve[-1])
        decay.step()
        problem.progress(share[0] + (share[1] - share[0]) * (step + 1) / steps)
    with torch.no_grad():
        free = generators(latent)
    canvas.clamp(free)
    return free, curve


def swings(graph: Graph, random: torch.Generator) -> dict[str, Edit]:
    """For every tensor that only strided convolutions read, a shift by up to one place in each axis, new each time."""

    def shift(value: Tensor) -> Tensor:
        height, width = value.shape[2:]
        if min(height, width) < 2:
            return value
        y, x = torch.randint(0, 3, (2,), generator=random).tolist()
        padded = torch.nn.functional.pad(value, (1, 1, 1, 1), mode="reflect")
        return padded[:, :, y : y + height, x : x + width]

    found: dict[str, Edit] = {}
    for node in graph.nodes:
        if node.op_type != "Conv":
            continue
        readers = graph.consumers(node.input[0])
        strided = all(each.op_type == "Conv" and max(attribute(each, "strides", [1, 1])) > 1 for each in readers)
        if strided and len(attribute(node, "strides", [])) == 2:
            found[node.input[0]] = shift
    return found
