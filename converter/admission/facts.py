"""What is in a model, for people and for the stages that follow."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from onnx import ModelProto, TensorProto

from converter.admission.widening import tensors
from converter.graph import Value, describe_value, opset, subgraphs, walk

__all__ = ["ModelFacts", "gather_facts"]


@dataclass(frozen=True)
class ModelFacts:
    """What an owner recognizes the model by; ``parameters`` counts the elements of its float weights."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    operators: Mapping[str, int]
    nodes: int
    parameters: int
    weight_bytes: int
    file_bytes: int
    opset: int
    ir_version: int
    producer: str
    graph_name: str
    has_batch_norm: bool
    has_subgraphs: bool

    def to_dict(self) -> dict[str, object]:
        """The facts as plain JSON values."""
        return {
            **asdict(self),
            "inputs": [_plain(value) for value in self.inputs],
            "outputs": [_plain(value) for value in self.outputs],
            "operators": dict(self.operators),
        }


def _plain(value: Value) -> dict[str, object]:
    return {"name": value.name, "type": value.dtype, "shape": None if value.shape is None else list(value.shape)}


def gather_facts(model: ModelProto, file_bytes: int) -> ModelFacts:
    """The facts of a checked model."""
    graph = model.graph
    initialized = {tensor.name for tensor in graph.initializer}
    nodes = [node for node, _ in walk(graph)]
    operators = Counter(node.op_type for node in nodes)
    sizes = [(tensor, math.prod(tensor.dims)) for tensor in tensors(model)]
    return ModelFacts(
        inputs=tuple(describe_value(value) for value in graph.input if value.name not in initialized),
        outputs=tuple(map(describe_value, graph.output)),
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        nodes=len(nodes),
        parameters=sum(size for tensor, size in sizes if tensor.data_type == TensorProto.FLOAT and size > 1),
        weight_bytes=sum(4 * size for tensor, size in sizes if tensor.data_type == TensorProto.FLOAT),
        file_bytes=file_bytes,
        opset=opset(model),
        ir_version=model.ir_version,
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        graph_name=graph.name,
        has_batch_norm="BatchNormalization" in operators,
        has_subgraphs=any(subgraphs(node) for node in nodes),
    )
