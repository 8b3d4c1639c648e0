"""Gemm in the form that onnxruntime has an integer kernel for: alpha = beta = 1, weight (out, in), bias (out)."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper

from converter.graph import attribute
from converter.normalization.rewriting import Change, Rewriting

__all__ = ["unify_gemm"]


def unify_gemm(model: ModelProto) -> tuple[ModelProto, Change]:
    """Every Gemm with constant weight has alpha = beta = 1, transA = 0, transB = 1 and its bias per output."""
    rewriting = Rewriting(model)
    count = sum(_unify(node, rewriting) for node in rewriting.nodes if node.op_type == "Gemm")
    return rewriting.finish(), Change("unify_gemm", count, "Gemm nodes brought to one form")


def _unify(node: NodeProto, rewriting: Rewriting) -> bool:
    weight = rewriting.constant_input(node, 1)
    has_bias = len(node.input) > 2 and node.input[2] != ""
    bias = rewriting.constant_input(node, 2) if has_bias else None
    alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
    trans_a, trans_b = attribute(node, "transA", 0), attribute(node, "transB", 0)
    if weight is None or weight.dtype != np.float32 or (has_bias and bias is None and beta != 1):
        return False
    outputs = weight.shape[0] if trans_b else weight.shape[1]
    plain_bias = bias is None or bias.shape == (outputs,)
    if alpha == 1 and (beta == 1 or bias is None) and not trans_a and trans_b and plain_bias:
        return False
    inputs = list(node.input)
    others: list[NodeProto] = []
    if trans_a:
        turned = rewriting.fresh(f"{inputs[0]}_turned")
        others.append(helper.make_node("Transpose", [inputs[0]], [turned], name=turned, perm=[1, 0]))
        inputs[0] = turned
    if alpha != 1 or not trans_b:
        matrix = weight if trans_b else weight.T
        inputs[1] = rewriting.set_constant(inputs[1], (matrix.astype(np.float64) * alpha).astype(np.float32), node)
    if bias is not None and (beta != 1 or not plain_bias) and bias.size in (1, outputs) and bias.shape[-1:] != (0,):
        flat = np.broadcast_to(bias.reshape(-1), (outputs,)) if bias.shape[:-1] in ((), (1,)) else None
        if flat is None:
            inputs[2] = rewriting.set_constant(inputs[2], bias * np.float32(beta), node)
        else:
            inputs[2] = rewriting.add_constant(f"{inputs[2]}_flat", (flat.astype(np.float64) * beta).astype(np.float32))
    elif bias is not None and beta != 1:
        inputs[2] = rewriting.set_constant(inputs[2], (bias.astype(np.float64) * beta).astype(np.float32), node)
    product = helper.make_node("Gemm", inputs, list(node.output), name=node.name, transB=1)
    rewriting.replace(node, *others, product)
    return True
