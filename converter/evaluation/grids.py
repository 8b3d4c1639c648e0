"""The integer grids of a QDQ file, each under the name that its tensor has in the float model.

In the file of onnxruntime's quantizer the tensor X of the float model is X -> QuantizeLinear -> DequantizeLinear. A
Relu or Clip that it removed, because the range already does its work, is followed: there X is what the Relu gave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto

from converter.families import RECTIFIERS
from converter.graph import Array, Graph, attribute
from converter.quantization.qdq_writer import ROUNDED, STORED, float_name

__all__ = ["Grid", "read_grids"]

LIMITS: dict[int, tuple[str, int, int, int]] = {
    TensorProto.INT4: ("int4", 4, -8, 7),
    TensorProto.UINT4: ("uint4", 4, 0, 15),
    TensorProto.INT8: ("int8", 8, -128, 127),
    TensorProto.UINT8: ("uint8", 8, 0, 255),
    TensorProto.INT16: ("int16", 16, -32768, 32767),
    TensorProto.UINT16: ("uint16", 16, 0, 65535),
    TensorProto.INT32: ("int32", 32, -(2**31), 2**31 - 1),
}


@dataclass(frozen=True)
class Grid:
    """One tensor of the float model and the grid it lies on in the INT8 model; ``codes`` names the integers there."""

    name: str
    kind: Literal["activation", "weight", "bias"]
    codes: str
    node: str
    operator: str
    element_type: int
    scale: NDArray[np.float32]  # [] or [channels]
    zero_point: NDArray[np.int64]  # like scale
    axis: int
    dequantized: str

    @property
    def limits(self) -> tuple[str, int, int, int]:
        """The name of the integer type, its bits, smallest and largest value."""
        return LIMITS[self.element_type]

    @property
    def readable(self) -> str:
        """The tensor to fetch in place of the codes, which numpy cannot hold where they have 4 bits."""
        return self.dequantized if self.limits[1] < 8 else self.codes

    def encode(self, fetched: Array) -> Array:
        """The codes, from what ``readable`` named."""
        if self.readable == self.codes:
            return fetched
        scale, zero = self._broadcast(fetched.ndim)
        return np.asarray(np.rint(fetched / scale) + zero)

    def decode(self, codes: Array) -> NDArray[np.float32]:
        """The real numbers that the integers stand for."""
        scale, zero = self._broadcast(codes.ndim)
        return (codes.astype(np.float32) - zero) * scale

    def round(self, values: Array) -> NDArray[np.float32]:
        """The nearest numbers on the grid."""
        scale, zero = self._broadcast(values.ndim)
        _, _, smallest, largest = self.limits
        codes = np.clip(np.rint(values / scale) + zero, smallest, largest)
        return np.asarray((codes - zero) * scale, np.float32)

    def _broadcast(self, rank: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        zero = self.zero_point.astype(np.float32)
        if self.scale.ndim == 0 or self.scale.size == 1:
            return self.scale.reshape(()), zero.reshape(())
        shape = [-1 if axis == self.axis % rank else 1 for axis in range(rank)]
        return self.scale.reshape(shape), zero.reshape(shape)


def read_grids(float32: Graph, int8: Graph) -> tuple[Grid, ...]:
    """Every tensor with a grid of its own, in the order in which the float model first computes or reads it."""
    found: dict[str, Grid] = {}
    for node in int8.nodes:
        if node.op_type == "QuantizeLinear" and node.input[0] not in int8.initializers:
            tensor = _activation(node, float32, int8)
        elif node.op_type == "DequantizeLinear" and _stored(node, int8) in int8.initializers:
            tensor = _constant(node, float32, int8)
        else:
            continue
        if tensor is not None:
            found.setdefault(tensor.name, tensor)
    order = {value.name: -1 for value in float32.inputs}
    for position, node in enumerate(float32.nodes):
        for name in (*node.input, *node.output):
            order.setdefault(name, position)
    return tuple(sorted(found.values(), key=lambda tensor: order.get(tensor.name, len(order))))


def _grid(node: NodeProto, int8: Graph, element_type: int) -> tuple[NDArray[np.float32], NDArray[np.int64]] | None:
    if node.input[1] not in int8.initializers or element_type not in LIMITS:
        return None
    scale = np.asarray(int8.initializers[node.input[1]], np.float32)
    has_zero = len(node.input) > 2 and node.input[2] in int8.initializers
    zero = int8.initializers[node.input[2]].astype(np.int64) if has_zero else np.zeros(scale.shape, np.int64)
    return scale, zero


def _axis(node: NodeProto) -> int:
    return next((each.i for each in node.attribute if each.name == "axis"), 1)


def _activation(node: NodeProto, float32: Graph, int8: Graph) -> Grid | None:
    named = len(node.input) > 2 and node.input[2] in int8.initializers
    stated = attribute(node, "output_dtype", 0) or TensorProto.UINT8
    element_type = int8.initializers.element_type(node.input[2]) if named else stated
    grid = _grid(node, int8, element_type)
    name = float_name(node.input[0], ROUNDED)
    producer = float32.producer(name)
    if grid is None or (producer is None and name not in {value.name for value in float32.inputs}):
        return None
    operators = [producer.op_type] if producer is not None else ["Input"]
    while follower := _removed_follower(name, float32, int8):
        name = follower.output[0]
        operators.append(follower.op_type)
    reader = next((each for each in int8.consumers(node.output[0]) if each.op_type == "DequantizeLinear"), None)
    return Grid(
        name=name,
        kind="activation",
        codes=node.output[0],
        node=producer.name if producer is not None else name,
        operator=" + ".join(operators),
        element_type=element_type,
        scale=grid[0],
        zero_point=grid[1],
        axis=_axis(node),
        dequantized=reader.output[0] if reader is not None else "",
    )


def _removed_follower(name: str, float32: Graph, int8: Graph) -> NodeProto | None:
    """The Relu or Clip that reads ``name`` in the float model and is not in the INT8 model any more."""
    readers = float32.consumers(name)
    if len(readers) != 1 or readers[0].op_type not in RECTIFIERS or readers[0].output[0] in float32.output_names:
        return None
    output = readers[0].output[0]
    still_there = any(int8.producer(each) for each in (output, f"{output}:in", f"{output}_QuantizeLinear_Input"))
    return None if still_there else readers[0]


def _stored(node: NodeProto, int8: Graph) -> str:
    """The initializer that a DequantizeLinear reads, maybe through the Cast that widens codes of 4 bits."""
    cast = int8.producer(node.input[0])
    return str(cast.input[0] if cast is not None and cast.op_type == "Cast" else node.input[0])


def _constant(node: NodeProto, float32: Graph, int8: Graph) -> Grid | None:
    codes = _stored(node, int8)
    element_type = int8.initializers.element_type(codes)
    grid = _grid(node, int8, element_type)
    name = float_name(codes, STORED)
    readers = float32.consumers(name)
    if grid is None or not readers:
        return None
    return Grid(
        name=name,
        kind="bias" if element_type == TensorProto.INT32 else "weight",
        codes=codes,
        node=readers[0].name,
        operator=readers[0].op_type,
        element_type=element_type,
        scale=grid[0],
        zero_point=grid[1],
        axis=_axis(node),
        dequantized=node.output[0],
    )
