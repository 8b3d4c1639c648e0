"""Looks through the bytes of a file claiming to be ONNX before protobuf turns them into objects.

Parsed objects take up to a hundred times the room of the bytes that ask for them, and a tensor's declared shape asks
for whatever it likes; here both are counted from the bytes alone, with memory bounded by the nesting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cache
from mmap import mmap

import onnx
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from onnx import TensorProto

from converter.errors import InvalidModel, TooLarge
from converter.limits import Limits

__all__ = ["check_tensor_size", "scan", "shorten"]

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
DIMS, DATA_TYPE, NAME, RAW_DATA, DATA_LOCATION = 1, 2, 8, 9, 14  # fields of TensorProto
MOST_AXES = 32

BITS: dict[int, int] = {  # of one element as raw_data stores it
    TensorProto.FLOAT: 32,
    TensorProto.UINT8: 8,
    TensorProto.INT8: 8,
    TensorProto.UINT16: 16,
    TensorProto.INT16: 16,
    TensorProto.INT32: 32,
    TensorProto.INT64: 64,
    TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64,
    TensorProto.UINT32: 32,
    TensorProto.UINT64: 64,
    TensorProto.COMPLEX64: 64,
    TensorProto.COMPLEX128: 128,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8,
    TensorProto.FLOAT8E4M3FNUZ: 8,
    TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8,
    TensorProto.UINT4: 4,
    TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4,
}


@dataclass
class _Tensor:
    """What the bytes of one TensorProto declare."""

    name: str = ""
    dims: list[int] = field(default_factory=list)
    data_type: int = 0
    raw_bytes: int | None = None
    external: bool = False


def shorten(text: str, length: int = 80) -> str:
    """The text on one line and not too long for a sentence; names in files can be anything."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    return line if len(line) <= length else line[: length - 3] + "..."


def check_tensor_size(
    name: str, dims: list[int], data_type: int, raw_bytes: int | None, external: bool, limits: Limits
) -> int:
    """The bytes that the tensor's shape stands for; raises InvalidModel or TooLarge where shape and data disagree."""
    name = shorten(name)
    if len(dims) > MOST_AXES or any(size < 0 for size in dims):
        raise InvalidModel(
            f"The tensor {name!r} declares the impossible shape {shorten(str(dims))}.",
            tensor=name,
            field="dims",
            remedy="Export the model again.",
        )
    elements = math.prod(dims)
    if elements > limits.tensor_elements:
        raise TooLarge(
            f"The tensor {name!r} declares {elements:,} elements; at most {limits.tensor_elements:,} are accepted.",
            tensor=name,
            field="dims",
            remedy="The shape is false or the model too large for one file; export it again.",
        )
    size = (elements * BITS.get(data_type, 8) + 7) // 8
    if raw_bytes is not None and not external and raw_bytes != size:
        raise InvalidModel(
            f"The tensor {name!r} declares shape {shorten(str(dims))}, which is {size:,} bytes, but has {raw_bytes:,}.",
            tensor=name,
            field="raw_data",
            remedy="The file is damaged; export or download it again.",
        )
    return size


@cache
def _fields(message: Descriptor) -> dict[int, Descriptor | bool]:
    """Field number -> the message it holds, or whether it is text."""
    return {each.number: each.message_type or each.type == FieldDescriptor.TYPE_STRING for each in message.fields}


MODEL = onnx.ModelProto.DESCRIPTOR
TENSOR = onnx.TensorProto.DESCRIPTOR


def scan(data: bytes | mmap, limits: Limits) -> None:
    """The bytes have protobuf's form, within the limits, and every tensor's data agree with its shape, or a refusal."""
    position, count, weights = 0, 0, 0
    open_messages: list[tuple[int, Descriptor, _Tensor | None]] = [(len(data), MODEL, None)]
    while True:
        end, message, tensor = open_messages[-1]
        if position == end:
            open_messages.pop()
            if tensor is not None:
                weights += check_tensor_size(
                    tensor.name, tensor.dims, tensor.data_type, tensor.raw_bytes, tensor.external, limits
                )
                check_total(weights, limits)
            if not open_messages:
                return
            continue
        count += 1
        if count > limits.fields:
            raise TooLarge(
                f"The file has more than {limits.fields:,} protobuf fields.",
                field="nodes",
                remedy="No neural network of a size that zsq converts needs so many; simplify the graph.",
            )
        key, position = _varint(data, position, end)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise _broken(position, "a field has the number 0")
        if wire_type == VARINT:
            value, position = _varint(data, position, end)
            if tensor is not None:
                if number == DIMS:
                    tensor.dims.append(_signed(value))
                elif number == DATA_TYPE:
                    tensor.data_type = value
                elif number == DATA_LOCATION:
                    tensor.external = value == TensorProto.EXTERNAL
        elif wire_type in (FIXED64, FIXED32):
            position += 8 if wire_type == FIXED64 else 4
            if position > end:
                raise _truncated(position)
        elif wire_type == LENGTH:
            length, position = _varint(data, position, end)
            if length > end - position:
                raise _truncated(position)
            kind = _fields(message).get(number, False)
            if isinstance(kind, Descriptor):
                if len(open_messages) >= limits.nesting:
                    raise TooLarge(
                        f"The file nests messages deeper than {limits.nesting} levels.",
                        field="graph",
                        remedy="If, Loop and Scan bodies are nested too deep; flatten them.",
                    )
                open_messages.append((position + length, kind, _Tensor() if kind is TENSOR else None))
                continue
            if kind:
                _check_text(data[position : position + length], position)
            if tensor is not None:
                if number == RAW_DATA:
                    tensor.raw_bytes = length
                elif number == NAME:
                    tensor.name = data[position : position + min(length, 300)].decode(errors="replace")
                elif number == DIMS:
                    tensor.dims.extend(_packed(data, position, position + length))
            position += length
        else:
            raise _broken(position, f"a field has the wire type {wire_type}")


def check_total(weights: int, limits: Limits) -> None:
    """The tensors seen so far stand for no more bytes than the limit."""
    if weights > limits.weight_bytes:
        raise TooLarge(
            f"The tensors of the model stand for more than {limits.weight_bytes / 2**30:.1f} GiB.",
            field="initializer",
            remedy="zsq converts models whose weights fit one file of 2 GiB.",
        )


def _packed(data: bytes | mmap, position: int, end: int) -> list[int]:
    values: list[int] = []
    while position < end and len(values) <= MOST_AXES:
        value, position = _varint(data, position, end)
        values.append(_signed(value))
    return values


def _varint(data: bytes | mmap, position: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7
        if shift > 63:
            raise _broken(position, "a number is longer than 64 bits")
    raise _truncated(position)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _check_text(text: bytes, position: int) -> None:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise _broken(position, "a name is not UTF-8 text") from None


def _truncated(position: int) -> InvalidModel:
    return InvalidModel(
        f"The file is truncated or damaged: what byte {position:,} announces is longer than what follows.",
        field="file",
        remedy="Download or export it again.",
    )


def _broken(position: int, what: str) -> InvalidModel:
    return InvalidModel(
        f"The file is not an ONNX model or is damaged: at byte {position:,} {what}.",
        field="file",
        remedy="Give an .onnx file; download or export it again if it is one.",
    )
