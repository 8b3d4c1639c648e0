"""What to do with the INT8 model: use it, use it with a few layers in float, or don't, and on what evidence.

Agreement decides where there are decisions, the signal of the worst output elsewhere. What the owner asked for
(``min_agreement``, ``max_drop``) decides before any bar of ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from converter.evaluation.diagnosis import exclude_option, touching, worst_first
from converter.findings import (
    Advice,
    Expectation,
    Fidelity,
    Interval,
    Latency,
    Prediction,
    PredictionUnder,
    Remedy,
    Size,
    Validation,
    Verdict,
)
from converter.findings.gains import NOTICEABLE, faster, gains_little, smaller
from converter.graph import Graph

__all__ = ["Evidence", "reach_verdict"]

LEAST_DB = 15.0  # an error of a sixth of the signal; detectors of the zoo lost 3 to 20 points of their metric below it
LEAST_FOUND = 0.8  # of FP32's boxes; a detector that loses more has lost recall, whatever their threshold
MOST_TENSORS = 6  # that a remedy may take out; more is another model
WORTH = 0.1  # of the outputs' error, below which a tensor is not worth its entry in a command


@dataclass(frozen=True)
class Evidence:
    """What is known when the verdict is reached."""

    fidelity: Fidelity
    predicted: Prediction
    validation: Validation | None
    latency: Latency | None
    size: Size
    shares: Mapping[str, float]
    work: Mapping[str, int]  # multiply-adds of each node with weights
    min_agreement: float | None = None


def reach_verdict(known: Evidence, graph: Graph) -> Verdict:
    """The verdict; a remedy is offered only where it is predicted to mend what is wrong."""
    wrong, right = _against(known), _in_favour(known)
    conditions = tuple(_condition(name, known.predicted) for name in known.predicted.guessed)
    if not wrong:
        return Verdict(
            advice=Advice.USE,
            sentence=f"Use it{', if ' + ' and '.join(conditions) if conditions else ''}{_little(known)}.",
            evidence=right,
            conditions=conditions,
        )
    remedy = _remedy(known, graph)
    if remedy is not None and _mends(remedy, known):
        return Verdict(
            advice=Advice.USE_WITH_FLOAT,
            sentence=f"Convert again with {remedy.option}, then use it.",
            evidence=wrong,
            conditions=conditions,
            remedy=remedy,
        )
    return Verdict(
        advice=Advice.DO_NOT_USE,
        sentence="Don't use it: " + wrong[0] + ".",
        evidence=wrong,
        conditions=conditions,
        remedy=remedy,
    )


def _little(known: Evidence) -> str:
    """What a sentence that recommends a file adds where there is little to win by it."""
    speedup = None if known.latency is None else known.latency.speedup
    if not gains_little(known.size.ratio, speedup):
        return ""
    speed = "its time was not measured" if speedup is None else f"{faster(speedup)} on this processor"
    return f"; but it gains little: the file is {smaller(known.size.ratio)}, {speed}"


def _condition(name: str, predicted: Prediction) -> str:
    """What was supposed of an input whose preparation nobody stated: those that INT8 was judged under and holds."""
    here = [each for each in predicted.hypotheses if each.input == name]
    holding = [each.name for each in here if not _fails(each, predicted)]
    ways = holding or [each.name for each in here]
    if len(ways) == 1:
        return f"the input {name} is prepared as {ways[0]}"
    return f"the input {name} is prepared in one of the ways tried: {', '.join(ways[:-1])} or {ways[-1]}"


def _fails(one: PredictionUnder, predicted: Prediction) -> bool:
    return one.agreement is not None and one.agreement.middle < predicted.refuse_below


def _likely_middle(predicted: Prediction) -> float | None:
    """The agreement that is reached or not with even odds, the hypotheses of an input weighed by their probabilities;
    of several inputs the one that reaches least.

    The worst hypothesis stands in the headline. It does not decide alone: of VWW's MobileNet, which INT8 left as it was
    on every real picture, one that was wrong and had a probability of 14 % foretold 66 % (tests/bench/RESULTS.md).
    """
    found = []
    for name in dict.fromkeys(each.input for each in predicted.hypotheses):
        here = [
            (each.agreement.middle, 1.0 if each.probability is None else each.probability)
            for each in predicted.hypotheses
            if each.input == name and each.agreement is not None
        ]
        half, below = sum(weight for _, weight in here) / 2, 0.0
        for middle, weight in sorted(here):
            below += weight
            if below >= half:
                found.append(middle)
                break
    return min(found, default=None)


def _agreement(known: Evidence) -> tuple[float, float] | None:
    """The middle and the lower end of agreement on the owner's data, or as expected; None where there is none."""
    if known.validation is not None and known.validation.decisions is not None:
        measured = known.validation.decisions.agreement
        return measured.value, measured.interval.low
    expected = known.predicted.agreement
    if expected is None:
        return None
    likely = _likely_middle(known.predicted)
    return expected.middle if likely is None else likely, expected.interval.low


