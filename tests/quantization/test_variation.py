"""Errors are relative to how far numbers vary over all batches, however many of them a batch holds."""

from __future__ import annotations

import pytest
import torch

from converter.quantization.variation import Variation, relative


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("mean", [0.0, 1000.0])
def test_batches_of_any_size_have_the_variation_of_all(size: int, mean: float) -> None:
    values = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) + mean
    found = Variation()
    for part in torch.split(values, size):
        found.add(part)
    whole = values.double()
    assert found.total == pytest.approx(float((whole - whole.mean()).square().sum()), rel=1e-4)
    assert found.squares == pytest.approx(float(whole.square().sum()), rel=1e-6)
    assert relative(2.0, [found, found]) == pytest.approx(1 / found.total)


def test_what_does_not_vary_has_its_own_size() -> None:
    still, nothing = Variation(), Variation()
    for _ in range(3):
        still.add(torch.full((2,), 5.0))
    assert relative(1.0, [still]) == pytest.approx(1 / (6 * 25))
    assert relative(1.0, [nothing]) == 1.0
