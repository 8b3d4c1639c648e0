"""The damage of rounding a tensor, foretold by gradients, ranks tensors as trying each does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from converter.inputs.plans import tensors
from converter.inputs.sizes import sizes
from converter.quantization.calibration import RangeRule, observe
from converter.quantization.judged_samples import Judged
from converter.quantization.placement import place, quantized_tensors
from converter.quantization.qdq_writer import Range
from converter.quantization.sensitivity import (
    divide,
    measure_damage,
    padded,
    refer,
    round_to_range,
    simulate_rounding,
)
from converter.reconstruction import reconstruct
from tests.networks import Prepared, model_of, node, prepare, residual, weights


@settings(max_examples=100, deadline=None)
@given(
    st.floats(-1000, 0), st.floats(0.01, 1000), st.sampled_from([16, 256]), st.lists(st.floats(-2000, 2000), min_size=1)
)
def test_values_end_on_the_grid_and_zero_stays(low: float, high: float, levels: int, values: list[float]) -> None:
    given_ = torch.tensor([*values, 0.0], dtype=torch.float64)
    rounded = round_to_range(given_, low, high, levels)
    step = (high - low) / (levels - 1)
    codes = rounded / step
    assert float((codes - codes.round()).abs().max()) < 1e-6
    assert float(rounded[-1]) == 0.0
    assert len(torch.unique(codes.round())) <= levels
    inside = (given_ >= low) & (given_ <= high)
    assert bool(((rounded - given_).abs()[inside] <= step * 1.001).all())
    torch.testing.assert_close(round_to_range(rounded, low, high, levels), rounded)


def ranges_of(given_: Prepared, levels: int = 256) -> dict[str, Range]:
    names = sorted(set(quantized_tensors(given_.graph, place(given_.graph, {}).nodes).values()))
    observed = observe(given_.network, names, given_.batches)
    return {name: each.range(RangeRule.MINMAX, levels) for name, each in observed.items()}


def tried(given_: Prepared, ranges: dict[str, Range]) -> dict[str, float]:
    """The outputs' relative squared error when each tensor alone is rounded."""
    found = dict.fromkeys(ranges, 0.0)
    with torch.no_grad():
        for feeds in map(tensors, given_.batches):
            exact = given_.network.run(feeds, ["y"])["y"]
            assert isinstance(exact, Tensor)
            for name, each in ranges.items():

                def edit(value: Tensor, each: Range = each) -> Tensor:
                    return round_to_range(value, each.low, each.high, each.levels)

                after = given_.network.run(feeds, ["y"], edit={name: edit})["y"]
                assert isinstance(after, Tensor)
                found[name] += float((after - exact).square().sum() / exact.var())
    return found


def test_tensors_are_ranked_as_by_trying() -> None:
    given_ = prepare(residual(), samples=32)
    ranges = ranges_of(given_, 64)
    foretold = measure_damage(given_.network, ranges, ["y"], list(map(tensors, given_.batches)), 0)
    real = tried(given_, ranges)
    names = sorted(ranges)
    one, other = (np.log([found[name] for name in names]) for found in (foretold, real))
    assert np.corrcoef(one, other)[0, 1] > 0.8


def test_coarser_grids_do_more_damage() -> None:
    given_ = prepare(residual())
    fine, coarse = (
        measure_damage(given_.network, ranges_of(given_, levels), ["y"], list(map(tensors, given_.batches)), 0)
        for levels in (256, 16)
    )
    assert all(coarse[name] > 10 * fine[name] for name in fine if fine[name] > 0)
    assert sum(fine.values()) > 0


def test_an_output_of_one_number_has_its_spread_over_all_samples() -> None:
    layers = [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["r"]), node("GlobalAveragePool", ["r"], ["p"])]
    layers += [node("Flatten", ["p"], ["f"]), node("Gemm", ["f", "v"], ["y"])]
    given_ = prepare(model_of(layers, {"w": weights(8, 8, 3, 3), "v": weights(8, 1)}), samples=64)
    ranges = ranges_of(given_)
    together = [{"x": torch.cat([tensors(feeds)["x"] for feeds in given_.batches])}]
    apart = [{"x": each[None]} for each in together[0]["x"]]
    whole, single = (measure_damage(given_.network, ranges, ["y"], batches, 0) for batches in (together, apart))
    assert all(0.5 * whole[name] <= single[name] <= 2 * whole[name] for name in ranges)
    assert sum(single.values()) > 0
    one = measure_damage(given_.network, ranges, ["y"], apart[:1], 0)
    assert all(np.isfinite(each) for each in one.values())


