"""Small models as TensorFlow, Keras and JAX export them: channels last, indices as floats, tables as comparisons."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto

from tests.inputs.kind_models import FLOAT, INT32, INT64, POOLED, Made, Stored, array, model, node

__all__ = ["KERAS"]


def tokens_as_floats() -> Made:
    """An embedding over float32 indices, which Keras casts, with a mask made of them."""
    nodes = [
        node("Cast", "ids", "whole", to=INT32),
        node("Gather", "table whole", "e"),
        node("Equal", "ids zero", "empty"),
        node("Not", "empty", "kept"),
        node("Cast", "kept", "k", to=FLOAT),
        node("Unsqueeze", "k last", "ku"),
        node("Mul", "e ku", "m"),
        node("MatMul", "m wl", "y"),
    ]
    stored: dict[str, Stored] = {"table": array(43, 16), "wl": array(16, 5), "zero": 0.0, "last": [-1]}
    return model(nodes, {"ids": (["N", "length"], FLOAT)}, constants=stored), {"ids": "tokens"}


def one_hot_by_comparison() -> Made:
    """jax.nn.one_hot: codes compared with 0, 1, 2, ... and a matrix product instead of a table."""
    nodes = [
        node("Unsqueeze", "codes last", "u"),
        node("Equal", "u places", "same"),
        node("Cast", "same", "f", to=FLOAT),
        node("MatMul", "f w", "m"),
        node("Relu", "m", "r"),
        node("MatMul", "r wl", "y"),
    ]
    places = np.arange(257, dtype=np.int32).reshape(1, 1, -1)
    stored: dict[str, Stored] = {"w": array(257, 16), "wl": array(16, 5), "places": places, "last": [-1]}
    return model(nodes, {"codes": (["N", 64], INT32)}, constants=stored), {"codes": "tokens"}


def one_hot() -> Made:
    nodes = [node("OneHot", "codes depth values", "f"), node("MatMul", "f w", "y")]
    stored: dict[str, Stored] = {"w": array(30, 5), "depth": np.array([30]), "values": np.array([0, 1], np.float32)}
    return model(nodes, {"codes": (["N", 16], INT64)}, constants=stored), {"codes": "tokens"}


def lengths_that_become_a_mask() -> Made:
    """Lengths compared with places, the result cast to another type and to yes and no again."""
    nodes = [
        node("Gather", "table ids", "e"),
        node("Shape", "ids", "shape"),
        node("Gather", "shape one", "length"),
        node("Range", "zero length one", "places"),
        node("Unsqueeze", "lengths last", "ends"),
        node("Less", "places ends", "inside"),
        node("Cast", "inside", "f", to=INT32),
        node("Cast", "f", "again", to=9),
        node("Unsqueeze", "again last", "mask"),
        node("Where", "mask e nothing", "kept"),
        node("MatMul", "kept wl", "y"),
    ]
    inputs = {"ids": (["batch", "seq"], INT64), "lengths": (["batch"], INT64)}
    stored: dict[str, Stored] = {"table": array(54, 16), "wl": array(16, 5), "nothing": 0.0, "last": [-1]}
    stored |= {"zero": np.array(0), "one": np.array(1)}
    made = model(nodes, inputs, constants=stored)
    return made, {"ids": "tokens", "lengths": "lengths"}


def integers_above_zero_are_a_mask() -> Made:
    """An attention mask of integers, kept where it is above zero."""
    nodes = [
        node("Gather", "table ids", "e"),
        node("Greater", "attention zero", "kept"),
        node("Unsqueeze", "kept last", "mask"),
        node("Where", "mask e nothing", "k"),
        node("MatMul", "k wl", "y"),
    ]
    inputs = {"ids": (["batch", "seq"], INT64), "attention": (["batch", "seq"], INT64)}
    stored: dict[str, Stored] = {"table": array(54, 16), "wl": array(16, 5), "nothing": 0.0, "last": [-1]}
    stored |= {"zero": np.array(0)}
    return model(nodes, inputs, constants=stored), {"ids": "tokens", "attention": "mask"}


def columns_of_which_one_is_an_index() -> Made:
    """A row of a table: its first column is a category, the others are numbers."""
    nodes = [
        node("Split", "x sizes", "category numbers", axis=1),
        node("Cast", "category", "whole", to=INT64),
        node("Abs", "whole", "positive"),
        node("Mod", "positive rows", "within"),
        node("Gather", "table within", "e"),
        node("Squeeze", "e middle", "es"),
        node("Concat", "es numbers", "j", axis=1),
        node("Gemm", "j wl", "y"),
    ]
    stored: dict[str, Stored] = {"table": array(12, 4), "wl": array(13, 5), "sizes": np.array([1, 9])}
    stored |= {"rows": np.array(12), "middle": [1]}
    return model(nodes, {"x": (["N", 10], FLOAT)}, constants=stored), {"x": "features"}


def recording_of_one_channel() -> Made:
    """[N, samples, 1], made a plane of one row for a convolution over two axes, as TensorFlow does."""
    nodes = [
        node("Reshape", "x plane", "u"),
        node("Conv", "u w", "c", strides=[1, 64]),
        node("Relu", "c", "h"),
        *POOLED,
    ]
    stored: dict[str, Stored] = {"plane": np.array([-1, 1, 1, 22050]), "w": array(8, 1, 1, 256), "wl": array(8, 5)}
    return model(nodes, {"x": (["N", 22050, 1], FLOAT)}, constants=stored), {"x": "signal"}


def recording_of_many_channels() -> Made:
    """An electrocardiogram [N, time, leads]."""
    nodes = [
        node("Transpose", "x", "t", perm=[0, 2, 1]),
        node("Conv", "t w", "c"),
        node("Relu", "c", "h"),
        *POOLED,
    ]
    return model(nodes, {"x": (["N", 1000, 12], FLOAT)}, constants={"w": array(8, 12, 7), "wl": array(8, 5)}), {
        "x": "signal"
    }


def _reshaped(height: int, width: int) -> ModelProto:
    """[N, height, width, 1], padded and reshaped to channels first, as TensorFlow's converter does."""
    nodes = [
        node("Pad", "x wider", "wide"),
        node("Reshape", "wide plane", "u"),
        node("Conv", "u w", "c"),
        node("Relu", "c", "h"),
        *POOLED,
    ]
    stored: dict[str, Stored] = {"w": array(8, 1, 3, 3), "wl": array(8, 5), "plane": [-1, 1, height, width + 2]}
    stored |= {"wider": [0, 0, 1, 0, 0, 0, 1, 0]}
    return model(nodes, {"x": (["N", height, width, 1], FLOAT)}, constants=stored)


