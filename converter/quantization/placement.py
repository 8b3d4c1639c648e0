"""Decides which nodes run on integers: kernels that exist, and islands that pay.

A node is worth quantizing when onnxruntime has an integer kernel for it and its neighbours keep their tensors in
integers; a lone QuantizeLinear -> float kernel -> DequantizeLinear island only costs time and accuracy (shared findings
3.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnx import NodeProto

from converter.families import PASSING, RECTIFIERS, WEIGHTED
from converter.graph import Graph, attribute, captures, weight_of
from converter.targets import ONNXRUNTIME, Convention

__all__ = [
    "Placement",
    "candidates",
    "place",
    "quantized_tensors",
    "weighted_nodes",
]

ARITHMETIC = frozenset({"Add", "Mul", "Concat", "LeakyRelu", "Sigmoid", "AveragePool", "GlobalAveragePool"})


@dataclass(frozen=True)
class Placement:
    """The nodes that run on integers, and why each other node that could have does not."""

    nodes: frozenset[str]
    kept_float: Mapping[str, str]
    rounded: frozenset[str] = frozenset()  # the tensors with a QuantizeLinear of their own range
    islands: frozenset[str] = frozenset()  # of ``kept_float``, those that nobody asked for

    @property
    def asked_float(self) -> dict[str, str]:
        """The nodes that were to stay in float whatever stands around them, and why."""
        return {name: why for name, why in self.kept_float.items() if name not in self.islands}

    def damage(self, harm: Mapping[str, float]) -> float:
        """What rounding its tensors costs, where ``harm`` is the cost of each."""
        return sum(each for name, each in harm.items() if name in self.rounded)


def _runs_on_integers(node: NodeProto, graph: Graph) -> bool:
    """Whether onnxruntime's CPU provider has an integer kernel for this very node."""
    if node.op_type in WEIGHTED:
        return weight_of(node, graph) is not None and _plain(node, graph)
    if node.input[0] in graph.initializers and node.op_type in PASSING:
        return False  # an embedding's table: picking rows of it costs nothing in float
    if node.op_type in RECTIFIERS and _captured(node.output[0], graph):
        return False  # a body of If, Loop or Scan would read the layer's output as it was before this node
    if node.op_type == "Resize":
        return bool(attribute(node, "mode", "nearest") == "nearest")
    if node.op_type == "AveragePool":
        return not attribute(node, "ceil_mode", 0) and len(graph.shapes.get(node.input[0]) or ()) == 4
    return node.op_type in PASSING | ARITHMETIC | RECTIFIERS


def _captured(tensor: str, graph: Graph) -> bool:
    """Whether the body of some node reads the tensor, which onnxruntime's quantizer does not follow."""
    return any(tensor in captures(reader) for reader in graph.consumers(tensor))


def _plain(node: NodeProto, graph: Graph) -> bool:
    bias_constant = len(node.input) < 3 or not node.input[2] or node.input[2] in graph.initializers
    if node.op_type == "Gemm":
        unscaled = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
        return unscaled and not attribute(node, "transA", 0) and bias_constant
    return bias_constant


def quantized_tensors(graph: Graph, nodes: frozenset[str], convention: Convention = ONNXRUNTIME) -> dict[str, str]:
    """Every activation that gets a QuantizeLinear when ``nodes`` run on integers, and the tensor whose range it shares.

    Relu and Clip after a convolution vanish into the range of their output, so the convolution's own output is no
    tensor of the integer model; operators that only move values around keep the range of what they move.
    """
    found: dict[str, str] = {}
    merged = {
        node.input[0]
        for node in graph.nodes
        if node.name in nodes and node.op_type in RECTIFIERS and _merges(node, graph)
    }
    for node in graph.nodes:
        if node.name not in nodes:
            continue
        reads = [node.input[0]] if node.op_type in WEIGHTED | PASSING | RECTIFIERS | {"Resize"} else list(node.input)
        for tensor in reads:
            if tensor and tensor not in graph.initializers and tensor not in merged:
                found.setdefault(tensor, tensor)
        if node.op_type in convention.float_results:
            continue
        for tensor in node.output:
            if tensor and tensor not in merged:
                shares = node.op_type in PASSING | {"Resize", "AveragePool"}
                found[tensor] = found[node.input[0]] if shares else tensor
    return found


def _merges(node: NodeProto, graph: Graph) -> bool:
    producer = graph.producer(node.input[0])
    return producer is not None and len(graph.consumers(node.input[0])) == 1 and node.input[0] not in graph.output_names


def weighted_nodes(graph: Graph) -> tuple[NodeProto, ...]:
    """The nodes with weights worth quantizing, in topological order."""
    return tuple(node for node in graph.nodes if node.op_type in WEIGHTED and _runs_on_integers(node, graph))


def candidates(graph: Graph, convention: Convention = ONNXRUNTIME) -> frozenset[str]:
    """The names of all nodes that have integer kernels and are to be told so."""
    return frozenset(
        node.name
        for node in graph.nodes
        if _runs_on_integers(node, graph) and (node.op_type in WEIGHTED or not convention.reads_only)
    )


def place(
    graph: Graph,
    kept_float: Mapping[str, str],
    convention: Convention = ONNXRUNTIME,
    able: frozenset[str] | None = None,
) -> Placement:
    """The largest set of nodes without useless islands that leaves ``kept_float`` (node to reason) in float.

    A weighted node needs nothing. Any other node stays only while every tensor it reads is in integers already, written
    by an integer node or read by an integer layer, and some integer node reads what it writes: the fixed point of
    removing those that fail. ``able`` are the ``candidates`` where somebody has them already.
    """
    chosen = set(candidates(graph, convention) if able is None else able) - kept_float.keys()
    dropped = dict(kept_float)
    changed = True
    while changed:
        changed = False
        for node in graph.nodes:
            if (
                node.name in chosen
                and node.op_type not in WEIGHTED
                and (reason := _island(node, graph, chosen, convention))
            ):
                chosen.remove(node.name)
                dropped.setdefault(node.name, reason)
                changed = True
    nodes = frozenset(chosen)
    islands = frozenset(dropped.keys() - kept_float.keys())
    rounded = frozenset(quantized_tensors(graph, nodes, convention).values())
    return Placement(nodes, dropped, rounded, islands)


def _read_by_layer(tensor: str, graph: Graph, chosen: set[str]) -> bool:
    """Whether an integer layer reads the tensor, so that it is quantized anyway."""
    return any(
        node.name in chosen and node.op_type in WEIGHTED and node.input[0] == tensor for node in graph.consumers(tensor)
    )


def _island(node: NodeProto, graph: Graph, chosen: set[str], convention: Convention) -> str | None:
    """Why this node would be an island, or None."""
    data = [node.input[0]] if node.op_type in PASSING | RECTIFIERS | {"Resize"} else list(node.input)
    for tensor in data:
        if not tensor or tensor in graph.initializers:
            if node.op_type in ("Add", "Mul") and tensor in graph.initializers:
                return "adds or multiplies a constant, which costs a rounding and saves nothing"
            continue
        producer = graph.producer(tensor)
        written = producer is not None and producer.name in chosen and producer.op_type not in convention.float_results
        if not written and not _read_by_layer(tensor, graph, chosen):
            return "reads a float tensor"
    if node.op_type in RECTIFIERS:
        producer = graph.producer(node.input[0])
        if producer is not None and producer.op_type == "Conv" and len(graph.consumers(node.input[0])) == 1:
            return None
    readers = [reader for output in node.output for reader in graph.consumers(output)]
    if not any(reader.name in chosen for reader in readers):
        return "only float nodes read its result"
    return None
