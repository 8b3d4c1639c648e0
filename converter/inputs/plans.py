"""What each input of a model is, how large, and on what scale its numbers are, found from the model itself.

The owner may state any of it (``InputSpec``); what is stated is never guessed. What the scale of pictures and features
is when nobody says so is settled in ``converter.inputs.scaling`` by what the network makes of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from converter.inputs.priors import Array
from converter.inputs.spectra import CEPSTRA_DEVIATION, MOST_CEPSTRA
from converter.specifications import ChannelOrder, input_option

__all__ = [
    "ADJUSTABLE",
    "BYTES",
    "COLOURED",
    "CONVENTIONAL",
    "FEW_CHANNELS",
    "SOUND",
    "SURE",
    "InputKind",
    "InputPlan",
    "Scaling",
    "assemble",
    "batch_limit",
    "picture_bounds",
    "placed",
    "standardized",
    "tensors",
]


class InputKind(StrEnum):
    """What an input carries."""

    PICTURE = "picture"
    VIDEO = "video"
    MAP = "map"  # planes or volumes of both signs that are no colours, such as latents
    SIGNAL = "signal"
    SPECTRUM = "spectrum"  # spectrograms, cepstra
    EMBEDDINGS = "embeddings"  # what another network made of each step
    FEATURES = "features"
    TOKENS = "tokens"  # rows of a table, one or many
    TYPES = "types"  # segments of a text
    POSITIONS = "positions"
    MASK = "mask"
    LENGTHS = "lengths"
    SIZES = "sizes"  # of the picture in another input
    STEP = "step"  # of time, in a process such as diffusion
    STATE = "state"
    CACHE = "cache"  # keys and values of earlier tokens
    CONSTANT = "constant"


@dataclass(frozen=True)
class Scaling:
    """A preprocessing: the network gets ``raw * scale + offset``; raw pictures lie in [0, 1], other raw inputs have
    unit spread. ``standardized`` raw inputs have no mean and unit deviation each.

    ``probability`` is that of the network having been trained with it, None while it was not judged; ``why`` says in
    words what speaks for it and against it.
    """

    name: str
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    order: ChannelOrder | None = None
    standardized: bool = False
    probability: float | None = None
    why: str = ""

    def __post_init__(self) -> None:
        """One scale serves all channels' offsets, and one offset all scales: both are equally many from here on."""
        count = max(len(self.scale), len(self.offset))
        for field in ("scale", "offset"):
            values = getattr(self, field)
            object.__setattr__(self, field, values * count if len(values) == 1 else values)

    def is_alike(self, other: Scaling) -> bool:
        """Whether an integer grid for one is one for the other: the mean scales and offsets hardly differ."""
        scale, offset = float(np.mean(self.scale)), float(np.mean(self.offset))
        near = abs(float(np.mean(other.scale)) - scale) <= ALIKE * scale
        return (
            near
            and abs(float(np.mean(other.offset)) - offset) <= ALIKE * scale
            and (self.standardized == other.standardized)
        )

    def is_near(self, other: Scaling) -> bool:
        """Whether numbers of any spread are hardly told apart: by half an octave and half a deviation at most."""
        scale, offset = float(np.mean(self.scale)), float(np.mean(self.offset))
        octaves = abs(math.log2(float(np.mean(other.scale)) / scale))
        return octaves <= 0.5 and abs(float(np.mean(other.offset)) - offset) <= 0.5 * scale


