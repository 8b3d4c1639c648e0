"""Spectra that are drawn look like those of speech: neighbours alike in time and frequency, pauses, a loudness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from converter.inputs.conventions import candidates
from converter.inputs.drawing import draw
from converter.inputs.plans import InputKind, InputPlan, Scaling
from converter.inputs.spectra import MOST_CEPSTRA, draw_other_spectra, draw_spectra

Kind = Callable[..., NDArray[np.float32]]
KINDS = [draw_spectra, draw_other_spectra]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bands", [32, 80, 161])
def test_bands_have_no_mean_and_unit_deviation_over_many_samples(kind: Kind, bands: int) -> None:
    drawn = kind(100, 76, bands, np.random.default_rng(0))
    assert drawn.dtype == np.float32
    assert abs(float(drawn.mean())) < 0.3
    assert 0.8 < float(drawn.std()) < 1.25
    assert float(drawn.mean((1, 2)).std()) > 0.1  # loud and quiet ones


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_are_as_alike_as_those_of_speech(kind: Kind) -> None:
    """A minute of English speech has 0.97, 0.61 over 1 and 16 frames, and 0.95, 0.82 over 1 and 4 of 40 bands."""
    drawn = kind(100, 96, 40, np.random.default_rng(0)).astype(np.float64)
    drawn = (drawn - drawn.mean()) / drawn.std()
    frames = [float((drawn[:, step:] * drawn[:, :-step]).mean()) for step in (1, 16)]
    bands = [float((drawn[:, :, step:] * drawn[:, :, :-step]).mean()) for step in (1, 4)]
    assert frames == pytest.approx([0.97, 0.61], abs=0.15)
    assert bands == pytest.approx([0.95, 0.82], abs=0.1)


def test_cepstra_are_dominated_by_their_loudness() -> None:
    """Of a thousand recordings of commands the first coefficient deviates by 24, the others by 3.9 down to 0.9."""
    drawn = draw_spectra(100, 49, 10, np.random.default_rng(0))
    deviations = drawn.std((0, 1))
    assert deviations[0] > 1.2 * deviations[1]
    assert deviations[1] > 2 * deviations[5]
    assert drawn[:, :, 0].mean() < -0.5
    assert 0.5 < float(drawn.std()) < 2.0


def plan(shape: tuple[int, ...], bands: int | None = None) -> InputPlan:
    return InputPlan("x", InputKind.SPECTRUM, np.dtype(np.float32), shape, bands=bands)


@pytest.mark.parametrize("shape", [(76, 32, 1), (1, 76, 32), (32, 76), (3, 100, 40)])
@pytest.mark.parametrize("other", [False, True])
def test_bands_lie_along_the_shorter_axis(shape: tuple[int, ...], other: bool) -> None:
    """Each band keeps its level over time, as the long-term spectrum of speech has it."""
    drawn = draw(plan(shape), 40, np.random.default_rng(0), other=other)
    assert drawn.shape == (40, *shape)
    axis = shape.index(min(size for size in shape if size > 3))
    assert plan(shape).bands_axis == axis
    levels = np.moveaxis(drawn, 1 + axis, -1).reshape(-1, shape[axis]).mean(0)
    time = next(each for each, size in enumerate(shape) if size > 3 and each != axis)
    moments = np.moveaxis(drawn, 1 + time, -1).reshape(-1, shape[time]).mean(0)
    assert levels.std() > 2 * moments.std()


def test_the_graph_says_where_bands_are_when_the_sizes_mislead() -> None:
    assert plan((80, 64), bands=0).bands_axis == 0
    assert plan((80, 64)).bands_axis == 1
    assert draw(plan((80, 64), bands=0), 2, np.random.default_rng(0)).shape == (2, 80, 64)


def test_few_numbers_of_a_frame_are_cepstra_or_where_they_are_normalized_other_features() -> None:
    """Cepstra as they are made have a loudness that no other column reaches; with unit deviation nobody knows."""
    normalized = plan((1, 49, MOST_CEPSTRA))
    assert normalized.has_cepstra
    first = np.abs(draw(normalized, 64, np.random.default_rng(0))[..., 0]).mean((1, 2))
    assert first[::2].mean() > 2 * first[1::2].mean()
    made = replace(normalized, scaling=Scaling("cepstra", (9.0,), (0.0,)))
    first = np.abs(draw(made, 64, np.random.default_rng(0))[..., 0]).mean((1, 2))
    assert first[1::2].mean() == pytest.approx(first[::2].mean(), rel=0.3)
    assert not plan((1, 49, MOST_CEPSTRA + 1)).has_cepstra


def test_a_row_of_bands_alone_is_drawn_too() -> None:
    assert np.isfinite(draw(plan((1, 40)), 3, np.random.default_rng(0))).all()
    assert np.isfinite(draw(plan((40,)), 3, np.random.default_rng(0))).all()


def test_a_small_square_is_no_sequence_of_frames() -> None:
    """Digits of 8 by 8 pixels are a table of numbers from nought to one, say, and have no loudness."""
    square = plan((1, 8, 8))
    assert not square.has_frames
    assert not square.has_cepstra
    assert plan((1, 49, 8)).has_cepstra
    assert plan((64, 64)).has_frames
    assert {"0..1, least to greatest"} <= {each.name for each in candidates(square)}
    columns = np.abs(draw(square, 200, np.random.default_rng(0))).mean((0, 1, 2))
    assert columns.max() < 2 * columns.min()
