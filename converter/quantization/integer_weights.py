"""Weights as INT8 codes outside onnxruntime's static quantizer: which inputs hold them, and their steps.

The products of unsigned activations with signed weights are summed in pairs of 16 bits by onnxruntime on x64 processors
without VNNI. Codes for such products are therefore small enough that no pair of neighbours along the summed axis can
leave those 16 bits, whatever the activations are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from converter.graph import Array, Graph, attribute, captures, subgraphs, walk

__all__ = ["Codes", "codes_on_grid", "round_channels", "saves_bytes", "stored_weights", "weight_slots"]

TOP, WIDE_TOP = 127, 32767
PAIR_TOP = 127.5  # steps of two neighbours of one sign: rounded up both, they are at most 128, and 128 * 255 < 2^15
ENTRY_BYTES = 300  # of the names and nodes that a weight in codes needs in the file


@dataclass(frozen=True)
class Codes:
    """Codes of 8 or 16 bits shaped as the float weight, and their steps shaped to multiply them."""

    values: Array  # int8 or int16
    scale: NDArray[np.float32]

    @property
    def real(self) -> NDArray[np.float32]:
        """The float weights that the codes stand for."""
        return self.values.astype(np.float32) * self.scale


def round_channels(weight: Array, channels: tuple[int, ...], summed: int | None = None, *, wide: bool = False) -> Codes:
    """The weight rounded to a step for each index along the axes ``channels``, in 8 bits or, if ``wide``, in 16.

    With ``summed``, the axis along which products are added up, no pair of neighbours there overflows 16 bits.
    """
    across = tuple(axis for axis in range(weight.ndim) if axis not in channels)
    top = WIDE_TOP if wide else TOP
    step = np.abs(weight).max(axis=across, keepdims=True, initial=0.0) / top
    if summed is not None:
        rows = np.moveaxis(weight, summed, -1)
        if rows.shape[-1] % 2:
            rows = np.concatenate([rows, np.zeros_like(rows[..., :1])], -1)
        pairs = rows.reshape(*rows.shape[:-1], -1, 2)
        one_sign = np.maximum(np.maximum(pairs, 0).sum(-1), np.maximum(-pairs, 0).sum(-1)).max(-1)
        reach = np.expand_dims(one_sign, summed).max(axis=across, keepdims=True, initial=0.0)
        step = np.maximum(step, reach / PAIR_TOP)
    scale = np.where(step > 0, step, 1.0).astype(np.float32)
    return Codes(np.clip(np.rint(weight / scale), -top, top).astype(np.int16 if wide else np.int8), scale)


def codes_on_grid(weight: Array, scale: NDArray[np.float32], axis: int) -> Codes:
    """The codes of a weight that lies on a grid already, with a step for each index along ``axis``."""
    steps = np.asarray(scale, np.float32).reshape([-1 if each == axis else 1 for each in range(weight.ndim)])
    return Codes(np.clip(np.rint(weight / steps), -TOP, TOP).astype(np.int8), steps)


def weight_slots(node: NodeProto, graph: Graph) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Every input of the node that holds constant float weights, with the axes that have a step for each index."""
    found: list[tuple[int, tuple[int, ...]]] = []
    match node.op_type:
        case "Conv":
            found = [(1, (0,))]
        case "ConvTranspose":  # [inputs, outputs of a group, ...]
            found = [(1, (1,) if int(attribute(node, "group", 1)) == 1 else (0, 1))]
        case "Gemm":
            found = [(1, (0 if attribute(node, "transB", 0) else 1,))]
        case "MatMul":
            found = [(0, (-2,)), (1, (-1,))]
        case "Einsum":
            found = [(index, _kept_letters(node, index)) for index in range(len(node.input))]
        case "LSTM" | "GRU" | "RNN":  # [directions, gates, inputs]
            found = [(1, (0, 1)), (2, (0, 1))]
        case "Gather":
            found = [(0, (0,))] if int(attribute(node, "axis", 0)) == 0 else []
    slots = []
    for index, axes in found:
        name = node.input[index] if len(node.input) > index else ""
        if not name or name not in graph.initializers or graph.initializers.element_type(name) != TensorProto.FLOAT:
            continue
        shape = graph.initializers.shape(name)
        batches = range(len(shape) - 2) if node.op_type == "MatMul" else ()
        channels = tuple(sorted({*batches, *(axis % len(shape) for axis in axes if -len(shape) <= axis < len(shape))}))
        if len(shape) >= 2 and saves_bytes(shape, channels):
            slots.append((index, channels))
    return tuple(slots)


def stored_weights(node: NodeProto, graph: Graph) -> dict[str, tuple[int, ...]]:
    """The constants that the node, or a node in its bodies, has as weights, with the axes that have steps of their own.

    What bodies hold themselves is left out: normalization moves their weights into the main graph.
    """
    found = {node.input[index]: channels for index, channels in weight_slots(node, graph)}
    outer = captures(node)
    for body in subgraphs(node):
        for inner, _ in walk(body):
            for index, channels in weight_slots(inner, graph):
                if inner.input[index] in outer:
                    found.setdefault(inner.input[index], channels)
    return found


def _kept_letters(node: NodeProto, index: int) -> tuple[int, ...]:
    """The axes of an Einsum's operand that are axes of its result and of no other operand."""
    terms, _, result = str(attribute(node, "equation", "")).replace(" ", "").partition("->")
    operands = terms.split(",")
    if index >= len(operands) or "." in terms:
        return ()
    others = "".join(operands[:index] + operands[index + 1 :])
    return tuple(axis for axis, letter in enumerate(operands[index]) if letter in result and letter not in others)


def saves_bytes(shape: tuple[int, ...], channels: tuple[int, ...]) -> bool:
    """Whether codes, their steps and the names around them are fewer bytes than the float weight."""
    return 3 * math.prod(shape) > 4 * math.prod(shape[axis] for axis in channels) + ENTRY_BYTES
