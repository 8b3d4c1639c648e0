"""Our own method: natural pictures, a share of them moved towards one class each.

A prior with the spectrum of natural images makes the early and middle layers respond as to photographs; a few gradient
steps on the cross-entropy to a random class make the features and logits of the head respond as to a recognised object,
which no noise does. Together they reach real calibration data in seconds on one thread, without any BatchNorm
(tests/bench/RESULTS.md). Where BatchNorm statistics exist they only decide the preprocessing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from converter.inputs import InputKind, InputPlan
from converter.reconstruction import Reconstruction

__all__ = ["approach_classes"]

RATE = 0.012  # of a picture in [0, 1] a step, or of a deviation for other inputs
CONFIDENT = 0.02  # cross-entropy at which a batch is left alone
BATCH = 8


def approach_classes(
    network: Reconstruction,
    plans: Sequence[InputPlan],
    raw: dict[str, Tensor],
    logits: str,
    steps: int,
    generator: torch.Generator,
    deadline: float,
    on_step: Callable[[float], None] = lambda _: None,
) -> tuple[dict[str, Tensor], list[float]]:
    """Raw samples moved by at most ``steps`` Adam steps towards a random class each, and the loss after each step.

    ``raw`` holds [N, *shape] of every input; inputs that are no pictures, signals or features stay as they are.
    """
    moved = {name: value.clone() for name, value in raw.items()}
    adjustable = [plan for plan in plans if plan.kind in (InputKind.PICTURE, InputKind.SIGNAL, InputKind.FEATURES)]
    count = len(next(iter(raw.values())))
    curve: list[list[float]] = []
    for start in range(0, count, BATCH):
        part = slice(start, min(start + BATCH, count))
        losses = _move(network, plans, adjustable, moved, part, logits, steps, generator, deadline)
        for step, loss in enumerate(losses):
            if step == len(curve):
                curve.append([])
            curve[step].append(loss)
        on_step((start + BATCH) / count)
        if time.monotonic() > deadline:
            break
    return moved, [sum(each) / len(each) for each in curve]


def _move(
    network: Reconstruction,
    plans: Sequence[InputPlan],
    adjustable: Sequence[InputPlan],
    moved: dict[str, Tensor],
    part: slice,
    logits: str,
    steps: int,
    generator: torch.Generator,
    deadline: float,
) -> list[float]:
    free = [moved[plan.name][part].clone().requires_grad_(True) for plan in adjustable]
    optimizer = torch.optim.Adam(free, lr=RATE)
    losses: list[float] = []
    labels: Tensor | None = None
    for _ in range(steps):
        feeds = {plan.name: moved[plan.name][part] for plan in plans if plan not in adjustable}
        for plan, value in zip(adjustable, free, strict=True):
            scale, offset = plan.affine(part.start, len(value))
            feeds[plan.name] = value * torch.from_numpy(scale) + torch.from_numpy(offset)
        scores = network.run(feeds, [logits])[logits].flatten(1)
        if labels is None:
            labels = torch.randint(scores.shape[1], (len(scores),), generator=generator)
        loss = torch.nn.functional.cross_entropy(scores, labels)
        losses.append(loss.item())
        if not math.isfinite(losses[-1]) or losses[-1] < CONFIDENT or time.monotonic() > deadline:
            break
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            for plan, value in zip(adjustable, free, strict=True):
                if plan.kind is InputKind.PICTURE:
                    value.clamp_(0, 1)
    for plan, value in zip(adjustable, free, strict=True):
        moved[plan.name][part] = value.detach()
    return losses
