"""A read-only view of a model: who makes and who uses each tensor, its weights, shapes and element types."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import onnx
from google.protobuf.message import Message
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    ValueInfoProto,
    numpy_helper,
    shape_inference,
)

from converter.families import WEIGHTED

__all__ = [
    "Array",
    "Graph",
    "Shape",
    "Value",
    "all_graphs",
    "attribute",
    "captures",
    "clip_bounds",
    "copied",
    "describe_value",
    "in_order",
    "multiply_adds",
    "opset",
    "output_channels",
    "reads_of",
    "set_nodes",
    "skeleton",
    "subgraphs",
    "walk",
    "weight_of",
]

Array = NDArray[Any]
M = TypeVar("M", bound=Message)
Shape = tuple[int | str | None, ...]

BIG = 1024  # elements from which a constant's values can no longer matter to shape inference


@dataclass(frozen=True)
class Value:
    """An input or output: ``shape`` has a number, a symbol or None per axis, or is None if even the rank is unknown."""

    name: str
    element_type: int
    shape: Shape | None

    @property
    def dtype(self) -> str:
        """The element type as numpy and people write it: float32, int64, bool."""
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.element_type)).name

    def __str__(self) -> str:
        shape = "unknown shape" if self.shape is None else "x".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name} {self.dtype} [{shape}]"


def opset(model: ModelProto) -> int:
    """The version of the standard operators that the model was written for; 0 if it names none."""
    return max((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), default=0)


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """The value of an attribute, text decoded, or the default where the node does not have it."""
    for each in node.attribute:
        if each.name == name:
            value = onnx.helper.get_attribute_value(each)
            return value.decode(errors="replace") if isinstance(value, bytes) else value
    return default


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """The bodies of If, Loop and Scan."""
    bodies = [each.g for each in node.attribute if each.type == AttributeProto.GRAPH]
    return bodies + [body for each in node.attribute if each.type == AttributeProto.GRAPHS for body in each.graphs]


def walk(graph: GraphProto) -> Iterator[tuple[NodeProto, GraphProto]]:
    """Every node with the graph that it stands in, bodies of If, Loop and Scan included."""
    for current in all_graphs(graph):
        for node in current.node:
            yield node, current


def all_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and every body in it, outer ones first."""
    pending = [graph]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(body for node in current.node for body in subgraphs(node))


def captures(node: NodeProto) -> set[str]:
    """The outer tensors that the node's bodies read without having them as inputs."""
    return set().union(*map(_free_names, subgraphs(node))) if node.attribute else set()


def _free_names(graph: GraphProto) -> set[str]:
    known = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    free: set[str] = set()
    for node in graph.node:
        free.update(name for name in (*node.input, *captures(node)) if name and name not in known)
        known.update(node.output)
    free.update(value.name for value in graph.output if value.name not in known)
    return free


def describe_value(value: ValueInfoProto) -> Value:
    """The name, element type and shape that a ValueInfoProto declares."""
    return Value(value.name, value.type.tensor_type.elem_type, declared_shape(value.type))


def declared_shape(declared: TypeProto) -> Shape | None:
    """The shape of a tensor type with a number, a symbol or None per axis; negative sizes count as None."""
    if not declared.tensor_type.HasField("shape"):
        return None
    return tuple(
        (dim.dim_value if dim.dim_value >= 0 else None) if dim.HasField("dim_value") else (dim.dim_param or None)
        for dim in declared.tensor_type.shape.dim
    )


def skeleton(model: ModelProto, largest: int = BIG) -> ModelProto:
    """The same graph without the values of tensors above ``largest`` elements, which become inputs of their shape.

    Shape inference and the version converter need no more, and would copy the weights several times.
    """
    light = ModelProto()
    light.ir_version = max(model.ir_version, 4)  # from 4 on initializers need not be inputs
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph, source = light.graph, model.graph
    graph.name = source.name or "graph"
    initialized = {tensor.name for tensor in source.initializer}
    graph.input.extend(_without_vague_symbols(value) for value in source.input if value.name not in initialized)
    graph.output.extend(_without_shape(value) for value in source.output)  # the graph says more than its label
    for tensor in source.initializer:
        _add_light(graph, tensor, tensor.name, largest)
    for node in source.node:
        value = constant_tensor(node)
        if value is None or math.prod(value.dims) <= largest:
            graph.node.append(node)
        else:
            _add_light(graph, value, node.output[0], largest)
    return light


def _without_vague_symbols(value: ValueInfoProto) -> ValueInfoProto:
    """The input without symbols that stand on several of its axes: an exporter's "?", not a claim that they agree."""
    named = copied(value)
    dims = named.type.tensor_type.shape.dim
    symbols = [dim.dim_param for dim in dims]
    for dim in dims:
        if dim.dim_param and symbols.count(dim.dim_param) > 1:
            dim.ClearField("dim_param")
    return named


def _without_shape(value: ValueInfoProto) -> ValueInfoProto:
    bare = copied(value)
    bare.type.tensor_type.ClearField("shape")
    return bare


def _add_light(graph: GraphProto, tensor: TensorProto, name: str, largest: int) -> None:
    if math.prod(tensor.dims) <= largest:
        graph.initializer.append(tensor)
        graph.initializer[-1].name = name
    else:
        graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))


def constant_tensor(node: NodeProto) -> TensorProto | None:
    """The tensor inside a Constant node that holds its value as one."""
    if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
        for each in node.attribute:
            if each.name == "value" and each.type == AttributeProto.TENSOR:
                tensor: TensorProto = each.t
                return tensor
    return None


