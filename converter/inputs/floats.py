"""Recognizing inputs of real numbers: pictures, films, sound, spectra, embeddings, features, and numbers beside."""

from __future__ import annotations

import math

import numpy as np

from converter.families import PRODUCTS
from converter.graph import Shape, attribute
from converter.inputs.dataflow import Use, stored
from converter.inputs.evidence import Evidence, Finding, symbolic
from converter.inputs.integers import ORDERING, find_mask, find_step
from converter.inputs.naming import Hint, hints
from converter.inputs.plans import FEW_CHANNELS, SOUND, InputKind, Scaling

__all__ = ["recognize_floats"]

COLOURS = (1, 3)  # channels of a picture; four are latents more often than colours with transparency
SMALL = 4  # numbers a sample, at most, that only say how large or how much
LONG = 400  # numbers on the last axis from which a waveform is more likely than features, where nothing else tells
WIDE = 192  # features of each step from which these are another network's: the narrowest encoders in use
TALL = 1.5  # of height over width, from which a plane of one channel is frames by bands: a page is 1.41
BINS = tuple(length // 2 + 1 for length in (256, 320, 400, 512, 1024, 2048))  # of transforms of sound, all odd
FLAT_SIDE = 8  # of the smallest flattened picture: scikit-learn's digits
ALIKE = 0.25  # correlation of first-layer weights of neighbouring pixels, from which the features are a picture's
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "STFT", "DFT", "Einsum")
ELEMENTWISE = ("Sub", "Mul", "Div", "Add", "Cast")
MOVES = ("Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Expand")


def recognize_floats(evidence: Evidence) -> Finding | None:
    """What an input of real numbers is, or None where nothing in the graph or in its shape tells."""
    single = math.prod(size if isinstance(size, int) else 2 for size in evidence.shape) == 1
    if single or len(evidence.shape) == 0:
        found = _single(evidence)
        if found is not None or not evidence.shape:
            return found
    mask = find_mask(evidence)
    if mask is not None:
        return mask
    layer = next((use for use in evidence.uses if use.operator in LAYERS and _is_data(use)), None)
    beside = _beside(evidence, layer)
    if beside is not None:
        return beside
    if layer is not None and (found := _by_layer(evidence, layer)) is not None:
        return found
    return _by_shape(evidence)


def _is_data(use: Use) -> bool:
    return use.place == 0 or (use.operator in PRODUCTS and use.place == 1)


def _single(evidence: Evidence) -> Finding | None:
    """One number: a threshold, a factor, or a step of time."""
    nms = evidence.used(("NonMaxSuppression",))
    if nms is not None and nms.place in (3, 4):
        words, value = ("as far as boxes may overlap", 0.5) if nms.place == 3 else ("the score a box needs", 0.25)
        return Finding(InputKind.CONSTANT, f"NonMaxSuppression reads it: {words}", value=value, batched=False)
    if (step := find_step(evidence)) is not None:
        return step
    first = next((use.operator for use in evidence.uses if use.operator not in MOVES), None)
    if evidence.used(ORDERING):
        return Finding(InputKind.CONSTANT, "it is compared with other numbers: a threshold", value=0.5, batched=False)
    if first in ("Mul", "Div", "Pow"):
        return Finding(
            InputKind.CONSTANT, "it multiplies other numbers, and 1 leaves them as they are", value=1.0, batched=False
        )
    return None


def _beside(evidence: Evidence, layer: Use | None) -> Finding | None:
    """A few numbers that meet no weights: how large a picture was, or by how much it was resized; or a step of time."""
    if not evidence.others or len(evidence.shape) > 2:
        return None
    if (step := find_step(evidence)) is not None:
        return step
    last = evidence.shape[-1]
    if layer is not None or not isinstance(last, int) or last > SMALL or len(evidence.shape) != 2:
        return None
    if not any(other.shape is not None and len(other.shape) == 4 for other in evidence.others):
        return None
    if Hint.FACTOR in evidence.hints:
        return Finding(InputKind.SIZES, "it meets no weights, and its name speaks of a factor", value=1.0)
    return Finding(InputKind.SIZES, "it meets no weights, beside a picture: how large that was")


