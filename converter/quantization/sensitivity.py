"""How much each rounded tensor moves the outputs, for all tensors from one backward pass, or one for each part of a
network whose activations are too large to keep.

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
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from converter.graph import Graph, reads_of
from converter.quantization.judged_samples import Judged
from converter.quantization.qdq_writer import Range
from converter.quantization.variation import Variation
from converter.reconstruction import Reconstruction

__all__ = [
    "Reference",
    "Segment",
    "divide",
    "measure_damage",
    "padded",
    "refer",
    "round_to_range",
    "simulate_rounding",
]

ELEMENTS = 65_536  # of one tensor and batch that are looked at, evenly spaced
PROJECTIONS = 2  # random directions a sample, each as dear as a gradient; what more would gain was not measured


def round_to_range(values: Tensor, low: float, high: float, levels: int = 256) -> Tensor:
    """``values`` through an affine grid of ``levels`` codes over [low, high], zero exactly on the grid."""
    scale = max((high - low) / (levels - 1), 1e-12)
    zero = round(-low / scale)
    return ((values / scale).round() + zero).clamp(0, levels - 1).sub(zero).mul(scale)


@dataclass(frozen=True)
class Segment:
    """A part of a network that a backward pass goes through by itself: tensors made in it, and those that are read
    behind it.
    """

    names: frozenset[str]
    leaving: tuple[str, ...]


def divide(graph: Graph, elements: Mapping[str, int], outputs: Sequence[str], most: float) -> list[Segment]:
    """The network up to ``outputs`` in parts whose tensors have about ``most`` elements a sample."""
    read = {name: place for place, node in enumerate(graph.nodes) for name in reads_of(node)}
    read |= dict.fromkeys(outputs, len(graph.nodes))
    names, size, segments = {each.name for each in graph.inputs}, 0, list[Segment]()
    alive = list(names)
    for place, node in enumerate(graph.nodes[:-1]):
        made = [name for name in node.output if name]
        size += sum(elements.get(name, 0) for name in made)
        names.update(made)
        alive = [name for name in (*alive, *made) if read.get(name, -1) > place]
        if size > most:
            segments.append(Segment(frozenset(names), tuple(alive)))
            names, size = set(), 0
    names.update(name for node in graph.nodes[-1:] for name in node.output)
    return [*segments, Segment(frozenset(names), tuple(outputs))]


def measure_damage(
    network: Reconstruction,
    ranges: Mapping[str, Range],
    outputs: Sequence[str],
    batches: Sequence[Mapping[str, Tensor]],
    seed: int,
    segments: Sequence[Segment] = (),
) -> dict[str, float]:
    """The damage of rounding each tensor of ``ranges``, alone, averaged over the samples of ``batches``.

    A gradient is used as soon as it is there, and ``segments`` of the network are run again one by one, the last first
    (Chen et al. 2016, algorithm 1), so that no more is held than what one of them keeps.
    """
    generator = torch.Generator().manual_seed(seed)
    found = dict.fromkeys(ranges, 0.0)
    parts = segments or [Segment(frozenset(ranges), tuple(outputs))]
    between = list(dict.fromkeys(name for part in parts[:-1] for name in part.leaving))
    seen, alone = 0, _spread_of_single_numbers(network, outputs, batches)
    for feeds in batches:
        with torch.no_grad():
            known = network.run(feeds, between) if between else {}
        slopes: list[dict[str, Tensor]] = []
        for part, before in zip(parts[::-1], (*parts[-2::-1], None), strict=True):
            entering = {name: _leaf(known[name]) for name in before.leaving} if before else {}
            probes = {name: _probing(name, ranges[name], found) for name in found if name in part.names}
            results = network.run({**feeds, **entering}, part.leaving, edit=probes)
            if part is parts[-1]:
                slopes = _projections(results, outputs, generator, alone)
                seen += len(slopes)
            slopes = [
                _back(results, slope, entering, retain=turn + 1 < len(slopes)) for turn, slope in enumerate(slopes)
            ]
    return {name: damage / max(seen, 1) for name, damage in found.items()}


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_() if isinstance(value, Tensor) and value.is_floating_point() else value


def _spread_of_single_numbers(
    network: Reconstruction, outputs: Sequence[str], batches: Sequence[Mapping[str, Tensor]]
) -> dict[str, float]:
    """The deviation, over all batches, of each output that is one number in a batch and has none there; its size where
    there is one batch alone.
    """
    values: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for feeds in batches:
            results = network.run(feeds, list(values) or outputs)
            single = {name: each for name, each in results.items() if each.numel() == 1 and each.is_floating_point()}
            if not single:
                return {}
            for name, each in single.items():
                values.setdefault(name, []).append(each.reshape(1))
    joined = {name: torch.cat(each) for name, each in values.items()}
    return {name: float(each.std() if len(each) > 1 else each.abs()) for name, each in joined.items()}


def _projections(
    results: Mapping[str, Tensor],
    outputs: Sequence[str],
    generator: torch.Generator,
    alone: Mapping[str, float],
) -> list[dict[str, Tensor]]:
    """Gradients of random projections with respect to the outputs; none of outputs such as an ArgMax's, through which
    no gradient passes.
    """
    floats = {name: value for name in outputs if (value := results[name]).is_floating_point() and value.requires_grad}
    turns = range(PROJECTIONS if floats else 0)
    return [{name: _slope(value, generator, alone.get(name)) for name, value in floats.items()} for _ in turns]


def _back(
    results: Mapping[str, Tensor], slopes: Mapping[str, Tensor], entering: Mapping[str, Tensor], *, retain: bool
) -> dict[str, Tensor]:
    """Gradients with respect to what enters a part of the network, from those of what leaves it."""
    roots = [name for name in slopes if results[name].requires_grad]
    if roots:
        torch.autograd.backward(
            [results[each] for each in roots], [slopes[each] for each in roots], retain_graph=retain
        )
    found = {name: value.grad for name, value in entering.items() if value.grad is not None}
    for name in found:
        entering[name].grad = None
    return found


def _probing(name: str, each: Range, found: dict[str, float]) -> Callable[[Tensor], Tensor]:
    """Leaves a tensor as it is, and adds its damage to ``found`` whenever a gradient comes back to it."""

    def attach(value: Tensor) -> Tensor:
        looked_at = _thinned(value.detach())
        probed = (value if value.requires_grad else value.detach().requires_grad_()).view_as(value)
        places = value[0].numel() if value.dim() > 1 else value.numel()

        def take(gradient: Tensor) -> None:
            found[name] += _damage(each, looked_at, _thinned(gradient), -(-places // ELEMENTS))

        probed.register_hook(take)  # type: ignore[no-untyped-call]
        return probed

    return attach


def _thinned(values: Tensor) -> Tensor:
    """[samples, places] of at most ``ELEMENTS`` places, evenly spaced."""
    flat = values.reshape(values.shape[0] if values.dim() > 1 else 1, -1)
    return flat[:, :: -(-flat.shape[1] // ELEMENTS)].clone()


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


@dataclass(frozen=True)
class Reference:
    """What the float network makes of one batch; ``plain`` where that is samples as they were drawn."""

    judged: Judged
    exact: Mapping[str, Tensor]
    plain: bool = True


def refer(
    network: Reconstruction,
    outputs: Sequence[str],
    parts: Iterable[Judged],
    pictures: Mapping[str, int] = MappingProxyType({}),
) -> list[Reference]:
    """What to compare rounded networks with: the float network on all parts and, with ``pictures``, on the same ones
    ``padded``.
    """
    found = []
    with torch.no_grad():
        for part in parts:
            found.append(Reference(part, network.run(part.feeds, outputs)))
            if bars := padded(part.feeds, pictures):
                found.append(Reference(replace(part, feeds=bars), network.run(bars, outputs), plain=False))
    return found


def simulate_rounding(
    network: Reconstruction, ranges: Mapping[str, Range], references: Sequence[Reference]
) -> dict[str, float]:
    """Each output's squared error relative to its variance when every tensor of ``ranges`` is rounded, measured.

    The larger of the errors on plain samples and on padded ones; the variance is always that on plain samples, since
    even pictures move the outputs little. Each hypothesis about the inputs has its own error and variance, and counts
    by its share.
    """

    def rounding(each: Range) -> Callable[[Tensor], Tensor]:
        return lambda x: round_to_range(x, each.low, each.high, each.levels) if x.is_floating_point() else x

    edits = {name: rounding(each.widened()) for name, each in ranges.items()}
    outputs = list(references[0].exact) if references else []
    shares = {each.judged.hypothesis: each.judged.share for each in references}
    noise: dict[tuple[str, int, bool], float] = defaultdict(float)
    signal: dict[tuple[str, int], Variation] = defaultdict(Variation)
    with torch.no_grad():
        for each in references:
            rounded, hypothesis = network.run(each.judged.feeds, outputs, edit=edits), each.judged.hypothesis
            for name, exact in each.exact.items():
                if exact.is_floating_point() and exact.shape == rounded[name].shape:
                    difference = (exact - rounded[name]).double()
                    noise[name, hypothesis, each.plain] += float(difference.square().sum())
                    if each.plain:
                        signal[name, hypothesis].add(exact)
    found = {}
    for name in outputs:
        heard = {key: signal[name, key].total for key in shares if signal[name, key].total > 0}
        errors = {key: max(noise[name, key, True], noise[name, key, False]) / heard[key] for key in heard}
        whole = sum(shares[key] for key in heard)
        if heard and math.isfinite(error := sum(shares[key] * errors[key] for key in heard) / whole):
            found[name] = error
    return found


def _slope(output: Tensor, generator: torch.Generator, spread: float | None) -> Tensor:
    """The gradient of a random projection whose variance under a unit relative change of the output is 1 a sample;
    relative to ``spread`` where that is known, else to the deviation in the batch.
    """
    flat = output.detach().reshape(len(output), -1) if output.dim() > 1 else output.detach().reshape(1, -1)
    signs = torch.randn(flat.shape, generator=generator)
    deviation = flat.std() if spread is None else torch.tensor(spread)
    weight: Tensor = 1 / (deviation.clamp_min(1e-12) * flat.shape[1] ** 0.5)
    return (signs * weight).reshape(output.shape)


def _damage(each: Range, flat: Tensor, slope: Tensor, stride: int) -> float:
    """One batch's damage a sample from every so many-th place: rounding errors as independent, clipping errors as
    coherent within a sample.
    """
    slope = slope.nan_to_num(0, 0, 0)  # a root's slope at 0
    clipped = flat.clamp(each.low, each.high)
    rounding = (round_to_range(clipped, each.low, each.high, each.levels) - clipped).square() * slope.square()
    clipping = ((clipped - flat) * slope).sum(1) * stride
    return (float(rounding.sum()) * stride + float(clipping.square().sum())) / len(flat)
