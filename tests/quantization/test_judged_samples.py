"""Samples are judged apart by what their inputs were taken for, and none is lost or taken for another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest

from converter.inputs.plans import InputKind, InputPlan, Scaling
from converter.quantization.judged_samples import divide_batch, open_shares, part_hypotheses
from converter.sessions import Feeds


def scaling(scale: float, probability: float | None) -> Scaling:
    return Scaling(f"deviation {scale}", (scale,), (0.0,), probability=probability)


def plan(*scalings: Scaling, name: str = "x") -> InputPlan:
    return InputPlan(
        name, InputKind.FEATURES, np.dtype(np.float32), (1,), scaling=scalings[0], rivals=tuple(scalings[1:])
    )


def numbered(*lengths: int) -> Sequence[Feeds]:
    """Batches whose samples are their own numbers."""
    starts = np.cumsum([0, *lengths])
    return [{"x": np.arange(a, b, dtype=np.float32)[:, None]} for a, b in pairwise(starts)]


def test_shares_are_of_what_is_open() -> None:
    assert open_shares([]) == (1.0,)
    assert open_shares([plan(scaling(1, None))]) == (1.0,)
    assert open_shares([plan(scaling(1, 0.6), scaling(9, 0.2))]) == pytest.approx((0.75, 0.25))
    two = [plan(scaling(1, 0.6), scaling(9, 0.2)), plan(scaling(1, 0.5), scaling(2, 0.3), scaling(3, 0.2), name="y")]
    shares = open_shares(two)
    assert len(shares) == 6
    assert sum(shares) == pytest.approx(1)
    assert shares[3] == pytest.approx(0.25 * 0.5)  # the fourth sample: the second of two, the first of three


@pytest.mark.parametrize("lengths", [(8, 8, 8, 8), (3, 3, 3, 2), (1,) * 7])
def test_every_sample_is_in_a_part_of_its_own_hypothesis(lengths: tuple[int, ...]) -> None:
    shares = (0.5, 0.3, 0.2)
    parts = part_hypotheses(numbered(*lengths), 100, 4, shares)
    seen = [(int(number), part) for part in parts for number in part.feeds["x"][:, 0]]
    assert sorted(number for number, _ in seen) == list(range(sum(lengths)))
    assert all(number % 3 == part.hypothesis and part.share == shares[part.hypothesis] for number, part in seen)
    assert all(len(part.feeds["x"]) <= 4 for part in parts)


def test_what_is_settled_or_shared_by_samples_stays_as_it_came() -> None:
    (part,) = part_hypotheses(numbered(8), 8, 8, (1.0,))
    assert part.feeds["x"][:, 0].tolist() == list(range(8))
    mixed: Sequence[Feeds] = [{"x": np.zeros((4, 1), np.float32), "table": np.zeros((9, 2), np.float32)}]
    (whole,) = part_hypotheses(mixed, 4, 2, (0.5, 0.5))
    assert len(whole.feeds["x"]) == 4
    assert [len(each["x"]) for each in divide_batch(numbered(5)[0], 2)] == [2, 2, 1]