def _against(known: Evidence) -> tuple[str, ...]:
    """Every reason not to use it, the gravest first."""
    found = []
    agreement = _agreement(known)
    if agreement is not None and agreement[0] < known.predicted.refuse_below:
        found.append(f"it is expected to decide otherwise than FP32 on {1 - agreement[0]:.0%} of real inputs")
    if agreement is not None and known.min_agreement is not None and agreement[1] < known.min_agreement:
        found.append(f"agreement may be {agreement[1]:.1%}, and {known.min_agreement:.1%} were asked for")
    if known.predicted.certified is False and not known.predicted.guessed:
        found.append(f"--max-drop {known.predicted.max_drop} could not be certified: {known.predicted.certified_why}")
    judged = None if known.fidelity.decisions is None else known.fidelity.decisions.output
    for output in known.fidelity.outputs:
        for group in output.groups or (output,):
            if output.name != judged and group.sqnr_db is not None and group.sqnr_db < LEAST_DB:
                found.append(
                    f"{group.name} carries {group.sqnr_db:.1f} dB of signal over error (at least {LEAST_DB:g})"
                )
        if output.boxes_found is not None and output.boxes_found.value < LEAST_FOUND:
            found.append(f"{output.name}: {output.boxes_found.value:.0%} of FP32's boxes are found again")
        if output.not_compared == known.fidelity.samples > 0 and output.boxes_found is None and not known.validation:
            found.append(f"{output.name} could not be compared on any input")
    if known.size.ratio <= 1 and not _is_faster(known.latency):
        found.append("it is neither smaller nor faster than FP32")
    return tuple(found)


def _is_faster(latency: Latency | None) -> bool:
    return latency is not None and latency.speedup > 1 / NOTICEABLE


def _in_favour(known: Evidence) -> tuple[str, ...]:
    found = []
    agreement = _agreement(known)
    if agreement is not None:
        source = "measured on your data" if known.validation and known.validation.decisions else "expected on real data"
        found.append(f"{agreement[0]:.1%} of decisions as FP32's {source}, at least {agreement[1]:.1%}")
    else:
        ratios = [each.sqnr_db for each in known.fidelity.outputs if each.sqnr_db is not None]
        if ratios:
            found.append(f"the worst output carries {min(ratios):.1f} dB of signal over error on synthetic inputs")
    if known.size.ratio > 1:
        found.append(f"the file is {smaller(known.size.ratio)}")
    if known.latency is not None and _is_faster(known.latency):
        found.append(f"{faster(known.latency.speedup)} on this processor")
    return tuple(found)


def _remedy(known: Evidence, graph: Graph) -> Remedy | None:
    """The worst tensors' nodes in float, with what that gains; None where no tensor stands out."""
    worst = [name for name in worst_first(known.shares, graph) if known.shares[name] >= WORTH]
    chosen = worst[:MOST_TENSORS]
    nodes = list(dict.fromkeys(node for name in chosen for node in touching(name, graph)))
    if not nodes:
        return None
    removed = min(1.0, sum(known.shares[name] for name in chosen))
    total = sum(known.work.values())
    return Remedy(
        option=exclude_option(nodes),
        nodes=tuple(nodes),
        agreement=_lifted(known.predicted.agreement, removed),
        error_removed=removed,
        work_in_float=sum(known.work.get(node, 0) for node in nodes) / total if total else None,
    )


def _lifted(expected: Expectation | None, removed: float) -> Expectation | None:
    """What is expected with that share of the error's power gone: flips are proportional to the error's deviation."""
    if expected is None:
        return None
    factor = math.sqrt(max(1 - removed, 0.01))  # what was kept float leaves other errors behind
    low, middle, high = (
        1 - (1 - share) * factor for share in (expected.interval.low, expected.middle, expected.interval.high)
    )
    return Expectation(interval=Interval(low=low, high=high, confidence=expected.interval.confidence), middle=middle)


def _mends(remedy: Remedy, known: Evidence) -> bool:
    """Whether the remedy is predicted to answer every reason against that layers in float can answer."""
    gained = -10 * math.log10(max(1 - remedy.error_removed, 0.01))
    judged = None if known.fidelity.decisions is None else known.fidelity.decisions.output
    for output in known.fidelity.outputs:
        low = output.sqnr_db is not None and output.sqnr_db < LEAST_DB <= output.sqnr_db + gained
        if output.name != judged and output.sqnr_db is not None and output.sqnr_db < LEAST_DB and not low:
            return False
    if _agreement(known) is not None:
        lifted = remedy.agreement
        if lifted is None or lifted.middle < known.predicted.refuse_below:
            return False
        if known.min_agreement is not None and lifted.interval.low < known.min_agreement:
            return False
        if known.predicted.max_drop is not None and 1 - lifted.interval.low > known.predicted.max_drop:
            return False
    return True
