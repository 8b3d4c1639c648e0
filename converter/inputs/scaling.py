"""The preprocessing a network was trained with: hypotheses, each with its probability, and what to do about doubt.

Every hypothesis is tried on the same raw samples, the witnesses in the network are heard (``testimony``), and their
words are weighed together with what is usual (``posterior``, ``conventions``). The likeliest is taken. One that is not
excluded is calibrated for as well where that is worth it: covering it costs the others resolution, leaving it out
clips, and both are counted in decibels at every layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.capacity import fitting
from converter.graph import Graph, multiply_adds
from converter.inputs.conventions import UNKNOWN, Origin, candidates, prior
from converter.inputs.drawing import draw_inputs
from converter.inputs.plans import ADJUSTABLE, CONVENTIONAL, InputKind, InputPlan, Scaling, assemble, batch_limit
from converter.inputs.posterior import judge
from converter.inputs.recorded import recorded_scaling
from converter.inputs.sizes import sizes
from converter.inputs.testimony import Heard, hear
from converter.inputs.witnesses import Witnesses, call_witnesses, estimate_mean, layers_by_distance
from converter.normalization import BatchNormStatistics
from converter.reconstruction import Reconstruction
from converter.sessions import Feeds

__all__ = ["SAMPLES", "hear_hypotheses", "hypotheses_of", "settle_scalings"]

Raw = dict[str, NDArray[Any]]

SAMPLES = 8  # that every hypothesis is tried on
FEWEST = 4
WORK = 20e9  # multiply-adds that recognition may take, about two seconds of one core
TOGETHER = 4  # samples at a time, whose activations are held at once
DEPTH = 6  # weighted layers that are heard of inputs that are neither pictures nor signals, where all are too much


def settle_scalings(
    network: Reconstruction,
    graph: Graph,
    plans: Sequence[InputPlan],
    batch_norms: Sequence[BatchNormStatistics],
    seed: int,
    origin: Origin = UNKNOWN,
    together: int = SAMPLES,
) -> tuple[InputPlan, ...]:
    """The plans with every open scaling replaced by the likeliest one, with all that were considered beside it.

    The activations of ``together`` samples fit into memory at once.
    """
    settled = list(plans)
    for index, plan in enumerate(plans):
        if not plan.settled and plan.kind in ADJUSTABLE:
            settled[index] = _settle(network, graph, settled, index, batch_norms, seed, origin, together)
    return tuple(settled)


def _settle(
    network: Reconstruction,
    graph: Graph,
    plans: Sequence[InputPlan],
    index: int,
    batch_norms: Sequence[BatchNormStatistics],
    seed: int,
    origin: Origin,
    together: int,
) -> InputPlan:
    plan = plans[index]
    conventional = plan.kind in CONVENTIONAL
    if not conventional and (recorded := recorded_scaling(graph, plan, batch_norms)) is not None:
        return replace(plan, scaling=recorded, settled=True)
    hypotheses = hypotheses_of(graph, plan, batch_norms)
    heard = hear_hypotheses(network, graph, plans, index, hypotheses, batch_norms, seed, together)
    odds = prior(plan, hypotheses, origin)
    judged = judge(
        [each.testimony for each in heard], [odds[each.name] for each in hypotheses], conventional=conventional
    )
    weighed = [
        replace(each, probability=one.probability, why=one.why) for each, one in zip(hypotheses, judged, strict=True)
    ]
    order = sorted(range(len(weighed)), key=lambda each: -judged[each].probability)
    considered = tuple(weighed[each] for each in order)
    peaks = {
        weighed[each].name: heard[each].peaks if conventional else (heard[each].given, *heard[each].peaks)
        for each in order
    }
    return replace(
        plan,
        scaling=considered[0],
        rivals=_worth_covering(considered, peaks),
        considered=considered,
        settled=True,
    )


FIRM = 3.0  # standard errors from zero, beyond which biases say that inputs have a mean
RATIOS = (1.0, 2.0, 4.0)  # of such a mean to the deviation beside it


def hypotheses_of(graph: Graph, plan: InputPlan, batch_norms: Sequence[BatchNormStatistics]) -> tuple[Scaling, ...]:
    """The preprocessings that are usual, and for what is neither picture nor sound means that biases take back."""
    usual = candidates(plan)
    if plan.kind in CONVENTIONAL:
        return usual
    taken = estimate_mean(call_witnesses(graph, plan.name, batch_norms))
    if taken is None or abs(taken[0]) <= FIRM * taken[1]:
        return usual
    mean = taken[0]
    return usual + tuple(
        Scaling(f"mean {mean:.3g}, deviation {abs(mean) / ratio:.3g}", (abs(mean) / ratio,), (mean,))
        for ratio in RATIOS
    )


def hear_hypotheses(
    network: Reconstruction,
    graph: Graph,
    plans: Sequence[InputPlan],
    index: int,
    hypotheses: Sequence[Scaling],
    batch_norms: Sequence[BatchNormStatistics],
    seed: int,
    together: int = SAMPLES,
) -> list[Heard]:
    """What is heard of each preprocessing of one input; those that hardly differ are tried once."""
    plan = plans[index]
    conventional = plan.kind in CONVENTIONAL
    costs = _costs(network, graph, plans)
    work = len(hypotheses) * sum(costs.values())
    depth = None if conventional or work * FEWEST <= WORK else _depth(graph, plan.name, costs, len(hypotheses))
    witnesses = call_witnesses(graph, plan.name, batch_norms, depth, conventional)
    count = fitting(work, WORK, SAMPLES, FEWEST)
    samples = _Samples(count, min(together, TOGETHER), seed)
    heard: list[Heard] = []
    for number, scaling in enumerate(hypotheses):
        twin = next((each for each in range(number) if hypotheses[each].is_alike(scaling)), None)
        if twin is not None:
            heard.append(heard[twin])
            continue
        trial = [replace(each, scaling=scaling) if at == index else each for at, each in enumerate(plans)]
        heard.append(_hear(network, witnesses, plan.name, trial, samples))
    return heard


@dataclass
class _Samples:
    """The same raw samples for every hypothesis, drawn once, several at a time where the network takes that."""

    count: int
    together: int
    seed: int
    drawn: dict[int, list[Raw]] = field(default_factory=dict)  # by how many go together

    def batches(self, plans: Sequence[InputPlan], together: int) -> Iterator[Feeds]:
        """The samples as the network wants them under these plans."""
        size = batch_limit(plans, together)
        if size == 1 and all(plan.batch_axis is not None for plan in plans):
            size = together  # a graph for single samples takes batches in torch
        if any(plan.kind is InputKind.SIGNAL or plan.has_cepstra for plan in plans):  # drawn as its scaling says
            self.drawn.clear()
        if size not in self.drawn:
            generator = np.random.default_rng(self.seed)
            self.drawn[size] = [draw_inputs(plans, size, generator) for _ in range(max(self.count // size, 1))]
        return (assemble(plans, raw) for raw in self.drawn[size])


def _hear(
    network: Reconstruction, witnesses: Witnesses, name: str, plans: Sequence[InputPlan], samples: _Samples
) -> Heard:
    try:
        return hear(network, witnesses, name, samples.batches(plans, samples.together))
    except (RuntimeError, ValueError, IndexError):
        return hear(network, witnesses, name, samples.batches(plans, 1))


def _costs(network: Reconstruction, graph: Graph, plans: Sequence[InputPlan]) -> dict[str, float]:
    """Multiply-adds of each node in one inference, by its first output."""
    generator = np.random.default_rng(0)
    feeds = assemble(plans, draw_inputs(plans, batch_limit(plans, 1), generator))
    elements = sizes(network, graph, feeds)
    return {node.output[0]: multiply_adds(node, graph, elements) for node in graph.nodes}


def _depth(graph: Graph, name: str, costs: Mapping[str, float], tries: int) -> int:
    """How many of the layers that an input reaches first can be heard under every preprocessing; one always is."""
    spent, depth = 0.0, 0
    for layer in layers_by_distance(graph, name)[:DEPTH]:
        spent += costs[layer.output[0]] * tries * FEWEST
        if spent > WORK:
            break
        depth += 1
    return max(depth, 1)


CLIPPED = 3.0  # decibels lost for each by which a range falls short, against one for each by which it is too wide:
# clipped values are the large ones, and their errors are as large as they are
RUINED = 40.0  # decibels, at which nothing is left to lose of 8 bits


@dataclass(frozen=True)
class _Cover:
    """Preprocessings calibrated for together, and the decibels expected to be lost by it."""

    scalings: tuple[Scaling, ...]
    loss: float


def _worth_covering(considered: Sequence[Scaling], peaks: Mapping[str, Sequence[float]]) -> tuple[Scaling, ...]:
    """Which of the less likely preprocessings to calibrate for as well: those that lower the expected loss.

    A range that covers two preprocessings loses 6 dB for each doubling that one of them does not need; one that leaves
    a preprocessing out loses more. Both are weighed with the probabilities, over all layers.
    """
    open_ones = [each for each in considered if (each.probability or 0.0) > 0]
    best = _Cover((considered[0],), _expected_loss((considered[0],), open_ones, peaks))
    for other in considered[1:]:
        if any(other.is_alike(each) for each in best.scalings):
            continue
        wider = (*best.scalings, other)
        loss = _expected_loss(wider, open_ones, peaks)
        if loss < best.loss:
            best = _Cover(wider, loss)
    return best.scalings[1:]


def _expected_loss(
    covered: Sequence[Scaling], open_ones: Sequence[Scaling], peaks: Mapping[str, Sequence[float]]
) -> float:
    ranges = np.max([peaks[each.name] for each in covered], axis=0)
    total = 0.0
    for each in open_ones:
        wanted = np.asarray(peaks[each.name])
        excess = 20 * np.log10(np.maximum(ranges, 1e-12) / np.maximum(wanted, 1e-12))
        lost = np.where(excess >= 0, excess, -CLIPPED * excess)
        total += (each.probability or 0.0) * float(np.minimum(lost, RUINED).mean()) if lost.size else 0.0
    return total if math.isfinite(total) else 0.0