def test_clipping_does_damage() -> None:
    given_ = prepare(residual())
    ranges = ranges_of(given_)
    narrow = ranges | {"s2": Range(0.0, ranges["s2"].high / 4, "a test")}
    wide, clipped = (
        measure_damage(given_.network, each, ["y"], list(map(tensors, given_.batches)), 0)["s2"]
        for each in (ranges, narrow)
    )
    assert clipped > 10 * wide


def test_a_tensor_that_reaches_no_output_does_none() -> None:
    given_ = prepare(residual())
    damage = measure_damage(
        given_.network,
        {"y": Range(-1, 1, "a test"), "x": Range(-4, 4, "a test")},
        ["c0"],
        list(map(tensors, given_.batches)),
        0,
    )
    assert damage["y"] == 0.0
    assert damage["x"] > 0.0


def test_outputs_that_no_gradient_reaches_tell_nothing() -> None:
    model = model_of(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("Relu", ["c"], ["r"]),
            node("Conv", ["r", "w1"], ["d"]),
            node("ArgMax", ["d"], ["y"], axis=1),
        ],
        {"w": weights(16, 8, 1, 1), "w1": weights(4, 16, 1, 1)},
    )
    model.graph.output[0].type.tensor_type.elem_type = 7
    given_ = prepare(model)
    damage = measure_damage(given_.network, {"r": Range(0, 1, "a test")}, ["y"], list(map(tensors, given_.batches)), 0)
    assert damage == {"r": 0.0}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_decides_the_projection(seed: int) -> None:
    given_ = prepare(residual())
    ranges = ranges_of(given_)
    first, second = (
        measure_damage(given_.network, ranges, ["y"], list(map(tensors, given_.batches)), each) for each in (seed, seed)
    )
    assert first == second
    assert first != measure_damage(given_.network, ranges, ["y"], list(map(tensors, given_.batches)), seed + 7)


@pytest.mark.parametrize("most", [1, 2000, 5000])
def test_part_by_part_damage_is_what_it_is_at_once(most: int) -> None:
    """Sums around blocks cross from part to part, and the input is read in the first one alone."""
    given_ = prepare(residual())
    ranges, batches = ranges_of(given_, 64), [tensors(each) for each in given_.batches]
    elements = sizes(given_.network, given_.graph, given_.batches[0])
    parts = divide(given_.graph, elements, ["y"], most)
    assert len(parts) > 1
    assert sum(len(part.names) for part in parts) == len(frozenset().union(*(part.names for part in parts)))
    whole = measure_damage(given_.network, ranges, ["y"], batches, 0)
    divided = measure_damage(given_.network, ranges, ["y"], batches, 0, parts)
    assert divided == pytest.approx(whole, rel=1e-4)
    assert all(whole.values())


def test_a_small_network_is_one_part() -> None:
    given_ = prepare(residual())
    elements = sizes(given_.network, given_.graph, given_.batches[0])
    (part,) = divide(given_.graph, elements, ["y"], 1e9)
    assert part.leaving == ("y",)
    assert part.names >= {*ranges_of(given_)}


def test_whoever_fetches_the_last_tensors_sees_all() -> None:
    given_ = prepare(residual())
    names = sorted(ranges_of(given_))
    last = given_.network.last_of(names)
    seen: list[str] = []

    def look(name: str) -> Callable[[Tensor], Tensor]:
        def note(value: Tensor) -> Tensor:
            seen.append(name)
            return value

        return note

    given_.network.run(tensors(given_.batches[0]), last, edit={name: look(name) for name in names})
    assert sorted(seen) == names
    assert len(last) < len(names)


