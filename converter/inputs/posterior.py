"""How sure it is which preprocessing a network was trained with: a prior, and what every witness adds to it.

A conditional logit over the hypotheses of one input: each witness adds its weight times what it says, and says nothing
where it is silent. The weights are fitted on networks that were trained under known preprocessing, by
``python -m tests.bench.scaling_weights``, which also says how often they are right on architectures left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from converter.inputs.testimony import Testimony, Witness

__all__ = ["WEIGHTS", "Judgement", "features", "judge"]

TELLING = 1.5  # |log slope| above which no preprocessing explains the biases, which then are no normalization's
WORDS = {
    Witness.BIASES: "the biases of all convolutions",
    Witness.MEANS: "the means of the layers' results",
    Witness.OFFSET: "the biases of the first layer",
    Witness.FIRST: "the spread of the first layer's results",
    Witness.LAYERS: "the spread of all layers' results",
    Witness.STATISTICS: "the statistics that BatchNorm recorded",
    Witness.SCORES: "how far the class scores move",
    Witness.PLACES: "how far the scores of places move",
    Witness.BOUNDS: "how often bounded activations saturate",
    Witness.DEAD: "how many channels never respond",
    Witness.RETURNED: "the scale of the returned pictures",
}
DOUBT = (
    0.02  # of all cases in which the witnesses are worth nothing: the rate of errors on networks left out of the fit
)
# The same of what is neither picture nor sound: those under which networks left out of the fit are likeliest (0.02 and
# 0.1 are hardly apart; the larger was taken). Where no normalization was folded, little but the prior is left.
DOUBTS: Mapping[str, float] = {"features normalized": 0.1, "features plain": 0.5}
# Fitted on 47 networks; of 78 verdicts on networks left out, 73 have the right family and 58 the right preprocessing.
# Returned pictures weigh as statistics do, whose units they share, since none of the networks returns pictures.
# What speaks of features was fitted on 46 networks of tables and spectra by ``python -m tests.bench.feature_weights``.
WEIGHTS: Mapping[str, float] = {
    "features normalized: biases": 2.353,
    "features normalized: bounds": 0.679,
    "features normalized: dead": 0.986,
    "features normalized: first layer": 0.802,
    "features normalized: layers": 2.482,
    "features normalized: means": 2.283,
    "features normalized: offset": 0.289,
    "features normalized: scores above": 0.795,
    "features normalized: scores below": 0.292,
    "features normalized: statistics": 3.107,
    "features plain: bounds": 0.002,
    "features plain: dead": 0.003,
    "features plain: first layer": 0.267,
    "features plain: layers": 0.583,
    "features plain: means": 0.407,
    "features plain: offset": 0.003,
    "features plain: scores above": 0.664,
    "features plain: scores below": 1.415,
    "normalized: returned": 1.691,
    "plain: returned": 1.691,
    "normalized: biases": 2.352,
    "normalized: bounds": 0.487,
    "normalized: dead": 0.489,
    "normalized: first layer": 0.521,
    "normalized: layers": 2.781,
    "normalized: means": 2.483,
    "normalized: offset": 0.833,
    "normalized: places above": 0.279,
    "normalized: places below": 0.136,
    "normalized: scores above": 0.925,
    "normalized: scores below": 1.27,
    "normalized: statistics": 1.691,
    "plain: bounds": 0.622,
    "plain: dead": 0.242,
    "plain: first layer": 0.004,
    "plain: layers": 0.416,
    "plain: means": 0.613,
    "plain: offset": 0.003,
    "plain: places above": 0.014,
    "plain: places below": 1.104,
    "plain: scores above": 1.13,
    "plain: scores below": 2.314,
}


@dataclass(frozen=True)
class Judgement:
    """The probability of one hypothesis, and in words what spoke for or against it."""

    probability: float
    why: str


def features(heard: Sequence[Testimony], conventional: bool = True) -> list[dict[str, float]]:
    """What each witness says of every hypothesis, bounded, in units that weights multiply; silent ones are left out.

    Witnesses are weighed apart where biases show a folded normalization and where they do not: without one, the first
    layer's spread is what its initialization made it; and apart for pictures and sound, whose preprocessing is one of a
    few by convention, and for everything else.
    """
    spoken = [each for each in Witness if all(one.get(each) is not None for one in heard)]
    values = {each: [float(one[each] or 0.0) for one in heard] for each in spoken}
    normalized = Witness.BIASES in values and min(values[Witness.BIASES]) < TELLING
    if not normalized:
        values.pop(Witness.BIASES, None)
    kind = "normalized" if normalized or Witness.STATISTICS in values else "plain"
    kind = kind if conventional else f"features {kind}"
    made: list[dict[str, float]] = [{} for _ in heard]
    for witness, said in values.items():
        for each, value in zip(made, said, strict=True):
            each.update({f"{kind}: {name}": bounded for name, bounded in _bounded(witness, value)})
    return made


def _bounded(witness: Witness, value: float) -> list[tuple[str, float]]:
    match witness:
        case Witness.SCORES:  # too large and too small are different mistakes: what a picture shows may be faint
            return [("scores above", min(max(value - 1.5, 0), 4)), ("scores below", min(max(-0.5 - value, 0), 4))]
        case Witness.PLACES:
            return [("places above", min(max(value - 2, 0), 4)), ("places below", min(max(-1.5 - value, 0), 4))]
        case Witness.STATISTICS:
            return [(witness, min(math.log(max(value, 0.3)), 2.0))]
        case Witness.MEANS:
            return [(witness, min(max(value, -2.0), 3.0))]
        case Witness.BIASES | Witness.RETURNED:
            return [(witness, min(value, 3.0))]
        case Witness.OFFSET | Witness.LAYERS:
            return [(witness, min(value, 4.0))]
        case Witness.FIRST:
            return [(witness, min(value, 5.0))]
    return [(witness, value)]


def judge(
    heard: Sequence[Testimony],
    log_odds: Sequence[float],
    weights: Mapping[str, float] = WEIGHTS,
    conventional: bool = True,
    doubts: Mapping[str, float] = DOUBTS,
) -> list[Judgement]:
    """The probability of each hypothesis by its prior log-odds and what was heard of it."""
    prior = _normalized(log_odds)
    said = features(heard, conventional)
    against = [{name: weights.get(name, 0.0) * value for name, value in each.items()} for each in said]
    scores = [odds - sum(each.values()) for odds, each in zip(log_odds, against, strict=True)]
    kind = next((name.partition(": ")[0] for each in said for name in each), "")
    doubt = DOUBT if conventional else doubts.get(kind, 1.0)
    posterior = (1 - doubt) * _normalized(scores) + doubt * prior
    best = int(np.argmax(posterior))
    return [Judgement(float(probability), _why(against, index, best)) for index, probability in enumerate(posterior)]


def _normalized(scores: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    shifted = np.exp(np.asarray(scores, np.float64) - max(scores))
    return np.asarray(shifted / shifted.sum())


AUDIBLE = 0.7  # difference of log-odds from which a witness is worth a word: odds of two


def _why(against: Sequence[Mapping[str, float]], index: int, best: int) -> str:
    """The witnesses that told a hypothesis from the best one, or the best one from the next."""
    others = [each for each in range(len(against)) if each != index]
    other = best if index != best else min(others, key=lambda each: sum(against[each].values()), default=best)
    if other == index:
        return "there was nothing to compare it with"
    told: dict[str, float] = {}
    for name in against[index]:
        witness = next((each for each in Witness if name.partition(": ")[2].startswith(each)), None)
        if witness is not None:
            told[WORDS[witness]] = told.get(WORDS[witness], 0.0) + against[index][name] - against[other][name]
    loud = sorted((word for word in told if abs(told[word]) >= AUDIBLE), key=lambda word: -abs(told[word]))
    if not loud:
        return "no witness in the network tells it from the next best"
    verb = {True: "against it: ", False: "for it: "}
    sides = [(verb[side], [word for word in loud if (told[word] > 0) is side]) for side in (False, True)]
    return "; ".join(f"{words}{', '.join(found[:3])}" for words, found in sides if found)
