"""Biases that are added after a static product, written so that onnxruntime keeps the product on integers.

Where it knows every size, onnxruntime makes one float Gemm of a MatMul and the Add of a vector after it, before it
looks for integers; a bias in float is then in the way of its integer Gemm. MiniLM of fixed sizes took 2.1 times the
time of FP32 for that. A bias that is itself 32-bit integers on the product's own step, as onnxruntime's quantizer
writes it for a Gemm, makes the same fusion an integer Gemm. One too large for 32 bits becomes a row of a matrix, which
onnxruntime does not fuse at all. Of open sizes there is no such fusion, and the bias stays as it is.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper

from converter.graph import Array, Graph
from converter.normalization.constants import remove_unused
from converter.normalization.rewriting import Rewriting

__all__ = ["MOST_STEPS", "keep_products_on_integers"]

MOST_STEPS = 2**30  # of a bias: half of what 32 bits hold, the rest for the products and for what correction adds


def keep_products_on_integers(quantized: ModelProto, source: ModelProto) -> ModelProto:
    """The QDQ model, changed in place, in which an Add of known size after a static MatMul adds integers.

    ``source`` is the float model that it was made from, whose shapes say which sizes are known.
    """
    shapes = Graph(source).shapes
    rewriting = Rewriting(quantized)
    for node in rewriting.nodes:
        if node.op_type != "MatMul":
            continue
        steps = _steps(node, rewriting)
        after = rewriting.sole_reader(node.output[0])
        if steps is None or after is None or after.op_type != "Add":
            continue
        shape = shapes.get(after.output[0])
        open_sizes = shape is not None and len(shape) > 2 and not all(isinstance(size, int) for size in shape)
        index = 1 if after.input[0] == node.output[0] else 0
        bias = rewriting.constant_input(after, index)
        if not open_sizes and bias is not None and bias.shape == steps.shape and bias.dtype == np.float32:
            codes = np.rint(bias / np.maximum(steps.astype(np.float64), np.finfo(np.float64).tiny))
            if np.abs(codes).max(initial=0) <= MOST_STEPS:
                _write(after, index, codes, steps, rewriting)
            elif shape is not None and len(shape) > 2:
                row = rewriting.add_constant(f"{after.input[index]}:row", bias.reshape(1, 1, -1))
                rewriting.set_inputs(after, [row if at == index else name for at, name in enumerate(after.input)])
    return remove_unused(rewriting.finish())[0]


def _steps(node: NodeProto, rewriting: Rewriting) -> Array | None:
    """The step of each column of a product whose two operands are codes, or None where one is float."""
    data, weight = (rewriting.maker(name) for name in node.input)
    if data is None or weight is None or data.op_type != "DequantizeLinear" or weight.op_type != "DequantizeLinear":
        return None
    step, steps = rewriting.constant_input(data, 1), rewriting.constant_input(weight, 1)
    return None if step is None or steps is None or steps.ndim != 1 or step.size != 1 else step.reshape(()) * steps


def _write(after: NodeProto, index: int, codes: Array, steps: Array, rewriting: Rewriting) -> None:
    """The Add's constant is codes of 32 bits on these steps."""
    name = after.input[index]
    stored = rewriting.add_constant(f"{name}:c", codes.astype(np.int32))
    scale = rewriting.add_constant(f"{name}:s", steps.astype(np.float32))
    real = rewriting.fresh(f"{name}:dq")
    rewriting.set_inputs(after, [real if at == index else each for at, each in enumerate(after.input)])
    rewriting.insert(after, before=[helper.make_node("DequantizeLinear", [stored, scale], [real], axis=0)])
