"""Random tensors as Gaussians: their moments, those of an input's prior, and what clipping makes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from converter.inputs.drawing import draw_inputs
from converter.inputs.plans import ADJUSTABLE, InputKind, InputPlan, assemble, batch_limit, tensors

__all__ = ["Moments", "clipped", "input_moments"]

DRAWN = 32  # samples of the prior whose moments the inputs get
COLUMNED = frozenset({InputKind.FEATURES, InputKind.SPECTRUM, InputKind.EMBEDDINGS})


@dataclass(frozen=True)
class Moments:
    """Mean and variance of every element of a tensor, for one sample."""

    mean: Tensor
    variance: Tensor
    smoothness: float = 0.0
    likeness: float = 0.0

    @cached_property
    def deviation(self) -> Tensor:
        """Square root of the variance."""
        return self.variance.clamp_min(0).sqrt()


def input_moments(plans: Sequence[InputPlan], seed: int, *, noise: bool = False) -> dict[str, Moments | Tensor]:
    """What each input is expected to be: moments of the priors (of N(0, 1) with ``noise``), or a value for the rest."""
    count = batch_limit(plans, DRAWN)
    generator = np.random.default_rng(seed)
    feeds = tensors(assemble(plans, draw_inputs(plans, max(count, 1), generator)))
    found: dict[str, Moments | Tensor] = {}
    for plan in plans:
        value = feeds[plan.name]
        if plan.kind not in ADJUSTABLE:
            found[plan.name] = value if plan.batch_axis is None else value.narrow(plan.batch_axis, 0, 1)
        elif noise:
            found[plan.name] = Moments(torch.zeros_like(value[:1]), torch.ones_like(value[:1]))
        else:
            found[plan.name] = _moments_of(value, plan)
    return found


def _moments_of(value: Tensor, plan: InputPlan) -> Moments:
    """Moments per channel, the same everywhere in a picture or signal, of features each by itself."""
    if plan.kind in COLUMNED or value.dim() < 3:
        return Moments(value.mean(0, keepdim=True), value.var(0, keepdim=True, unbiased=False))
    axis = value.dim() - 1 if plan.channels_last else 1
    others = [each for each in range(value.dim()) if each != axis]
    mean = value.mean(others, keepdim=True)
    variance = value.var(others, keepdim=True, unbiased=False).clamp_min(1e-12)
    centred = (value - mean) / variance.sqrt()
    along = [each for each in range(1, value.dim()) if each != axis and value.shape[each] > 1]
    lags = [float((centred.narrow(a, 0, value.shape[a] - 1) * centred.narrow(a, 1, value.shape[a] - 1)).mean())
            for a in along]  # fmt: skip
    channels = centred.movedim(axis, 0).flatten(1)  # [C, everything]
    count = len(channels)
    alike = float((channels.mean(0).square().mean() * count - 1) / max(count - 1, 1)) if count > 1 else 0.0
    shape = (1, *value.shape[1:])
    return Moments(
        mean.expand(shape).contiguous(),
        variance.expand(shape).contiguous(),
        max(min(lags, default=0.0), 0),
        max(alike, 0),
    )


def clipped(mean: Tensor, deviation: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Mean and variance of a Gaussian clipped to low..high, either of which may be infinite.

    With z = (bound - mu) / sigma, mass p between the bounds, E = low P(x < low) + high P(x > high) + mu p +
    sigma (phi(a) - phi(b)), the second moment likewise; sums around mu, in double precision.
    """
    mu, sigma = mean.double(), deviation.double().clamp_min(1e-12)
    a, b = (low - mu) / sigma, (high - mu) / sigma
    below, above = torch.special.ndtr(a), torch.special.ndtr(-b)
    inside = (1 - below - above).clamp_min(0)
    pa, pb = _density(a), _density(b)
    za = torch.where(torch.isfinite(a), a, torch.zeros_like(a))
    zb = torch.where(torch.isfinite(b), b, torch.zeros_like(b))
    first = za * below + zb * above + (pa - pb)  # of (clipped x - mu) / sigma
    second = za.square() * below + zb.square() * above + inside + za * pa - zb * pb
    variance = (second - first.square()).clamp_min(0) * sigma.square()
    return (mu + sigma * first).to(mean.dtype), variance.to(mean.dtype)


def _density(z: Tensor) -> Tensor:
    return torch.where(torch.isfinite(z), torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi), torch.zeros_like(z))
