"""The second prior of everything: what networks are judged on, departing from what they were calibrated on.

Photographs are made of things that occlude each other, which a Gaussian field with one edge is not: dead leaves (Lee,
Mumford & Huang 2001) have the same spectrum and edges everywhere. Sounds get other spectra, features other tails and
dependence, tokens other frequencies.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from converter.inputs import priors
from converter.inputs.priors import Array
from converter.inputs.spectra import draw_other_spectra as draw_spectra

__all__ = ["draw_features", "draw_maps", "draw_pictures", "draw_signals", "draw_sounds", "draw_spectra", "draw_tokens"]

LEAVES = 60  # of a picture; their radii fall off as r^-3 between two bounds, which gives scale invariance
BURST = 0.2  # of places of a text that repeat a token from shortly before


def draw_pictures(count: int, channels: int, height: int, width: int, generator: np.random.Generator) -> Array:
    """[count, channels, height, width] in [0, 1]: leaves of one colour or texture each, some blended with a field."""
    textures = priors.draw_pictures(count, channels, height, width, generator)
    pictures = np.empty_like(textures)
    for place, (picture, texture) in enumerate(zip(pictures, textures, strict=True)):
        mean, contrast = generator.uniform(0.25, 0.7), generator.uniform(0.08, 0.3)
        picture[:] = _colour(channels, mean, contrast, generator)[:, :, None]
        for _ in range(LEAVES):
            radius = max(height, width) * 0.5 / math.sqrt(1 + generator.random() * LEAVES)
            top, left = generator.uniform(0, height), generator.uniform(0, width)
            squeeze, angle = generator.uniform(0.5, 2.0), generator.uniform(0, math.pi)
            reach = math.ceil(radius * max(squeeze, 1 / squeeze) ** 0.5)
            rows = slice(max(int(top) - reach, 0), min(int(top) + reach + 1, height))
            columns = slice(max(int(left) - reach, 0), min(int(left) + reach + 1, width))
            y, x = np.mgrid[rows, columns]
            along = (y - top) * math.cos(angle) + (x - left) * math.sin(angle)
            across = (x - left) * math.cos(angle) - (y - top) * math.sin(angle)
            inside = along**2 * squeeze + across**2 / squeeze < radius**2
            textured, colour = generator.random() < 0.3, _colour(channels, mean, contrast, generator)
            part = picture[:, rows, columns]
            part[:, inside] = texture[:, rows, columns][:, inside] if textured else colour
        if place % 3 == 2:  # a third shine through a field, as reflections, fog and double exposures do
            share = generator.uniform(0.3, 0.7)
            picture[:] = share * picture + (1 - share) * texture
    return np.clip(pictures, 0, 1, out=pictures)


def _colour(channels: int, mean: float, contrast: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """[channels, 1] that share most of their luminance."""
    shared = mean + contrast * generator.standard_normal()
    return np.asarray(shared + 0.3 * contrast * generator.standard_normal(channels)).reshape(channels, 1)


def draw_signals(count: int, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """[count, *shape] of about unit deviation: white, pink and brown noise, chirps and clicks, one kind a sample."""
    length = shape[-1]
    frequency = np.maximum(np.fft.rfftfreq(length) * length, 1.0)
    signals = np.empty((count, math.prod(shape[:-1]), length), np.float32)
    time = np.linspace(0, 1, length)
    for place, sample in enumerate(signals):
        level = 10 ** generator.uniform(-1.0, 0.0)
        for row in sample:
            phases = generator.standard_normal((2, len(frequency)))
            spectrum = (phases[0] + 1j * phases[1]) / frequency ** (0.0, 0.5, 1.0)[place % 3]
            spectrum[0] = 0
            wave = np.fft.irfft(spectrum, n=length)
            wave /= max(float(wave.std()), 1e-12)
            if place % 2:
                start, stop = generator.uniform(2, length / 8, 2)
                wave = 0.5 * wave + np.sin(math.tau * (start * time + (stop - start) * time**2 / 2))
                wave[generator.integers(0, length, 3)] += generator.normal(0, 4, 3)
            row[:] = level * wave / max(float(wave.std()), 1e-12)
    return signals.reshape(count, *shape)


def draw_sounds(count: int, shape: tuple[int, ...], rate: float, generator: np.random.Generator) -> Array:
    """[count, *shape]: two voices at once, or a voice with noise of another spectrum, never louder than a voice."""
    voices = priors.draw_sounds(count, shape, rate, generator)
    others = priors.draw_sounds(count, shape, rate, generator)
    noise = draw_signals(count, shape, generator)
    shares = generator.uniform(0.0, 0.5, (count, *(1 for _ in shape)))
    beside = np.where(np.arange(count).reshape(shares.shape) % 2 == 0, others, 0.3 * noise)
    return np.asarray((1 - shares) * voices + shares * beside, np.float32)


def draw_features(count: int, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """[count, *shape] of about unit deviation: rows that drift, columns of other spreads, tails longer than normal."""
    if not shape:
        return draw_features(count, (1,), generator)[:, 0]
    own = generator.laplace(0, math.sqrt(0.5), (count, *shape))
    rows = own.reshape(count, -1, shape[-1])
    for frame in range(1, rows.shape[1]):  # an autoregression keeps unit deviation
        rows[:, frame] = 0.7 * rows[:, frame - 1] + math.sqrt(1 - 0.49) * rows[:, frame]
    spread = priors.COLUMN_SPREAD
    columns = generator.lognormal(-(spread**2), spread, (count, 1, shape[-1]))
    return np.asarray((rows * columns).reshape(count, *shape), np.float32)


def draw_maps(
    count: int, shape: tuple[int, ...], generator: np.random.Generator, *, channels_last: bool = False
) -> Array:
    """[count, *shape]: smoother than those calibrated on, each mixed with white noise, as latents on the way are."""
    smooth = priors.draw_maps(count, shape, generator, channels_last=channels_last, exponent=1.2)
    noise = generator.standard_normal((count, *shape))
    share = generator.uniform(0, 1, (count, *(1 for _ in shape)))
    return np.asarray(np.sqrt(share) * smooth + np.sqrt(1 - share) * noise, np.float32)


def draw_tokens(
    count: int, shape: tuple[int, ...], low: int, high: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """[count, *shape] of integers in [low, high): steeper frequencies in another order, and words that come again."""
    size = high - low
    tokens = np.empty((count, *shape), np.int64)
    for place, sample in enumerate(tokens.reshape(count, -1)):
        weights = 1 / np.arange(1, size + 1) ** generator.uniform(0.7, 1.3)
        order = np.roll(np.arange(size), int(generator.integers(size))) if place % 2 else np.arange(size)
        sample[:] = low + order[generator.choice(size, sample.shape, p=weights / weights.sum())]
        for at in np.flatnonzero(generator.random(len(sample)) < BURST).tolist():
            sample[at] = sample[max(at - int(generator.integers(1, 8)), 0)]
    return tokens