# --------------------------------------------------------------------------------------------------------- by the layer


def _by_layer(evidence: Evidence, layer: Use) -> Finding | None:
    match layer.operator:
        case "Conv" | "ConvTranspose":
            return _convolved(evidence, layer)
        case "STFT" | "DFT":
            return Finding(InputKind.SIGNAL, f"{layer.operator} takes its spectrum: sound", scaling=SOUND)
        case "LSTM" | "GRU" | "RNN":
            return _steps(evidence, f"a {layer.operator} reads it step by step")
        case "MatMul" | "Gemm" | "Einsum":
            return _multiplied(evidence, layer)
    return None


def _convolved(evidence: Evidence, layer: Use) -> Finding | None:
    """By the rank of the first convolution, and by where the input's axes are when it gets there."""
    shapes = evidence.graph.shapes
    weight = shapes.get(layer.node.input[1])
    if weight is None or len(weight) not in (3, 4, 5):
        return None
    within = weight[1] if layer.operator == "Conv" else weight[0]
    channels = int(within or 1) * int(attribute(layer.node, "group", 1) if layer.operator == "Conv" else 1)
    axes = layer.axes if layer.axes is not None and len(layer.axes) == len(weight) else None
    rank = len(evidence.shape)
    match len(weight):
        case 5:
            kind = InputKind.VIDEO if channels == 3 else InputKind.MAP
            word = "films" if channels == 3 else "volumes of both signs"
            return Finding(kind, f"a convolution over three axes reads its {channels} channels: {word}")
        case 3:
            return _waves(evidence, channels, axes)
    if rank == 4 and axes is not None and axes[1] is not None and axes[0] == 0:
        return _planes(evidence, _own(evidence, axes[1], channels), axes[1] == 3)
    if rank == 3 and axes is not None and axes[0] is None and axes[1] is not None:
        found = _planes(evidence, channels, axes[1] == 2)
        return Finding(found.kind, f"{found.reason}, without a batch axis", found.channels_last, batched=False)
    if rank == 4:
        return _planes(evidence, None, False) if _by_shape(evidence) is None else None
    if _is_line(evidence.shape) and 1 in weight[2:]:
        return Finding(InputKind.SIGNAL, "a convolution in rows of one reads a single long axis: a recording")
    if rank == 3:
        return _spectrum("a convolution over two axes reads it as a plane: a spectrogram or a table")
    return None


def _is_line(shape: Shape) -> bool:
    """Whether samples are one long row of numbers, whatever axes of one stand beside it."""
    long = [size for size in shape[1:] if size != 1]
    return len(long) == 1 and (symbolic(long[0]) or (isinstance(long[0], int) and long[0] >= LONG))


def _own(evidence: Evidence, axis: int, channels: int) -> int:
    """The input's channels, which differ from a layer's where others were joined to them."""
    size = evidence.shape[axis]
    return size if isinstance(size, int) else channels


def _planes(evidence: Evidence, channels: int | None, channels_last: bool) -> Finding:
    """Pictures where the number of channels is one of colours or several pictures', maps otherwise."""
    shape = evidence.shape
    sizes = shape[-3:-1] if channels_last else shape[-2:]
    named = Hint.PICTURE in evidence.hints
    if not named and (reason := _spectral(channels, *sizes)) is not None:
        return _spectrum(reason)
    if channels in COLOURS or (channels == 4 and named):
        return Finding(InputKind.PICTURE, f"a convolution over two axes reads its {channels} channels", channels_last)
    if channels is not None and channels > 3 and channels % 3 == 0 and channels <= 15:
        words = f"a convolution reads its {channels} channels: {channels // 3} pictures on top of each other"
        return Finding(InputKind.PICTURE, words, channels_last)
    words = f"a convolution reads its {channels} channels, which are no colours: latents or maps of both signs"
    return Finding(InputKind.MAP, words, channels_last)