BYTE_SCALES = 16.0  # from which a scale counts pixels of 0..255
ADJUSTABLE = frozenset(  # what has a scale, and what gradients may move
    {
        *(InputKind.PICTURE, InputKind.VIDEO, InputKind.MAP, InputKind.SIGNAL, InputKind.SPECTRUM),
        *(InputKind.EMBEDDINGS, InputKind.FEATURES),
    }
)
COLOURED = frozenset({InputKind.PICTURE, InputKind.VIDEO})  # whose raw numbers lie in [0, 1]
CONVENTIONAL = COLOURED | {InputKind.SIGNAL}  # whose preprocessing is one of a few, not any spread
SHARED = frozenset(  # what may be the same for all samples of a batch
    {InputKind.CONSTANT, InputKind.POSITIONS, InputKind.STEP, InputKind.MASK, InputKind.TOKENS}
)
BYTES = Scaling("bytes from 0 to 255", (255.0,), (0.0,))
LOUDEST = 0.35  # deviation of a signal that just fits into -1..1
FEW_CHANNELS = 12  # of one recording at most: an electrocardiogram has 12, a stereo recording 2
CREDIBLE = 0.9  # of the probability lies on the preprocessings that stay open: the level of every predicted interval
MOST_OPEN = 4  # preprocessings of features that are judged and named where nothing tells
SURE = 0.99  # probability from which a preprocessing is taken for settled, like ones counted together
ALIKE = 0.1  # of the scale, by which scales and offsets may differ and still be one preprocessing to an integer grid
SOUND = Scaling("-1..1 sound", (0.1,), (0.0,))
UNSCALED = Scaling("as it is", (1.0,), (0.0,))


