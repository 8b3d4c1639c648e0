"""Mean and variance of every tensor, carried through the graph from the inputs' alone: no sample, no BatchNorm.

Each element of a tensor is a random number of known mean and variance. Linear operators carry the mean as they are and
the variance with squared weights: E y = sum(w mu) + b, Var y = sum(w^2 sigma^2), padding at the borders included.
A chain of elementwise operators is a function of the one tensor where it starts, which is taken as Gaussian (a sum of
many terms): rectified and clipped Gaussians in closed form, everything else, SiLU and GELU in pieces too, by
Gauss-Hermite quadrature through the chain itself. Sums and products of tensors are taken as independent,
normalizations by their expected statistics, and operators without a rule by a few runs on Gaussian samples.

Neighbouring elements are not independent in pictures and their features, and what a filter sums up depends on that.
``smoothness`` is the share rho of a tensor's variance that neighbours have in common, ``likeness`` the share that
channels have in common:
Var y = (1 - rho) sum(w^2 sigma^2) + rho sum_c (sum_k w_ck)^2 sigma_c^2, and channels added up likewise.

GZSQ (arXiv 2112.02834) adds up means and variances of weights from layer to layer instead
(``converter.synthesis.gzsq``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import NodeProto
from torch import Tensor

from converter.families import MOVING, RECTIFIERS
from converter.graph import Graph, attribute, clip_bounds, reads_of
from converter.reconstruction import Reconstruction
from converter.synthesis.gaussians import Moments, clipped

__all__ = ["ChannelMoments", "channel_axis", "propagate"]

Vector = NDArray[np.float32]
POINTS = 16  # of the quadrature
SAMPLED = 16  # runs of an operator without a rule
REACH = 4.5  # deviations that analytic ranges span
NORMAL_MAXIMA = {1: (0.0, 1.0), 2: (0.564, 0.682), 3: (0.846, 0.560), 4: (1.029, 0.492), 9: (1.485, 0.357)}

ELEMENTWISE = {
    *("Relu", "Clip", "LeakyRelu", "PRelu", "ThresholdedRelu", "Elu", "Celu", "Selu", "Softplus", "Softsign", "Mish"),
    *("Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Gelu", "Exp", "Log", "Sqrt", "Abs", "Neg", "Reciprocal"),
    *("Pow", "Sin", "Cos", "Add", "Sub", "Mul", "Div", "Min", "Max", "Identity", "Cast"),
}
RELOCATING = (MOVING - ELEMENTWISE) | {"Pad", "Tile", "Dropout", "Resize"}


@dataclass(frozen=True, eq=False)
class ChannelMoments:
    """Mean and deviation of each channel over samples and places, and the range that the tensor is expected to span."""

    mean: Vector  # [C]
    std: Vector  # [C]
    low: float
    high: float


def propagate(
    network: Reconstruction, graph: Graph, inputs: Mapping[str, Moments | Tensor], *, independent: bool = False
) -> dict[str, ChannelMoments]:
    """Channel moments of every tensor that depends on the inputs' chance; ``independent`` knows no correlation."""
    walk = _Walk(network, graph, independent)
    with torch.no_grad():
        return walk.through(inputs)


def channel_axis(graph: Graph, tensor: str, rank: int) -> int:
    """Where the channels of a tensor are: axis 1 of pictures and of what convolutions make, else the last."""
    if rank != 3:
        return 1 if rank > 1 else 0
    name, seen = tensor, 0
    while (node := graph.producer(name)) is not None and node.op_type in ELEMENTWISE and seen < 100:
        name, seen = next((each for each in node.input if graph.producer(each) is not None), ""), seen + 1
    made_by = node.op_type if node is not None else ""
    return 1 if made_by in ("Conv", "ConvTranspose", "BatchNormalization", "MaxPool", "AveragePool") else 2


