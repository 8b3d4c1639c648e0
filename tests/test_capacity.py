"""What fits is bounded on both sides, and steps cost what is larger: their arithmetic or their memory."""

from __future__ import annotations

import numpy as np
import pytest

from converter.capacity import ELEMENT_SECONDS, SPEED, affordable, fitting, forward_seconds, gradient_seconds, spread


@pytest.mark.parametrize(("one", "expected"), [(1.0, 8), (30.0, 3), (99.0, 1), (1000.0, 1), (0.0, 8)])
def test_what_fits_is_at_most_what_is_wanted(one: float, expected: int) -> None:
    assert fitting(one, 100.0, 8) == expected


def test_nothing_may_fit_where_nothing_is_needed() -> None:
    assert fitting(1000.0, 100.0, 8, least=0) == 0
    assert fitting(1000.0, 100.0, 8, least=4) == 4


def test_samples_are_counted_in_floats_of_four_bytes() -> None:
    assert affordable(10, 64, 400.0) == 10


def test_a_step_takes_the_longer_of_arithmetic_and_memory() -> None:
    assert gradient_seconds(SPEED, 0) == 3
    assert gradient_seconds(SPEED, 0, 0.5) == 3.5
    assert gradient_seconds(0, 1e9) == pytest.approx(1e9 * ELEMENT_SECONDS)


def test_batches_are_spread_over_all() -> None:
    batches = [{"x": np.full((4, 2), number), "length": np.array(4)} for number in range(8)]
    assert [int(each["x"][0, 0]) for each in spread(batches, 8)] == [0, 4]
    assert [int(each["x"][0, 0]) for each in spread(batches, 3)] == [0]
    assert len(spread(batches, 1000)) == 8


def test_a_forward_pass_is_a_part_of_a_step() -> None:
    assert 0 < forward_seconds(1e9, 1e6) < gradient_seconds(1e9, 1e6)
    assert forward_seconds(0, 2e9) == pytest.approx(2 * forward_seconds(0, 1e9))