@dataclass(frozen=True)
class InputPlan:
    """One input: its kind, the shape of one sample (of the whole where there is no batch axis) and its
    preprocessing.
    """

    name: str
    kind: InputKind
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    batch_axis: int | None = 0
    free_size: bool = False  # some axis besides the batch was left open by the model
    channels_last: bool = False
    scaling: Scaling = UNSCALED
    rivals: tuple[Scaling, ...] = ()  # scalings that fit nearly as well and are calibrated for too
    considered: tuple[Scaling, ...] = ()
    settled: bool = False  # the owner stated the scaling, or it was found
    tokens: tuple[int, int] = (0, 2)
    value: float = 0.0
    fixed_batch: int | None = None
    order: ChannelOrder | None = None  # of a picture's colours, as its owner stated it
    reason: str = ""  # why it is taken for what it is
    stated: bool = False  # its kind or scaling, by its owner
    choices: tuple[float, ...] = ()  # numbers drawn in turns; of a mask what keeps and what leaves out
    special: tuple[int | None, int | None, int | None] = (None, None, None)  # tokens: begin, end, padding
    varied: bool = False  # whether samples end early, as a mask or lengths beside them say
    side: int | None = None  # of the square pictures that flat features are
    bands: int | None = None  # the axis of one sample that holds bands or coefficients, where the graph tells
    returned: str | None = None  # the output that comes back as this state

    @property
    def overrule(self) -> str:
        """The option that says otherwise, as it is typed."""
        examples = {
            InputKind.TOKENS: f"tokens=0:{self.tokens[1]}",
            InputKind.CONSTANT: f"kind=scalar;value={self.value:g}",
            InputKind.STATE: "kind=features",
            InputKind.CACHE: "kind=features",
        }
        scaled = "range=0:255" if self.kind in COLOURED else "mean=0;std=1" if self.kind in ADJUSTABLE else "kind=..."
        return input_option(self.name, examples.get(self.kind, scaled))

    def specification(self, scaling: Scaling) -> str:
        """What the owner types to say that this is how the input is prepared."""
        if self.kind not in COLOURED:
            if scaling == replace(SOUND, probability=scaling.probability, why=scaling.why):
                return "kind=sound"
            mean, deviation = (",".join(f"{each:.5g}" for each in part) for part in (scaling.offset, scaling.scale))
            return f"mean={mean};std={deviation}"
        order = ";order=bgr" if scaling.order is ChannelOrder.BGR else ""
        if not order and len(scaling.scale) == 1:
            return f"range={scaling.offset[0]:g}:{scaling.scale[0] + scaling.offset[0]:g}"
        top = 255.0 if max(scaling.scale) > BYTE_SCALES else 1.0
        deviation = ",".join(f"{top / each:.4g}" for each in scaling.scale)
        mean = ",".join(f"{-o / s * top:.5g}" for s, o in zip(scaling.scale, scaling.offset, strict=True))
        return f"range=0:{top:g};mean={mean};std={deviation}{order}"

    @property
    def channels(self) -> int:
        """The number of colour channels of a picture or film."""
        return self.shape[self.channel_axis]

    @property
    def channel_axis(self) -> int:
        """The axis of one sample that holds channels, or columns of features."""
        if self.kind is InputKind.SIGNAL and len(self.shape) == 2:
            return 1 - self.time_axis
        if self.channels_last or (len(self.shape) != 3 and self.kind is not InputKind.VIDEO):
            return len(self.shape) - 1
        if self.kind is InputKind.VIDEO and self.shape[0] != 3 and self.shape[1] == 3:
            return 1  # frames first
        return 0

    @property
    def time_axis(self) -> int:
        """The axis of one sample along which a signal goes: the last, or the one before a few channels."""
        shape = self.shape
        last = len(shape) - 1
        return last - 1 if len(shape) >= 2 and shape[-1] <= FEW_CHANNELS and shape[-2] > shape[-1] else last

    @property
    def bands_axis(self) -> int:
        """The axis of one sample of a spectrum that holds bands: the shorter one, unless the graph tells."""
        if self.bands is not None:
            return self.bands
        long = [axis for axis, size in enumerate(self.shape) if size > 1][-2:] or [len(self.shape) - 1]
        return min(reversed(long), key=lambda axis: self.shape[axis])

    @property
    def has_cepstra(self) -> bool:
        """Whether this is a spectrum of so few numbers a frame that they are cepstra, normalized or not."""
        return self.has_frames and self.shape[self.bands_axis] <= MOST_CEPSTRA

    @property
    def has_frames(self) -> bool:
        """Whether this is a spectrum with time and bands; as few rows as columns are a table or a small picture."""
        if self.kind is not InputKind.SPECTRUM or len(self.shape) < 2:
            return False
        bands = self.shape[self.bands_axis]
        return bands > MOST_CEPSTRA or any(size > bands for size in self.shape)

    @property
    def is_plain_cepstra(self) -> bool:
        """Whether its cepstra are as they are made, the first of them the loudness and ten times the others."""
        return self.has_cepstra and max(self.scaling.scale) >= CEPSTRA_DEVIATION / 2

    @property
    def is_sound(self) -> bool:
        """Whether this is a signal whose numbers lie in -1..1, as sound does by convention."""
        quiet = max(self.scaling.scale) <= LOUDEST and not any(self.scaling.offset)
        return self.kind is InputKind.SIGNAL and quiet

    @property
    def doubtful(self) -> tuple[Scaling, ...]:
        """The likeliest preprocessings that together are ``CREDIBLE``; empty where the owner or the graph said it.

        Spreads of features are a scale without gaps: near ones count as one, and no more than ``MOST_OPEN`` are named.
        """
        conventional = self.kind in CONVENTIONAL
        found, together = list[Scaling](), 0.0
        for each in self.considered:
            if together >= CREDIBLE or (not conventional and len(found) == MOST_OPEN):
                break
            if conventional or not any(each.is_near(other) for other in found):
                found.append(each)
            together += each.probability or 0.0
        return tuple(found)

    @property
    def others(self) -> tuple[Scaling, ...]:
        """The open preprocessings that are told from the taken one."""
        return tuple(each for each in self.doubtful if not self._counts_as_taken(each))

    def _counts_as_taken(self, other: Scaling) -> bool:
        """Whether another preprocessing is one with the taken one to an integer grid, or hardly told from it."""
        return other.is_alike(self.scaling) if self.kind in CONVENTIONAL else self.scaling.is_near(other)

    @property
    def confidence(self) -> float:
        """The probability that the taken preprocessing, or one that no integer grid tells from it, is the right one."""
        if not self.considered:
            return 1.0
        return min(sum(each.probability or 0.0 for each in self.considered if self._counts_as_taken(each)), 1.0)

    def per_channel(self, values: tuple[float, ...]) -> Array:
        """``values`` (one, or one a channel) shaped to broadcast over a batch of samples."""
        numbers = np.asarray(values, np.float32)
        rank, axis = len(self.shape), self.channel_axis
        return numbers.reshape([1, *(-1 if each == axis and numbers.size > 1 else 1 for each in range(rank))])

    def affine(self, start: int, count: int) -> tuple[Array, Array]:
        """Scale and offset [count, ...] of samples ``start`` onwards: scalings that could not be told apart take
        turns.
        """
        turns = (self.scaling, *self.rivals)
        chosen = [turns[(start + each) % len(turns)] for each in range(count)]
        return (
            np.concatenate([self.per_channel(each.scale) + self._zeros(each.offset) for each in chosen]),
            np.concatenate([self.per_channel(each.offset) + self._zeros(each.scale) for each in chosen]),
        )

    def _zeros(self, values: tuple[float, ...]) -> Array:
        turns = (self.scaling, *self.rivals)
        width = max(len(values), *(len(each.scale) for each in turns), *(len(each.offset) for each in turns))
        return np.zeros_like(self.per_channel((0.0,) * width))

    def prepare(self, raw: Array, start: int = 0) -> Array:
        """Raw samples [N, *shape], the first being sample number ``start``, as the network wants them."""
        turns = (self.scaling, *self.rivals)
        if any(each.standardized for each in turns):
            raw = raw.copy()
            for place, sample in enumerate(raw):
                if turns[(start + place) % len(turns)].standardized:
                    sample[...] = standardized(sample[None])[0]
        scale, offset = self.affine(start, len(raw))
        return np.asarray(raw * scale + offset, np.float32)


