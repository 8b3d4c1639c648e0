"""What is usual: how likely each preprocessing is before the network is asked, by who made the file and how it begins.

This is knowledge of the field, stated once. A witness inside the network that is sure outweighs it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from converter.families import CARRYING, MOVING
from converter.graph import Graph
from converter.inputs.plans import BYTE_SCALES, COLOURED, CONVENTIONAL, SOUND, InputKind, InputPlan, Scaling
from converter.inputs.spectra import CEPSTRA_DEVIATION
from converter.specifications import ChannelOrder

__all__ = ["IMAGENET", "UNKNOWN", "Convention", "Origin", "candidates", "describe_origin", "prior"]

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE = (123.68, 116.779, 103.939)


def _standardized(name: str, mean: Sequence[float], deviation: Sequence[float], order: ChannelOrder) -> Scaling:
    scale = tuple(1 / each for each in deviation)
    offset = tuple(-m / d for m, d in zip(mean, deviation, strict=True))
    return Scaling(name, scale, offset, order=order)


IMAGENET = _standardized("ImageNet mean and deviation", MEAN, DEVIATION, ChannelOrder.RGB)
IMAGENET_BGR = _standardized("ImageNet mean and deviation, BGR", MEAN[::-1], DEVIATION[::-1], ChannelOrder.BGR)
GREY = Scaling("mean 0.449, deviation 0.226", (1 / 0.226,), (-0.449 / 0.226,))
SYMMETRIC = Scaling("-1..1", (2.0,), (-1.0,))
SHARE = Scaling("0..1", (1.0,), (0.0,))
RAW = Scaling("0..255", (255.0,), (0.0,))
LESS_MEAN = Scaling("0..255 minus mean", (255.0,), tuple(-each for each in CAFFE), order=ChannelOrder.RGB)
LESS_MEAN_BGR = Scaling(
    "0..255 minus mean, BGR", (255.0,), tuple(-each for each in CAFFE[::-1]), order=ChannelOrder.BGR
)
LESS_GREY = Scaling("0..255 minus mean", (255.0,), (-114.0,))
UNIT = Scaling("unit deviation", (1.0,), (0.0,), standardized=True)
INT16 = Scaling("16-bit sound", (3276.8,), (0.0,))
# What is neither picture nor sound: raw numbers have no mean and unit deviation, spectra over many samples.
# Of natural logarithms of mel power of -1..1 speech: -4.3 and 4.6 are published for AudioSet, -6.8 and 5.6 for Speech
# Commands (Gong et al. 2021); a minute of English read aloud has -4.2 and 3.8.
LOG_MEAN, LOG_DEVIATION = -5.0, 4.0
DECIBEL = 10 / math.log(10)
SIXTEEN_BITS = 2 * math.log(32768)  # by which power of 16-bit numbers is larger than that of -1..1


def _logarithmic(name: str, unit: float, louder: float = 0.0, added: float = 0.0) -> Scaling:
    return Scaling(name, (unit * LOG_DEVIATION,), (unit * (LOG_MEAN + louder) + added,))


STANDARD = Scaling("mean 0, deviation 1", (1.0,), (0.0,))
MINMAX = Scaling("0..1, least to greatest", (0.27,), (0.4,))
SPREADS = tuple(
    Scaling(f"mean 0, deviation {2.0**power:g}", (2.0**power,), (0.0,))
    for power in sorted(range(-8, 9), key=abs)
    if power
)
MEASURED = tuple(
    Scaling(f"mean {ratio * 2.0**power:g}, deviation {2.0**power:g}", (2.0**power,), (ratio * 2.0**power,))
    for power in range(-2, 9)
    for ratio in (0.75, 2.0)  # columns that often are nought, and columns that never are
)
# Odds of each, relative to the others of its kind, and whose convention it is.
LOGARITHMS: Mapping[Scaling, float] = {
    STANDARD: 5.0,  # NeMo's normalization of each feature, ESPnet's of each utterance, global statistics of WeNet
    Scaling("mean 0, deviation 0.5", (0.5,), (0.0,)): 1.5,  # AST, SSAST, BEATs: over two deviations
    _logarithmic("natural logarithms of mel power", 1.0): 2.0,  # torchaudio's and icefall's filter banks of -1..1 sound
    _logarithmic("Kaldi's filter banks of 16-bit sound", 1.0, SIXTEEN_BITS): 2.0,
    Scaling("filter banks less their mean", (LOG_DEVIATION,), (0.0,)): 2.0,  # WeSpeaker, 3D-Speaker, Kaldi's x-vectors
    _logarithmic("decibels", DECIBEL): 1.0,  # librosa.power_to_db, torchaudio's AmplitudeToDB
    Scaling("decibels below the loudest, 80 at most", (16.0,), (-50.0,)): 2.0,  # librosa.power_to_db(ref=numpy.max)
    Scaling("decibels below the loudest, from -1 to 1", (0.4,), (-0.3,)): 1.0,  # (dB + 40) / 40, speech quality
    Scaling("decibels below the loudest, from 0 to 1", (0.2,), (0.35,)): 1.5,  # least to greatest of each sample
    _logarithmic("decimal logarithms of power", DECIBEL / 10): 1.0,
    Scaling("Whisper's logarithms", (0.4,), (0.5,)): 2.0,  # (log10, eight below the loudest at most, + 4) / 4
    Scaling("logarithms of mel magnitudes and 0.01", (1.6,), (-2.0,)): 1.0,  # VGGish, YAMNet
    _logarithmic("tenths of decibels of 16-bit sound, and two", DECIBEL / 10, SIXTEEN_BITS, 2.0): 0.7,  # openWakeWord
}
CEPSTRA: Mapping[Scaling, float] = {
    # TensorFlow, Kaldi, python_speech_features
    Scaling("cepstra of natural logarithms", (CEPSTRA_DEVIATION,), (0.0,)): 3.0,
    Scaling("cepstra of decibels", (CEPSTRA_DEVIATION * DECIBEL,), (0.0,)): 2.0,  # librosa.feature.mfcc
    STANDARD: 2.0,
}
COLUMNS: Mapping[Scaling, float] = {STANDARD: 8.0, MINMAX: 3.0}  # scikit-learn's two scalers
PIXELS: Mapping[Scaling, float] = {  # of flattened pictures, whose raw numbers have unit deviation
    Scaling("0..1", (0.25,), (0.45,)): 6.0,
    STANDARD: 3.0,
    Scaling("-1..1", (0.5,), (-0.1,)): 2.0,
    Scaling("0..255", (64.0,), (115.0,)): 1.5,
    Scaling("0..16", (4.0,), (7.2,)): 0.7,  # scikit-learn's digits
}
RECTIFIED = Scaling("rectified, deviation 1", (1.0,), (0.8,))
ANY_SPREAD = 0.3  # odds of each power of two without a mean, which nobody's convention is, and
ANY_MEASURE = 0.1  # of numbers as they were measured, above zero mostly


class Convention(StrEnum):
    """What a file may follow, in words."""

    ANY = "any file"
    NHWC = "channels stand last, as TensorFlow and Keras have them"
    ULTRALYTICS = "Ultralytics wrote the file, whose networks take 0..1"
    PADDLE = "Paddle's converter wrote the file"
    PYTORCH = "PyTorch wrote the file"
    KERAS = "TensorFlow's converter wrote the file"
    RETURNED = "it returns pictures with as many channels as it takes"
    SQUASHED = "it returns pictures that end in Tanh"


# Odds of preprocessings, each row relative to itself; what a row does not name has 1. PyTorch's own classifiers, timm
# and most detectors since 2015 take ImageNet's mean and deviation; YOLO's family and small detectors 0..1; Keras'
# MobileNet and EfficientNet families -1..1 or 0..255; networks of the caffe era 0..255 less means with blue first,
# which hardly any file made today wants. With blue first the rest is rarer by a factor of about ten, but for
# detectors of OpenCV's and Megvii's schools. What gives pictures back (super-resolution, denoising) works in 0..1 or on
# bytes, since its results are shown; generators that end in Tanh in -1..1 (Radford et al. 2016).
ODDS: Mapping[Convention, Mapping[str, float]] = {
    Convention.ANY: {
        IMAGENET.name: 8.0, IMAGENET_BGR.name: 1.0, GREY.name: 3.0, SYMMETRIC.name: 5.0, SHARE.name: 6.0, RAW.name: 3.0,
        LESS_MEAN.name: 0.5, LESS_MEAN_BGR.name: 0.7, SOUND.name: 5.0, UNIT.name: 2.0, INT16.name: 0.7,
    },
    Convention.NHWC: {IMAGENET.name: 0.4, IMAGENET_BGR.name: 0.2, SYMMETRIC.name: 1.5, RAW.name: 1.5},
    Convention.ULTRALYTICS: {SHARE.name: 100.0},
    Convention.PADDLE: {IMAGENET.name: 2.0, IMAGENET_BGR.name: 4.0},
    Convention.PYTORCH: {IMAGENET.name: 1.5},
    Convention.KERAS: {IMAGENET.name: 0.4, SYMMETRIC.name: 1.5, RAW.name: 1.5},
    Convention.RETURNED: {
        SHARE.name: 4.0, SYMMETRIC.name: 0.3, IMAGENET.name: 0.3, IMAGENET_BGR.name: 0.3, GREY.name: 0.1,
    },
    Convention.SQUASHED: {SYMMETRIC.name: 20.0, RAW.name: 0.1, LESS_MEAN.name: 0.1, LESS_MEAN_BGR.name: 0.1},
}  # fmt: skip
OWN_ARITHMETIC = 30.0  # odds for the scale that the file's first constants are counted in
BYTES = (16.0, 512.0)  # what divides or is taken from pixels of 0..255


@dataclass(frozen=True)
class Origin:
    """What a file says of itself: its conventions, and the constants that its inputs first meet."""

    conventions: frozenset[Convention]
    first_constants: Mapping[str, tuple[float, ...]]


UNKNOWN = Origin(frozenset({Convention.ANY}), {})


def describe_origin(model: ModelProto) -> Origin:
    """The conventions that a model as it came may follow."""
    words = {each.key.lower(): each.value for each in model.metadata_props}
    producer = f"{model.producer_name} {json.dumps(words)}".lower()
    found = {Convention.ANY}
    for convention, marks in (
        (Convention.ULTRALYTICS, ("ultralytics",)),
        (Convention.PADDLE, ("paddle",)),
        (Convention.PYTORCH, ("pytorch",)),
        (Convention.KERAS, ("tf2onnx", "keras", "tensorflow", "tflite")),
    ):
        if any(mark in producer for mark in marks):
            found.add(convention)
    graph = Graph(model)
    found |= _returning(graph)
    return Origin(frozenset(found), {each.name: _first_constants(graph, each.name) for each in graph.inputs})


def _returning(graph: Graph) -> set[Convention]:
    """What is usual for a network that gives pictures back: bytes or shares, or -1..1 where a Tanh ends it."""
    taken = {shape[1] for each in graph.inputs if (shape := each.shape) is not None and len(shape) == 4}
    for output in graph.outputs:
        shape = output.shape or graph.shapes.get(output.name) or ()
        if len(shape) != 4 or shape[1] not in taken & {1, 3} or shape[2] == 1:
            continue
        node = graph.producer(output.name)
        while node is not None and node.op_type in MOVING:
            node = graph.producer(node.input[0])
        return {Convention.SQUASHED if node is not None and node.op_type == "Tanh" else Convention.RETURNED}
    return set()


ARITHMETIC = frozenset({"Sub", "Add", "Div", "Mul"})


def _first_constants(graph: Graph, name: str) -> tuple[float, ...]:
    """What an input is divided by or less by, before anything else is done with it."""
    found: list[float] = []
    tensor = name
    while len(readers := graph.consumers(tensor)) == 1 and len(found) < 4:
        node = readers[0]
        if node.op_type not in CARRYING | ARITHMETIC:
            break
        if node.op_type in ARITHMETIC:
            values = [constant for each in node.input if (constant := _constant(graph, each)) is not None]
            if len(values) != 1 or node.input[0] != tensor:
                break
            size = float(np.abs(values[0]).mean())
            if node.op_type == "Mul":
                size = 1 / size if size else 0.0
            found.append(size)
        tensor = node.output[0]
    return tuple(found)


def _constant(graph: Graph, name: str) -> NDArray[Any] | None:
    if name in graph.initializers:
        return graph.initializers[name]
    node = graph.producer(name)
    if node is not None and node.op_type == "Constant":
        for each in node.attribute:
            if each.name == "value":
                return numpy_helper.to_array(each.t)
    return None


def candidates(plan: InputPlan) -> tuple[Scaling, ...]:
    """The preprocessings that an input may have been trained with."""
    if plan.kind in COLOURED:
        if plan.channels == 3:
            return (IMAGENET, IMAGENET_BGR, SYMMETRIC, SHARE, RAW, LESS_MEAN, LESS_MEAN_BGR)
        return (GREY, SYMMETRIC, SHARE, RAW, LESS_GREY)
    if plan.kind is InputKind.SIGNAL:
        return (SOUND, UNIT, INT16)
    return tuple(_unconventional(plan))


def _unconventional(plan: InputPlan) -> dict[Scaling, float]:
    """What is usual of an input that is neither picture nor sound, with its odds; any spread may be."""
    spreads = dict.fromkeys(SPREADS, ANY_SPREAD)
    measured = dict.fromkeys(MEASURED, ANY_MEASURE)
    match plan.kind:
        case InputKind.SPECTRUM if plan.has_cepstra:
            return {**CEPSTRA, **spreads}
        case InputKind.SPECTRUM if plan.has_frames:
            return {**spreads, **LOGARITHMS}
        case InputKind.SPECTRUM:
            return {**COLUMNS, **spreads, **measured}
        case InputKind.MAP:
            return {STANDARD: 6.0, RECTIFIED: 1.0, **spreads}
        case InputKind.EMBEDDINGS:
            unit = Scaling("vectors of length one", (max(plan.shape[-1:], default=1) ** -0.5,), (0.0,))
            return {STANDARD: 5.0, RECTIFIED: 0.5, unit: 2.0, **spreads}
    if plan.side is not None:
        return {**PIXELS, **spreads}
    if len(plan.shape) > 1:  # of steps: spectra as often as what another network made of them, of whatever spread
        return {**spreads, **measured, MINMAX: 1.0, **LOGARITHMS}
    return {**COLUMNS, **spreads, **measured}


def prior(plan: InputPlan, hypotheses: Sequence[Scaling], origin: Origin) -> dict[str, float]:
    """The log of each hypothesis' odds, up to a constant."""
    if plan.kind not in CONVENTIONAL:
        usual = _unconventional(plan)
        return {each.name: math.log(usual.get(each, ANY_SPREAD)) for each in hypotheses}
    conventions = origin.conventions | ({Convention.NHWC} if plan.channels_last else set())
    rows = [row for convention, row in ODDS.items() if convention in conventions]
    odds = {each.name: sum(math.log(row.get(each.name, 1.0)) for row in rows) for each in hypotheses}
    first = origin.first_constants.get(plan.name, ())
    if plan.kind in COLOURED and first:
        counted_in_bytes = any(BYTES[0] <= each <= BYTES[1] for each in first)
        for each in hypotheses:
            if each.offset == (0.0,) and (max(each.scale) > BYTE_SCALES) == counted_in_bytes:
                odds[each.name] += math.log(OWN_ARITHMETIC)
    return odds
