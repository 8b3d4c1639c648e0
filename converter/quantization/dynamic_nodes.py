"""Products whose activations get their range while the model runs, in the forms that onnxruntime fuses to one kernel.

DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul, and an Add of a bias where one follows, become one
DynamicQuantizeMatMul; products of one activation share its codes and become MatMulIntegerToFloat each. No range can be
wrong, and none is clipped; in return the codes depend on what else is in the batch.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper

from converter.graph import Graph, attribute
from converter.quantization.integer_weights import weight_slots
from converter.quantization.weight_storage import Storage, Stored

__all__ = ["cannot_be_dynamic", "write_dynamic"]

LSTM_INPUTS = 8  # of the float operator, before the steps and zero points of its integer one


def cannot_be_dynamic(node: NodeProto, graph: Graph) -> str | None:
    """Why the node cannot take its activations' ranges at run time, or None if it can."""
    slots = weight_slots(node, graph)
    match node.op_type:
        case "MatMul":
            if not any(index == 1 for index, _ in slots):
                return "its second operand is no constant matrix worth storing in 8 bits"
            if len(graph.initializers.shape(node.input[1])) != 2:
                return "onnxruntime fuses dynamic products with matrices only, its weight has more than two axes"
            return None
        case "Gemm":
            if not slots:
                return "its weight is not constant, or too small"
            scaled = attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0
            return "it scales or transposes its input" if scaled or attribute(node, "transA", 0) else None
        case "LSTM":
            if len(slots) < 2:
                return "its weights are not constant, or too small"
            return "its batch comes first, which onnxruntime's integer LSTM does not know" if _layout(node) else None
    return f"onnxruntime has no kernel for {node.op_type} that takes ranges at run time"


def _layout(node: NodeProto) -> int:
    return int(attribute(node, "layout", 0))


def write_dynamic(node: NodeProto, storage: Storage, quantized: dict[str, tuple[str, str, str]]) -> list[NodeProto]:
    """The nodes that compute the same as ``node``, for which ``cannot_be_dynamic`` found nothing.

    ``quantized`` has the codes, step and zero point of every activation that an earlier call quantized.
    """
    return _lstm(node, storage) if node.op_type == "LSTM" else _product(node, storage, quantized)


def _product(node: NodeProto, storage: Storage, quantized: dict[str, tuple[str, str, str]]) -> list[NodeProto]:
    transposed = node.op_type == "Gemm" and bool(attribute(node, "transB", 0))
    data, weight, result = node.input[0], node.input[1], node.output[0]
    stored = storage.weight(weight, (0,) if transposed else (1,), 1 if transposed else 0, turned=transposed)
    scale = storage.constant(f"{stored.tensor}:s", stored.codes.scale.reshape(-1))
    nodes: list[NodeProto] = list(stored.nodes)
    if data not in quantized:
        quantized[data] = (f"{data}:moving", f"{data}:moving_s", f"{data}:moving_z")
        name = quantized[data][0]
        nodes.append(helper.make_node("DynamicQuantizeLinear", [data], list(quantized[data]), name=name))
    codes, step, zero = quantized[data]
    biased = len(node.input) > 2 and node.input[2] != ""
    product = f"{result}:product" if biased else result
    sums, real, steps = (f"{result}:{each}" for each in ("i32", "f32", "s"))
    nodes += [
        helper.make_node("MatMulInteger", [codes, stored.tensor, zero], [sums], name=node.name),
        helper.make_node("Cast", [sums], [real], name=real, to=TensorProto.FLOAT),
        helper.make_node("Mul", [step, scale], [steps], name=steps),
        helper.make_node("Mul", [real, steps], [product], name=f"{node.name}/scaled"),
    ]
    if biased:
        nodes.append(helper.make_node("Add", [product, node.input[2]], [result], name=f"{node.name}/biased"))
    return nodes


def _lstm(node: NodeProto, storage: Storage) -> list[NodeProto]:
    inputs = [*node.input, *[""] * (LSTM_INPUTS - len(node.input))]
    grids = []
    for index in (1, 2):
        name = inputs[index]
        stored: Stored = storage.weight(name, (0, 1), 2, turned=True)
        scale = stored.codes.scale.reshape(len(stored.codes.scale), -1)  # [directions, gates]
        grids += [
            storage.constant(f"{stored.tensor}:s", scale),
            storage.constant(f"{stored.tensor}:z", np.zeros(scale.shape, np.int8)),
        ]
        inputs[index] = stored.tensor
    made = helper.make_node(
        "DynamicQuantizeLSTM", [*inputs, *grids], list(node.output), name=node.name, domain="com.microsoft"
    )
    made.attribute.extend(each for each in node.attribute if each.name != "layout")
    return [made]
