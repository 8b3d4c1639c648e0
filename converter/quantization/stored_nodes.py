"""Nodes whose weights alone are integers: 8 bits in the file, float where they are computed with.

The codes pass a Cast and a Mul by their steps. Onnxruntime computes both once, when it loads the file, and then runs
the float kernels of FP32 at FP32's speed; a DequantizeLinear it would run again every time (1.9 times FP32's time on
MobileNetV2, 3.8 on MobileNetV1 0.25). Of an embedding's table only the rows that were picked become float.
"""

from __future__ import annotations

from onnx import NodeProto, TensorProto, helper

from converter.graph import Graph, copied, subgraphs
from converter.normalization.rewriting import rename_captured
from converter.quantization.integer_weights import stored_weights
from converter.quantization.weight_storage import Storage

__all__ = ["write_stored"]


def write_stored(node: NodeProto, graph: Graph, storage: Storage, unpacked: dict[str, str]) -> list[NodeProto]:
    """The node, its weights read from codes, after the nodes that make it so.

    ``unpacked`` has the float tensor of every weight that an earlier call unpacked.
    """
    return _embedding(node, storage) if node.op_type == "Gather" else _layer(node, graph, storage, unpacked)


def _layer(node: NodeProto, graph: Graph, storage: Storage, unpacked: dict[str, str]) -> list[NodeProto]:
    changed = copied(node)
    nodes: list[NodeProto] = []
    for name, channels in stored_weights(node, graph).items():
        if name not in unpacked:
            stored = storage.weight(name, channels)
            scale = storage.constant(f"{stored.tensor}:s{stored.codes.scale.ndim}", stored.codes.scale)
            unpacked[name] = f"{name}:real"
            nodes += [
                *stored.nodes,
                helper.make_node("Cast", [stored.tensor], [f"{name}:f32"], name=f"{name}:f32", to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{name}:f32", scale], [f"{name}:real"], name=f"{name}:real"),
            ]
        for index, given in enumerate(changed.input):
            if given == name:
                changed.input[index] = unpacked[name]
        for body in subgraphs(changed):
            rename_captured(body, name, unpacked[name])
    return [*nodes, changed]


def _embedding(node: NodeProto, storage: Storage) -> list[NodeProto]:
    table, ids, result = node.input[0], node.input[1], node.output[0]
    stored = storage.rows(table)
    steps = storage.constant(f"{stored.tensor}:s{stored.codes.scale.ndim}", stored.codes.scale)  # [rows, 1, ...]
    codes, real, scale = (f"{result}:{each}" for each in ("c", "f32", "s"))
    return [
        helper.make_node("Gather", [stored.tensor, ids], [codes], name=node.name),
        helper.make_node("Cast", [codes], [real], name=real, to=TensorProto.FLOAT),
        helper.make_node("Gather", [steps, ids], [scale], name=scale),
        helper.make_node("Mul", [real, scale], [result], name=f"{node.name}/scaled"),
    ]
