"""INT8 models made worse in many ways, to see whether a report tells how bad they are.

Each is an edit of codes or scales in a file with QuantizeLinear and DequantizeLinear. Run without graph optimization,
so that the file is computed as it is written: fused kernels read the bias in the old scales.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from onnx import ModelProto, numpy_helper

__all__ = ["SABOTAGES", "sabotage"]

Generator = np.random.Generator
Edit = Callable[[ModelProto, Generator], None]


def sabotage(int8: ModelProto, name: str, seed: int) -> ModelProto:
    """A copy of the model, worse in the named way."""
    model = ModelProto()
    model.CopyFrom(int8)
    SABOTAGES[name](model, np.random.default_rng(seed))
    return model


def _weights(model: ModelProto) -> list[str]:
    """Names of the integer weights, in order of the nodes."""
    tensors = {each.name: each for each in model.graph.initializer}
    read = [node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"]
    return [name for name in dict.fromkeys(read) if name in tensors and len(tensors[name].dims) >= 2]


def _activation_scales(model: ModelProto) -> list[str]:
    return list(dict.fromkeys(node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"))


def _replace(model: ModelProto, name: str, change: Callable[[np.ndarray, type], np.ndarray]) -> None:
    for tensor in model.graph.initializer:
        if tensor.name == name:
            old = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(change(old, old.dtype.type).astype(old.dtype), name))


def _coarser_codes(model: ModelProto, name: str, bits: int) -> None:
    step = 2 ** (8 - bits)
    _replace(model, name, lambda codes, _: np.clip(np.round(codes.astype(np.float64) / step) * step, -128, 127))


def _every_weight(bits: int) -> Edit:
    def edit(model: ModelProto, generator: Generator) -> None:
        for name in _weights(model):
            _coarser_codes(model, name, bits)

    return edit


def _one_weight(bits: int) -> Edit:
    def edit(model: ModelProto, generator: Generator) -> None:
        names = _weights(model)
        _coarser_codes(model, names[generator.integers(len(names))], bits)

    return edit


def _every_activation(factor: float) -> Edit:
    def edit(model: ModelProto, generator: Generator) -> None:
        for name in _activation_scales(model):
            _replace(model, name, lambda scale, kind: scale * kind(factor))

    return edit


def _one_activation(factor: float) -> Edit:
    def edit(model: ModelProto, generator: Generator) -> None:
        names = _activation_scales(model)
        _replace(model, names[generator.integers(len(names))], lambda scale, kind: scale * kind(factor))

    return edit


SABOTAGES: Mapping[str, Edit] = {
    "weights of 5 bits": _every_weight(5),
    "weights of 4 bits": _every_weight(4),
    "weights of 3 bits": _every_weight(3),
    "one weight of 2 bits": _one_weight(2),
    "steps 3 times as coarse": _every_activation(3),
    "steps 8 times as coarse": _every_activation(8),
    "ranges of a half": _every_activation(0.5),
    "one step 24 times as coarse": _one_activation(24),
    "one range of a tenth": _one_activation(0.1),
}
