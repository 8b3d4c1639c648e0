"""The second prior, which models are judged on, is as sound as the first and unlike it."""

from __future__ import annotations

import numpy as np
import pytest

from converter.inputs import other_priors, priors
from converter.inputs.priors import Array


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def edges(pictures: Array) -> float:
    """The kurtosis of differences between neighbours: 3 for a Gaussian field, larger where objects have outlines."""
    steps = np.diff(pictures, axis=-1)
    return float(np.mean(steps**4) / np.mean(steps**2) ** 2)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 32, 48), (4, 1, 16)])
def test_leaves_of_any_size_stay_within_bounds(channels: int, height: int, width: int) -> None:
    pictures = other_priors.draw_pictures(4, channels, height, width, generator())
    assert pictures.shape == (4, channels, height, width)
    assert pictures.min() >= 0
    assert pictures.max() <= 1


def test_leaves_have_more_outlines_than_fields() -> None:
    leaves = other_priors.draw_pictures(24, 3, 48, 48, generator())
    assert edges(leaves) > 1.5 * edges(priors.draw_pictures(24, 3, 48, 48, generator()))
    assert 0.12 < leaves.std() < 0.32


@pytest.mark.parametrize("shape", [(1000,), (2, 400)])
def test_sounds_and_signals_are_no_louder(shape: tuple[int, ...]) -> None:
    for drawn in (
        other_priors.draw_signals(16, shape, generator()),
        other_priors.draw_sounds(16, shape, 16_000, generator()),
    ):
        assert drawn.shape == (16, *shape)
        assert drawn.std(axis=-1).max() < 1.5


def test_features_and_maps_have_unit_deviation() -> None:
    assert 0.7 < other_priors.draw_features(300, (20, 16), generator()).std() < 1.4
    assert 0.7 < other_priors.draw_maps(64, (4, 16, 16), generator()).std() < 1.3


def test_tokens_repeat_and_stay_within_the_vocabulary() -> None:
    tokens = other_priors.draw_tokens(16, (64,), 10, 1000, generator())
    assert tokens.min() >= 10
    assert tokens.max() < 1000
    assert np.mean([len(np.unique(each)) for each in tokens]) < 48
