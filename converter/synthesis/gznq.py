"""GZNQ, generative zero-shot network quantization (He, Hu, Wang, Cheng, CVPR workshop 2021, arXiv 2101.08430).

Known from its abstract and first page: a generator is trained so that its samples have BatchNorm's statistics, category
by category, and the samples calibrate. Reported of the rest: channel gates turn the network into several sub-networks
that judge together ("ensemble by compression"). No code was published, and no figure of the method is known.

Inferred here, and therefore ours: one generator for all batches; a sample's category enters as a learned embedding
added to its latent vector; the loss is
    D(statistics) + CE(f(x), y) + CE(f_g(x), y),
D the distance of means and deviations in units of the targets' deviations, f the network and f_g one of GATES
sub-networks in turn, in each of which a fixed tenth of every gated layer's channels is silent, so that no sample
can please one narrow path; Adam at 0.01. A network without class scores is matched in statistics only. The paper goes
on to fine-tune the quantized network on the samples; here they calibrate, like those of every method.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from converter.synthesis.canvas import Canvas, affordable_steps, canvases, join
from converter.synthesis.generators import LATENT, new_generators
from converter.synthesis.problem import Problem, Samples
from converter.synthesis.statistics import Target, find_targets, normalized_distance
from converter.synthesis.zeroq import BATCH

__all__ = ["STEPS", "gates", "synthesize_gznq"]

STEPS = 500
RATE = 0.01
GATES = 4
SILENT = 0.1

Edit = Callable[[Tensor], Tensor]


def synthesize_gznq(problem: Problem, count: int, seed: int, steps: int) -> Samples:
    """Samples of one class-conditional generator trained against the network and its gated sub-networks."""
    targets = find_targets(problem, seed)
    batches = canvases(problem, count, BATCH, seed)
    if not batches[0].plans:
        return Samples(join([canvas.raw({}) for canvas in batches]), (), "drawn from the prior: no input to generate")
    random = torch.Generator().manual_seed(seed)
    generators = new_generators(batches[0].plans, seed)
    classes = _classes(problem, batches[0])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        embedding = nn.Embedding(max(classes, 1), LATENT)
    runs = 2 if classes else 1
    cost = runs * problem.multiply_adds + generators.multiply_adds
    steps = affordable_steps(
        replace(problem, multiply_adds=cost, elements=runs * problem.elements), steps, batches[0].count
    )
    edits = gates(targets, random) if classes else [{}]
    optimizer = torch.optim.Adam([*generators.parameters(), *embedding.parameters()], lr=RATE)
    curve: list[float] = []
    for step in range(steps):
        canvas = batches[0]
        wanted = torch.randint(max(classes, 1), (canvas.count,), generator=random)
        latent = torch.randn((canvas.count, LATENT), generator=random) + embedding(wanted)
        free = generators(latent)
        loss = _loss(problem, canvas, free, targets, wanted, edits[step % len(edits)])
        curve.append(loss.item())
        if not math.isfinite(curve[-1]) or time.monotonic() > problem.deadline:
            break
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        problem.progress((step + 1) / steps)
    parts = []
    for canvas in batches:
        with torch.no_grad():
            wanted = torch.randint(max(classes, 1), (canvas.count,), generator=random)
            parts.append(
                canvas.raw(generators(torch.randn((canvas.count, LATENT), generator=random) + embedding(wanted)))
            )
    judged = f"{classes} classes and {len(edits)} gated sub-networks" if classes else "statistics only"
    return Samples(join(parts), tuple(curve), f"{count} samples of one generator, judged by {judged} (GZNQ)")


def _classes(problem: Problem, canvas: Canvas) -> int:
    """The number of classes; 0 where the network does not classify."""
    if problem.logits is None:
        return 0
    with torch.no_grad():
        zeros = {plan.name: torch.zeros((canvas.count, *plan.shape)) for plan in canvas.plans}
        scores: Tensor = problem.network.run(canvas.feeds(zeros), [problem.logits])[problem.logits]
    return scores.shape[1] if scores.dim() == 2 and scores.shape[1] > 1 else 0


def _loss(
    problem: Problem,
    canvas: Canvas,
    free: dict[str, Tensor],
    targets: Sequence[Target],
    wanted: Tensor,
    edit: dict[str, Edit],
) -> Tensor:
    feeds = canvas.feeds(free)
    judge = problem.logits if edit else None
    values = problem.network.run(feeds, [*(each.tensor for each in targets), *([judge] if judge else [])])
    loss = normalized_distance(values, targets)
    if judge is None:
        return loss
    gated = problem.network.run(feeds, [judge], edit=edit)[judge]
    return loss + sum(
        (nn.functional.cross_entropy(scores, wanted) for scores in (values[judge], gated)), start=torch.zeros(())
    )


def gates(targets: Sequence[Target], random: torch.Generator) -> list[dict[str, Edit]]:
    """Sub-networks, each as edits that silence a fixed random tenth of the channels of every layer but the last."""
    return [{each.tensor: _gate(each, random) for each in targets[:-1]} for _ in range(GATES)]


def _gate(target: Target, random: torch.Generator) -> Edit:
    mask = (torch.rand(len(target.mean), generator=random) >= SILENT).float()

    def silence(value: Tensor) -> Tensor:
        view = [-1 if axis == target.axis % value.dim() else 1 for axis in range(value.dim())]
        return value * mask.reshape(view)

    return silence
