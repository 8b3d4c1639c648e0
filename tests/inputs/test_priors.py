"""What is drawn from priors alone looks like what it stands for."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from converter.inputs.priors import (
    Array,
    draw_features,
    draw_noise,
    draw_pictures,
    draw_signals,
    draw_sounds,
    draw_tokens,
)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def exponent(pictures: Array) -> float:
    """How fast the amplitude spectrum falls: the slope of its logarithm over the logarithm of the frequency."""
    size = pictures.shape[-1]
    spectrum = np.abs(np.fft.fft2(pictures)).mean((0, 1))
    fy, fx = np.meshgrid(*[np.fft.fftfreq(size) * size] * 2, indexing="ij")
    radius = np.hypot(fy, fx)
    inside = (radius >= 2) & (radius <= size / 3)
    return float(np.polyfit(np.log(radius[inside]), np.log(spectrum[inside]), 1)[0])


def test_pictures_have_the_spectrum_of_photographs_and_noise_has_not() -> None:
    pictures = draw_pictures(32, 3, 64, 64, generator())
    assert pictures.shape == (32, 3, 64, 64)
    assert pictures.dtype == np.float32
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert -1.5 < exponent(pictures) < -0.8
    assert abs(exponent(draw_noise(32, (3, 64, 64), generator()))) < 0.1


def test_pictures_are_about_as_bright_and_varied_as_photographs() -> None:
    pictures = draw_pictures(128, 3, 32, 32, generator())
    assert 0.35 < pictures.mean() < 0.6
    assert 0.12 < pictures.std() < 0.32
    contrasts = pictures.std((1, 2, 3))
    assert (contrasts < 0.12).any()
    assert (contrasts > 0.2).any()


def test_channels_share_their_luminance() -> None:
    flat = draw_pictures(64, 3, 32, 32, generator()).reshape(64, 3, -1)
    correlations = [np.asarray(np.corrcoef(each))[0, 1] for each in flat if each.std() > 0.05]
    assert np.median(correlations) > 0.7


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 7, 13), (4, 1, 16), (3, 1, 1)])
def test_pictures_of_any_size(channels: int, height: int, width: int) -> None:
    pictures = draw_pictures(4, channels, height, width, generator())
    assert pictures.shape == (4, channels, height, width)
    assert np.isfinite(pictures).all()


def test_signals_are_loud_and_quiet_without_a_mean() -> None:
    signals = draw_signals(32, (2, 4000), generator())
    assert signals.shape == (32, 2, 4000)
    levels = signals.std((1, 2))
    assert levels.max() / levels.min() > 4
    assert np.abs(signals.mean((1, 2)) / levels).max() < 0.5
    spectrum: NDArray[np.float64] = np.asarray(np.abs(np.fft.rfft(signals)))
    low, high = (spectrum[..., part].mean() for part in (slice(1, 50), slice(1000, 2000)))
    assert low > 3 * high


def test_sounds_have_the_spectrum_of_speech() -> None:
    sounds = draw_sounds(64, (16_000,), 16_000, generator())
    levels = sounds.std(1)
    assert levels.max() <= 1.01
    assert levels.max() / levels.min() > 4
    power = np.square(np.abs(np.fft.rfft(sounds / levels[:, None]))).mean(0)  # a bin is a hertz
    assert power[:60].sum() < 0.02 * power.sum()
    assert power[100:4000].sum() > 0.9 * power.sum()
    peaks = np.square(np.abs(np.fft.rfft(sounds))).max(1) / np.square(np.abs(np.fft.rfft(sounds))).mean(1)
    assert np.median(peaks) > 50 * 5  # harmonics, unlike noise


def test_features_have_unequal_columns_and_alike_rows() -> None:
    features = draw_features(500, (20, 16), generator())
    assert 0.7 < features.std() < 1.5
    neighbours = np.mean(features[:, 0] * features[:, 1]) / np.mean(features[:, 0] ** 2)
    assert 0.4 < neighbours < 0.6
    columns = np.sqrt((features**2).mean(1))
    assert np.median(columns.max(1) / columns.min(1)) > 3


@pytest.mark.parametrize("shape", [(), (1,), (16,), (3, 4, 5)])
def test_features_of_any_shape(shape: tuple[int, ...]) -> None:
    features = draw_features(8, shape, generator())
    assert features.shape == (8, *shape)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_tokens_are_valid_and_half_of_them_skewed() -> None:
    tokens = draw_tokens(64, (50,), 10, 1000, generator())
    assert tokens.shape == (64, 50)
    assert tokens.min() >= 10
    assert tokens.max() < 1000

    def repeats(sample: NDArray[np.int64]) -> int:
        return int(np.unique(sample, return_counts=True)[1].max())

    assert np.mean([repeats(each) for each in tokens[::2]]) > 2 * np.mean([repeats(each) for each in tokens[1::2]])


def test_a_seed_decides_everything() -> None:
    for draw in (
        lambda g: draw_pictures(3, 3, 8, 8, g),
        lambda g: draw_signals(3, (100,), g),
        lambda g: draw_features(3, (5, 6), g),
        lambda g: draw_sounds(3, (2, 100), 16_000, g),
        lambda g: draw_tokens(3, (7,), 0, 50, g),
        lambda g: draw_noise(3, (4,), g),
    ):
        np.testing.assert_array_equal(draw(generator(1)), draw(generator(1)))
        assert not np.array_equal(draw(generator(1)), draw(generator(2)))
