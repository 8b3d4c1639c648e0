"""Our own method: natural pictures, a share of them moved towards classes or detections.

A prior with the spectrum of natural images makes the early and middle layers respond as to photographs; a few gradient
steps on the cross-entropy to a random class, or to a few detections at random places, make the features and scores of
the head respond as to a recognised object, which no noise does. Together they reach real calibration data in seconds on
one thread, without any BatchNorm (tests/bench/RESULTS.md). Where BatchNorm statistics exist they decide the
preprocessing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from converter.inputs.plans import ADJUSTABLE, COLOURED, InputPlan, assemble, batch_limit, placed, tensors
from converter.reconstruction import Reconstruction
from converter.scores import Score

__all__ = ["BATCH", "approach_scores"]

RATE = 0.012  # of a picture in [0, 1] a step, or of a deviation for other inputs
BETAS = (0.9, 0.999)  # of Adam's moments, as its authors propose
CONFIDENT = 0.02  # cross-entropy at which a batch is left alone
BATCH = 8
SPARSE = 100  # a detector sees something at one place in so many, at most
PLACES = 8  # of each sample and score that shall respond


class Adam:
    """Kingma & Ba 2015, algorithm 1, over a few tensors; torch's own loads torch's compiler first, for two seconds."""

    def __init__(self, free: Sequence[Tensor]) -> None:
        self.free = free
        self.means = [torch.zeros_like(each) for each in free]
        self.squares = [torch.zeros_like(each) for each in free]
        self.steps = 0

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor | None]) -> None:
        """Each tensor has gone one step of ``RATE`` against its gradient, if it has one."""
        self.steps += 1
        for value, mean, square, gradient in zip(self.free, self.means, self.squares, gradients, strict=True):
            if gradient is None:
                continue
            mean.lerp_(gradient, 1 - BETAS[0])
            square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            spread = (square / (1 - BETAS[1] ** self.steps)).sqrt_().add_(1e-8)
            value.addcdiv_(mean, spread, value=-RATE / (1 - BETAS[0] ** self.steps))


def approach_scores(
    network: Reconstruction,
    plans: Sequence[InputPlan],
    raw: dict[str, Tensor],
    scores: Sequence[Score],
    steps: int,
    generator: torch.Generator,
    deadline: float,
    on_step: Callable[[float], None] = lambda _: None,
    together: int = BATCH,
) -> tuple[dict[str, Tensor], list[float]]:
    """Raw samples moved by at most ``steps`` Adam steps towards random scores each, and the loss after each step.

    ``raw`` holds [N, *shape] of every input; inputs that are no pictures, signals or features stay as they are.
    ``together`` of them go through the network at once.
    """
    moved = {name: value.clone() for name, value in raw.items()}
    adjustable = [plan for plan in plans if plan.kind in ADJUSTABLE]
    count = len(next(iter(raw.values())))
    curve: list[list[float]] = []
    limit = batch_limit(plans, together)  # 1 needs no obeying: a graph for single samples takes batches in torch
    size = limit if limit > 1 or any(plan.batch_axis is None for plan in plans) else together
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        losses = _move(network, plans, adjustable, moved, part, scores, steps, generator, deadline)
        for step, loss in enumerate(losses):
            if step == len(curve):
                curve.append([])
            curve[step].append(loss)
        on_step((start + size) / count)
        if time.monotonic() > deadline:
            break
    return moved, [sum(each) / len(each) for each in curve]


def _move(
    network: Reconstruction,
    plans: Sequence[InputPlan],
    adjustable: Sequence[InputPlan],
    moved: dict[str, Tensor],
    part: slice,
    scores: Sequence[Score],
    steps: int,
    generator: torch.Generator,
    deadline: float,
) -> list[float]:
    free = [moved[plan.name][part].clone().requires_grad_(True) for plan in adjustable]
    descent = Adam(free)
    losses: list[float] = []
    targets: list[tuple[Tensor, Tensor]] = []
    others = [plan for plan in plans if plan not in adjustable]
    fixed = tensors(assemble(others, {plan.name: moved[plan.name].numpy() for plan in others}, part))
    for _ in range(steps):
        feeds = dict(fixed)
        for plan, value in zip(adjustable, free, strict=True):
            scale, offset = plan.affine(part.start, len(value))
            feeds[plan.name] = placed(plan, value * torch.from_numpy(scale) + torch.from_numpy(offset))
        responses = network.run(feeds, [score.tensor for score in scores])
        if not targets:
            targets = [_choose(responses[score.tensor], score, generator) for score in scores]
        loss = torch.stack(
            [_distance(responses[score.tensor], score, *target) for score, target in zip(scores, targets, strict=True)]
        ).mean()
        losses.append(loss.item())
        if not loss.requires_grad:  # no input moves the scores
            break
        if not math.isfinite(losses[-1]) or losses[-1] < CONFIDENT or time.monotonic() > deadline:
            break
        descent.step(torch.autograd.grad(loss, free, allow_unused=True))  # an input may not reach the scores
        with torch.no_grad():
            for plan, value in zip(adjustable, free, strict=True):
                if plan.kind in COLOURED:
                    value.clamp_(0, 1)
    for plan, value in zip(adjustable, free, strict=True):
        moved[plan.name][part] = value.detach()
    return losses


def _choose(response: Tensor, score: Score, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """[N, P] places of each sample that shall respond, and [N, P] the class wanted there (0 where there are none)."""
    places = _by_place(response, score)  # [N, places, classes]
    count = places.shape[1] if places.shape[1] < SPARSE else min(max(places.shape[1] // SPARSE, 1), PLACES)
    chosen = torch.stack([torch.randperm(places.shape[1], generator=generator)[:count] for _ in range(len(places))])
    return chosen, torch.randint(places.shape[2], chosen.shape, generator=generator)


def _by_place(response: Tensor, score: Score) -> Tensor:
    """[N, places, classes]; a score for itself is a place with one class."""
    if score.axis is None:
        return response.flatten(1)[:, :, None]
    last = response.movedim(score.axis, -1)
    return last.reshape(len(last), -1, last.shape[-1])


def _distance(response: Tensor, score: Score, chosen: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of the chosen places to the class wanted there, or to yes."""
    places = _by_place(response, score)
    picked = places.gather(1, chosen[:, :, None].expand(-1, -1, places.shape[2]))  # [N, P, classes]
    if score.axis is None:
        return torch.nn.functional.softplus(-picked).mean()
    return torch.nn.functional.cross_entropy(picked.flatten(0, 1), wanted.flatten())
