"""Raw samples of inputs from priors alone, alike among the inputs of one sample: a mask ends where its tokens end.

There are two priors of everything. Networks are calibrated on the first; what they are judged on is drawn from the
second, which departs from the first as photographs depart from each other: ``other`` chooses it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from converter.inputs import other_priors, priors
from converter.inputs.plans import InputKind, InputPlan, standardized
from converter.inputs.priors import Array

__all__ = ["SAMPLING_RATE", "draw", "draw_inputs", "lengths"]

SAMPLING_RATE = 16_000  # of nearly all networks that hear speech


class Prior(Protocol):
    """What a module of priors draws."""

    def draw_pictures(
        self, count: int, channels: int, height: int, width: int, generator: np.random.Generator, /
    ) -> Array: ...

    def draw_maps(
        self, count: int, shape: tuple[int, ...], generator: np.random.Generator, /, *, channels_last: bool = False
    ) -> Array: ...

    def draw_signals(self, count: int, shape: tuple[int, ...], generator: np.random.Generator, /) -> Array: ...

    def draw_sounds(
        self, count: int, shape: tuple[int, ...], rate: float, generator: np.random.Generator, /
    ) -> Array: ...

    def draw_spectra(self, count: int, frames: int, bands: int, generator: np.random.Generator, /) -> Array: ...

    def draw_features(self, count: int, shape: tuple[int, ...], generator: np.random.Generator, /) -> Array: ...

    def draw_tokens(
        self, count: int, shape: tuple[int, ...], low: int, high: int, generator: np.random.Generator, /
    ) -> NDArray[np.int64]: ...


GOLDEN = (5**0.5 - 1) / 2  # whose multiples fill an interval evenly (Weyl 1916)
SHORTEST = 0.2  # of the longest sequence


def draw_inputs(
    plans: Sequence[InputPlan], count: int, generator: np.random.Generator, *, noise: bool = False, other: bool = False
) -> dict[str, NDArray[Any]]:
    """``count`` raw samples of every input."""
    return {plan.name: draw(plan, count, generator, noise=noise, other=other) for plan in plans}


def draw(
    plan: InputPlan, count: int, generator: np.random.Generator, *, noise: bool = False, other: bool = False
) -> NDArray[Any]:
    """``count`` raw samples [count, *shape] of one input; the network wants them through ``plan.prepare``.

    With ``noise``, float inputs are what ``plan.prepare`` makes N(0, 1): the honest baseline, ignorant of everything.
    """
    match plan.kind:
        case InputKind.TOKENS:
            return _tokens(plan, count, generator, other).astype(plan.dtype)
        case InputKind.TYPES:
            return _types(plan, count, generator).astype(plan.dtype)
        case InputKind.MASK:
            return _mask(plan, count, generator, other).astype(plan.dtype)
        case InputKind.POSITIONS:
            steps = np.arange(plan.shape[-1] if plan.shape else 1) + plan.value
            steps = np.minimum(steps, plan.tokens[1] - 1)
            return np.broadcast_to(steps, (count, *plan.shape)).astype(plan.dtype)
        case InputKind.STEP:
            return generator.integers(*plan.tokens, (count, *plan.shape)).astype(plan.dtype)
        case InputKind.LENGTHS:
            ends = lengths(count, int(plan.value), other)
            return np.broadcast_to(ends.reshape(-1, *(1 for _ in plan.shape)), (count, *plan.shape)).astype(plan.dtype)
        case InputKind.SIZES:
            sizes = np.resize(np.asarray(plan.choices or (plan.value,)), plan.shape)
            return np.broadcast_to(sizes, (count, *plan.shape)).astype(plan.dtype)
        case InputKind.CONSTANT:
            values = plan.choices or (plan.value,)
            turns = [values[(each // 8 + each) % len(values)] for each in range(count)]  # batches of 8 take turns too
            shaped = np.asarray(turns).reshape(-1, *(1 for _ in plan.shape))
            return np.array(np.broadcast_to(shaped, (count, *plan.shape)), plan.dtype)
        case InputKind.STATE | InputKind.CACHE:
            return np.zeros((count, *plan.shape), plan.dtype)
    if noise:
        if plan.dtype.kind in "iu":
            return generator.random((count, *plan.shape), np.float32)
        scale, offset = plan.affine(0, count)
        return np.asarray((priors.draw_noise(count, plan.shape, generator) - offset) / scale, np.float32)
    return _real(plan, count, generator, other)


def lengths(count: int, longest: int, other: bool = False) -> NDArray[np.int64]:
    """How long each sample is: every second one whole, the others from a fifth on, the same for whoever asks."""
    turns = np.arange(count) + (0.5 if other else 0.0)
    shares = SHORTEST + (1 - SHORTEST) * (turns * GOLDEN % 1)
    shares[1 if other else 0 :: 2] = 1.0
    ends: NDArray[np.int64] = np.clip(np.ceil(shares * longest), min(2, longest), longest).astype(np.int64)
    return ends


def _real(plan: InputPlan, count: int, generator: np.random.Generator, other: bool) -> Array:
    room: Prior = other_priors if other else priors
    shape = plan.shape
    match plan.kind:
        case InputKind.PICTURE:
            height, width = shape[:2] if plan.channels_last else shape[1:]
            pictures = room.draw_pictures(count, plan.channels, height, width, generator)
            return np.ascontiguousarray(pictures.transpose(0, 2, 3, 1)) if plan.channels_last else pictures
        case InputKind.VIDEO:
            return _films(plan, count, generator, room)
        case InputKind.MAP:
            return room.draw_maps(count, shape, generator, channels_last=plan.channels_last)
        case InputKind.SIGNAL:
            return _signals(plan, count, generator, room)
        case InputKind.SPECTRUM if plan.has_frames:
            return _spectra(plan, count, generator, room)
    if plan.side is not None:
        pictures = room.draw_pictures(count, 1, plan.side, plan.side, generator)
        return np.asarray((pictures - priors.PICTURE_MEAN) / priors.PICTURE_DEVIATION, np.float32).reshape(count, -1)
    return room.draw_features(count, shape, generator)


def _signals(plan: InputPlan, count: int, generator: np.random.Generator, room: Prior) -> Array:
    """Recordings along the last axis, moved to where the input has its time."""
    axis = plan.time_axis
    shape = (*plan.shape[:axis], *plan.shape[axis + 1 :], plan.shape[axis])
    if plan.is_sound:
        signals = room.draw_sounds(count, shape, SAMPLING_RATE, generator)
    elif plan.scaling.standardized:  # of sound or of another sensor, nobody knows: in turns
        signals = room.draw_sounds(count, shape, SAMPLING_RATE, generator)
        signals[1::2] = room.draw_signals(count, shape, generator)[1::2]
        signals = standardized(signals)
    else:
        signals = room.draw_signals(count, shape, generator)
    return np.ascontiguousarray(np.moveaxis(signals, -1, 1 + axis))


def _spectra(plan: InputPlan, count: int, generator: np.random.Generator, room: Prior) -> Array:
    """Bands of frames where the input has them; normalized cepstra are as often other features, nobody knows."""
    axis = plan.bands_axis
    rest = [each for each in range(len(plan.shape)) if each != axis]
    time = max(rest, key=lambda each: plan.shape[each])
    order = [*(each for each in rest if each != time), time, axis]
    sizes = [plan.shape[each] for each in order]
    rows = math.prod(sizes[:-2])
    spectra = room.draw_spectra(count * rows, sizes[-2], sizes[-1], generator).reshape(count, *sizes)
    made = np.ascontiguousarray(spectra.transpose(0, *(1 + order.index(each) for each in range(len(order)))))
    if plan.has_cepstra and not plan.is_plain_cepstra:
        made[1::2] = room.draw_features(count, plan.shape, generator)[1::2]
    return made


def _films(plan: InputPlan, count: int, generator: np.random.Generator, room: Prior) -> Array:
    """Frames are windows that move over a larger picture."""
    axis = plan.channel_axis
    order = [axis, *(each for each in range(4) if each != axis)]  # channels, frames, height, width
    channels, frames, height, width = (plan.shape[each] for each in order)
    most = max(min(height, width) // 8, 1)
    wide = room.draw_pictures(count, channels, height + most, width + most, generator)
    films = np.empty((count, channels, frames, height, width), np.float32)
    for film, picture in zip(films, wide, strict=True):
        path = np.linspace(generator.integers(0, most + 1, 2), generator.integers(0, most + 1, 2), frames).astype(int)
        for frame, (top, left) in enumerate(path):
            film[:, frame] = picture[:, top : top + height, left : left + width]
    return np.ascontiguousarray(films.transpose(0, *(1 + order.index(each) for each in range(4))))


def _tokens(plan: InputPlan, count: int, generator: np.random.Generator, other: bool) -> NDArray[np.int64]:
    """Tokens of text with their beginning, end and padding, or single indices."""
    low, high = plan.tokens
    room: Prior = other_priors if other else priors
    if not plan.shape or plan.shape[-1] == 1:
        return generator.integers(low, high, (count, *plan.shape), np.int64)
    tokens: NDArray[np.int64] = room.draw_tokens(count, plan.shape, low, high, generator)
    begin, end, padding = plan.special
    longest = plan.shape[-1]
    for sample, stop in zip(tokens, lengths(count, longest, other) if plan.varied else [longest] * count, strict=True):
        if begin is not None:
            sample[..., 0] = begin
        if end is not None and stop > 1:
            sample[..., stop - 1] = end
        sample[..., stop:] = low if padding is None else padding
    return tokens


def _types(plan: InputPlan, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """The first segment, then the others, each from a random place on."""
    low, high = plan.tokens
    length = plan.shape[-1] if plan.shape else 1
    types = np.full((count, *plan.shape), low, np.int64)
    for sample in types[::2]:  # every second text is a single segment
        for place in np.sort(generator.integers(1, max(length, 2), min(high - low - 1, 3))):
            sample[..., place:] += 1
    return np.minimum(types, high - 1)


def _mask(plan: InputPlan, count: int, generator: np.random.Generator, other: bool) -> NDArray[Any]:
    """What keeps up to each sample's end and what leaves out behind it; blots where the mask is a picture's."""
    keep, leave = plan.choices or (1.0, 0.0)
    shape = plan.shape
    if len(shape) == 3 and shape[0] == 1 and min(shape[1:]) >= 8 and plan.dtype.kind == "f" and leave >= 0:
        blots = priors.draw_pictures(count, 1, shape[1], shape[2], generator)
        return np.where(blots > np.quantile(blots, 0.4, axis=(1, 2, 3), keepdims=True), keep, leave)
    if not shape:
        return np.full(count, keep)
    mask = np.full((count, *shape), keep)
    if plan.varied:
        longest = shape[-1] - int(plan.value)  # what comes before belongs to a cache, which is whole
        for sample, stop in zip(mask, lengths(count, longest, other), strict=True):
            sample[..., int(plan.value) + stop :] = leave
    return mask