def _spectral(channels: int | None, height: int | str | None, width: int | str | None) -> str | None:
    """Why a plane is a spectrogram or a table rather than a picture, or None where nothing says so.

    Single channels that are taller than wide by half are frames by bands: pages and faces are not so tall, and lines of
    text lie.
    """
    if channels not in COLOURS:
        return None
    if any(isinstance(size, str) and Hint.TIME in hints(size) for size in (height, width)):
        return "the graph's own name for one of its two axes speaks of time: a spectrogram"
    if channels != 1:
        return None
    if height in BINS or width in BINS:
        bins = height if height in BINS else width
        return f"a plane of {bins} is a spectrogram: half of a usual transform's length and one"
    if not isinstance(height, int) or not isinstance(width, int):
        return None
    if min(height, width) < 16 or width > 3 * height or height >= TALL * width:
        return "a plane so narrow or oblong is a spectrogram or a table"
    return None


def _waves(evidence: Evidence, channels: int, axes: tuple[int | None, ...] | None) -> Finding:
    """By a convolution over one axis: one channel or a few are recordings, more are spectra or features."""
    shape = evidence.shape
    alone = channels == 1 or (axes is not None and axes[1] is None) or len(shape) == 2
    if alone or (channels <= FEW_CHANNELS and Hint.SPECTRUM not in evidence.hints):
        return Finding(InputKind.SIGNAL, f"a convolution over one axis reads its {channels} channels: a recording")
    if len(shape) == 3 and channels >= WIDE and Hint.SPECTRUM not in evidence.hints:
        return Finding(InputKind.EMBEDDINGS, f"a convolution over one axis reads {channels} features of each step")
    bands = axes[1] if axes is not None else None
    return Finding(
        InputKind.SPECTRUM, f"a convolution over one axis reads its {channels} bands or features", bands=bands
    )


def _spectrum(words: str) -> Finding:
    return Finding(InputKind.SPECTRUM, words)


def _steps(evidence: Evidence, words: str) -> Finding:
    last = evidence.shape[-1]
    if isinstance(last, int) and last >= WIDE:
        return Finding(InputKind.EMBEDDINGS, f"{words}, {last} numbers each")
    if Hint.SPECTRUM in evidence.hints:
        bands = len(evidence.shape) - 1
        return Finding(InputKind.SPECTRUM, f"{words}, and its name speaks of a spectrum", bands=bands)
    return Finding(InputKind.FEATURES, words)


def _multiplied(evidence: Evidence, layer: Use) -> Finding | None:
    """By a matrix product over its last axis."""
    shape = evidence.shape
    last = len(shape) - 1
    direct = layer.axes is not None and layer.axes[-1:] == (last,) and layer.place == 0
    size = shape[-1] if shape else None
    if len(shape) == 3 and direct and isinstance(size, int):
        if size >= WIDE and Hint.SPECTRUM not in evidence.hints:
            return Finding(InputKind.EMBEDDINGS, f"a matrix product reads the {size} numbers of each step")
        if Hint.SPECTRUM in evidence.hints:
            return Finding(InputKind.SPECTRUM, f"a matrix product reads the {size} bands of each step", bands=last)
        return Finding(InputKind.FEATURES, f"a matrix product reads the {size} features of each step")
    if len(shape) == 2 and (direct or layer.operator == "Gemm") and isinstance(size, int):
        side = _picture_side(evidence, layer, size)
        if side is not None:
            words = f"the first layer's weights are alike for neighbours in rows of {side}: flattened pictures"
            return Finding(InputKind.FEATURES, words, side=side)
        scaling = _standardized(evidence)
        words = f"a matrix product reads its {size} features"
        words += " after the graph took their means and deviations away" if scaling is not None else ""
        return Finding(InputKind.FEATURES, words, scaling=scaling)
    if len(shape) == 1 and direct and layer.axes is not None and layer.axes[0] is None:
        return Finding(
            InputKind.FEATURES, f"a matrix product reads its {size} features, without a batch axis", batched=False
        )
    return None


