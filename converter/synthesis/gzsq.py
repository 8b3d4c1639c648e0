"""GZSQ's data from weights alone (Sharma, Abraham, Rajendiran, IEEE TMM 2021, arXiv 2112.02834), two ways.

No BatchNorm is asked, even where there is one. No code was published; what follows is known from a digest of the paper.

``Rule.ADDITIVE`` is the paper's: weights of a layer are one Gaussian, the input is N(0, 1), and
    mean_a(n+1) = mean_W(n+1) + mean_a(n) + b_fold(n+1),    std_a(n+1) = sqrt(std_W(n+1)^2 + std_a(n)^2)
give the substitute statistics of each channel. Where the number of channels grows, the missing channels are filled with
the mean of the previous ones; where it shrinks, all get mean(std) + min(std), which the paper names for MobileNetV2
(its other fillings are chosen per architecture, which a converter cannot). The pixels minimise
    sum_n L_Z(f_n, a_n) + L_Z(image, N(0, 1)),  L_Z(u, v) = |mean_u - mean_v| / sqrt((std_u + s)^2 + (std_v + s)^2),
s = 1e-6, here averaged over channels. Inferred: weight statistics per output channel, a branch follows its first input,
Adam as in ZeroQ. Mind that the sum of two Gaussians is no convolution (fan-in, ReLU, residual sums do not occur in the
rule), and that L_Z rewards any spread beside a mean.

``Rule.PROPAGATION``, the default, is ours: per-channel mean and variance through every operator
(``converter.synthesis.moments``), and the squared distance of both in units of each target's deviation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum

import numpy as np
import torch
from onnx import NodeProto
from torch import Tensor

from converter.graph import Graph, output_channels, weight_of
from converter.synthesis.canvas import canvases, join, mean_curve, settle_effort
from converter.synthesis.problem import Problem, Samples
from converter.synthesis.statistics import Target, measured, normalized_distance, propagated_targets
from converter.synthesis.zeroq import BATCH, RATE, adjust, image_targets

__all__ = ["Rule", "additive_targets", "synthesize_gzsq", "z_score"]

SMALL = 1e-6


class Rule(StrEnum):
    """How the statistics of the activations follow from the weights."""

    ADDITIVE = "the paper's additive rule"
    PROPAGATION = "moment propagation"


def synthesize_gzsq(problem: Problem, count: int, seed: int, steps: int, rule: Rule = Rule.PROPAGATION) -> Samples:
    """Samples distilled from noise towards statistics that the weights alone tell."""
    count, steps = settle_effort(problem, count, steps, BATCH)
    targets = additive_targets(problem.graph) if rule is Rule.ADDITIVE else propagated_targets(problem, seed)
    distance = z_score if rule is Rule.ADDITIVE else normalized_distance
    generator = torch.Generator().manual_seed(seed)
    parts, curves = [], []
    batches = canvases(problem, count, BATCH, seed)
    for index, canvas in enumerate(batches):
        free = canvas.noise(generator)
        curves.append(
            adjust(
                problem,
                canvas,
                free,
                [each.tensor for each in targets],
                lambda canvas, inputs, values: (
                    distance(values, targets) + distance(inputs, image_targets(canvas, inputs))
                ),
                steps,
                RATE,
                (index / len(batches), (index + 1) / len(batches)),
            )
        )
        parts.append(canvas.raw(free))
    words = f"{count} samples distilled from noise towards statistics of the weights ({rule})"
    return Samples(join(parts), mean_curve(curves), words)


def z_score(values: Mapping[str, Tensor], targets: Sequence[Target]) -> Tensor:
    """Sum over layers of the mean L_Z of their channels."""
    total = torch.zeros(())
    for each in targets:
        mean, std = measured(values[each.tensor], each.axis)
        total = (
            total + ((mean - each.mean).abs() / ((std + SMALL).square() + (each.std + SMALL).square()).sqrt()).mean()
        )
    return total


def additive_targets(graph: Graph) -> tuple[Target, ...]:
    """The paper's substitute statistics of every weighted layer's output."""
    found: dict[str, Target] = {}
    for node in graph.nodes:
        weight = weight_of(node, graph)
        if weight is None:
            continue
        rows = np.moveaxis(np.asarray(graph.initializers[weight[0]], np.float64), weight[1], 0)
        rows = rows.reshape(len(rows), -1)  # [O, K]
        before = _nearest_layer(node, graph, found)
        mean, std = _filled(before, len(rows))
        mean = mean + rows.mean(1)
        std = np.sqrt(std**2 + rows.std(1) ** 2)
        if len(node.input) > 2 and node.input[2] in graph.initializers:
            mean = mean + np.asarray(graph.initializers[node.input[2]], np.float64).reshape(-1)
        axis = output_channels(node)
        tensor = node.output[0]
        means, deviations = (torch.from_numpy(each.astype(np.float32)) for each in (mean, std))
        found[tensor] = Target(tensor, axis, means, deviations, torch.ones(len(rows)), str(Rule.ADDITIVE))
    return tuple(found.values())


def _nearest_layer(node: NodeProto, graph: Graph, found: Mapping[str, Target]) -> Target | None:
    """The statistics of the weighted layer that the node reads, through whatever lies between; None for the input."""
    current: NodeProto | None = node
    while current is not None:
        tensor = next((name for name in current.input if name and name not in graph.initializers), "")
        if tensor in found:
            return found[tensor]
        current = graph.producer(tensor)
    return None


def _filled(before: Target | None, count: int) -> tuple[np.ndarray, np.ndarray]:
    """[count] means and deviations of the layer before, patched where it has another number of channels."""
    if before is None:
        return np.zeros(count), np.ones(count)
    mean, std = before.mean.double().numpy(), before.std.double().numpy()
    if count < len(mean):
        return np.full(count, mean.mean()), np.full(count, std.mean() + std.min())
    more = count - len(mean)
    return np.concatenate([mean, np.full(more, mean.mean())]), np.concatenate([std, np.full(more, std.mean())])
