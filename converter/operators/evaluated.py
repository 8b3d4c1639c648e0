"""Operators that torch does not have, run by onnx's own reference evaluator: right, and without gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from onnx import ModelProto, NodeProto, helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from converter.operators.signatures import Operator

EVALUATED = frozenset({"TfIdfVectorizer", "Unique"})


def evaluated(node: NodeProto, opset: int) -> Operator:
    """The node as a function of its inputs."""
    copy = NodeProto()
    copy.CopyFrom(node)
    present = [name for name in node.input if name]
    graph = helper.make_graph(
        [copy],
        "node",
        [helper.make_empty_tensor_value_info(name) for name in present],
        [helper.make_empty_tensor_value_info(name) for name in node.output if name],
    )
    model: ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    evaluator = ReferenceEvaluator(model)

    def operator(*values: Tensor | None) -> tuple[Tensor | None, ...]:
        arrays = [value.detach().cpu().numpy() for value in values if value is not None]
        results: Any = iter(evaluator.run(None, dict(zip(present, arrays, strict=True))))
        return tuple(torch.from_numpy(np.array(next(results))) if name else None for name in node.output)

    return operator
