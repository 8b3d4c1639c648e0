"""What the time budget has room for follows from the size of the network."""

from __future__ import annotations

from converter.options import Options
from converter.quantization.allowance import EQUALIZED, JUDGED, allow


def test_small_networks_take_all_samples_and_large_ones_as_few_as_fit() -> None:
    small, large = allow(0.01, 128, Options()), allow(1.0, 128, Options())
    assert (small.judged, small.equalized, small.fitted) == (JUDGED, EQUALIZED, 128)
    assert 1 <= large.judged < JUDGED
    assert 2 <= large.equalized < EQUALIZED
    assert 1 <= large.fitted < 128


def test_more_time_means_more_samples() -> None:
    found = [allow(0.3, 128, Options(time_budget=seconds)) for seconds in (10.0, 60.0, 600.0)]
    for name in ("judged", "equalized", "fitted"):
        counts = [getattr(each, name) for each in found]
        assert counts == sorted(counts)
        assert counts[0] < counts[-1]


def test_no_hurry_leaves_out_the_choice_of_float_nodes() -> None:
    hurried = allow(50.0, 8, Options(time_budget=5.0))
    assert (hurried.judged, hurried.equalized, hurried.fitted) == (1, 2, 1)