class _Walk:
    """The nodes one after another, each tensor's moments forgotten after its last use."""

    def __init__(self, network: Reconstruction, graph: Graph, independent: bool) -> None:
        self.network = network
        self.graph = graph
        self.independent = independent
        self.random: dict[str, Moments] = {}
        self.known: dict[str, Tensor] = {}
        self.roots: dict[str, str] = {}  # of a tensor that is an elementwise function of another
        self.bounds: dict[str, tuple[float, float]] = {}
        self.found: dict[str, ChannelMoments] = {}
        self.generator = torch.Generator().manual_seed(0)
        nodes, weights = np.polynomial.hermite_e.hermegauss(POINTS)
        self.points = [(float(z), float(w / weights.sum())) for z, w in zip(nodes, weights, strict=True)]

    def through(self, inputs: Mapping[str, Moments | Tensor]) -> dict[str, ChannelMoments]:
        for name, value in inputs.items():
            if isinstance(value, Tensor):
                self.known[name] = value
            else:
                self._store(name, replace(value, smoothness=0.0, likeness=0.0) if self.independent else value)
        last = {name: index for index, node in enumerate(self.graph.nodes) for name in reads_of(node)}
        for index, node in enumerate(self.graph.nodes):
            for name, moments in self._carry(node).items():
                self._store(name, moments)
                root = self.roots.get(name)
                if root is not None:  # a root lives as long as the functions of it
                    last[root] = max(last.get(root, 0), last.get(name, 0))
            for name in [each for each in (*self.random, *self.known) if last.get(each, -1) <= index]:
                self.random.pop(name, None)
                self.known.pop(name, None)
        return self.found

    def _store(self, name: str, moments: Moments) -> None:
        self.random[name] = moments
        if not moments.mean.is_floating_point() or moments.mean.numel() == 0:
            return
        low = float((moments.mean - REACH * moments.deviation).min())
        high = float((moments.mean + REACH * moments.deviation).max())
        low, high = self.bounds.get(name, (low, high))
        axis = channel_axis(self.graph, name, moments.mean.dim()) if moments.mean.dim() else None
        mean, variance = moments.mean.double(), moments.variance.double()
        if axis is None:
            mean, variance = mean.reshape(1, 1), variance.reshape(1, 1)
        else:
            mean, variance = mean.movedim(axis, 0).flatten(1), variance.movedim(axis, 0).flatten(1)  # [C, places]
        std = (variance.mean(1) + mean.var(1, unbiased=False)).clamp_min(0).sqrt()
        self.found[name] = ChannelMoments(mean.mean(1).float().numpy(), std.float().numpy(), low, high)

    def _carry(self, node: NodeProto) -> dict[str, Moments]:
        reads = [name for name in reads_of(node) if name in self.random or name in self.known]
        chance = [name for name in reads if name in self.random]
        outputs = [name for name in node.output if name]
        if not chance:
            self.known |= self.network.run({name: self.known[name] for name in reads}, outputs)
            return {}
        if node.op_type in ELEMENTWISE and (root := self._root(node, chance)) is not None:
            return {outputs[0]: self._through_function(node, root)}
        rule = RULES.get("moving" if node.op_type in RELOCATING else node.op_type)
        found = rule(self, node, chance) if rule is not None else None
        return found if found is not None else self._sample(node, reads)

    def run(self, node: NodeProto, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The node's outputs with some of its inputs given, everything else at its known value or mean."""
        feeds = {name: self.known[name] for name in reads_of(node) if name in self.known}
        feeds |= {name: self.random[name].mean for name in reads_of(node) if name in self.random}
        return self.network.run(feeds | dict(values), [name for name in node.output if name])

    def first(self, node: NodeProto, values: Mapping[str, Tensor]) -> Tensor:
        """The first of the node's outputs, likewise."""
        return self.run(node, values)[node.output[0]]

    # -- functions of one tensor

    def _root(self, node: NodeProto, chance: Sequence[str]) -> str | None:
        """The one tensor of which the node's result is an elementwise function, or None."""
        roots = {self.roots.get(name, name) for name in chance}
        if len(roots) != 1:
            return None
        root = roots.pop()
        known = {name for name in reads_of(node) if name in self.known}
        if root not in self.random or known:  # what is neither constant nor chance ends a chain
            return None if len(chance) > 1 or chance[0] != root else root
        return root

    def _through_function(self, node: NodeProto, root: str) -> Moments:
        output, source = node.output[0], self.random[root]
        self.roots[output] = root
        feeds = {name: self.known[name] for name in reads_of(node) if name in self.known}
        first = second = torch.zeros(())
        lows, highs = [], []
        for z, weight in self.points:
            value = self.network.run(feeds | {root: source.mean + z * source.deviation}, [output])[output]
            wide = value.double()
            first, second = first + weight * wide, second + weight * wide.square()
            if abs(z) <= REACH and value.numel():
                lows.append(float(value.min()))
                highs.append(float(value.max()))
        mean, variance = first, (second - first.square()).clamp_min(0)
        limits = self._limits(node)
        if limits is not None and node.input[0] == root:
            mean, variance = clipped(source.mean, source.deviation, *limits)
        self.bounds[output] = (min(lows, default=0.0), max(highs, default=0.0))
        kept = source.mean.shape == mean.shape
        return Moments(
            mean.to(source.mean.dtype),
            variance.to(source.mean.dtype),
            source.smoothness if kept else 0.0,
            source.likeness if kept else 0.0,
        )

    def _limits(self, node: NodeProto) -> tuple[float, float] | None:
        return clip_bounds(node, self.graph) if node.op_type in RECTIFIERS else None

    # -- linear operators

    def weighted(self, node: NodeProto, chance: Sequence[str]) -> dict[str, Moments] | None:
        """Conv, ConvTranspose, Gemm and MatMul of one random tensor and a constant weight."""
        if len(chance) == 2 and node.op_type == "MatMul":
            return self.product(node, chance)
        weights = [name for name in node.input[:2] if name != chance[0] and name in self.network.weights]
        if len(chance) != 1 or len(weights) != 1 or attribute(node, "alpha", 1.0) != 1.0:
            return None
        source, weight = self.random[chance[0]], self.network.weights[weights[0]]
        feeds = {chance[0]: source.variance, weights[0]: weight.square()}
        if len(node.input) > 2 and node.input[2]:
            feeds[node.input[2]] = torch.zeros_like(self.network.weights[node.input[2]])
        mean, variance = self.first(node, {}), self.first(node, feeds)
        smoothness = 0.0
        if node.op_type == "Conv" and max(source.smoothness, source.likeness) > 0:
            common = self._common(node, source, weight)  # [O]
            common = common.reshape(-1, *[1] * (mean.dim() - 2))
            rho = source.smoothness
            total = (1 - rho) * variance + rho * common
            smoothness = min(float(rho * common.mean() / total.mean().clamp_min(1e-30)), 0.98)
            variance = total
        elif node.op_type != "Conv":
            smoothness = source.smoothness
        return {node.output[0]: Moments(mean, variance, smoothness)}

    def _common(self, node: NodeProto, source: Moments, weight: Tensor) -> Tensor:
        """[O] variance of the outputs if all places of the kernel carried the same value."""
        groups = int(attribute(node, "group", 1))
        variance = source.variance[0].flatten(1).mean(1)  # [C]
        sums = weight.flatten(2).sum(2).reshape(groups, -1, weight.shape[1])  # [G, O/G, I/G]
        shares = variance.reshape(groups, 1, -1)
        apart = (sums.square() * shares).sum(2)
        together = (sums * shares.sqrt()).sum(2).square()
        return ((1 - source.likeness) * apart + source.likeness * together).reshape(-1)

    def average(self, node: NodeProto, chance: Sequence[str]) -> dict[str, Moments] | None:
        """AveragePool, GlobalAveragePool, ReduceMean and ReduceSum."""
        source = self.random[chance[0]]
        if len(chance) != 1:
            return None
        mean, pooled = self.first(node, {}), self.first(node, {chance[0]: source.variance})
        count = float(np.prod(attribute(node, "kernel_shape", [])) or 1)
        if node.op_type != "AveragePool":
            count = source.mean.numel() / max(mean.numel(), 1)
        rho = source.smoothness
        variance = pooled * (rho + (1 - rho) / count)
        if node.op_type == "ReduceSum":
            variance = pooled * (1 - rho + rho * count)
        return {node.output[0]: Moments(mean, variance, min(rho + (1 - rho) / 2, 0.98) if rho > 0 else 0.0)}

    def maximum(self, node: NodeProto, chance: Sequence[str]) -> dict[str, Moments] | None:
        """MaxPool and GlobalMaxPool: the largest of as many Gaussians, of which neighbours share their smoothness."""
        source = self.random[chance[0]]
        count = int(np.prod(attribute(node, "kernel_shape", [2])))
        nearest = min(NORMAL_MAXIMA, key=lambda each: abs(each - count))
        lift, spread = NORMAL_MAXIMA[nearest]
        rho = source.smoothness
        mean, variance = self.first(node, {}), self.first(node, {chance[0]: source.variance})
        mean = mean + lift * math.sqrt(1 - rho) * variance.clamp_min(0).sqrt()
        return {node.output[0]: Moments(mean, variance * (rho + (1 - rho) * spread), rho)}

    # -- several tensors

    def sum(self, node: NodeProto, chance: Sequence[str]) -> dict[str, Moments] | None:
        """Add, Sub and Sum of independent tensors."""
        mean = self.first(node, {})
        parts = [self.random[name] for name in chance]
        variance = torch.zeros_like(mean)
        for name in node.input:
            if name in self.random:
                variance = variance + self.random[name].variance
        weights = [float(each.variance.mean()) + 1e-30 for each in parts]
        return {
            node.output[0]: Moments(mean, variance, float(np.average([e.smoothness for e in parts], weights=weights)))
        }

    def product(self, node: NodeProto, chance: Sequence[str]) -> dict[str, Moments] | None:
        """Mul and MatMul of independent tensors: Var ab = var a var b + var a (E b)^2 + (E a)^2 var b."""
        if len(set(chance)) == 1 and len(node.input) == 2 and list(node.input).count(chance[0]) == 1:
            other = next(name for name in node.input if name != chance[0])
            value = self.known.get(other, self.network.weights.get(other))
            if value is None:
                return None
            squared = {chance[0]: self.random[chance[0]].variance, other: value.square()}
            moments = Moments(self.first(node, {}), self.first(node, squared), self.random[chance[0]].smoothness)
            return {node.output[0]: moments}
        if len(set(chance)) != 2:
            return None
        a, b = chance
        x, y = self.random[a], self.random[b]
        variance = self.first(node, {a: x.variance, b: y.variance})
        variance = variance + self.first(node, {a: x.variance, b: y.mean.square()})
        variance = variance + self.first(node, {a: x.mean.square(), b: y.variance})
        return {node.output[0]: Moments(self.first(node, {}), variance, min(x.smoothness, y.smoothness))}

    def moving(self, node: NodeProto, chance: Sequence[str]) -> dict[str, Moments] | None:
        """What only moves elements moves their moments; constants among them have no variance."""
        if any(not self.random[name].mean.is_floating_point() for name in chance):
            return None
        feeds = {name: self.random[name].variance for name in chance}
        if node.op_type == "Concat":
            for name in node.input:
                if name not in self.random:
                    feeds[name] = torch.zeros_like(
                        self.known[name] if name in self.known else self.network.weights[name]
                    )
        means, variances = self.run(node, {}), self.run(node, feeds)
        smoothness = float(np.mean([self.random[name].smoothness for name in chance]))
        kept = smoothness if node.op_type in ("Concat", "Slice", "Split", "Pad", "Resize") else 0.0
        return {
            name: Moments(means[name], variances[name], kept)
            for name in means
            if isinstance(means[name], Tensor) and means[name].is_floating_point()
        }

    def normalized(self, node: NodeProto, chance: Sequence[str]) -> dict[str, Moments] | None:
        """LayerNormalization by the expected mean and variance over its axes."""
        if list(chance) != [node.input[0]] or len([name for name in node.output if name]) > 1:
            return None
        source = self.random[chance[0]]
        rank = source.mean.dim()
        axes = list(range(int(attribute(node, "axis", -1)) % rank, rank))
        centre = source.mean.mean(axes, keepdim=True)
        power = source.variance.mean(axes, keepdim=True) + (source.mean - centre).square().mean(axes, keepdim=True)
        deviation = (power + float(attribute(node, "epsilon", 1e-5))).sqrt()
        scale = self.network.weights.get(node.input[1])
        shift = self.network.weights.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if scale is None:
            return None
        mean = (source.mean - centre) / deviation * scale + (shift if shift is not None else 0.0)
        return {node.output[0]: Moments(mean, source.variance / deviation.square() * scale.square(), source.smoothness)}

    # -- everything else

    def _sample(self, node: NodeProto, reads: Sequence[str]) -> dict[str, Moments]:
        """Moments over a few runs of the node on independent Gaussian elements."""
        runs = []
        for _ in range(SAMPLED):
            values = {}
            for name in (each for each in reads if each in self.random):
                source = self.random[name]
                noise = torch.randn(source.mean.shape, generator=self.generator)
                values[name] = (source.mean + source.deviation * noise).to(source.mean.dtype)
            runs.append(self.run(node, values))
        found = {}
        for name in runs[0]:
            alike = isinstance(runs[0][name], Tensor) and all(each[name].shape == runs[0][name].shape for each in runs)
            if not alike or not runs[0][name].is_floating_point():
                self.known[name] = self.run(node, {})[name]  # positions, counts and masks at the expected values
                continue
            stacked = torch.stack([each[name] for each in runs])
            found[name] = Moments(stacked.mean(0), stacked.var(0, unbiased=False))
        return found


Rule = Callable[[_Walk, NodeProto, Sequence[str]], dict[str, Moments] | None]
RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), _Walk.weighted),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum"), _Walk.average),
    "MaxPool": _Walk.maximum,
    **dict.fromkeys(("Add", "Sub", "Sum"), _Walk.sum),
    "Mul": _Walk.product,
    "moving": _Walk.moving,
    "LayerNormalization": _Walk.normalized,
}
