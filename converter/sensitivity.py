"""How much each rounded tensor moves the outputs, for all tensors from one backward pass.

Let g be the gradient of a random projection of the (standardised) outputs with respect to a tensor, and d what rounding
does to that tensor. Rounding errors of different elements are nearly independent, so the expected squared change of the
outputs is the mean of sum g^2 d^2: Hutchinson's estimate of |J d|^2 for a diagonal error covariance (the Fisher weighting
of BRECQ, Li et al. 2021, eq. 8, with outputs' own scale in place of the label loss, since there are no labels). Clipping
errors are not independent, they all pull towards zero; they count as (sum g d)^2 of a sample. Without that distinction the
search clips too much: 1.7 dB lost on ResNet-20, 3.3 on ResNet-56, with real data (tests/bench/RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from converter.quantization import Range
from converter.reconstruction import Reconstruction

__all__ = ["Damage", "measure_damage", "round_to_range"]

SHRINKS = (1.0, 0.97, 0.94, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4)
ELEMENTS = 65_536  # of one tensor and batch that are looked at, evenly spaced
PROJECTIONS = 2


def round_to_range(values: Tensor, low: float, high: float, levels: int = 256) -> Tensor:
    """``values`` through an affine grid of ``levels`` codes over [low, high], zero exactly on the grid."""
    scale = max((high - low) / (levels - 1), 1e-12)
    zero = round(-low / scale)
    return ((values / scale).round() + zero).clamp(0, levels - 1).sub(zero).mul(scale)


@dataclass
class Damage:
    """Expected squared change of the standardised outputs by rounding one tensor, for each way to shrink its range."""

    low: float
    high: float
    by_shrink: list[float] = field(default_factory=lambda: [0.0] * len(SHRINKS))

    @property
    def best(self) -> tuple[float, Range]:
        """The least damage and the range that does it."""
        index = min(range(len(SHRINKS)), key=lambda each: self.by_shrink[each])
        shrink = SHRINKS[index]
        return self.by_shrink[index], Range(self.low * shrink, self.high * shrink, "least damage to the outputs")

    def of(self, index: int = 0) -> float:
        """The damage at one of the shrinks; 0 is the full range."""
        return self.by_shrink[index]


def measure_damage(
    network: Reconstruction,
    ranges: Mapping[str, Range],
    outputs: Sequence[str],
    batches: Iterable[Mapping[str, Tensor]],
    seed: int,
    levels: int = 256,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[str, Damage]:
    """The damage of rounding each tensor of ``ranges``, alone, averaged over the samples of ``batches``."""
    generator = torch.Generator().manual_seed(seed)
    found = {name: Damage(each.low, each.high) for name, each in ranges.items()}
    seen = 0
    for feeds in batches:
        probes: dict[str, Tensor] = {}
        values: dict[str, Tensor] = {}

        def probe(name: str, probes: dict[str, Tensor] = probes, values: dict[str, Tensor] = values):  # type: ignore[no-untyped-def]
            def attach(x: Tensor) -> Tensor:
                probes[name] = torch.zeros_like(x, requires_grad=True)
                values[name] = x.detach()
                return x + probes[name]

            return attach

        results = network.run(feeds, outputs, edit={name: probe(name) for name in found})
        floats = [
            results[name] for name in outputs if results[name].is_floating_point() and results[name].requires_grad
        ]
        names = list(probes)
        for turn in range(PROJECTIONS):
            projected = sum((_project(each, generator) for each in floats), torch.zeros(()))
            gradients = torch.autograd.grad(
                projected, [probes[name] for name in names], allow_unused=True, retain_graph=turn + 1 < PROJECTIONS
            )
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    _accumulate(found[name], values[name], gradient, levels)
        seen += PROJECTIONS
        progress(0.0)
    for damage in found.values():
        damage.by_shrink = [each / max(seen, 1) for each in damage.by_shrink]
    return found


def _project(output: Tensor, generator: torch.Generator) -> Tensor:
    """A random projection whose variance under a unit relative change of the output is 1 a sample."""
    flat = output.reshape(len(output), -1) if output.dim() > 1 else output.reshape(1, -1)
    spread = flat.detach().std().clamp_min(1e-12)
    signs = torch.randn(flat.shape, generator=generator)
    projected: Tensor = (flat * signs).sum() / (spread * flat.shape[1] ** 0.5)
    return projected


def _accumulate(damage: Damage, values: Tensor, gradient: Tensor, levels: int) -> None:
    """Adds one batch: rounding errors as independent, clipping errors, which all pull one way, as coherent in a sample."""
    samples = values.shape[0] if values.dim() > 1 else 1
    flat, slope = values.reshape(samples, -1), gradient.reshape(samples, -1)
    stride = -(-flat.shape[1] // ELEMENTS)
    flat, slope = flat[:, ::stride], slope[:, ::stride]
    weight = slope.square()
    for index, shrink in enumerate(SHRINKS):
        low, high = damage.low * shrink, damage.high * shrink
        clipped = flat.clamp(low, high)
        rounding = (round_to_range(clipped, low, high, levels) - clipped).square() * weight
        clipping = ((clipped - flat) * slope).sum(1) * stride
        damage.by_shrink[index] += (float(rounding.sum()) * stride + float(clipping.square().sum())) / samples
