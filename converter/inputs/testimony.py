"""What a network makes of its inputs under one preprocessing: what witnesses of different blindness see of it.

Training leaves traces of the preprocessing all over a network. Normalization's means, folded into biases, take back
what a layer's inputs add on average; cross-entropy fixes how far class scores move, whatever the scale of inputs; the
first layer of a trained network responds with about unit deviation; bounded activations were not trained to sit at
their bounds; a BatchNorm that was kept knows mean and deviation of what it reads; and who returns pictures returns them
on the scale that they came in. Every witness is silent (None) where a network has nothing that it could tell from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import NodeProto
from torch import Tensor

from converter.families import SOFTMAXES
from converter.graph import Graph, weight_of
from converter.inputs.plans import tensors
from converter.normalization import BatchNormStatistics
from converter.reconstruction import Reconstruction
from converter.scores import class_output, find_scores
from converter.sessions import Feeds

__all__ = ["Testimony", "Witness", "Witnesses", "call_witnesses", "hear"]

Vector = NDArray[np.float64]

LEAST_CHANNELS = 4  # from which a slope over channels means anything
LEAST_LAYERS = 3  # with biases, from which their agreement is no chance
FAINT = 1e-2  # of the median deviation, below which a channel is dead
BLUR = 0.1  # of the inputs' spread, by which their mean varies between data sets
CEILING = 1e6  # of ratios and their inverses, so that dead layers stay comparable


class Witness(StrEnum):
    """Who says something of a preprocessing; 0 is a perfect fit for all, more is worse."""

    BIASES = "biases"  # how far off the slope is with which biases take back what inputs add, |log|
    MEANS = "means"  # how far layers' means are from zero in deviations, log
    OFFSET = "offset"  # how far the mean that the first layer's biases take back is from the inputs', in its own errors
    FIRST = "first layer"  # how far the first layer's deviations are from one, |log|
    LAYERS = "layers"  # the same of all layers
    STATISTICS = "statistics"  # how far off what BatchNorm knows is
    SCORES = "scores"  # how far class scores move over samples, log of their deviation
    PLACES = "places"  # the same of scores at every place
    BOUNDS = "bounds"  # the share of bounded activations at their bounds
    DEAD = "dead"  # the share of rectified channels that never respond
    RETURNED = "returned"  # how far the scale of returned pictures is from that of given ones


Testimony = Mapping[Witness, float | None]


@dataclass(frozen=True)
class Heard:
    """What the witnesses say of one preprocessing, and the largest value that each layer showed under it."""

    testimony: Testimony
    peaks: tuple[float, ...]


@dataclass
class Moments:
    """Sums per channel of one tensor over all that was heard."""

    count: float = 0.0
    first: Vector = field(default_factory=lambda: np.zeros(1))
    second: Vector = field(default_factory=lambda: np.zeros(1))
    high: Vector = field(default_factory=lambda: np.full(1, -np.inf))
    low: Vector = field(default_factory=lambda: np.full(1, np.inf))

    def add(self, value: Tensor) -> None:
        """The tensor's values [N, C, ...] or [N, C] are in the sums.

        Each sample is reduced as it lies, from its first place on so that nothing cancels, and added up in doubles:
        copies of all values to doubles took two thirds of recognition.
        """
        samples = value.detach() if value.dim() > 2 else value.detach()[..., None]
        places = tuple(range(2, samples.dim()))
        start = samples
        for place in places:
            start = start.narrow(place, 0, 1)
        apart = samples - start
        size = math.prod(samples.shape[2:])
        origin, total = start.flatten(1).double(), apart.sum(places).double()  # [N, C]
        squares = apart.square_().sum(places).double()
        self.count += size * len(samples)
        self.first = self.first + (total + size * origin).sum(0).numpy()
        self.second = self.second + (squares + 2 * origin * total + size * origin.square()).sum(0).numpy()
        self.high = np.maximum(self.high, samples.amax((0, *places)).numpy())
        self.low = np.minimum(self.low, samples.amin((0, *places)).numpy())

    @property
    def peak(self) -> float:
        """The largest absolute value of all."""
        return float(max(self.high.max(), -self.low.min())) if self.count else 0.0

    @property
    def mean(self) -> Vector:
        """[C]."""
        return self.first / self.count

    @property
    def deviation(self) -> Vector:
        """[C]."""
        spread: Vector = np.sqrt(np.maximum(self.second / self.count - self.mean**2, 0))
        return spread


@dataclass(frozen=True)
class Witnesses:
    """The tensors of a network that tell something of its inputs' scale."""

    first: str | None
    biases: Mapping[str, Vector]  # of convolutions, by their output
    layers: tuple[str, ...]
    statistics: Mapping[str, BatchNormStatistics]
    classes: tuple[tuple[str, bool], ...]  # class scores, and whether they are probabilities already
    places: tuple[tuple[str, int | None], ...]
    bounded: Mapping[str, tuple[float, float]]  # what saturates there
    rectified: tuple[str, ...]
    returned: str | None
    filters: tuple[Vector, Vector] | None = None  # sums and biases of the first layer's filters, each over its norm


