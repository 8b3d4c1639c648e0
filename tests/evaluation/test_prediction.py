"""Prediction: an interval where measurements support it, nothing where they do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from converter.evaluation.fidelity import wilson
from converter.evaluation.prediction import FlipPair, Measurements, load_measurements, predict
from converter.findings import Decisions, Histogram


def decisions(successes: int, n: int = 128) -> Decisions:
    return Decisions(
        output="scores",
        classes=10,
        probabilities=False,
        agreement=wilson(successes, n),
        mean_kl=0.01,
        margins=Histogram(edges=(0, 1), all=(n,), flipped=(n - successes,)),
        distinct_classes=10,
    )


def measurements(count: int = 12, spread: float = 0.3, seed: int = 0) -> Measurements:
    generator = np.random.default_rng(seed)
    pairs = []
    for index in range(count):
        odds = generator.uniform(-4, -1)
        real = odds + 0.5 + spread * generator.standard_normal()
        flips = [round(n / (1 + np.exp(-x))) for n, x in ((128, odds), (2000, real))]
        pairs.append(FlipPair(f"model{index}", flips[0], 128, flips[1], 2000))
    return Measurements(tuple(pairs), "2026-11-21, a script")


def test_an_interval_around_what_similar_models_did() -> None:
    prediction = predict(decisions(120), measurements())
    assert prediction is not None
    assert 0 < prediction.interval.low < 0.93 < prediction.interval.high < 1
    assert prediction.pairs == 12
    assert "2026" in prediction.provenance


def test_the_interval_holds_what_was_left_out() -> None:
    inside = 0
    whole = measurements(40, seed=1)
    for index, pair in enumerate(whole.pairs):
        others = Measurements(whole.pairs[:index] + whole.pairs[index + 1 :], "")
        prediction = predict(decisions(pair.synthetic_n - pair.synthetic_flips, pair.synthetic_n), others)
        if prediction is not None:
            inside += prediction.interval.low <= 1 - pair.real_flips / pair.real_n <= prediction.interval.high
    assert inside >= 35


def test_noisier_measurements_give_a_wider_interval() -> None:
    narrow, wide = (predict(decisions(118), measurements(spread=spread)) for spread in (0.1, 0.8))
    assert narrow is not None
    assert wide is not None
    assert wide.interval.high - wide.interval.low > narrow.interval.high - narrow.interval.low


@pytest.mark.parametrize("given", [None, measurements(7)])
def test_nothing_is_predicted_without_enough_measurements(given: Measurements | None) -> None:
    assert predict(decisions(120), given) is None


def test_nothing_is_predicted_without_decisions_or_far_from_all_that_was_measured() -> None:
    assert predict(None, measurements()) is None
    assert predict(decisions(10), measurements()) is None


def test_measurements_are_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "pairs.json"
    assert load_measurements(file) is None
    pair = {"model": "a", "synthetic_flips": 1, "synthetic_n": 64, "real_flips": 20, "real_n": 1000}
    file.write_text(json.dumps({"date": "2026-11-21", "command": "python -m x", "pairs": [pair]}))
    loaded = load_measurements(file)
    assert loaded is not None
    assert loaded.pairs == (FlipPair("a", 1, 64, 20, 1000),)
    assert loaded.provenance == "2026-11-21, python -m x"