def _standardized(evidence: Evidence) -> Scaling | None:
    """Means and deviations that the graph itself takes away from its features before anything else, as scalers do."""
    graph, width = evidence.graph, evidence.shape[-1]
    if not isinstance(width, int):
        return None
    first = next(iter(evidence.uses), None)
    if first is None or first.operator != "Sub" or first.place != 0 or len(graph.consumers(evidence.value.name)) != 1:
        return None
    second = next((node for node in graph.consumers(first.node.output[0])), None)
    if second is None or second.op_type not in ("Div", "Mul") or second.input[0] != first.node.output[0]:
        return None
    mean, factor = stored(graph, first.node.input[1]), stored(graph, second.input[1])
    if mean is None or factor is None or mean.size not in (1, width) or factor.size not in (1, width):
        return None
    if not (np.all(np.isfinite(factor)) and np.all(factor > 0)):
        return None
    deviation = factor if second.op_type == "Div" else 1 / factor
    return Scaling(
        "the graph's own means and deviations",
        tuple(np.broadcast_to(deviation.reshape(-1), (width,)).astype(float).tolist()),
        tuple(np.broadcast_to(mean.reshape(-1), (width,)).astype(float).tolist()),
    )


def _picture_side(evidence: Evidence, layer: Use, size: int) -> int | None:
    """The side of the square pictures that flat features are, or None: trained weights of neighbouring pixels agree."""
    side = math.isqrt(size)
    weight = stored(evidence.graph, layer.node.input[1])
    if side * side != size or side < FLAT_SIDE or weight is None or weight.ndim != 2:
        return None
    rows = np.asarray(weight if weight.shape[0] == size else weight.T, np.float64)
    if rows.shape[0] != size or rows.shape[1] < 2:
        return None
    plane = rows.reshape(side, side, -1)
    plane = plane - plane.mean((0, 1))
    power = float(np.square(plane).mean()) or 1.0
    across = float((plane[:, 1:] * plane[:, :-1]).mean()) / power
    down = float((plane[1:] * plane[:-1]).mean()) / power
    return side if min(across, down) > ALIKE else None


# --------------------------------------------------------------------------------------------------------- by the shape


def _by_shape(evidence: Evidence) -> Finding | None:
    """What the sizes alone say, where no layer with weights could be reached."""
    shape = evidence.shape
    rank = len(shape)
    words = "by its shape alone"
    if rank == 5:
        colours = shape[1] == 3 or shape[2] == 3
        kind = InputKind.VIDEO if colours else InputKind.MAP
        return Finding(kind, f"{words}, five axes, it is " + ("a film" if colours else "a volume"))
    if rank == 4:
        return _plane_by_shape(evidence, shape, words)
    if rank in (2, 3):
        last = shape[-1]
        if symbolic(last) or (isinstance(last, int) and last >= LONG and rank == 2):
            return Finding(InputKind.SIGNAL, f"{words}, long on its last axis, it is a recording")
        if rank == 3 and isinstance(last, int) and last >= LONG and shape[1] in range(1, FEW_CHANNELS + 1):
            return Finding(InputKind.SIGNAL, f"{words}, long on its last axis, it is a recording")
        if rank == 3 and isinstance(shape[1], int) and shape[1] >= LONG and last in range(1, FEW_CHANNELS + 1):
            return Finding(InputKind.SIGNAL, f"{words}, long on its middle axis, it is a recording")
        if rank == 3 and isinstance(last, int) and last >= LONG:
            return Finding(InputKind.EMBEDDINGS, f"{words}, {last} numbers for each of many steps")
    return Finding(InputKind.FEATURES, words)


def _plane_by_shape(evidence: Evidence, shape: Shape, words: str) -> Finding:
    first, last = shape[1], shape[3]
    readers = {node.op_type for node in evidence.graph.consumers(evidence.value.name)}
    if first in COLOURS:
        if (reason := _spectral(int(first or 1), shape[2], shape[3])) is not None:
            return _spectrum(f"{words}, {reason}")
        return Finding(InputKind.PICTURE, f"{words}, {first} channels before two axes, it is a picture")
    if last in COLOURS and (symbolic(first) or readers <= {*ELEMENTWISE, "Transpose", "Pad", "Reshape", "Conv"}):
        if (reason := _spectral(int(last or 1), shape[1], shape[2])) is not None:
            return _spectrum(f"{words}, {reason}")
        return Finding(InputKind.PICTURE, f"{words}, {last} channels on the last axis, it is a picture", True)
    return Finding(InputKind.MAP, f"{words}, planes that are no colours")
