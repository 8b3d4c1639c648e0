from __future__ import annotations

import pytest
import torch
from torch import Tensor

from converter.quantization.low_bit_rounding import Inputs, aim, fit
from converter.quantization.rounding import Moments, compensate, limit, mse_scale


def correlated(groups: int, width: int, places: int = 2000, seed: int = 0) -> Tensor:
    """[G, K, P] positive inputs that share most of their variance, as neighbouring pixels do."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(groups, 1, places, generator=generator)
    return (shared + 0.5 * torch.randn(groups, width, places, generator=generator)).relu()


def summed(exact: Tensor, rounded: Tensor) -> Inputs:
    inputs = Inputs.empty(*exact.shape[:2])
    for part in (slice(0, 700), slice(700, None)):
        inputs.add(exact[:, :, part], rounded[:, :, part])
    return inputs


def outputs(rows: Tensor, x: Tensor) -> Tensor:
    return rows.reshape(x.shape[0], -1, x.shape[1]) @ x


@pytest.mark.parametrize("groups", [1, 4])
def test_equal_inputs_leave_the_weights_as_the_aim(groups: int) -> None:
    x, rows = correlated(groups, 9), torch.randn(8, 9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(aim(rows, summed(x, x)), rows, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
def test_the_aim_undoes_what_earlier_layers_did(groups: int) -> None:
    x, rows = correlated(groups, 9), torch.randn(8, 9, generator=torch.Generator().manual_seed(1))
    y = x * 0.8 + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    wanted = outputs(rows, x)
    before = (wanted - outputs(rows, y)).square().mean()
    after = (wanted - outputs(aim(rows, summed(x, y)), y)).square().mean()
    assert after < 0.3 * before


@pytest.mark.parametrize("groups", [1, 4])
def test_fitted_codes_are_on_the_grid_and_better_than_compensation_alone(groups: int) -> None:
    x, rows = correlated(groups, 9), torch.randn(8, 9, generator=torch.Generator().manual_seed(1))
    y = x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    scale, fitted = fit(rows, summed(x, y), 4, torch.zeros(8))
    codes = fitted / scale[:, None]
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
    assert float(codes.abs().max()) <= limit(4) + 1e-3
    moments = Moments.empty(groups, 9)
    moments.add(y)
    plain = mse_scale(rows, 4)
    alone = compensate(rows, plain, moments.mean(), 4)
    wanted = outputs(rows, x)
    assert (wanted - outputs(fitted, y)).square().mean() < (wanted - outputs(alone, y)).square().mean()


def test_steps_are_never_below_the_least() -> None:
    x, rows = correlated(1, 9), torch.randn(8, 9, generator=torch.Generator().manual_seed(1))
    scale, _ = fit(rows, summed(x, x), 4, torch.full((8,), 2.0))
    assert float(scale.min()) >= 2.0


def test_inputs_that_never_move_are_not_usable() -> None:
    assert not summed(torch.zeros(1, 9, 10), torch.zeros(1, 9, 10)).usable
    assert not summed(torch.full((1, 9, 10), torch.inf), torch.ones(1, 9, 10)).usable
