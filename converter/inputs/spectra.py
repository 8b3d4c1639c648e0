"""Logarithms of spectra as front ends of sound make them: what speech looks like, frame by frame and band by band.

Independent numbers have neither the syllables over time nor the resonances over frequency, and networks that hear
average them away: a speech embedding answered speech 3.7 times as widely as such noise in its last layers
(tests/bench/RESULTS.md). So voices, breath and pauses are laid out in time and their power added up in each band, which
is what a bank of filters does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["CEPSTRA_DEVIATION", "MOST_CEPSTRA", "draw_other_spectra", "draw_spectra"]

Array = NDArray[np.float32]
Doubles = NDArray[np.float64]

HIGHEST = 7600.0  # Hz, of the last band
LINEAR = 129  # bands from which they are bins of a transform, as many for each hertz, and no filters on the mel scale
SYLLABLE = (4, 30)  # frames of ten milliseconds that a sound lasts
VOICED, BREATHED = 0.55, 0.25  # shares of sounds; the others are pauses
MEAN, DEVIATION = -5.2, 2.7  # of what is drawn, in natural logarithms of power, over many samples and all bands
OTHER_MEAN, OTHER_DEVIATION = -4.2, 2.2  # of the second kind
MOST_CEPSTRA = 20  # numbers of a frame, at most, that are cepstra: 13 are usual, and 23 filters the fewest
FILTERS = 40  # that cepstra are made of
LOUDNESS = -2.5  # of what cepstra are made of, whose first one is 6.3 times as much: -15 of recorded commands
CEPSTRA_DEVIATION = 9.0  # of the first ten to twenty


def draw_spectra(count: int, frames: int, bands: int, generator: np.random.Generator) -> Array:
    """[count, frames, bands] of about unit deviation over many samples, whose loudness spreads over 20 dB.

    Bands have no mean. Few enough are cepstra, whose first one is the loudness and mostly negative.
    """
    return _finished(_speech, count, frames, bands, generator, MEAN, DEVIATION)


def draw_other_spectra(count: int, frames: int, bands: int, generator: np.random.Generator) -> Array:
    """[count, frames, bands] that depart from speech alone: two voices, or one beside tones that last and hiss."""
    return _finished(_beside, count, frames, bands, generator, OTHER_MEAN, OTHER_DEVIATION)


def _finished(
    draw: Callable[[int, int, np.random.Generator], Doubles],
    count: int,
    frames: int,
    bands: int,
    generator: np.random.Generator,
    mean: float,
    deviation: float,
) -> Array:
    if bands > MOST_CEPSTRA:
        drawn = np.stack([draw(frames, bands, generator) for _ in range(count)])
        return np.asarray((drawn - mean) / deviation, np.float32)
    drawn = np.stack([draw(frames, FILTERS, generator) for _ in range(count)]) - mean + LOUDNESS
    return np.asarray(drawn @ _cosines(FILTERS)[:, :bands] / CEPSTRA_DEVIATION, np.float32)


def _cosines(bands: int) -> Doubles:
    """[bands, bands]: the orthonormal cosine transform that makes cepstra (Davis & Mermelstein 1980)."""
    places, orders = np.arange(bands)[:, None], np.arange(bands)
    made = math.sqrt(2 / bands) * np.cos(math.pi * (places + 0.5) * orders / bands)
    made[:, 0] /= math.sqrt(2)
    return np.asarray(made)


def _beside(frames: int, bands: int, generator: np.random.Generator) -> Doubles:
    first = _speech(frames, bands, generator)
    other = _speech if generator.random() < 0.5 else _tones
    return np.asarray(np.logaddexp(first, other(frames, bands, generator) + generator.uniform(-4.0, 0.0)))


def _centres(bands: int) -> Doubles:
    """[bands] in hertz, on the mel scale (O'Shaughnessy 1987) or evenly for bins."""
    if bands >= LINEAR:
        return np.linspace(0.0, 8000.0, bands)
    mel = np.linspace(0.0, 2595 * math.log10(1 + HIGHEST / 700), bands + 1)[1:]
    return np.asarray(700 * (10 ** (mel / 2595) - 1))


def _speech(frames: int, bands: int, generator: np.random.Generator) -> Doubles:
    """[frames, bands] natural logarithms of power: sounds and pauses over a floor of noise, as estimates are noisy."""
    centres = _centres(bands)
    pitch, level = math.exp(generator.uniform(math.log(80), math.log(300))), generator.uniform(-2.3, 2.3)
    plan = np.empty((frames, bands))
    start = 0
    while start < frames:
        length = min(int(generator.integers(*SYLLABLE)), frames - start)
        plan[start : start + length] = _sound(length, centres, pitch, generator)
        start += length
    plan = _smoothed(plan) + level
    noise = generator.uniform(-11.0, -5.0) + generator.uniform(-2.0, 0.5) * centres / 4000
    heard = np.logaddexp(plan, noise)
    spacing = np.gradient(centres) if bands > 1 else np.full(1, 4000.0)
    loose = 1.28 / np.sqrt(np.maximum(spacing / 40, 1))  # the logarithm of one estimate of power deviates by 1.28
    heard += 0.8 * loose * generator.standard_normal(heard.shape)
    return np.asarray(np.maximum(heard, heard.max() - generator.uniform(7.0, 18.0)))  # floors and 80 dB are usual


def _sound(length: int, centres: Doubles, pitch: float, generator: np.random.Generator) -> Doubles:
    """[length, bands]: harmonics under three resonances that glide (Fant 1960), hiss, or a pause."""
    kind = generator.random()
    if kind > VOICED + BREATHED:
        return np.full((length, len(centres)), -14.0)
    strength = generator.normal(0.0, 1.0) - 0.15 * np.abs(np.linspace(-3, 3, length))[:, None]
    if kind > VOICED:
        top, wide = generator.uniform(2500, 6500), generator.uniform(1200, 3000)
        return np.asarray(strength - 3.0 - np.square((centres - top) / wide))
    share = np.linspace(0, 1, length)[:, None]
    power = np.full((length, len(centres)), 1e-4)
    for low, high, width, gain in ((250, 900, 80, 1.0), (800, 2500, 120, 0.2), (2300, 3500, 180, 0.05)):
        ends = generator.uniform(low, high, 2)
        place = ends[0] + (ends[1] - ends[0]) * share  # [length, 1]
        power += gain / (1 + np.square((centres - place) / width))
    resolved = np.clip(1 - np.gradient(centres) / pitch, 0, 1) if len(centres) > 1 else np.zeros(1)
    glide = pitch * (1 + 0.1 * generator.standard_normal() * share)
    ripple = 1.5 * resolved * np.cos(math.tau * centres / glide)
    return np.asarray(strength + np.log(power) + ripple - centres / 3000 - 3 * np.exp(-centres / 100))


def _smoothed(plan: Doubles) -> Doubles:
    """Each frame with a quarter of its neighbours' power on either side, as windows overlap."""
    padded = np.concatenate([plan[:1], plan, plan[-1:]])
    beside = np.logaddexp(padded[:-2], padded[2:]) + math.log(0.25)
    return np.asarray(np.logaddexp(plan + math.log(0.5), beside))


def _tones(frames: int, bands: int, generator: np.random.Generator) -> Doubles:
    """[frames, bands] of a few lines that last, over hiss of any slope."""
    hiss = generator.uniform(-6.0, -2.0) + generator.uniform(-3, 3) * np.linspace(0, 1, bands)
    made = hiss + 0.5 * generator.standard_normal((frames, bands))
    for _ in range(int(generator.integers(1, 5))):
        band, begin = int(generator.integers(bands)), int(generator.integers(frames))
        made[begin : begin + int(generator.integers(10, 80)), band] += generator.uniform(2.0, 6.0)
    return made
