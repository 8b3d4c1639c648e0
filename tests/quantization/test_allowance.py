"""What the time budget has room for follows from the size of the network."""

from __future__ import annotations

from converter.options import Options, Step
from converter.quantization.allowance import EQUALIZED, JUDGED, allow


def test_small_networks_take_all_samples_and_large_ones_as_few_as_fit() -> None:
    small, large = allow(0.01, 128, Options()), allow(1.0, 128, Options())
    assert (small.judged, small.equalized, small.fitted) == (JUDGED, EQUALIZED, 128)
    assert 1 <= large.judged < JUDGED
    assert 2 <= large.equalized < EQUALIZED
    assert 1 <= large.fitted < 128
    assert not small.left_out
    assert not large.left_out


def test_more_time_means_more_samples() -> None:
    found = [allow(0.3, 128, Options(time_budget=seconds)) for seconds in (10.0, 60.0, 600.0)]
    for name in ("judged", "equalized", "fitted"):
        counts = [getattr(each, name) for each in found]
        assert counts == sorted(counts)
        assert counts[0] < counts[-1]


def test_what_takes_more_than_all_of_the_time_is_left_out_and_named() -> None:
    hurried = allow(0.5, 8, Options(time_budget=5.0))
    assert "more than the time budget of 5 s" in hurried.left_out[Step.FLOAT_FALLBACK].as_step().sentence
    assert not hurried.left_out[Step.FLOAT_FALLBACK].as_step().applied
    assert not allow(0.5, 8, Options(time_budget=5.0, skip=frozenset({Step.FLOAT_FALLBACK}))).left_out
