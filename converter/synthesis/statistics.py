"""Targets for the statistics of a network's activations, and the distances to them.

Where the file has BatchNorm, folded by us or not, training left the mean and deviation of each channel in it. Where it
has none (the exporter folded it, or there never was one), moments propagated from the weights take their place
(``converter.synthesis.moments``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from converter.graph import weight_of
from converter.synthesis.gaussians import input_moments
from converter.synthesis.moments import channel_axis, propagate
from converter.synthesis.problem import Problem

__all__ = [
    "Target",
    "find_targets",
    "measured",
    "normalized_distance",
    "propagated_targets",
    "squared_distance",
]

ASLEEP = 1e-4  # of the largest layer's median deviation, below which a whole layer never varies
FAINT = 0.1  # of the same, below which a channel's own deviation is too small a unit: it would decide all by itself
DEAD = 1e-3  # of the median deviation of a tensor's channels, below which a channel never varies


@dataclass(frozen=True, eq=False)
class Target:
    """What the channels of one tensor are to look like.

    ``unit`` [C] converts the tensor's channels to those the statistics were recorded for: a BatchNorm's own input,
    where it was folded into the layer before it.
    """

    tensor: str
    axis: int
    mean: Tensor  # [C]
    std: Tensor  # [C]
    unit: Tensor  # [C]
    source: str


def find_targets(problem: Problem, seed: int) -> tuple[Target, ...]:
    """BatchNorm's statistics where the file has any, else propagated moments of every weighted layer's output."""
    known = _living(_of_batch_norms(problem))
    return known if known else propagated_targets(problem, seed)


def _of_batch_norms(problem: Problem) -> list[Target]:
    targets = []
    for each in problem.batch_norms:
        alive = each.std > DEAD * np.median(each.std)
        recorded = np.sqrt(np.maximum(each.running_variance, 0))
        unit = np.where(alive, recorded / np.maximum(each.std, 1e-12), 0.0)
        mean, std = _tensor(each.mean), _tensor(each.std)
        targets.append(Target(each.tensor, 1, mean, std, _tensor(unit), "BatchNorm"))
    return targets


def propagated_targets(problem: Problem, seed: int) -> tuple[Target, ...]:
    """Propagated moments of the weighted layers' outputs; nothing of any BatchNorm is used."""
    found = propagate(problem.network, problem.graph, input_moments(problem.plans, seed))
    targets = []
    for node in problem.graph.nodes:
        output = node.output[0] if node.output else ""
        if weight_of(node, problem.graph) is None or output not in found:
            continue
        rank = len(problem.graph.shapes.get(output) or (0,) * 2)
        mean, std = found[output].mean, np.maximum(found[output].std, 1e-6)
        if np.isfinite(mean).all() and np.isfinite(std).all():
            axis = channel_axis(problem.graph, output, rank)
            targets.append(Target(output, axis, _tensor(mean), _tensor(std), torch.ones(len(mean)), "propagation"))
    return _living(targets)


def _living(targets: Sequence[Target]) -> tuple[Target, ...]:
    """The targets without layers that never vary, which training switched off as a whole: half of a MobileNet's here
    (vww_mobilenetv1_025_96), whose deviations of 1e-7 would decide every loss.
    """
    if not targets:
        return ()
    largest = max(float(each.std.median()) for each in targets)
    return tuple(each for each in targets if float(each.std.median()) > ASLEEP * largest)


def _tensor(values: NDArray[np.float32]) -> Tensor:
    return torch.from_numpy(np.array(values, np.float32))


def measured(value: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """[C] mean and [C] deviation of a tensor's channels over the whole batch and all places."""
    channels = value.movedim(axis, 0).flatten(1)  # [C, N * places]
    return channels.mean(1), (channels.var(1, unbiased=False) + 1e-10).sqrt()


def squared_distance(values: Mapping[str, Tensor], targets: Sequence[Target]) -> Tensor:
    """Sum over layers of the squared distances of means and of deviations, in BatchNorm's own units (ZeroQ, eq. 3)."""
    total = torch.zeros(())
    for each in targets:
        mean, std = measured(values[each.tensor], each.axis)
        total = total + ((mean - each.mean) * each.unit).square().sum() + ((std - each.std) * each.unit).square().sum()
    return total


def normalized_distance(values: Mapping[str, Tensor], targets: Sequence[Target]) -> Tensor:
    """Mean over layers and channels of squared distances in units of each target deviation: every channel weighs the
    same, and channels that never vary do not count.
    """
    parts = []
    for each in targets:
        mean, std = measured(values[each.tensor], each.axis)
        alive = (each.std > DEAD * each.std.median()).float()
        scale = torch.maximum(each.std, FAINT * each.std.median()).clamp_min(1e-6)
        errors = ((mean - each.mean) / scale).square() + ((std - each.std) / scale).square()
        parts.append((errors * alive).sum() / alive.sum().clamp_min(1))
    return torch.stack(parts).mean() if parts else torch.zeros(())
