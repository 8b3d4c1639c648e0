"""The preprocessing a network was trained with, guessed from its first layers.

Two cues. A trained first layer answers correctly scaled inputs with channels of about unit spread: the mean |log
spread| tells 0..255 from unit scale on all 13 picture networks of the zoo. And a bias, folded BatchNorm included, takes
back what the inputs' mean adds: regressing the biases on the sums of their filters estimates minus that mean (105 on a
0..255 network, 0.47 and 0.59 on 0..1 ones, about 0 on normalised ones), which tells 0..1 from zero-mean scales.
ImageNet's deviations and -1..1 differ by a factor of two in spread only and are often undecided; then both are
calibrated for. Where a BatchNorm was folded into the first layer, its own statistics decide instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from converter.graph import Graph, weight_of
from converter.inputs.drawing import draw_inputs
from converter.inputs.plans import ADJUSTABLE, SOUND, InputKind, InputPlan, Scaling, assemble, batch_limit
from converter.normalization import BatchNormStatistics
from converter.reconstruction import Reconstruction

__all__ = ["PICTURE_SCALINGS", "SAMPLES", "settle_scalings"]

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PICTURE_SCALINGS = (
    Scaling(
        "ImageNet mean and deviation",
        tuple(1 / each for each in DEVIATION),
        tuple(-mean / deviation for mean, deviation in zip(MEAN, DEVIATION, strict=True)),
    ),
    Scaling("-1..1", (2.0,), (-1.0,)),
    Scaling("0..1", (1.0,), (0.0,)),
    Scaling("0..255", (255.0,), (0.0,)),
    Scaling("0..255 minus mean", (255.0,), (-114.0,)),
)
RARE = {"0..255 minus mean": 0.5}  # misfit added: NanoDet's first layer cannot tell it from ImageNet's scale
SPREADS = tuple(2.0**power for power in sorted(range(-8, 9), key=abs))  # of inputs that are no pictures; 1 wins ties
SAMPLES = 16
PICTURE_MEAN, PICTURE_SPREAD = 0.45, 0.25  # of natural pictures in [0, 1]
MEAN_WEIGHT = 0.8  # of the biases' testimony beside the spread's; at half of it FastestDet's 0..1 passes for ImageNet's
UNDECIDED = 0.2  # of the best misfit by which a like scaling may be worse and is calibrated for as well
ALIKE = 8.0  # ratio of scales below which two scalings are alike; calibrating for both of two unlike ones ruins either
PICTURES_OUT = 10.0  # added where a network that returns pictures would get them on a scale that does not start at zero
LAYERS = 6  # weighted layers judged where the first alone cannot tell


def settle_scalings(
    network: Reconstruction,
    graph: Graph,
    plans: Sequence[InputPlan],
    batch_norms: Sequence[BatchNormStatistics],
    seed: int,
    together: int = SAMPLES,
) -> tuple[InputPlan, ...]:
    """The plans with every open scaling replaced by the candidate that fits the network best, all candidates scored.

    ``together`` samples, whose responses are held at once, are judged.
    """
    statistics = {each.tensor: each for each in batch_norms}
    settled = list(plans)
    for index, plan in enumerate(plans):
        if plan.settled or plan.kind not in ADJUSTABLE:
            continue
        scored = [
            replace(scaling, score=_misfit(network, graph, settled, index, scaling, statistics, seed, together))
            for scaling in _candidates(plan)
        ]
        scored.sort(key=lambda each: each.score if each.score is not None else float("inf"))
        best = scored[0]
        rivals = tuple(each for each in scored[1:] if _rivals(each, best))[:1] if plan.kind is InputKind.PICTURE else ()
        settled[index] = replace(plan, scaling=best, rivals=rivals, considered=tuple(scored), settled=True)
    return tuple(settled)


def _rivals(other: Scaling, best: Scaling) -> bool:
    """Whether a scaling fits nearly as well as the best and is much like it."""
    if other.score is None or best.score is None or other.score > best.score * (1 + UNDECIDED):
        return False
    return max(other.scale) < ALIKE * min(best.scale) and max(best.scale) < ALIKE * min(other.scale)


def _candidates(plan: InputPlan) -> tuple[Scaling, ...]:
    if plan.kind in (InputKind.PICTURE, InputKind.VIDEO):
        if plan.channels == 3:
            return PICTURE_SCALINGS
        grey = Scaling("mean 0.449, deviation 0.226", (1 / 0.226,), (-0.449 / 0.226,))
        return (grey, *PICTURE_SCALINGS[1:])
    if plan.kind is InputKind.SIGNAL:  # audio is in -1..1 by convention; other sensors come standardised
        return (SOUND, Scaling("unit deviation", (1.0,), (0.0,)))
    return tuple(Scaling(f"deviation {spread:g}", (spread,), (0.0,)) for spread in SPREADS)


def _misfit(
    network: Reconstruction,
    graph: Graph,
    plans: Sequence[InputPlan],
    index: int,
    scaling: Scaling,
    statistics: Mapping[str, BatchNormStatistics],
    seed: int,
    together: int,
) -> float:
    """How badly a scaling fits: 0 is perfect, above about 3 is hopeless."""
    generator = np.random.default_rng(seed)
    trial = [replace(plan, scaling=scaling) if each == index else plan for each, plan in enumerate(plans)]
    picture = plans[index].kind is InputKind.PICTURE
    layers = _first_layers(graph, plans[index].name, 1 if picture else LAYERS)
    if not layers:
        return 0.0
    responses: dict[str, list[Tensor]] = {name: [] for name in layers}
    count = batch_limit(trial, together)
    for _ in range(max(together // count, 1)):
        feeds = assemble(trial, draw_inputs(trial, count, generator))
        with torch.no_grad():
            for name, value in network.run(
                {key: torch.from_numpy(each) for key, each in feeds.items()}, layers
            ).items():
                responses[name].append(value)
    fits = [_layer_misfit(torch.cat(values), statistics.get(name)) for name, values in responses.items()]
    misfit = float(np.mean(fits))
    if picture and layers[0] not in statistics:
        misfit += MEAN_WEIGHT * _mean_misfit(graph, layers[0], scaling) + RARE.get(scaling.name, 0.0)
        if _makes_pictures(graph, plans[index]) and scaling.offset != (0.0,):
            misfit += PICTURES_OUT
    return misfit


def _mean_misfit(graph: Graph, layer: str, scaling: Scaling) -> float:
    """Deviations between the inputs' mean under a scaling and the mean that the first layer's biases take back, at
    most 4.
    """
    node = graph.producer(layer)
    if node is None or node.op_type != "Conv" or len(node.input) < 3 or node.input[2] not in graph.initializers:
        return 0.0
    weight = np.asarray(graph.initializers[node.input[1]], np.float64)
    norm = np.sqrt((weight**2).sum(axis=tuple(range(1, weight.ndim))))
    alive = norm > 1e-2 * np.median(norm)
    sums = weight.sum(axis=tuple(range(1, weight.ndim)))[alive] / norm[alive]
    bias = np.asarray(graph.initializers[node.input[2]], np.float64)[alive] / norm[alive]
    if len(sums) < 3 or not (sums**2).sum() > 0:
        return 0.0
    slope = (sums @ bias) / (sums @ sums)
    error = np.sqrt(((bias - slope * sums) ** 2).sum() / (len(sums) - 1) / (sums @ sums))
    spread = PICTURE_SPREAD * float(np.mean(scaling.scale))
    mean = float(np.mean(scaling.offset)) + PICTURE_MEAN * float(np.mean(scaling.scale))
    return min(float(abs(-slope - mean) / (error + 0.1 * spread)), 4.0)


def _makes_pictures(graph: Graph, plan: InputPlan) -> bool:
    """Whether the network returns pictures: what goes in and what comes out then share one scale, in practice from
    zero.
    """
    for output in graph.outputs:
        if output.shape is not None and len(output.shape) == 4 and output.shape[1] == plan.shape[0]:
            node = graph.producer(output.name)
            return node is not None and node.op_type in ("Conv", "DepthToSpace", "Add", "Clip", "ConvTranspose")
    return False


def _layer_misfit(response: Tensor, known: BatchNormStatistics | None) -> float:
    """0 for a layer whose channels respond with the known statistics, or with unit spread where none are known."""
    if response.dim() < 2:
        return 0.0  # one vector tells nothing of its spread
    axis = 1 if response.dim() > 2 else -1
    channels = response.movedim(axis, 0).flatten(1).double()  # [C, N * places]
    mean, deviation = channels.mean(1), channels.std(1)
    alive = deviation > 1e-2 * deviation.median().clamp_min(1e-12)
    if not bool(alive.any()):
        return 20.0
    mean, deviation = mean[alive], deviation[alive].clamp_min(1e-12)
    if known is not None:
        target_mean = torch.from_numpy(np.array(known.mean, np.float64))[alive]
        target = torch.from_numpy(np.array(known.std, np.float64))[alive].clamp_min(1e-6)
        return float((deviation / target).log().abs().median() + ((mean - target_mean).abs() / target).median())
    return float(deviation.log().abs().mean())


def _first_layers(graph: Graph, name: str, count: int) -> list[str]:
    """The outputs of the first ``count`` weighted layers that the input reaches, nearest first."""
    pending, seen = [name], {name}
    found: list[str] = []
    while pending and len(found) < count:
        tensor = pending.pop(0)
        for node in graph.consumers(tensor):
            for output in node.output:
                if output and output not in seen:
                    seen.add(output)
                    if weight_of(node, graph):
                        found.append(output)
                    if not weight_of(node, graph) or count > 1:
                        pending.append(output)
    return found[:count]