def test_what_is_rounded_together_is_measured() -> None:
    given_ = prepare(residual())
    ranges, batches = ranges_of(given_), [Judged(tensors(each)) for each in given_.batches]
    references = refer(given_.network, ["y"], batches)
    together = simulate_rounding(given_.network, ranges, references)["y"]
    coarse = simulate_rounding(given_.network, ranges_of(given_, 16), references)["y"]
    assert 0 < together < coarse / 20
    assert simulate_rounding(given_.network, {}, references)["y"] == 0.0


def test_quiet_hypotheses_have_errors_of_their_own() -> None:
    given_ = prepare(residual())
    ranges, feeds = ranges_of(given_), tensors(given_.batches[0])
    quiet = {name: value / 100 for name, value in feeds.items()}

    def error(*parts: Judged) -> float:
        return simulate_rounding(given_.network, ranges, refer(given_.network, ["y"], parts))["y"]

    loud, soft = error(Judged(feeds)), error(Judged(quiet))
    assert soft > 10 * loud
    assert error(Judged(feeds), Judged(quiet)) < soft / 4  # in one sum quiet ones hardly show
    assert error(Judged(feeds, 0, 0.8), Judged(quiet, 1, 0.2)) == pytest.approx(0.8 * loud + 0.2 * soft)
    assert error(Judged(feeds, 0, 0.4), Judged(quiet, 1, 0.1)) == pytest.approx(0.8 * loud + 0.2 * soft)


def test_one_number_a_batch_varies_over_batches() -> None:
    layers = [node("Conv", ["x", "w"], ["c"]), node("GlobalAveragePool", ["c"], ["y"])]
    given_ = prepare(model_of(layers, {"w": weights(1, 8, 3, 3)}))
    together = tensors(given_.batches[0])
    apart = [Judged({"x": each[None]}) for each in together["x"]]
    ranges = {"c": Range(-8, 8, "a test", 16)}
    whole, single = (
        simulate_rounding(given_.network, ranges, refer(given_.network, ["y"], parts))["y"]
        for parts in ([Judged(together)], apart)
    )
    assert single == pytest.approx(whole, rel=1e-4)
    assert whole > 0


def test_errors_on_padded_pictures_count_against_the_variance_of_whole_ones() -> None:
    given_ = prepare(residual())
    ranges, batches = ranges_of(given_, 64), [Judged(tensors(each)) for each in given_.batches]
    whole = refer(given_.network, ["y"], batches)
    both = refer(given_.network, ["y"], batches, {"x": 2})
    assert [each.plain for each in both] == [True, False] * len(batches)
    bars = [replace(each, plain=True) for each in both if not each.plain]
    errors = [simulate_rounding(given_.network, ranges, each)["y"] for each in (whole, both)]
    assert errors[1] >= errors[0] > 0
    assert simulate_rounding(given_.network, ranges, bars)["y"] > 0


def test_pictures_get_even_bars_and_other_inputs_stay() -> None:
    feeds = {"x": torch.randn(2, 3, 8, 6), "ids": torch.arange(2)}
    found = padded(feeds, {"x": 2})
    assert found is not None
    assert float(found["x"][:, :, :2].std(dim=(2, 3)).max()) < 1e-6
    assert float(found["x"][:, :, 6:].std(dim=(2, 3)).max()) < 1e-6
    torch.testing.assert_close(found["x"][:, :, 2:6], feeds["x"][:, :, 2:6])
    assert found["ids"] is feeds["ids"]
    assert padded(feeds, {}) is None


def test_a_tensor_under_two_names_is_damaged_by_what_reads_it_under_either() -> None:
    """The gradient that comes back to a name is that of the readers behind it, not of all readers of the values."""
    model = model_of(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("Identity", ["c"], ["i"]),
            node("Mul", ["c", "large"], ["m"]),
            node("Add", ["m", "i"], ["y"]),
        ],
        {"w": weights(16, 8, 1, 1), "large": np.full((1,), 100, np.float32)},
    )
    ranges = {name: Range(-8, 8, "a test", 16) for name in ("c", "i")}
    batches = list(map(tensors, prepare(residual()).batches))
    damage = measure_damage(reconstruct(model), ranges, ["y"], batches, 0)
    assert damage["c"] / damage["i"] == pytest.approx(101**2, rel=0.3)
