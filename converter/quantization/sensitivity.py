"""How much each rounded tensor moves the outputs, for all tensors from one backward pass.

Let g be the gradient of a random projection of the (standardised) outputs with respect to a tensor, and d what rounding
does to that tensor. Rounding errors of different elements are nearly independent, so the expected squared change of the
outputs is the mean of sum g^2 d^2: Hutchinson's estimate of |J d|^2 for a diagonal error covariance (the Fisher
weighting of BRECQ, Li et al. 2021, eq. 8, with outputs' own scale in place of the label loss, since there are no
labels). Clipping errors are not independent, they all pull towards zero; they count as (sum g d)^2 of a sample.

The estimate ranks tensors well. It does not choose ranges well: shrinking each range to its least damage cost 1.1 to
3.3 dB on the CIFAR ResNets, with real data too, since the loss by clipping is not of first order
(tests/bench/RESULTS.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from converter.quantization.qdq_writer import Range
from converter.reconstruction import Reconstruction

__all__ = ["measure_damage", "measure_damage_directly", "padded", "round_to_range", "simulate_rounding"]

ELEMENTS = 65_536  # of one tensor and batch that are looked at, evenly spaced
PROJECTIONS = 2  # random directions a sample, each as dear as a gradient; what more would gain was not measured


def round_to_range(values: Tensor, low: float, high: float, levels: int = 256) -> Tensor:
    """``values`` through an affine grid of ``levels`` codes over [low, high], zero exactly on the grid."""
    scale = max((high - low) / (levels - 1), 1e-12)
    zero = round(-low / scale)
    return ((values / scale).round() + zero).clamp(0, levels - 1).sub(zero).mul(scale)


def measure_damage(
    network: Reconstruction,
    ranges: Mapping[str, Range],
    outputs: Sequence[str],
    batches: Iterable[Mapping[str, Tensor]],
    seed: int,
    progress: Callable[[float], None] = lambda _: None,
) -> dict[str, float]:
    """The damage of rounding each tensor of ``ranges``, alone, averaged over the samples of ``batches``."""
    generator = torch.Generator().manual_seed(seed)
    found = dict.fromkeys(ranges, 0.0)
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
        if not floats:  # outputs such as an ArgMax's, through which no gradient passes
            continue
        names = list(probes)
        for turn in range(PROJECTIONS):
            projected = sum((_project(each, generator) for each in floats), torch.zeros(()))
            gradients = torch.autograd.grad(
                projected, [probes[name] for name in names], allow_unused=True, retain_graph=turn + 1 < PROJECTIONS
            )
            for name, gradient in zip(names, gradients, strict=True):
                if gradient is not None:
                    found[name] += _damage(ranges[name], values[name], gradient)
        seen += PROJECTIONS
        progress(0.0)
    return {name: damage / max(seen, 1) for name, damage in found.items()}


def measure_damage_directly(
    network: Reconstruction, ranges: Mapping[str, Range], outputs: Sequence[str], feeds: Mapping[str, Tensor]
) -> dict[str, float]:
    """The same from one run for each tensor, for networks whose gradients are too large to keep; on one batch."""
    with torch.no_grad():
        clean = [value for value in network.run(feeds, outputs).values() if value.is_floating_point()]
        found = {}
        for name, each in ranges.items():
            results = network.run(feeds, outputs, edit={name: partial(_rounded, each)})
            moved = [value for value in results.values() if value.is_floating_point()]
            found[name] = sum(map(_moved, clean, moved))
    return found


def _rounded(each: Range, value: Tensor) -> Tensor:
    return round_to_range(value, each.low, each.high, each.levels)


def _moved(before: Tensor, after: Tensor) -> float:
    """The squared change of an output a sample, in units of its spread."""
    spread = before.std(correction=0).clamp_min(1e-12)
    return float((after - before).square().mean() / spread.square()) if before.numel() else 0.0


def padded(feeds: Mapping[str, Tensor], pictures: Mapping[str, int]) -> dict[str, Tensor] | None:
    """The feeds with an even bar over the first and the last quarter of every picture's rows; None without pictures.

    Detectors' pictures are padded to a square, and skies, walls and pages are even. There a layer gives every place one
    value and rounding moves all of them alike: on a YOLOv8 one activation that cost 31 dB on pictures that fill the
    frame cost 15 dB on padded ones (tests/bench/RESULTS.md). ``pictures`` names inputs and the axis of their rows.
    """
    found = dict(feeds)
    for name in pictures.keys() & feeds.keys():
        value, axis = feeds[name].clone(), pictures[name]
        quarter = value.shape[axis] // 4
        places = tuple(each for each in (2, 3) if axis == 2) or (1, 2)
        mean = value.mean(places, keepdim=True)
        for start in (0, value.shape[axis] - quarter):
            bar = value.narrow(axis, start, quarter)
            bar.copy_(mean.expand_as(bar))
        found[name] = value
    return found if pictures.keys() & feeds.keys() else None


def simulate_rounding(
    network: Reconstruction,
    ranges: Mapping[str, Range],
    outputs: Sequence[str],
    batches: Iterable[Mapping[str, Tensor]],
    pictures: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, float]:
    """Each output's squared error relative to its variance when every tensor of ``ranges`` is rounded, measured.

    With ``pictures`` the larger of the errors on the samples and on the same ones ``padded``; the variance is always
    that on the samples, since even pictures move the outputs little.
    """

    def rounding(each: Range) -> Callable[[Tensor], Tensor]:
        return lambda x: round_to_range(x, each.low, each.high, each.levels) if x.is_floating_point() else x

    edits = {name: rounding(each.widened()) for name, each in ranges.items()}
    plain, bars = dict.fromkeys(outputs, 0.0), dict.fromkeys(outputs, 0.0)
    signal = dict.fromkeys(outputs, 0.0)
    with torch.no_grad():
        for feeds in batches:
            for given, noise in ((feeds, plain), (padded(feeds, pictures), bars)):
                if given is None:
                    continue
                exact, rounded = network.run(given, outputs), network.run(given, outputs, edit=edits)
                for name in outputs:
                    if exact[name].is_floating_point() and exact[name].shape == rounded[name].shape:
                        difference, value = (exact[name] - rounded[name]).double(), exact[name].double()
                        noise[name] += float(difference.square().sum())
                        if given is feeds:
                            signal[name] += float((value - value.mean()).square().sum())
    errors = {name: max(plain[name], bars[name]) for name in outputs}
    return {name: errors[name] / signal[name] for name in outputs if signal[name] > 0 and math.isfinite(errors[name])}


def _project(output: Tensor, generator: torch.Generator) -> Tensor:
    """A random projection whose variance under a unit relative change of the output is 1 a sample."""
    flat = output.reshape(len(output), -1) if output.dim() > 1 else output.reshape(1, -1)
    spread = flat.detach().std().clamp_min(1e-12)
    signs = torch.randn(flat.shape, generator=generator)
    projected: Tensor = (flat * signs).sum() / (spread * flat.shape[1] ** 0.5)
    return projected


def _damage(each: Range, values: Tensor, gradient: Tensor) -> float:
    """One batch's damage a sample: rounding errors as independent, clipping errors as coherent within a sample."""
    samples = values.shape[0] if values.dim() > 1 else 1
    flat, slope = values.reshape(samples, -1), gradient.nan_to_num(0, 0, 0).reshape(samples, -1)  # a root's slope at 0
    stride = -(-flat.shape[1] // ELEMENTS)
    flat, slope = flat[:, ::stride], slope[:, ::stride]
    clipped = flat.clamp(each.low, each.high)
    rounding = (round_to_range(clipped, each.low, each.high, each.levels) - clipped).square() * slope.square()
    clipping = ((clipped - flat) * slope).sum(1) * stride
    return (float(rounding.sum()) * stride + float(clipping.square().sum())) / samples
