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
from torch import Tensor

from converter.inputs.plans import tensors
from converter.inputs.witnesses import FAINT, LEAST_CHANNELS, Vector, Witnesses, estimate_mean
from converter.reconstruction import Reconstruction
from converter.sessions import Feeds

__all__ = ["Heard", "Moments", "Testimony", "Witness", "hear"]

LEAST_LAYERS = 3  # with biases, from which their agreement is no chance
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
    """What the witnesses say of one preprocessing, and the largest values that the input and each layer showed."""

    testimony: Testimony
    peaks: tuple[float, ...]
    given: float = 0.0


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


def _misplacement(witnesses: Witnesses, mean: float, spread: float) -> float | None:
    """Deviations between the inputs' mean and the one that the first layer's biases take back.

    A bias is beta - sum(w) E[x]: regressing biases on the filters' sums estimates minus that mean.
    """
    taken = estimate_mean(witnesses)
    return None if taken is None else abs(taken[0] - mean) / max(taken[1] + BLUR * spread, 1 / CEILING)


def hear(network: Reconstruction, witnesses: Witnesses, name: str, batches: Iterable[Feeds]) -> Heard:
    """What the witnesses say of network inputs."""
    moments: dict[str, Moments] = {}
    watched = dict.fromkeys((*witnesses.layers, *witnesses.statistics, *witnesses.rectified))
    gates = {tensor: Moments() for tensor in witnesses.gates}
    for tensor in watched:
        moments[tensor] = Moments()
    saturated: dict[str, list[float]] = {each: [] for each in witnesses.bounded}
    scores: dict[str, list[Tensor]] = {each: [] for each, _ in (*witnesses.classes, *witnesses.places)}
    fetched = list(scores)
    if witnesses.returned is not None:
        fetched.append(witnesses.returned)
    returned: list[tuple[Tensor, Tensor]] = []
    edits: dict[str, Callable[[Tensor], Tensor]] = {}
    for tensor in dict.fromkeys((*moments, *saturated, *gates)):
        listen = _listener(
            moments.get(tensor),
            witnesses.bounded.get(tensor),
            saturated.get(tensor),
            tensor in witnesses.last,
        )
        edits[tensor] = _with_gates(listen, gates[tensor], witnesses.gates[tensor]) if tensor in gates else listen
    fetched = list(dict.fromkeys((*fetched, *network.last_of(edits))))  # and no step behind what is listened to
    given: list[float] = []
    largest = 0.0
    for feeds in batches:
        largest = max(largest, float(np.abs(feeds[name]).max()))
        given += [float(feeds[name].mean()), float(feeds[name].std())]
        with torch.no_grad():
            found = network.run(tensors(feeds), fetched, edit=edits)
        for tensor in scores:
            scores[tensor].append(found[tensor])
        if witnesses.returned is not None:
            returned.append((torch.from_numpy(feeds[name]), found[witnesses.returned]))
    testimony = _weigh(witnesses, moments, tuple(gates.values()), saturated, scores, returned)
    testimony[Witness.OFFSET] = _misplacement(witnesses, float(np.mean(given[::2])), float(np.mean(given[1::2])))
    return Heard(testimony, tuple(moments[each].peak for each in witnesses.layers), largest)


def _with_gates(
    listen: Callable[[Tensor], Tensor], moments: Moments, weight: NDArray[np.float32]
) -> Callable[[Tensor], Tensor]:
    def listen_to_both(value: Tensor) -> Tensor:
        moments.add(value.flatten(0, -2) @ torch.from_numpy(weight).T)
        return listen(value)

    return listen_to_both


def _listener(
    moments: Moments | None, bounds: tuple[float, float] | None, shares: list[float] | None, last: bool
) -> Callable[[Tensor], Tensor]:
    def listen(value: Tensor) -> Tensor:
        if moments is not None and value.dim() > 1:
            moments.add(value.movedim(-1, 1) if last else value)
        if bounds is not None and shares is not None:
            shares.append(float(((value > bounds[1]) | (value < bounds[0])).float().mean()))
        return value

    return listen


def _weigh(
    witnesses: Witnesses,
    moments: Mapping[str, Moments],
    gates: Sequence[Moments],
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
    for heard in gates:
        spreads.append(float(np.abs(np.log(np.maximum(heard.deviation, 1 / CEILING))).mean()))
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
