"""How many bits each weight gets: a frontier of size against fidelity, after ZeroQ (Cai et al., CVPR 2020, 3.3).

The sensitivity of layer i at k bits is the Kullback-Leibler divergence between the class probabilities of the float
network and of the same network with layer i alone at k bits, on synthesized data (eq. 6; the relative squared error of
the outputs where there are no classes). Sensitivities are taken as additive, which makes the best choice of widths for
every size one dynamic programme (eq. 7-8); the choice is measured afterwards, so that the report can say what that
assumption was worth. Departures: each layer is rounded as the result will be, its errors compensated and its bias
corrected, not to nearest; widths are 4 and 8, those that the file can hold; activations stay at 8 bits. Latency has no
part in the choice: both widths run the same integer kernels (converter.quantization.int4_packing).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from converter.capacity import fitting, spread
from converter.errors import InvalidOption
from converter.findings import FrontierPoint, StepTaken
from converter.graph import Graph, clip_bounds, multiply_adds, output_channels, weight_of
from converter.options import Options, OutputKind, Precision
from converter.quantization.correction import Correction, Settings, correct
from converter.quantization.int4_packing import packed_bytes
from converter.quantization.variation import Variation, relative
from converter.reconstruction import Reconstruction
from converter.scores import ClassOutput, class_output

__all__ = [
    "Choice",
    "Point",
    "Widths",
    "choose_widths",
    "coarse_activations",
    "edge_weights",
    "pareto",
    "settle_widths",
]

BITS = (4, 8)
FLOAT_BYTES = 4  # a weight
FINENESS = 4096  # sizes that the dynamic programme tells apart
SHOWN = 64  # points of the frontier that the report keeps
MOST_WORK = 2e11  # multiply-adds that may be spent on sensitivities
SAMPLES = 32  # that divergence is measured on; on 64 five small classifiers agreed no better


@dataclass(frozen=True)
class Choice:
    """One layer at one width: bytes in the file, and the divergence that this alone costs."""

    weight: str
    bits: int
    size: int
    divergence: float


@dataclass(frozen=True)
class Point:
    """A choice for every layer so far; the widths are in the order of the layers."""

    size: int
    divergence: float
    bits: tuple[int, ...] = ()


@dataclass(frozen=True)
class Widths:
    """The bits of every quantized weight, and how they were found where they were searched for."""

    bits: Mapping[str, int]
    frontier: tuple[FrontierPoint, ...] = ()
    steps: tuple[StepTaken, ...] = ()

    @property
    def weight_type(self) -> str:
        """The integer types of the weights, in words."""
        return ", ".join(f"S{bits}" for bits in sorted(set(self.bits.values()))) or "S8"


def edge_weights(graph: Graph, nodes: frozenset[str]) -> frozenset[str]:
    """The weights with no weighted node before them, or none after: these stay at 8 bits, as in the literature."""
    before: set[str] = set()  # tensors that depend on a weighted node
    after: set[str] = set()  # tensors that a weighted node depends on
    first, last = set(), set()
    for node in graph.nodes:
        reached = not before.isdisjoint(node.input)
        found = weight_of(node, graph)
        if found is not None and not reached:
            first.add(found[0])
        if found is not None or reached:
            before.update(node.output)
    for node in reversed(graph.nodes):
        reached = not after.isdisjoint(node.output)
        found = weight_of(node, graph)
        if found is not None and not reached:
            last.add(found[0])
        if found is not None or reached:
            after.update(node.input)
    return frozenset((first | last) & set(_weights(graph, nodes)))


def uniform_widths(graph: Graph, nodes: frozenset[str], precision: Precision) -> Widths:
    """Every weight of ``nodes`` at 4 bits, but for the first and the last layers, which keep 8."""
    edges = edge_weights(graph, nodes)
    bits = {name: 8 if name in edges else 4 for name in _weights(graph, nodes)}
    words = f"{len(bits) - len(edges)} weights stored in 4 bits; the first and last layers keep 8, or stay in float."
    if precision is Precision.W4A4:
        words += " What they read is rounded to 16 levels in float kernels: a simulation, for want of 4-bit kernels."
    return Widths(bits, (), (StepTaken(name=str(precision), applied=len(bits) > len(edges), sentence=words),))


def coarse_activations(graph: Graph, nodes: frozenset[str], shared: Mapping[str, str]) -> frozenset[str]:
    """The ranges of 4 bits in W4A4: those that a layer with weights of 4 bits reads, and no layer with weights of 8.

    ``shared`` names, for every rounded tensor, the one whose range it has; the graph's inputs keep 8 bits.
    """
    edges = edge_weights(graph, nodes)
    inner: set[str] = set()
    outer = {shared.get(value.name, "") for value in graph.inputs}
    for node in graph.nodes:
        found = weight_of(node, graph) if node.name in nodes else None
        if found is not None:
            (outer if found[0] in edges else inner).add(shared.get(node.input[0], ""))
    for node in graph.nodes:  # a zero point above zero after a Clip is what onnxruntime cannot load
        if node.op_type == "Clip" and clip_bounds(node, graph)[0] < 0:
            outer.add(shared.get(node.output[0], ""))
    return frozenset(inner - outer)


def settle_widths(
    options: Options,
    network: Reconstruction,
    graph: Graph,
    nodes: frozenset[str],
    batches: Sequence[Mapping[str, Tensor]],
    settings: Settings,
    elements: Mapping[str, int],
) -> Widths:
    """The bits of every weight of ``nodes`` that the options ask for; raises InvalidOption for a budget too low."""
    match options.precision:
        case Precision.W4A8 | Precision.W4A4:
            return uniform_widths(graph, nodes, options.precision)
        case Precision.MIXED:
            work = sum(multiply_adds(node, graph, elements) for node in graph.nodes)
            return choose_widths(network, graph, nodes, batches, settings, options.size_budget, work, options.outputs)
    return Widths({})


def _weights(graph: Graph, nodes: Iterable[str]) -> dict[str, int]:
    """The quantized weights in topological order, and their numbers of elements."""
    chosen = set(nodes)
    found: dict[str, int] = {}
    for node in graph.nodes:
        weight = weight_of(node, graph) if node.name in chosen else None
        if weight is not None:
            found.setdefault(weight[0], math.prod(graph.initializers.shape(weight[0])))
    return found


def choose_widths(
    network: Reconstruction,
    graph: Graph,
    nodes: frozenset[str],
    batches: Sequence[Mapping[str, Tensor]],
    settings: Settings,
    budget: float,
    work: int,
    kinds: Mapping[str, OutputKind] = MappingProxyType({}),
) -> Widths:
    """The widths of least divergence whose weights fit ``budget``, a share of INT8's bytes up to 1, bytes above.

    Layers left in float take part with their four bytes a weight, but make no share impossible that the others alone
    could meet. ``work`` is the network's multiply-adds for one sample.

    Raises InvalidOption for a budget below all weights at 4 bits.
    """
    sizes = _weights(graph, nodes)
    kept = FLOAT_BYTES * sum(
        each for name, each in _weights(graph, (node.name for node in graph.nodes)).items() if name not in sizes
    )
    whole, least = sum(sizes.values()), sum(packed_bytes(each, min(BITS)) for each in sizes.values())
    allowed = budget * (whole + kept) if budget <= 1 else budget
    if budget <= 1 and budget * whole >= least:
        allowed = max(allowed, least + kept)
    if allowed < least + kept:
        raise InvalidOption(
            f"The size budget of {allowed:,.0f} bytes is below the {least + kept:,} bytes of all weights at 4 bits.",
            field="size_budget",
            remedy=f"Use at least {math.ceil(least / max(whole, 1) * 1000) / 1000:g}, or {least + kept:,} bytes.",
        )
    judging = spread(batches, fitting(work * len(sizes) * len(BITS), MOST_WORK, SAMPLES))  # no clock decides
    judge = _Judge(network, graph, judging, class_output(graph, kinds))
    layers: list[list[Choice]] = [[] for _ in sizes]
    rounded: dict[int, Correction] = {}
    for bits in BITS:
        alone = Settings(settings.compensate, settings.correct_bias, dict.fromkeys(sizes, bits), isolated=True)
        rounded[bits] = correct(network, graph, nodes, {}, judge.batches, alone)
        for index, (name, elements) in enumerate(sizes.items()):
            divergence = judge.divergence([(rounded[bits], name)])
            layers[index].append(Choice(name, bits, packed_bytes(elements, bits), divergence))
    points = pareto(layers)
    best = max((each for each in points if each.size + kept <= allowed), key=lambda each: each.size, default=points[0])
    widths = dict(zip(sizes, best.bits, strict=True))
    measured = judge.divergence([(rounded[bits], name) for name, bits in widths.items()])
    low = best.bits.count(4)
    step = StepTaken(
        name=str(Precision.MIXED),
        applied=low > 0,
        sentence=f"{low} of {len(widths)} weights in 4 bits, {best.size + kept:,} of {allowed:,.0f} bytes; what each "
        "costs alone, added up, against all of them together.",
        measure="divergence from FP32 by the weights' bits: predicted, then measured",
        before=best.divergence,
        after=measured,
        unit=judge.unit,
    )
    return Widths(widths, _shown(points, best, sum(sizes.values())), (step,))


def pareto(layers: Sequence[Sequence[Choice]]) -> list[Point]:
    """Every choice of widths that no smaller one matches, from the smallest to the most faithful.

    Exact up to ``FINENESS`` steps of size: of the points within one step the most faithful is kept.
    """
    step = max(sum(max(each.size for each in choices) for choices in layers) / FINENESS, 1.0)
    points = [Point(0, 0.0)]
    for choices in layers:
        best: dict[int, Point] = {}
        for point in points:
            for each in choices:
                made = Point(point.size + each.size, point.divergence + each.divergence, (*point.bits, each.bits))
                cell = int(made.size / step)
                if cell not in best or (made.divergence, made.size) < (best[cell].divergence, best[cell].size):
                    best[cell] = made
        points = []
        for cell in sorted(best):
            if not points or best[cell].divergence < points[-1].divergence:
                points.append(best[cell])
    return points


def _shown(points: Sequence[Point], best: Point, whole: int) -> tuple[FrontierPoint, ...]:
    """At most ``SHOWN`` of the points, evenly spread, the chosen one among them."""
    stride = max(-(-len(points) // SHOWN), 1)
    kept = [point for index, point in enumerate(points) if index % stride == 0 or point is best or point is points[-1]]
    return tuple(
        FrontierPoint(
            size_bytes=point.size,
            predicted_kl=max(point.divergence, 0.0),
            chosen=point is best,
            label=f"{8 * point.size / max(whole, 1):.1f} bits, {point.bits.count(4)} of {len(point.bits)} weights at 4",
        )
        for point in kept
    )


class _Judge:
    """The float network's answers, and how far those of a network with some weights rounded are from them."""

    def __init__(
        self,
        network: Reconstruction,
        graph: Graph,
        batches: Sequence[Mapping[str, Tensor]],
        classes: ClassOutput | None,
    ) -> None:
        self.network, self.graph, self.batches = network, graph, batches
        self.classes = None if classes is None else classes.name
        self.unit = "relative squared error" if classes is None else "nats"
        self.outputs = [each.name for each in graph.outputs]
        with torch.no_grad():
            self.expected = [network.run(dict(feeds), self.outputs) for feeds in batches]
        self.varying = {name: Variation() for name in self.outputs}
        for results in self.expected:
            for name, value in results.items():
                if value.is_floating_point():
                    self.varying[name].add(value)

    def divergence(self, rounded: Sequence[tuple[Correction, str]]) -> float:
        """Mean over samples (or over outputs) with the named weights, and their biases' shifts, in place."""
        weights: dict[str, Tensor] = {}
        shifts: dict[str, Callable[[Tensor], Tensor]] = {}
        for correction, name in rounded:
            weights[name] = torch.from_numpy(correction.weights[name])
            for node in self.graph.nodes:
                shift = correction.biases.get(node.name)
                found = weight_of(node, self.graph)
                if shift is not None and found is not None and found[0] == name:
                    shifts[node.output[0]] = _adding(torch.from_numpy(shift), output_channels(node))
        total = 0.0
        with torch.no_grad():
            for feeds, expected in zip(self.batches, self.expected, strict=True):
                actual = self.network.run({**feeds, **weights}, self.outputs, edit=shifts)
                total += self._distance(expected, actual)
        return total / max(len(self.batches), 1)

    def _distance(self, expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> float:
        if self.classes is not None:
            before, after = (self._logarithms(each[self.classes].flatten(1)) for each in (expected, actual))
            return float((before.exp() * (before - after)).sum(1).mean())
        errors = [
            relative(len(self.batches) * float((actual[name] - value).square().sum()), [self.varying[name]])
            for name, value in expected.items()
            if value.is_floating_point() and value.numel()
        ]
        return sum(errors) / max(len(errors), 1)

    def _logarithms(self, scores: Tensor) -> Tensor:
        """[N, classes] logarithms of the probabilities that the class output stands for."""
        node = self.graph.producer(self.classes or "")
        if node is not None and node.op_type == "Softmax":
            return scores.clamp_min(1e-12).log()
        return scores if node is not None and node.op_type == "LogSoftmax" else scores.log_softmax(1)


def _adding(shift: Tensor, axis: int) -> Callable[[Tensor], Tensor]:
    def add(x: Tensor) -> Tensor:
        return x + shift.reshape([-1 if each == axis % x.dim() else 1 for each in range(x.dim())])

    return add