class Initializers(Mapping[str, Array]):
    """The initializers of a graph as arrays, decoded when first asked for."""

    def __init__(self, graph: GraphProto) -> None:
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._arrays: dict[str, Array] = {}

    def __getitem__(self, name: str) -> Array:
        if name not in self._arrays:
            array = numpy_helper.to_array(self._tensors[name])
            array.setflags(write=False)
            self._arrays[name] = array
        return self._arrays[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def element_type(self, name: str) -> int:
        """The ONNX element type of an initializer, without decoding it."""
        return int(self._tensors[name].data_type)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an initializer, without decoding it."""
        return tuple(self._tensors[name].dims)


class Graph:
    """A model's main graph, read only; whatever changes the model afterwards makes the view stale."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.initializers = Initializers(model.graph)
        self.nodes: tuple[NodeProto, ...] = tuple(model.graph.node)
        self.inputs: tuple[Value, ...] = tuple(
            describe_value(value) for value in model.graph.input if value.name not in self.initializers
        )
        self.outputs: tuple[Value, ...] = tuple(map(describe_value, model.graph.output))
        self.output_names = frozenset(value.name for value in self.outputs)
        self._producers = {name: node for node in self.nodes for name in node.output if name}
        consumers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys((*node.input, *sorted(captures(node)))):
                if name:
                    consumers.setdefault(name, []).append(node)
        self._consumers = {name: tuple(nodes) for name, nodes in consumers.items()}

    def producer(self, tensor: str) -> NodeProto | None:
        """The node that makes the tensor; None for inputs and initializers."""
        return self._producers.get(tensor)

    def consumers(self, tensor: str) -> tuple[NodeProto, ...]:
        """The nodes that read the tensor, each once; a node reads what its bodies capture."""
        return self._consumers.get(tensor, ())

    @cached_property
    def values(self) -> Mapping[str, Value]:
        """Element type and shape of every tensor that shape inference can tell something about."""
        light = skeleton(self.model)
        try:
            inferred = shape_inference.infer_shapes(light, data_prop=True).graph
        except shape_inference.InferenceError:  # of an inconsistent model; what it declares is then all that is known
            inferred = light.graph
        found = {value.name: describe_value(value) for value in (*inferred.value_info, *inferred.output)}
        for value in self.outputs:
            if value.name not in found or found[value.name].shape is None:
                found[value.name] = value
        found |= {value.name: value for value in self.inputs}
        for name in self.initializers:
            shape = self.initializers.shape(name)
            found[name] = Value(name, self.initializers.element_type(name), shape)
        return found

    @cached_property
    def shapes(self) -> Mapping[str, Shape]:
        """The shapes that are known, with numbers, symbols or None."""
        return {name: value.shape for name, value in self.values.items() if value.shape is not None}

    @cached_property
    def element_types(self) -> Mapping[str, int]:
        """The ONNX element types that are known."""
        return {name: value.element_type for name, value in self.values.items() if value.element_type}


def weight_of(node: NodeProto, graph: Graph) -> tuple[str, int] | None:
    """The constant weight of a Conv, Gemm or MatMul and the axis of its output channels, or None."""
    if node.op_type not in WEIGHTED or len(node.input) < 2 or node.input[1] not in graph.initializers:
        return None
    weight = graph.initializers[node.input[1]]
    if weight.dtype != np.float32:
        return None
    match node.op_type:
        case "Conv":
            return (node.input[1], 0) if weight.ndim in (3, 4) else None
        case "Gemm":
            return node.input[1], 0 if attribute(node, "transB", 0) else 1
    return (node.input[1], 1) if weight.ndim == 2 else None


def multiply_adds(node: NodeProto, graph: Graph, elements: Mapping[str, int]) -> int:
    """Multiply-adds of one weighted node for one sample; ``elements`` is the size of one sample of each tensor."""
    found = weight_of(node, graph)
    if found is None:
        return 0
    name, axis = found
    shape = graph.initializers.shape(name)
    return elements.get(node.output[0], 0) * math.prod(shape) // max(shape[axis], 1)


def copied(message: M) -> M:
    """A message of its own with the same content."""
    copy: M = type(message)()
    copy.CopyFrom(message)
    return copy


def set_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    """The graph consists of these nodes in this order; they may be of those that it had."""
    kept = [copied(node) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def in_order(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """The nodes so that each stands behind those whose results it or its bodies read, otherwise in the given order."""
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    ordered: list[NodeProto] = []
    placed: set[int] = set()
    for start in range(len(nodes)):
        pending = [start]
        while pending:
            index = pending[-1]
            before = sorted({makers[name] for name in reads_of(nodes[index]) if name in makers} - placed - {index})
            if index in placed or not before:
                pending.pop()
                if index not in placed:
                    placed.add(index)
                    ordered.append(nodes[index])
            else:
                pending.extend(reversed(before))
    return ordered


def reads_of(node: NodeProto) -> list[str]:
    """Every tensor that a node reads, those that its bodies capture included."""
    return [name for name in dict.fromkeys((*node.input, *sorted(captures(node)))) if name]


def output_channels(node: NodeProto) -> int:
    """The axis of a layer's result that its weights' output channels become."""
    return 1 if node.op_type == "Conv" else -1


def clip_bounds(node: NodeProto, graph: Graph) -> tuple[float, float]:
    """Between which numbers a Relu or Clip leaves values; infinite where it states no constant."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    given = [graph.initializers.get(name) if name else None for name in (*node.input[1:3], "", "")[:2]]
    low = float(given[0].item()) if given[0] is not None else float(attribute(node, "min", -math.inf))
    high = float(given[1].item()) if given[1] is not None else float(attribute(node, "max", math.inf))
    return low, high
