"""Observers keep everything that decides a range, in memory that does not grow."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.quantization.calibration import Observer, RangeRule, SampleReader, observe
from converter.quantization.sensitivity import round_to_range
from tests.networks import prepare, residual


def observer_of(*batches: list[float]) -> Observer:
    found = Observer()
    for batch in batches:
        found.update(torch.tensor(batch))
    return found


values = st.floats(-(2.0**100), 2.0**100, allow_nan=False, allow_subnormal=False, width=32)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(values, min_size=1, max_size=20), min_size=1, max_size=6))
def test_no_count_is_lost_however_far_the_values_go(batches: list[list[float]]) -> None:
    found = observer_of(*batches)
    assert found.counts.sum() == sum(map(len, batches))
    everything = np.array([value for batch in batches for value in batch], np.float32)
    assert (found.low, found.high) == (everything.min(), everything.max())
    filled = found.centres[found.counts > 0]
    assert filled.min() >= found.low - found.width
    assert filled.max() <= found.high + found.width


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(values, min_size=1, max_size=20), min_size=1, max_size=4), st.sampled_from([16, 256]))
def test_no_rule_leaves_the_extremes_and_all_hold_zero(batches: list[list[float]], levels: int) -> None:
    found = observer_of(*batches)
    widest = found.range(RangeRule.MINMAX, levels)
    for rule in RangeRule:
        each = found.range(rule, levels)
        assert widest.low <= each.low <= 0 <= each.high <= widest.high
        assert each.levels == levels
        assert each.method == str(rule)


def test_memory_does_not_grow_with_samples() -> None:
    found = Observer()
    generator = torch.Generator().manual_seed(0)
    before = None
    for batch in range(20):
        found.update(torch.randn(1000, generator=generator) * 2**batch)
        size = found.counts.nbytes + sum(sys.getsizeof(each) for each in vars(found).values())
        before = before or size
        assert size <= before + 64
    assert found.counts.sum() == 20_000


def test_widening_keeps_every_value_near_its_place() -> None:
    found = observer_of([0.1, 0.2, -0.1], [100.0])
    positive = found.counts[found.centres > 0].sum()
    assert positive == 3
    assert found.counts[np.abs(found.centres - 100.0) <= found.width].sum() == 1


def test_the_least_squared_error_is_least() -> None:
    """The range found rounds what was observed no worse than the extremes or a percentile do."""
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(50_000, generator=generator).relu()
    sample[0] = 60.0
    found = Observer()
    found.update(sample)

    def error(rule: RangeRule) -> float:
        each = found.range(rule, 16)
        return float((round_to_range(sample, each.low, each.high, 16) - sample).square().mean())

    assert error(RangeRule.MSE) < error(RangeRule.MINMAX)
    assert found.range(RangeRule.MSE, 16).high < 60.0


@pytest.mark.parametrize("batch", [[], [0.0, 0.0]])
def test_nothing_and_zeros_have_the_range_of_zero(batch: list[float]) -> None:
    each = observer_of(batch).range(RangeRule.MSE)
    assert (each.low, each.high) == (0.0, 0.0)


def test_values_that_are_not_finite_are_left_out() -> None:
    found = observer_of([1.0, torch.inf, -2.0], [torch.nan, -torch.inf])
    assert (found.low, found.high) == (-2.0, 1.0)
    assert found.counts.sum() == 2


def test_all_tensors_are_observed_over_all_batches() -> None:
    given_ = prepare(residual(), samples=24)
    names = ["x", "s2", "y"]
    found = observe(given_.network, names, given_.batches)
    assert set(found) == set(names)
    for name in names:
        with torch.no_grad():
            all_values = [
                given_.network.run({"x": torch.from_numpy(feeds["x"])}, [name])[name] for feeds in given_.batches
            ]
        together = torch.cat([each.flatten() for each in all_values if isinstance(each, torch.Tensor)])
        assert found[name].counts.sum() == together.numel()
        assert found[name].high == float(together.max())
        assert found[name].low == float(together.min())


def test_a_reader_yields_every_sample_and_starts_over() -> None:
    x, rate = np.arange(20, dtype=np.float32)[:, None], np.array(16_000)
    reader = SampleReader(lambda: ({"x": x[start : start + 8], "rate": rate} for start in range(0, 20, 8)))
    for _ in range(2):
        feeds = [each for each in reader]  # noqa: C416  (list() asks for a length, which readers have not)
        assert [len(each["x"]) for each in feeds] == [8, 8, 4]
        np.testing.assert_array_equal(np.concatenate([each["x"] for each in feeds]), x)
        assert all(each["rate"] == 16_000 for each in feeds)
    assert reader.get_next() is None
    reader.rewind()
    assert reader.get_next() is not None