def standardized(signals: Array) -> Array:
    """Every signal less its mean and over its deviation, as networks that listen piece by piece often want it."""
    flat = signals.reshape(len(signals), -1)
    flat = (flat - flat.mean(1, keepdims=True)) / np.maximum(flat.std(1, keepdims=True), 1e-8)
    return np.asarray(flat.reshape(signals.shape), np.float32)


def picture_bounds(plan: InputPlan) -> tuple[float, float] | None:
    """What the darkest and brightest pixel become, which is the range of a picture whatever the samples reach."""
    if plan.kind is not InputKind.PICTURE or plan.dtype.kind != "f":
        return None
    turns = (plan.scaling, *plan.rivals)
    offsets = [value for each in turns for value in each.offset]
    tops = [scale + offset for each in turns for scale, offset in zip(each.scale, each.offset, strict=True)]
    return min(offsets), max(tops)


def batch_limit(plans: Sequence[InputPlan], wanted: int) -> int:
    """How many samples one run of the network may take: ``wanted``, or what the model's inputs were fixed to."""
    fixed = [plan.fixed_batch for plan in plans if plan.fixed_batch is not None]
    fixed += [1 for plan in plans if plan.kind not in SHARED and plan.batch_axis is None]
    return min(fixed, default=wanted)


def assemble(
    plans: Sequence[InputPlan], raw: Mapping[str, NDArray[Any]], part: slice = slice(None)
) -> dict[str, NDArray[Any]]:
    """Network inputs from raw samples [N, *shape]: prepared, and with the batch on the axis where each input has it."""
    feeds: dict[str, NDArray[Any]] = {}
    for plan in plans:
        samples = raw[plan.name][part]
        if plan.kind in ADJUSTABLE:
            samples = plan.prepare(samples, part.start or 0)
            if plan.dtype.kind in "iu":
                bounds = np.iinfo(plan.dtype)
                samples = np.clip(np.rint(samples), bounds.min, bounds.max)
        if plan.batch_axis is None:
            samples = samples[0]
        elif plan.batch_axis > 0:
            samples = np.moveaxis(samples, 0, plan.batch_axis)
        feeds[plan.name] = np.asarray(samples, plan.dtype, order="C")  # keeps scalars scalars
    return feeds


def placed(plan: InputPlan, samples: Tensor) -> Tensor:
    """Prepared samples [N, *shape] with the batch where the input has it, in torch and with their gradient."""
    if plan.batch_axis is None:
        return samples[0]
    return samples if plan.batch_axis == 0 else samples.movedim(0, plan.batch_axis)


def tensors(feeds: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    """The feeds as torch tensors that share their memory where numpy allows it."""
    return {name: torch.from_numpy(np.asarray(value, order="C")) for name, value in feeds.items()}
