"""What each input of a model is, how large, and on what scale its numbers are, found from the model itself.

The owner may state any of it (``InputSpec``); what is stated is never guessed. What the scale of pictures and features
is when nobody says so is settled in ``converter.inputs.scaling`` by what the network makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.errors import InvalidOption, UnsupportedModel
from converter.graph import Graph, Value, attribute
from converter.inputs.priors import (
    Array,
    draw_features,
    draw_noise,
    draw_pictures,
    draw_signals,
    draw_sounds,
    draw_tokens,
)
from converter.options import InputSpec

__all__ = [
    "ADJUSTABLE",
    "SOUND",
    "Feeds",
    "InputKind",
    "InputPlan",
    "Scaling",
    "assemble",
    "batch_limit",
    "compatible",
    "describe_inputs",
    "draw",
    "picture_bounds",
]

Feeds = dict[str, NDArray[Any]]


class InputKind(StrEnum):
    """What an input carries."""

    PICTURE = "picture"
    SIGNAL = "signal"
    FEATURES = "features"
    TOKENS = "tokens"
    FLAGS = "flags"
    STATE = "state"
    CONSTANT = "constant"


@dataclass(frozen=True)
class Scaling:
    """A preprocessing: the network gets ``raw * scale + offset``; raw pictures lie in [0, 1], other raw inputs have
    unit spread.

    ``score`` tells how badly it fits the network (0 is perfect), None while it was not judged.
    """

    name: str
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    score: float | None = None


ADJUSTABLE = frozenset({InputKind.PICTURE, InputKind.SIGNAL, InputKind.FEATURES})  # what gradients may move
LOUDEST = 0.35  # deviation of a signal that just fits into -1..1
SOUND = Scaling("-1..1 audio", (0.1,), (0.0,))
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

    @property
    def channels(self) -> int:
        """The number of colour channels of a picture."""
        return self.shape[-1] if self.channels_last else self.shape[0]

    @property
    def is_sound(self) -> bool:
        """Whether this is a signal whose numbers lie in -1..1, as sound does by convention."""
        quiet = max(self.scaling.scale) <= LOUDEST and not any(self.scaling.offset)
        return self.kind is InputKind.SIGNAL and quiet

    def per_channel(self, values: tuple[float, ...]) -> Array:
        """``values`` (one, or one a channel) shaped to broadcast over a batch of samples."""
        numbers = np.asarray(values, np.float32)
        rank = len(self.shape)
        axis = rank - 1 if self.channels_last or rank != 3 else 0
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
        width = max(len(values), *(len(each.scale) for each in (self.scaling, *self.rivals)))
        return np.zeros_like(self.per_channel((0.0,) * width))

    def prepare(self, raw: Array, start: int = 0) -> Array:
        """Raw samples [N, *shape], the first being sample number ``start``, as the network wants them."""
        scale, offset = self.affine(start, len(raw))
        return np.asarray(raw * scale + offset, np.float32)


TYPICAL_SIDE = 224  # of a picture whose size the model leaves open
TYPICAL_LENGTH = 64  # of a sequence
TYPICAL_SIGNAL = 16_000  # one second of speech
SAMPLING_RATE = 16_000


def describe_inputs(graph: Graph, specs: Mapping[str, InputSpec]) -> tuple[InputPlan, ...]:
    """The plan of every input, scales of pictures and features still open where the owner did not state them.

    Raises InvalidOption for specifications that fit no input and UnsupportedModel for element types without a meaning.
    """
    names = [each.name for each in graph.inputs]
    for name in specs:
        if name not in names:
            raise InvalidOption(
                f"There is no input {name!r}.", field="inputs", remedy=f"The inputs are {', '.join(names)}."
            )
    outputs = {(each.dtype, each.shape) for each in graph.outputs}
    return tuple(_describe(each, graph, specs.get(each.name, InputSpec()), outputs) for each in graph.inputs)


def _describe(value: Value, graph: Graph, spec: InputSpec, outputs: set[tuple[str, Any]]) -> InputPlan:
    dtype = np.dtype(value.dtype)
    declared = value.shape if value.shape is not None else ("batch",)
    if spec.shape is not None:
        _check_shape(value, spec.shape)
        plan = _plan(value, dtype, spec.shape, graph, spec, outputs)
        return replace(plan, free_size=False)
    return _plan(value, dtype, declared, graph, spec, outputs)


def _check_shape(value: Value, given: tuple[int, ...]) -> None:
    fits = value.shape is None or (
        len(value.shape) == len(given)
        and all(not isinstance(size, int) or size == wanted for size, wanted in zip(value.shape, given, strict=True))
    )
    if not fits:
        raise InvalidOption(
            f"shape={'x'.join(map(str, given))} does not fit the input {value}.",
            field="inputs",
            remedy="State every axis.",
        )


def _plan(
    value: Value,
    dtype: np.dtype[Any],
    declared: tuple[int | str | None, ...],
    graph: Graph,
    spec: InputSpec,
    outputs: set[tuple[str, Any]],
) -> InputPlan:
    rank = len(declared)
    if dtype.kind in "iub":
        return _integers(value, dtype, declared, graph, spec)
    if dtype.kind != "f":
        raise UnsupportedModel(f"The input {value} has an element type that zsq cannot make up.", tensor=value.name)
    if rank == 0:
        low, high = spec.value_range or (1.0, 1.0)
        return InputPlan(value.name, InputKind.CONSTANT, dtype, (), None, value=(low + high) / 2, settled=True)
    state = _state_batch_axis(value, graph, outputs)
    if state is not None:
        axis = None if state < 0 else state
        shape = tuple(1 if each == axis or not isinstance(size, int) else size for each, size in enumerate(declared))
        kept = shape if axis is None else tuple(size for each, size in enumerate(shape) if each != axis)
        return InputPlan(value.name, InputKind.STATE, dtype, kept, axis, settled=True)
    kind, channels_last = _float_kind(declared, graph, value.name)
    shape, free = _sample_shape(declared[1:], kind, channels_last)
    plan = InputPlan(
        value.name,
        kind,
        dtype,
        shape,
        0,
        free,
        channels_last,
        fixed_batch=declared[0] if isinstance(declared[0], int) else None,
    )
    return _stated(plan, spec)


def _float_kind(declared: tuple[int | str | None, ...], graph: Graph, name: str) -> tuple[InputKind, bool]:
    """Pictures have four axes and 1, 3 or 4 channels; a long last axis alone is a signal; the rest are features."""
    rank = len(declared)
    readers = {node.op_type for node in graph.consumers(name)}
    if rank == 4:
        first, last = declared[1], declared[3]
        if first in (1, 3, 4) and not (first == 1 and _table(declared[2], declared[3])):
            return InputKind.PICTURE, False
        if (last in (1, 3, 4) and not isinstance(first, int | None)) or (
            last in (1, 3, 4) and readers <= {"Transpose", "Sub", "Mul", "Div", "Add"}
        ):
            return InputKind.PICTURE, True
        return InputKind.FEATURES, False
    if rank in (2, 3):
        last = declared[-1]
        if last is None or isinstance(last, str) or last >= 400:
            return InputKind.SIGNAL, False
    return InputKind.FEATURES, False


def _table(height: int | str | None, width: int | str | None) -> bool:
    """A one-channel plane so narrow or oblong that it is a spectrogram or a table rather than a picture."""
    if not isinstance(height, int) or not isinstance(width, int):
        return False
    return min(height, width) < 16 or max(height, width) > 3 * min(height, width)


def _sample_shape(
    sizes: tuple[int | str | None, ...], kind: InputKind, channels_last: bool
) -> tuple[tuple[int, ...], bool]:
    """Concrete sizes for one sample, and whether any had to be chosen."""
    free = any(not isinstance(size, int) for size in sizes)
    typical = {InputKind.PICTURE: TYPICAL_SIDE, InputKind.SIGNAL: TYPICAL_SIGNAL}.get(kind, TYPICAL_LENGTH)
    return tuple(size if isinstance(size, int) else typical for size in sizes), free


def _integers(
    value: Value, dtype: np.dtype[Any], declared: tuple[int | str | None, ...], graph: Graph, spec: InputSpec
) -> InputPlan:
    rank = len(declared)
    if rank == 0 or all(size == 1 for size in declared):
        number = spec.tokens[0] if spec.tokens else (int(spec.value_range[0]) if spec.value_range else SAMPLING_RATE)
        shape = tuple(1 for _ in declared)
        return InputPlan(value.name, InputKind.CONSTANT, dtype, shape, None, value=float(number), settled=True)
    shape = tuple(size if isinstance(size, int) else TYPICAL_LENGTH for size in declared[1:])
    free = any(not isinstance(size, int) for size in declared[1:])
    fixed = declared[0] if isinstance(declared[0], int) else None
    table = None if spec.tokens else _embedding_rows(value.name, graph)
    if dtype.kind == "b" or (table is None and spec.tokens is None):
        return InputPlan(value.name, InputKind.FLAGS, dtype, shape, 0, free, settled=True, value=1.0, fixed_batch=fixed)
    tokens = spec.tokens or (0, table or 2)
    return InputPlan(
        value.name, InputKind.TOKENS, dtype, shape, 0, free, settled=True, tokens=tokens, fixed_batch=fixed
    )


def _embedding_rows(name: str, graph: Graph) -> int | None:
    """The number of rows of the constant table that this input indexes, looking through casts and reshapes."""
    pending, seen = [name], set()
    while pending:
        tensor = pending.pop()
        if tensor in seen:
            continue
        seen.add(tensor)
        for node in graph.consumers(tensor):
            if node.op_type == "Gather" and node.input[1] == tensor and node.input[0] in graph.initializers:
                axis = int(attribute(node, "axis", 0))
                table = graph.initializers[node.input[0]]
                if table.dtype.kind == "f":
                    return int(table.shape[axis])
            elif node.op_type in ("Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Transpose"):
                pending.append(node.output[0])
    return None


def _state_batch_axis(value: Value, graph: Graph, outputs: set[tuple[str, Any]]) -> int | None:
    """The batch axis of a recurrent state (-1 where it has none), or None for any other input.

    A state comes back as an output of the same type and rank while another input carries the data.
    """
    if len(graph.inputs) < 2 or value.shape is None or len(value.shape) < 2:
        return None
    name = value.name.lower()
    alike = any(
        dtype == value.dtype and shape is not None and len(shape) == len(value.shape) and compatible(shape, value.shape)
        for dtype, shape in outputs
    )
    named = any(word in name for word in ("state", "hidden", "h0", "c0", "cache", "past", "h_in", "c_in"))
    if not (alike and (named or value is not graph.inputs[0])):
        return None
    symbols = {size for other in graph.inputs for size in (other.shape or ())[:1] if isinstance(size, str)}
    for axis, size in enumerate(value.shape):
        if isinstance(size, str) and size in symbols:
            return axis
    return -1


def compatible(one: tuple[int | str | None, ...], other: tuple[int | str | None, ...]) -> bool:
    """Whether two shapes of one rank differ in no size that both state."""
    return all(not isinstance(a, int) or not isinstance(b, int) or a == b for a, b in zip(one, other, strict=True))


def _stated(plan: InputPlan, spec: InputSpec) -> InputPlan:
    """The plan with the preprocessing that the owner stated, if any."""
    if spec.mean is not None or spec.std is not None:
        mean, std = spec.mean or (0.0,), spec.std or (1.0,)
        width = max(len(mean), len(std))
        mean, std = mean * width if len(mean) == 1 else mean, std * width if len(std) == 1 else std
        if len(mean) != len(std) or (width > 1 and plan.kind is InputKind.PICTURE and width != plan.channels):
            raise InvalidOption(
                f"mean and std of the input {plan.name!r} need one number, or one a channel.", field="inputs"
            )
        low, high = spec.value_range or (0.0, 255.0 if max(*mean, *std) > 2 else 1.0)  # what the mean is counted in
        if plan.kind is InputKind.PICTURE:
            scaling = Scaling(
                "stated: mean and deviation",
                tuple((high - low) / s for s in std),
                tuple((low - m) / s for m, s in zip(mean, std, strict=True)),
            )
        else:
            scaling = Scaling("stated: mean and deviation", std, mean)
        return replace(plan, scaling=scaling, settled=True)
    if spec.value_range is not None:
        low, high = spec.value_range
        if plan.kind is InputKind.PICTURE:
            return replace(plan, scaling=Scaling("stated: range", (high - low,), (low,)), settled=True)
        spread = (high - low) / 6  # three deviations to either side
        return replace(plan, scaling=Scaling("stated: range", (spread,), ((low + high) / 2,)), settled=True)
    return plan


def draw(plan: InputPlan, count: int, generator: np.random.Generator, *, noise: bool = False) -> NDArray[Any]:
    """``count`` raw samples [count, *shape] of one input; the network wants them through ``plan.prepare``.

    With ``noise``, float inputs are what ``plan.prepare`` makes N(0, 1): the honest baseline, ignorant of everything.
    """
    match plan.kind:
        case InputKind.PICTURE if not noise:
            height, width = plan.shape[:2] if plan.channels_last else plan.shape[1:]
            pictures = draw_pictures(count, plan.channels, height, width, generator)
            return np.ascontiguousarray(pictures.transpose(0, 2, 3, 1)) if plan.channels_last else pictures
        case InputKind.SIGNAL if not noise:
            if plan.is_sound:
                return draw_sounds(count, plan.shape, SAMPLING_RATE, generator)
            return draw_signals(count, plan.shape, generator)
        case InputKind.FEATURES if not noise:
            return draw_features(count, plan.shape, generator)
        case InputKind.TOKENS:
            return draw_tokens(count, plan.shape, *plan.tokens, generator).astype(plan.dtype)
        case InputKind.FLAGS | InputKind.CONSTANT:
            return np.full((count, *plan.shape), plan.value, plan.dtype)
        case InputKind.STATE:
            return np.zeros((count, *plan.shape), plan.dtype)
    scale, offset = plan.affine(0, count)
    return np.asarray((draw_noise(count, plan.shape, generator) - offset) / scale, np.float32)


def picture_bounds(plan: InputPlan) -> tuple[float, float] | None:
    """What the darkest and brightest pixel become, which is the range of a picture whatever the samples reach."""
    if plan.kind is not InputKind.PICTURE:
        return None
    turns = (plan.scaling, *plan.rivals)
    offsets = [value for each in turns for value in each.offset]
    tops = [scale + offset for each in turns for scale, offset in zip(each.scale, each.offset, strict=True)]
    return min(offsets), max(tops)


def batch_limit(plans: Sequence[InputPlan], wanted: int) -> int:
    """How many samples one run of the network may take: ``wanted``, or what the model's inputs were fixed to."""
    fixed = [plan.fixed_batch for plan in plans if plan.fixed_batch is not None]
    fixed += [1 for plan in plans if plan.kind is InputKind.STATE and plan.batch_axis is None]
    return min(fixed, default=wanted)


def assemble(plans: Sequence[InputPlan], raw: Mapping[str, NDArray[Any]], part: slice = slice(None)) -> Feeds:
    """Network inputs from raw samples [N, *shape]: prepared, and with the batch on the axis where each input has it."""
    feeds: Feeds = {}
    for plan in plans:
        samples = raw[plan.name][part]
        if plan.kind in ADJUSTABLE:
            samples = plan.prepare(samples, part.start or 0)
        if plan.batch_axis is None:
            samples = samples[0]
        elif plan.batch_axis > 0:
            samples = np.moveaxis(samples, 0, plan.batch_axis)
        feeds[plan.name] = np.asarray(samples, plan.dtype, order="C")  # keeps scalars scalars
    return feeds
