"""Integers of 4 bits in a file: INT4 weights packed two to a byte, in a model of opset 21, the first that has them.

A weight is stored as INT4, widened to INT8 by a Cast and read by the DequantizeLinear that read it before. onnxruntime
computes the Cast once, when it loads the file, and then runs the integer kernels of INT8: 0.7 ms on ResNet-20,
where a DequantizeLinear of INT4 leaves float kernels and an unpacking at every run (2.4 ms; in onnxruntime 1.31 no
integer kernel but MatMulNBits reads INT4). Scales are per channel for the same reason: nor does any read a scale a
block. onnxruntime's quantizer stays at INT8 for codes of 4 bits, which are only packed afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from converter.errors import UnsupportedModel
from converter.graph import Array, attribute, copied, opset, set_nodes, walk

__all__ = ["OPSET", "pack", "packed_bytes", "raise_opset"]

OPSET = 21
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")


def packed_bytes(elements: int, bits: int) -> int:
    """The size of so many codes of 4 or 8 bits in the file."""
    return (elements * bits + 7) // 8


def pack(model: ModelProto, weights: Collection[str], widen: bool = True) -> ModelProto:
    """The model with the INT8 codes of ``weights`` (names of the float model), all within 4 bits, stored as INT4.

    Without ``widen`` the DequantizeLinear itself reads INT4: onnxruntime 1.31 would otherwise fuse activations of 4
    bits into a QLinearConv, which cannot read them, and refuse its own result.
    """
    packed = copied(model)
    codes = {f"{name}:c" for name in weights}
    casts: list[NodeProto] = []
    narrow: set[str] = set()
    for tensor in packed.graph.initializer:
        if tensor.name not in codes or tensor.data_type != TensorProto.INT8:
            continue
        name, wide = tensor.name, f"{tensor.name}_wide"
        values = numpy_helper.to_array(tensor)
        if values.size and (values.min() < -8 or values.max() > 7):
            raise ValueError(f"the codes of {name} do not fit 4 bits")
        tensor.CopyFrom(helper.make_tensor(name, TensorProto.INT4, values.shape, _nibbles(values), raw=True))
        narrow.add(name)
        casts.append(helper.make_node("Cast", [name], [wide], name=wide, to=TensorProto.INT8))
    for node in packed.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in narrow:
            if widen:
                node.input[0] = f"{node.input[0]}_wide"
            else:
                del node.input[2:]  # zero, which it is anyway, in whatever type the codes have
    if widen:
        set_nodes(packed.graph, [*casts, *packed.graph.node])
    else:
        _state_types(packed)
    return packed


def _state_types(model: ModelProto) -> None:
    """UINT4 is stated as the type of the codes, and its zero points of zero are gone.

    onnxruntime 1.31 refuses to load a Clip before a QuantizeLinear whose zero point is UINT4 (clip_quantizelinear.cc).
    """
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        zero = values.get(node.input[2]) if node.op_type == "QuantizeLinear" and len(node.input) > 2 else None
        if zero is not None and zero.data_type == TensorProto.UINT4 and not numpy_helper.to_array(zero).any():
            del node.input[2:]
            node.attribute.append(helper.make_attribute("output_dtype", TensorProto.UINT4))
    read = {name for node, _ in walk(model.graph) for name in node.input} | {each.name for each in model.graph.output}
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name not in read:
            del model.graph.initializer[index]


def _nibbles(values: Array) -> bytes:
    """Two's complement of 4 bits, the first of two in the low half, as the ONNX standard packs them."""
    flat = values.astype(np.int8).reshape(-1).view(np.uint8) & 0x0F
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return bytes(flat[0::2] | (flat[1::2] << 4))


def raise_opset(model: ModelProto) -> ModelProto:
    """The same function in opset 21; raises UnsupportedModel for what has no equal there.

    The adapters are those of the standard's changelog from 18 to 21; other operators only took more element types.
    """
    version = opset(model)
    if version >= OPSET:
        return model
    raised = copied(model)
    constants: list[TensorProto] = []
    for node, _ in walk(raised.graph):
        for since, adapters in ADAPTERS.items():
            if version < since and node.op_type in adapters:
                constants += adapters[node.op_type](node)
    raised.graph.initializer.extend(constants)
    del raised.opset_import[:]
    raised.opset_import.append(helper.make_opsetid("", OPSET))
    raised.ir_version = max(raised.ir_version, helper.find_min_ir_version_for(list(raised.opset_import)))
    return raised


def _remove(node: NodeProto, name: str) -> None:
    kept = [AttributeProto.FromString(a.SerializeToString()) for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)


def _move(node: NodeProto, name: str, index: int) -> list[TensorProto]:
    """An attribute of integers becomes a constant input, which bodies of If and Loop may read too."""
    value = attribute(node, name)
    if value is None:
        return []
    _remove(node, name)
    made = numpy_helper.from_array(np.asarray(value, np.int64), f"{node.output[0]}_{name}")
    node.input.extend([""] * (index + 1 - len(node.input)))
    node.input[index] = made.name
    return [made]


def _split_18(node: NodeProto) -> list[TensorProto]:
    if len(node.input) < 2 or not node.input[1]:
        node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
    return []


def _grid_sample_20(node: NodeProto) -> list[TensorProto]:
    mode = attribute(node, "mode", "bilinear")
    _remove(node, "mode")
    node.attribute.append(helper.make_attribute("mode", {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)))
    return []


def _dft_20(node: NodeProto) -> list[TensorProto]:
    if attribute(node, "axis") is None:
        node.attribute.append(helper.make_attribute("axis", 1))
    return _move(node, "axis", 2)


def _group_normalization_21(node: NodeProto) -> list[TensorProto]:
    raise UnsupportedModel(
        f"The node {node.name!r} (GroupNormalization) has a scale a group, which opset 21 does not know.",
        node=node.name,
        operator=node.op_type,
        remedy="Export it with opset 21, or use --precision int8.",
    )


ADAPTERS: dict[int, dict[str, Callable[[NodeProto], list[TensorProto]]]] = {
    18: {f"Reduce{name}": lambda node: _move(node, "axes", 1) for name in REDUCTIONS} | {"Split": _split_18},
    20: {"GridSample": _grid_sample_20, "DFT": _dft_20},
    21: {"GroupNormalization": _group_normalization_21},
}
