"""Weights end on their grid, and the layer's output moves less than by rounding each weight alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from converter.quantization.rounding import Moments, cancel, compensate, max_scale, mse_scale, nearest, patches


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def correlated(width: int, places: int = 4000, groups: int = 1, seed: int = 5) -> Tensor:
    """[G, K, P] of inputs that mostly move together, as pixels of a patch do."""
    common = random(groups, 4, places, seed=seed)
    mixing = random(groups, width, 4, seed=seed + 1)
    return mixing @ common + 0.1 * random(groups, width, places, seed=seed + 2)


def moments_of(columns: Tensor) -> Tensor:
    found = Moments.empty(columns.shape[0], columns.shape[1])
    found.add(columns)
    return found.mean()


def output_error(rows: Tensor, rounded: Tensor, columns: Tensor) -> float:
    groups = columns.shape[0]
    gap = (rows - rounded).reshape(groups, -1, rows.shape[1])
    return float((gap.double() @ columns.double()).square().mean())


def codes(rows: Tensor, scale: Tensor) -> Tensor:
    return rows / scale[:, None]


def on_grid(rows: Tensor, scale: Tensor, bits: int) -> bool:
    found = codes(rows, scale)
    top = 2 ** (bits - 1) - 1
    return bool((found - found.round()).abs().max() < 1e-3) and float(found.abs().max()) <= top + 1e-3


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("width", [9, 72, 300])
def test_compensation_beats_nearest_on_correlated_inputs(bits: int, groups: int, width: int) -> None:
    rows = random(16, width)
    scale = max_scale(rows, bits)
    columns = correlated(width, groups=groups)
    rounded = compensate(rows, scale, moments_of(columns), bits)
    assert rounded.shape == rows.shape
    assert on_grid(rounded, scale, bits)
    assert output_error(rows, rounded, columns) < 0.5 * output_error(rows, nearest(rows, scale, bits), columns)


def test_compensation_holds_for_inputs_it_has_not_seen() -> None:
    rows = random(16, 72)
    scale = max_scale(rows, 4)
    columns = correlated(72, 8000)
    rounded = compensate(rows, scale, moments_of(columns[:, :, :4000]), 4)
    fresh = columns[:, :, 4000:]
    assert output_error(rows, rounded, fresh) < 0.5 * output_error(rows, nearest(rows, scale, 4), fresh)


def test_independent_inputs_leave_nothing_to_compensate() -> None:
    rows = random(8, 40)
    scale = max_scale(rows, 8)
    moments = torch.eye(40, dtype=torch.float64)[None]
    torch.testing.assert_close(compensate(rows, scale, moments, 8), nearest(rows, scale, 8))


def test_inputs_that_never_move_are_no_obstacle() -> None:
    rows = random(8, 40)
    scale = max_scale(rows, 8)
    columns = correlated(40)
    columns[:, 10:20] = 0
    rounded = compensate(rows, scale, moments_of(columns), 8)
    assert bool(torch.isfinite(rounded).all())
    assert on_grid(rounded, scale, 8)


def test_weights_on_the_grid_stay() -> None:
    rows = random(8, 40)
    scale = max_scale(rows, 8)
    there = nearest(rows, scale, 8)
    torch.testing.assert_close(compensate(there, scale, moments_of(correlated(40)), 8), there)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 6), kernels=st.integers(1, 12), kernel=st.sampled_from([4, 9, 25]), seed=st.integers(0, 10**6)
)
def test_errors_cancel_within_each_kernel_and_each_row(rows: int, kernels: int, kernel: int, seed: int) -> None:
    weights = random(rows, kernels * kernel, seed=seed)
    scale = max_scale(weights, 8) * 1.05  # no weight at the grid's end, where it could not be rounded outwards
    rounded = cancel(weights, scale, kernel, 8)
    assert on_grid(rounded, scale, 8)
    error = codes(rounded - weights, scale).double()
    assert float(error.abs().max()) <= 1 + 1e-3
    assert float(error.sum(1).abs().max()) <= 0.5 + 1e-2
    by_kernel = error.reshape(rows, kernels, kernel).sum(2)
    assert float(by_kernel.abs().max()) <= (0.5 if kernels == 1 else 1.0) + 1e-2


def test_one_kernel_a_row_is_within_half_a_step() -> None:
    """Depthwise layers, which see one channel each: a constant input is reproduced to half a step of the weights."""
    weights = random(64, 9)
    scale = max_scale(weights, 4) * 1.1
    by_cancelling = codes(cancel(weights, scale, 9, 4) - weights, scale).sum(1).abs()
    by_nearest = codes(nearest(weights, scale, 4) - weights, scale).sum(1).abs()
    assert float(by_cancelling.max()) <= 0.5 + 1e-4
    assert float(by_nearest.max()) > 1


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_steps_that_clip_are_better_at_few_bits(bits: int) -> None:
    rows = random(16, 200)
    full, best = max_scale(rows, bits), mse_scale(rows, bits)
    gap = [float((nearest(rows, scale, bits) - rows).square().sum()) for scale in (full, best)]
    assert gap[1] <= gap[0]
    assert bool((best <= full * (1 + 1e-6)).all())
    if bits < 8:
        assert gap[1] < 0.9 * gap[0]


def test_importance_decides_what_may_be_clipped() -> None:
    rows = random(4, 50)
    rows[:, 0] = 8.0
    important = torch.ones(50)
    important[0] = 1000.0
    plain, weighted = mse_scale(rows, 4), mse_scale(rows, 4, important)
    assert bool((weighted > plain).all())


def test_rows_of_zeros_have_a_step() -> None:
    rows = torch.zeros(3, 5)
    scale = max_scale(rows, 8)
    assert bool((scale > 0).all())
    assert bool((nearest(rows, scale, 8) == 0).all())
    assert bool((cancel(rows, scale, 5, 8) == 0).all())


@pytest.mark.parametrize("width", [8, 1100])
def test_moments_of_parts_are_moments_of_the_whole(width: int) -> None:
    columns = correlated(width, 60)
    parts = Moments.empty(1, width)
    for start in range(0, 60, 20):
        parts.add(columns[:, :, start : start + 20])
    assert parts.count == 60
    torch.testing.assert_close(parts.mean(), moments_of(columns), rtol=1e-4, atol=1e-4 if width > 1024 else 1e-9)


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "pads", "dilation", "groups"),
    [
        (3, (3, 3), [1, 1], [1, 1, 1, 1], [1, 1], 1),
        (8, (3, 3), [2, 2], [0, 0, 1, 1], [1, 1], 4),
        (6, (1, 1), [2, 2], [0, 0, 0, 0], [1, 1], 2),
        (4, (3, 5), [1, 2], [2, 1, 0, 3], [2, 1], 1),
        (6, (5,), [2], [2, 1], [1], 6),
    ],
)
def test_products_with_the_patches_are_the_convolution(
    channels: int, kernel: tuple[int, ...], stride: list[int], pads: list[int], dilation: list[int], groups: int
) -> None:
    rank = len(kernel)
    x = random(2, channels, *((12, 11)[:rank]))
    weight = random(4 * groups, channels // groups, *kernel, seed=1)
    columns = patches(x, kernel, stride, pads, dilation, groups)
    product = weight.flatten(1).reshape(groups, 4, -1) @ columns  # [G, 4, P]
    around = [pads[axis + side * rank] for axis in reversed(range(rank)) for side in (0, 1)]
    convolve = torch.nn.functional.conv1d if rank == 1 else torch.nn.functional.conv2d
    expected = convolve(
        torch.nn.functional.pad(x, around), weight, stride=stride, dilation=dilation, groups=groups
    )  # [2, 4 G, ...]
    torch.testing.assert_close(product.reshape(4 * groups, -1), expected.movedim(1, 0).flatten(1), rtol=1e-4, atol=1e-4)
