"""Inputs drawn from priors alone: what natural pictures, signals, features and tokens look like before any network is
asked.

A natural picture has an amplitude spectrum that falls as one over the frequency (Field 1987; Ruderman 1994). White
noise has not: it excites early filters wrongly, which costs 0.8 points of agreement on ResNet-20 and 53 on MobileNetV1
(research log in tests/bench/RESULTS.md).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from converter.inputs.spectra import draw_spectra

__all__ = [
    "PICTURE_DEVIATION",
    "PICTURE_MEAN",
    "Array",
    "draw_features",
    "draw_maps",
    "draw_noise",
    "draw_pictures",
    "draw_signals",
    "draw_sounds",
    "draw_spectra",
    "draw_tokens",
]

Array = NDArray[np.float32]


PICTURE_MEAN, PICTURE_DEVIATION = 0.45, 0.25  # of photographs in [0, 1]; ImageNet's are 0.449 and 0.226
COLUMN_SPREAD = 0.7  # of the logarithm of the columns' deviations


def draw_noise(count: int, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """[count, *shape] of independent N(0, 1)."""
    return generator.standard_normal((count, *shape), np.float32)


def draw_pictures(count: int, channels: int, height: int, width: int, generator: np.random.Generator) -> Array:
    """[count, channels, height, width] in [0, 1]: 1/f spectrum, channels that share their luminance, random contrast
    and offset.

    The exponent varies from 0.8 to 1.4 a picture. Colour is a small share of luminance. A third of the pictures carry
    one straight occluding edge, the commonest departure of photographs from a Gaussian field, and a tenth are nearly
    uniform.
    """
    fy = np.fft.fftfreq(height)[:, None] * height
    fx = np.fft.rfftfreq(width)[None, :] * width
    radius = np.sqrt(fy**2 + fx**2)
    radius[0, 0] = 1.0

    def field(exponent: float) -> NDArray[np.float64]:
        phases = generator.standard_normal((2, *radius.shape))
        spectrum = (phases[0] + 1j * phases[1]) / radius**exponent
        spectrum[0, 0] = 0
        plane: NDArray[np.float64] = np.fft.irfft2(spectrum, s=(height, width))
        return plane / max(float(plane.std()), 1e-12)

    pictures = np.empty((count, channels, height, width), np.float32)
    for picture in pictures:
        exponent = generator.uniform(0.8, 1.4)
        luminance = field(exponent)
        if generator.random() < 1 / 3:
            luminance = _occlude(luminance, field(exponent), generator)
        contrast = generator.uniform(0.08, 0.3) if generator.random() > 0.1 else 0.02
        brightness = generator.uniform(0.25, 0.7)
        chroma = generator.uniform(0.0, 0.35)
        tint = generator.normal(0, 0.06, channels) if channels > 1 else np.zeros(1)
        for channel in range(channels):
            plane = luminance + (chroma * field(exponent) if channels > 1 else 0)
            picture[channel] = brightness + tint[channel] + contrast * plane
    return np.clip(pictures, 0, 1, out=pictures)


def _occlude(
    behind: NDArray[np.float64], front: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.float64]:
    """One half plane of the picture replaced by another picture of another brightness."""
    height, width = behind.shape
    angle = generator.uniform(0, math.tau)
    y, x = np.mgrid[-0.5 : 0.5 : height * 1j, -0.5 : 0.5 : width * 1j]
    mask = x * math.cos(angle) + y * math.sin(angle) > generator.uniform(-0.3, 0.3)
    return np.where(mask, front + generator.normal(0, 1.5), behind)


def draw_signals(count: int, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """[count, *shape] of zero mean and unit variance with a 1/f power spectrum along the last axis and a loudness that
    varies.

    Speech and most sensor signals alternate between near silence and bursts, hence a smooth random envelope over time
    and a level of its own for each sample, spread over 20 dB.
    """
    length = shape[-1]
    frequency = np.fft.rfftfreq(length) * length
    frequency[0] = 1.0
    rows = int(np.prod(shape[:-1], dtype=np.int64)) if len(shape) > 1 else 1
    signals = np.empty((count, rows, length), np.float32)
    for sample in signals:
        level = 10 ** generator.uniform(-1.0, 0.0)
        envelope = np.interp(np.linspace(0, 8, length), np.arange(9), generator.lognormal(0, 0.7, 9))
        for row in sample:
            phases = generator.standard_normal((2, len(frequency)))
            spectrum = (phases[0] + 1j * phases[1]) / np.sqrt(frequency)
            spectrum[0] = 0
            wave = np.fft.irfft(spectrum, n=length)
            row[:] = level * envelope * wave / max(float(wave.std()), 1e-12)
    return signals.reshape(count, *shape)


FORMANTS = ((250.0, 900.0, 80.0, 1.0), (800.0, 2500.0, 120.0, 0.5), (2300.0, 3500.0, 180.0, 0.25))  # Hz, Hz, Hz, gain
PITCH = (80.0, 300.0)  # Hz, of men's to children's voices
VOICED = (0.0, 0.9, 0.99, 1.0)  # shares of a sound's power that its voice may have


def draw_sounds(count: int, shape: tuple[int, ...], rate: float, generator: np.random.Generator) -> Array:
    """[count, *shape] of unit deviation at most: voices and breath at ``rate`` samples a second, 20 dB of loudness.

    Speech is a series of harmonics under the resonances of the mouth (Fant 1960), or noise that falls by 6 dB an octave
    from 500 Hz on and has nothing below 100 Hz (the long-term spectrum of Byrne et al. 1994). A 1/f spectrum has most
    of its power there: it drove Silero's encoder to 20 times the values that speech does (tests/bench/RESULTS.md).
    """
    length = shape[-1]
    time, frequency = np.arange(length) / rate, np.fft.rfftfreq(length, 1 / rate)
    breath_shape = np.clip(frequency / 100, 0, 1) ** 2 / np.maximum(frequency / 500, 1)
    sounds = np.empty((count, math.prod(shape[:-1]), length), np.float32)
    for sample in sounds:
        loudness, share = 10 ** generator.uniform(-1.0, 0.0), generator.choice(VOICED)
        for row in sample:
            voice = _voice(time, rate, generator)
            phases = generator.standard_normal((2, len(frequency)))
            breath = np.fft.irfft((phases[0] + 1j * phases[1]) * breath_shape, n=length)
            wave = math.sqrt(share) * _unit(voice) + math.sqrt(1 - share) * _unit(breath)
            row[:] = loudness * _unit(wave)
    return sounds.reshape(count, *shape)


def _voice(time: NDArray[np.float64], rate: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """Harmonics of a gliding pitch, as loud as three resonances at random places let them be."""
    pitch = math.exp(generator.uniform(*np.log(PITCH)))
    harmonics = pitch * np.arange(1, max(int(rate / 2 / pitch), 2))
    gain = np.full_like(harmonics, 0.02)
    for low, high, width, height in FORMANTS:
        gain += height / (1 + ((harmonics - generator.uniform(low, high)) / width) ** 2)
    gain /= np.sqrt(harmonics)
    glide = 1 + 0.02 * generator.standard_normal() * time / max(time[-1], 1e-9)
    phases = generator.uniform(0, math.tau, len(harmonics))
    # [harmonics, length] at a time would take a gigabyte for ten seconds of sound
    return np.asarray(
        sum(g * np.cos(math.tau * h * time * glide + p) for g, h, p in zip(gain, harmonics, phases, strict=True))
    )


def _unit(wave: NDArray[np.float64]) -> NDArray[np.float64]:
    return wave / max(float(wave.std()), 1e-12)


def draw_features(count: int, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
    """[count, *shape] for tables of features (cepstra, sensor readings, embeddings) of about unit deviation.

    Neighbouring frames of real features are alike, so half of the variance is common to all frames of a sample; and a
    few columns carry most of it (the first cepstral coefficient ten times the others), which columns being unknown:
    their deviations are lognormal, drawn anew for each sample.
    """
    if not shape:
        return draw_features(count, (1,), generator)[:, 0]
    frames = [1] * (len(shape) - 1)
    common = generator.standard_normal((count, *frames, shape[-1]))
    own = generator.standard_normal((count, *shape))
    columns = generator.lognormal(-(COLUMN_SPREAD**2), COLUMN_SPREAD, (count, *frames, shape[-1]))
    return np.asarray((common + own) / math.sqrt(2) * columns, np.float32)


def draw_maps(
    count: int,
    shape: tuple[int, ...],
    generator: np.random.Generator,
    *,
    channels_last: bool = False,
    exponent: float = 0.8,
) -> Array:
    """[count, *shape] of zero mean and unit deviation whose neighbours in space are alike: latents, maps, volumes.

    The amplitude falls with the frequency to the power ``exponent``: slower than in pictures, since what encoders make
    of pictures is whiter; each sample has a strength of its own.
    """
    space = shape[:-1] if channels_last else shape[1:]
    channels = shape[-1] if channels_last else shape[0]
    grid = np.meshgrid(*(np.fft.fftfreq(size) * size for size in space), indexing="ij")
    radius = np.sqrt(sum(np.square(each) for each in grid)) if space else np.ones(())
    fall = 1 / np.maximum(radius, 1.0) ** exponent
    noise = generator.standard_normal((count, channels, *space))
    axes = tuple(range(2, 2 + len(space)))
    fields = np.fft.ifftn(np.fft.fftn(noise, axes=axes) * fall, axes=axes).real if space else noise
    fields /= np.maximum(fields.std(axis=axes or None, keepdims=True), 1e-12)
    fields *= generator.uniform(0.5, 1.3, (count, *(1 for _ in fields.shape[1:])))
    return np.ascontiguousarray(np.moveaxis(fields, 1, -1) if channels_last else fields, np.float32)


def draw_tokens(
    count: int, shape: tuple[int, ...], low: int, high: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """[count, *shape] of integers in [low, high): half of the samples uniform, half as frequent as words.

    Text is far from uniform: few tokens make most of it (Zipf 1935). Which ones is unknown, hence random a sample: a
    vocabulary's first entries are bytes or unused ones as often as its commonest words. The uniform half reaches the
    rare rows of the table, whose values the ranges have to cover; with a quarter of it, and half of the samples in the
    table's order, a language model of the zoo lost 1.1 of 26.5 dB.
    """
    size = high - low
    tokens = generator.integers(low, high, (count, *shape), np.int64)
    weights = 1 / np.arange(1, size + 1)
    weights /= weights.sum()
    for sample in tokens.reshape(count, -1)[::2]:
        order = generator.permutation(size)
        sample[:] = low + order[generator.choice(size, sample.shape, p=weights)]
    return tokens