def frames_reshaped() -> Made:
    """Log-mel windows of 76 frames and 32 bands."""
    return _reshaped(76, 32), {"x": "spectrum"}


def digits_reshaped() -> Made:
    """Grey pictures on the way that spectra take."""
    return _reshaped(28, 28), {"x": "picture"}


def transform_of_open_length() -> Made:
    """A spectrogram of a usual transform: no picture has 257 columns."""
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "h"), *POOLED]
    stored: dict[str, Stored] = {"w": array(8, 1, 3, 3), "wl": array(8, 5)}
    return model(nodes, {"x": (["N", 1, "length", 257], FLOAT)}, constants=stored), {"x": "spectrum"}


def three_spectra_of_open_length() -> Made:
    """Three channels of spectra, whose axis of time is named."""
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "h"), *POOLED]
    stored: dict[str, Stored] = {"w": array(8, 3, 3, 3), "wl": array(8, 5)}
    return model(nodes, {"x": (["N", 3, "frames", 160], FLOAT)}, constants=stored), {"x": "spectrum"}


KERAS: dict[str, Callable[[], Made]] = {
    each.__name__: each
    for each in (
        *(tokens_as_floats, one_hot_by_comparison, one_hot, lengths_that_become_a_mask),
        *(integers_above_zero_are_a_mask, columns_of_which_one_is_an_index),
        *(recording_of_one_channel, recording_of_many_channels),
        *(frames_reshaped, digits_reshaped, transform_of_open_length, three_spectra_of_open_length),
    )
}