def call_witnesses(
    graph: Graph, name: str, batch_norms: Iterable[BatchNormStatistics], depth: int | None = None
) -> Witnesses:
    """Who can tell something of the input of this name; with ``depth`` only so many layers that it reaches first."""
    reached = _reached(graph, name)
    layers = [node for node in graph.nodes if node.output[0] in reached and weight_of(node, graph)]
    if depth is not None:
        layers = sorted(layers, key=lambda node: reached[node.output[0]])[:depth]
        deepest = max((reached[node.output[0]] for node in layers), default=0)
        known = {each.tensor: each for each in batch_norms if reached.get(each.tensor, deepest + 1) <= deepest}
        return Witnesses(None, {}, tuple(node.output[0] for node in layers), known, (), (), {}, (), None)
    biases = {}
    for node in layers:
        if node.op_type == "Conv" and len(node.input) > 2 and node.input[2] in graph.initializers:
            bias = np.asarray(graph.initializers[node.input[2]], np.float64).reshape(-1)
            if bias.size >= LEAST_CHANNELS and bias.any():
                biases[node.output[0]] = bias
    classes = class_output(graph)
    scores = []
    if classes is not None and classes.name in reached:
        last = graph.producer(classes.name)
        softmax = last is not None and last.op_type in SOFTMAXES
        scores = [(last.input[0] if softmax and last is not None else classes.name, False)]
    places = [] if scores else [(each.tensor, each.axis) for each in find_scores(graph, None) if each.tensor in reached]
    return Witnesses(
        min(layers, key=lambda node: reached[node.output[0]]).output[0] if layers else None,
        biases,
        tuple(node.output[0] for node in layers),
        {each.tensor: each for each in batch_norms if each.tensor in reached},
        tuple(scores),
        tuple(places),
        _bounded(graph, reached),
        tuple(node.output[0] for node in graph.nodes if node.op_type == "Relu" and node.output[0] in reached),
        _returned(graph, name),
        _filters(graph, layers, reached),
    )


def _filters(graph: Graph, layers: Sequence[NodeProto], reached: Mapping[str, int]) -> tuple[Vector, Vector] | None:
    """Sums and biases of the filters of a first convolution, in units of their norms."""
    node = min(layers, key=lambda each: reached[each.output[0]], default=None)
    if node is None or node.op_type != "Conv" or len(node.input) < 3 or node.input[2] not in graph.initializers:
        return None
    weight = np.asarray(graph.initializers[node.input[1]], np.float64)
    flat = weight.reshape(len(weight), -1)
    norm = np.sqrt((flat**2).sum(1))
    alive = norm > FAINT * np.median(norm)
    bias = np.asarray(graph.initializers[node.input[2]], np.float64).reshape(-1)
    if alive.sum() < LEAST_CHANNELS or bias.size != len(weight):
        return None
    sums: Vector = flat.sum(1)[alive] / norm[alive]
    return (sums, bias[alive] / norm[alive]) if (sums**2).sum() > 0 else None


def _misplacement(witnesses: Witnesses, mean: float, spread: float) -> float | None:
    """Deviations between the inputs' mean and the one that the first layer's biases take back.

    A bias is beta - sum(w) E[x]: regressing biases on the filters' sums estimates minus that mean.
    """
    if witnesses.filters is None:
        return None
    sums, bias = witnesses.filters
    slope = float(sums @ bias) / float(sums @ sums)
    error = math.sqrt(float(((bias - slope * sums) ** 2).sum()) / (len(sums) - 1) / float(sums @ sums))
    return abs(-slope - mean) / (error + BLUR * spread)


