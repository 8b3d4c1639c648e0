"""What to expect on real data, as intervals, under every hypothesis of the inputs that is open.

The share of agreeing synthetic inputs predicts nothing: it was 100 % for 98.0 real and 82.8 % for 95.5 real. What
predicts is the error of margins (``converter.evaluation.flip_law``), measured under each hypothesis; the worst counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from converter.evaluation.flip_law import MANY_FLIPS, Law, features, load_laws
from converter.findings import Decisions, Expectation, Interval, Prediction, PredictionUnder
from converter.specifications import input_option

__all__ = ["UnderHypothesis", "predict"]

METRIC = "first class"
ONE_CLASS = "the float model chooses one and the same class for all synthetic inputs, so that they test nothing"
FEW = 8  # samples below which one class for all may be chance
NO_CLASSES = (
    "no output was found to decide between classes (--output NAME=classes states one), and nothing measured links "
    "other outputs to real data"
)
NOT_FINITE = "the class scores are not finite"


@dataclass(frozen=True)
class UnderHypothesis:
    """Decisions compared on inputs that are prepared as one hypothesis says; ``certain`` where nobody guessed."""

    input: str
    name: str
    decisions: Decisions | None
    certain: bool
    probability: float | None = None


def predict(
    compared: Sequence[UnderHypothesis],
    *,
    expected_accuracy: float | None = None,
    max_drop: float | None = None,
    law: Law | None = None,
) -> Prediction:
    """The prediction of the worst of one or more hypotheses, with each one's own.

    ``certified`` is true only if the lower end of the change of accuracy stays above ``-max_drop`` under all of them
    and none is a guess: a wrong guess of the scale shows small errors and ruins real inputs.
    """
    law = law or load_laws()
    each = tuple(
        _under(one, expected_accuracy, law).model_copy(update={"probability": one.probability}) for one in compared
    )
    reason = next((one.reason for one in each if one.reason), None)
    worst = None if reason or not each else min(each, key=_lowest)
    certified, why = _certified(compared, worst, max_drop)
    return Prediction(
        metric=METRIC,
        agreement=worst.agreement if worst else None,
        accuracy_change=worst.accuracy_change if worst else None,
        refuse_below=(law.alone if expected_accuracy is None else law.with_accuracy).refuse_below,
        level=law.level,
        basis=f"The error of margins on synthetic inputs, and {law.basis}.",
        reason=reason if each else NO_CLASSES,
        hypotheses=each,
        guessed=tuple(dict.fromkeys(one.input for one in compared if not one.certain)),
        max_drop=max_drop,
        certified=certified,
        certified_why=why,
    )


def _under(one: UnderHypothesis, expected_accuracy: float | None, law: Law) -> PredictionUnder:
    if one.decisions is None:
        return PredictionUnder(input=one.input, name=one.name, reason=NO_CLASSES)
    if one.decisions.distinct_classes == 1 and one.decisions.agreement.n >= FEW:
        return PredictionUnder(input=one.input, name=one.name, reason=ONE_CLASS)
    known = features(one.decisions, expected_accuracy)
    if not known:
        return PredictionUnder(input=one.input, name=one.name, reason=NOT_FINITE)
    chosen = law.alone if expected_accuracy is None else law.with_accuracy
    flips, middle = chosen.flips(known, one.decisions.classes)
    loss = chosen.loss_of_few if middle < MANY_FLIPS else chosen.loss_of_many
    least, most = (share * flips.high for share in loss)
    if expected_accuracy is not None:
        most, least = min(most, expected_accuracy), max(least, expected_accuracy - 1)
    usual = min(max(chosen.usual_loss * middle, least), most)
    return PredictionUnder(
        input=one.input,
        name=one.name,
        agreement=Expectation(
            interval=Interval(low=1 - flips.high, high=1 - flips.low, confidence=law.level), middle=1 - middle
        ),
        accuracy_change=Expectation(interval=Interval(low=-most, high=-least, confidence=law.level), middle=-usual),
    )


def _lowest(one: PredictionUnder) -> float:
    return 1.0 if one.agreement is None else one.agreement.interval.low


def _certified(
    compared: Sequence[UnderHypothesis], worst: PredictionUnder | None, max_drop: float | None
) -> tuple[bool | None, str]:
    """Whether the loss stays within ``max_drop``, None if nobody asked, and why."""
    if max_drop is None:
        return None, ""
    if worst is None or worst.accuracy_change is None:
        return False, "nothing is known of the accuracy on real data"
    guessed = next((one for one in compared if not one.certain), None)
    if guessed is not None:
        return False, (
            f"how the input {guessed.input} is prepared was guessed ({guessed.name}): "
            f"state it with {input_option(guessed.input, '...')}"
        )
    low = worst.accuracy_change.interval.low
    if low < -max_drop:
        return False, f"the loss may reach {-low:.1%}"
    return True, f"the loss is at most {max(-low, 0):.1%}"
