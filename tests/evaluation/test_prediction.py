"""Prediction: intervals from the errors of margins, the worst hypothesis first, and nothing where nothing is known."""

from __future__ import annotations

import numpy as np
import pytest

from converter.evaluation.fidelity import wilson
from converter.evaluation.flip_law import FlipLaw, load_laws
from converter.evaluation.margins import MarginTally
from converter.evaluation.prediction import UnderHypothesis, predict
from converter.findings import Decisions, Histogram, MarginErrors


def decisions(error: float = 0.1, classes: int = 10) -> Decisions:
    return Decisions(
        output="scores",
        classes=classes,
        probabilities=False,
        agreement=wilson(60, 64),
        mean_kl=error**2 / 10,
        margins=Histogram(edges=(0, 1), all=(64,), flipped=(4,)),
        distinct_classes=classes,
        margin_errors=MarginErrors(
            error=error, bias=0, tail=2, median_margin=3, small_margin=1, mean_confidence=0.8, samples=64
        ),
    )


def under(error: float, name: str = "0..1", certain: bool = True) -> UnderHypothesis:
    return UnderHypothesis("x", name, decisions(error), certain)


def low_high(error: float, accuracy: float | None = None) -> tuple[float, float]:
    found = predict([under(error)], expected_accuracy=accuracy).agreement
    assert found is not None
    return found.interval.low, found.interval.high


@pytest.mark.parametrize("accuracy", [None, 0.0, 0.3, 0.92, 1.0])
@pytest.mark.parametrize("error", np.geomspace(1e-4, 10, 9).tolist())
def test_intervals_are_shares_and_larger_errors_lower_them(error: float, accuracy: float | None) -> None:
    low, high = low_high(error, accuracy)
    assert 0 <= low <= high <= 1
    lower = low_high(2 * error, accuracy)
    assert lower[0] <= low
    assert lower[1] <= high


def test_stating_the_accuracy_narrows_the_interval() -> None:
    unknown, known = load_laws().alone, load_laws().with_accuracy
    assert known.high - known.low < unknown.high - unknown.low


def test_what_flips_is_bounded_by_guessing() -> None:
    assert low_high(1e6)[0] == pytest.approx(0.1, abs=1e-6)
    assert low_high(1e6, 0.5)[0] == pytest.approx(0.1, abs=1e-6)


def test_the_law_is_a_line_through_logarithms() -> None:
    law = FlipLaw(np.log(0.4), {"error": 1.0}, -0.1, 0.1, (0, 0.5), (0.1, 0.9), 0.2, 0.9)
    flips, middle = law.flips({"error": np.log(0.05)}, 10)
    assert middle == pytest.approx(1 - np.exp(-0.02))
    assert flips.low == pytest.approx(1 - np.exp(-0.02 * np.exp(-0.1)))
    assert flips.high == pytest.approx(1 - np.exp(-0.02 * np.exp(0.1)))


def test_the_worst_hypothesis_is_the_headline() -> None:
    prediction = predict([under(0.05), under(0.5, "0..255")])
    assert prediction.agreement == prediction.hypotheses[1].agreement
    assert [each.name for each in prediction.hypotheses] == ["0..1", "0..255"]


def test_one_unknown_hypothesis_makes_the_whole_unknown() -> None:
    prediction = predict([under(0.05), UnderHypothesis("x", "other", None, True)])
    assert prediction.agreement is None
    assert prediction.reason is not None


@pytest.mark.parametrize(
    ("compared", "most", "certified"),
    [
        ([under(0.001)], 0.05, True),
        ([under(0.001, certain=False)], 0.05, False),
        ([under(0.001), under(0.001, certain=False)], 0.05, False),
        ([under(3.0)], 0.05, False),
        ([UnderHypothesis("x", "0..1", None, True)], 0.05, False),
        ([under(0.001)], None, None),
    ],
)
def test_only_what_is_known_and_small_is_certified(
    compared: list[UnderHypothesis], most: float | None, certified: bool | None
) -> None:
    assert predict(compared, max_drop=most).certified is certified


def test_the_loss_of_accuracy_is_less_than_the_share_of_changed_decisions() -> None:
    prediction = predict([under(0.3)])
    assert prediction.agreement is not None
    assert prediction.accuracy_change is not None
    assert prediction.accuracy_change.interval.low >= prediction.agreement.interval.low - 1
    assert prediction.accuracy_change.interval.low < 0


def test_errors_of_margins_are_those_of_the_first_two_classes() -> None:
    generator = np.random.default_rng(0)
    before = np.tile([5.0, 3.0, 0.0], (2000, 1))
    after = before + [[1, 0, 50]] * generator.normal(0, 0.2, (2000, 1))
    tally = MarginTally()
    tally.add(before, after, np.full(2000, 0.9), False)
    found = tally.result()
    assert found is not None
    assert found.error == pytest.approx(0.2, rel=0.1)
    assert (found.median_margin, found.samples) == (2, 2000)
    assert found.tail == pytest.approx(1.96, rel=0.1)


def test_probabilities_are_compared_as_logarithms() -> None:
    scores = np.random.default_rng(0).normal(0, 2, (50, 7))
    other = scores + np.random.default_rng(1).normal(0, 0.1, scores.shape)
    raw, soft = MarginTally(), MarginTally()
    raw.add(scores, other, np.ones(50), False)
    x, y = (np.exp(each) / np.exp(each).sum(1, keepdims=True) for each in (scores, other))
    soft.add(x, y, np.ones(50), True)
    before, after = raw.result(), soft.result()
    assert before is not None
    assert after is not None
    assert after.error == pytest.approx(before.error, rel=1e-3)


def test_no_samples_have_no_errors() -> None:
    assert MarginTally().result() is None