def _reached(graph: Graph, name: str) -> dict[str, int]:
    """How many nodes away each tensor is that depends on the input."""
    distance = {name: 0}
    for node in graph.nodes:
        nearest = [distance[each] for each in node.input if each in distance]
        if nearest:
            distance.update({each: min(nearest) + 1 for each in node.output if each})
    return distance


def _bounded(graph: Graph, reached: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """What goes into functions that are flat outside of an interval, and that interval; what ends in scores is not of
    them.
    """
    found = {}
    for node in graph.nodes:
        if not node.input or node.input[0] not in reached or node.output[0] in graph.output_names:
            continue
        match node.op_type:
            case "Clip":
                bounds = [graph.initializers.get(each) if each else None for each in (*node.input[1:3], "", "")[:2]]
                if bounds[1] is not None and bounds[1].size == 1:
                    found[node.input[0]] = (-math.inf, float(bounds[1].item()))
            case "HardSwish" | "HardSigmoid":
                found[node.input[0]] = (-math.inf, 3.0)
            case "Sigmoid":
                found[node.input[0]] = (-6.0, 6.0)
            case "Tanh":
                found[node.input[0]] = (-3.0, 3.0)
    return found


def _returned(graph: Graph, name: str) -> str | None:
    """The output that is a picture of as many channels as the input has."""
    given = next(each for each in graph.inputs if each.name == name)
    for output in graph.outputs:
        shape = output.shape or graph.shapes.get(output.name)
        if shape is not None and given.shape is not None and len(shape) == len(given.shape) == 4:
            node = graph.producer(output.name)
            pictures = node is not None and node.op_type in (
                "Conv",
                "DepthToSpace",
                "Add",
                "Clip",
                "ConvTranspose",
                "Sub",
            )
            if pictures and shape[1] == given.shape[1]:
                return output.name
    return None


def hear(network: Reconstruction, witnesses: Witnesses, name: str, batches: Iterable[Feeds]) -> Heard:
    """What the witnesses say of network inputs."""
    moments: dict[str, Moments] = {}
    watched = dict.fromkeys((*witnesses.layers, *witnesses.statistics, *witnesses.rectified))
    for tensor in watched:
        moments[tensor] = Moments()
    saturated: dict[str, list[float]] = {each: [] for each in witnesses.bounded}
    scores: dict[str, list[Tensor]] = {each: [] for each, _ in (*witnesses.classes, *witnesses.places)}
    fetched = list(scores)
    if witnesses.returned is not None:
        fetched.append(witnesses.returned)
    returned: list[tuple[Tensor, Tensor]] = []
    edits: dict[str, Callable[[Tensor], Tensor]] = {}
    for tensor in dict.fromkeys((*moments, *saturated)):
        edits[tensor] = _listener(moments.get(tensor), witnesses.bounded.get(tensor), saturated.get(tensor))
    fetched = list(dict.fromkeys((*fetched, *network.last_of(edits))))  # and no step behind what is listened to
    given: list[float] = []
    for feeds in batches:
        given += [float(feeds[name].mean()), float(feeds[name].std())]
        with torch.no_grad():
            found = network.run(tensors(feeds), fetched, edit=edits)
        for tensor in scores:
            scores[tensor].append(found[tensor])
        if witnesses.returned is not None:
            returned.append((torch.from_numpy(feeds[name]), found[witnesses.returned]))
    testimony = _weigh(witnesses, moments, saturated, scores, returned)
    testimony[Witness.OFFSET] = _misplacement(witnesses, float(np.mean(given[::2])), float(np.mean(given[1::2])))
    return Heard(testimony, tuple(moments[each].peak for each in witnesses.layers))


def _listener(
    moments: Moments | None, bounds: tuple[float, float] | None, shares: list[float] | None
) -> Callable[[Tensor], Tensor]:
    def listen(value: Tensor) -> Tensor:
        if moments is not None and value.dim() > 1:
            moments.add(value)
        if bounds is not None and shares is not None:
            shares.append(float(((value > bounds[1]) | (value < bounds[0])).float().mean()))
        return value

    return listen


def _weigh(
    witnesses: Witnesses,
    moments: Mapping[str, Moments],
    saturated: Mapping[str, list[float]],
    scores: Mapping[str, list[Tensor]],
    returned: Sequence[tuple[Tensor, Tensor]],
) -> dict[Witness, float | None]:
    slopes, ratios, spreads = [], [], []
    for tensor in witnesses.layers:
        heard = moments[tensor]
        if not heard.count:
            continue
        deviation = heard.deviation
        alive = deviation > FAINT * np.median(deviation) + 1e-12
        if alive.sum() < LEAST_CHANNELS:
            continue
        mean, deviation = heard.mean[alive], deviation[alive]
        ratios.append(float(np.median(np.abs(mean / deviation))))
        spreads.append(float(np.abs(np.log(deviation)).mean()))
        if tensor in witnesses.biases:
            bias = witnesses.biases[tensor][alive]
            added, taken = (mean - bias) / deviation, -bias / deviation
            slope = float((added * taken).sum() / max(float((added * added).sum()), 1e-12))
            slopes.append(abs(math.log(min(max(slope, 1e-3), 1e3))))
    first = moments.get(witnesses.first or "")
    dead = [float((each.high <= 0).mean()) for name in witnesses.rectified if (each := moments[name]).count]
    return {
        Witness.BIASES: float(np.median(slopes)) if len(slopes) >= LEAST_LAYERS else None,
        Witness.MEANS: float(np.log(np.mean(ratios))) if ratios else None,
        Witness.FIRST: _unevenness(first) if first is not None and first.count else None,
        Witness.LAYERS: float(np.mean(spreads)) if spreads else None,
        Witness.STATISTICS: _surprise(witnesses, moments),
        Witness.SCORES: _movement([torch.cat(scores[name]).flatten(1) for name, _ in witnesses.classes]),
        Witness.PLACES: _movement([_by_class(torch.cat(scores[name]), axis) for name, axis in witnesses.places]),
        Witness.BOUNDS: float(np.mean([np.mean(each) for each in saturated.values() if each])) if saturated else None,
        Witness.DEAD: float(np.mean(dead)) if dead else None,
        Witness.RETURNED: _strangeness(returned),
    }


def _unevenness(heard: Moments) -> float:
    deviation = heard.deviation
    alive = deviation > FAINT * max(float(np.median(deviation)), 1e-12)
    if not alive.any():
        return math.log(CEILING)
    return float(np.abs(np.log(np.maximum(deviation[alive], 1 / CEILING))).mean())


def _surprise(witnesses: Witnesses, moments: Mapping[str, Moments]) -> float | None:
    """The median over normalizations of how far deviations (log) and means (in deviations) are from what they know."""
    found = []
    for tensor, known in witnesses.statistics.items():
        heard = moments[tensor]
        target = np.maximum(np.asarray(known.std, np.float64), 1e-6)
        if not heard.count or len(heard.mean) != len(target):
            continue
        deviation = np.maximum(heard.deviation, 1e-6)
        off = np.abs(np.log(deviation / target)) + np.abs(heard.mean - known.mean) / target
        found.append(min(float(np.median(off)), CEILING))
    return float(np.median(found)) if found else None


def _movement(scores: Sequence[Tensor]) -> float | None:
    """The log of the scores' deviation over samples and places, in the mean over classes."""
    spreads = [float(each.double().std(0).mean()) for each in scores if len(each) > 1]
    return math.log(min(max(float(np.mean(spreads)), 1 / CEILING), CEILING)) if spreads else None


def _by_class(scores: Tensor, axis: int | None) -> Tensor:
    """[samples and places, classes]; a score for itself is of the second axis where places stand behind it."""
    if axis is None:
        axis = 1 if scores.dim() > 2 else 0
        return scores.movedim(axis, -1).flatten(0, -2) if scores.dim() > 1 else scores[:, None]
    return scores.movedim(axis, -1).flatten(0, -2)


def _strangeness(returned: Sequence[tuple[Tensor, Tensor]]) -> float | None:
    """How far spread (log) and mean (in deviations) of returned pictures are from those of given ones."""
    if not returned:
        return None
    given, got = (torch.cat([pair[index].double().flatten() for pair in returned]) for index in (0, 1))
    spread = float(given.std().clamp_min(1e-9))
    off = (
        abs(math.log(max(float(got.std()), spread / CEILING) / spread)) + abs(float(got.mean() - given.mean())) / spread
    )
    return min(off, CEILING)
