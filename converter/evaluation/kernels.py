"""Which kernels onnxruntime really runs, read from the graph that its own optimizer leaves.

A QDQ file says what may be fused; whether it was, only the optimized graph tells: a QLinearConv is an integer kernel, a
Conv between DequantizeLinear and QuantizeLinear is a float kernel that costs more than it did before.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto

from converter.families import WEIGHTED
from converter.findings import FloatNode, Kernels
from converter.graph import Graph, attribute, walk
from converter.quantization.qdq_writer import CODES, DEQUANTIZED, ROUNDED, float_name
from converter.scores import FLOAT
from converter.sessions import open_session

__all__ = ["count_kernels", "count_macs", "optimize"]

CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
MOVEMENT = frozenset({
    "Cast", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather",
    "GatherElements", "GatherND", "Identity", "If", "Loop", "MemcpyFromHost", "MemcpyToHost", "NonZero", "Pad", "Range",
    "ReorderInput", "ReorderOutput", "Reshape", "Scan", "ScatterElements", "ScatterND", "Shape", "Size", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip
SAME_TYPE = MOVEMENT - {"Cast", "Shape", "Size", "NonZero", "If", "Loop", "Scan"} | {"Resize", "Upsample", "MaxPool"}
INTEGER = re.compile(
    r"QLinear\w+|QGemm|QAttention|QOrdered\w+|QEmbedLayerNormalization|ConvInteger|MatMulInteger\w*|DynamicQuantizeMatMul"
    r"|DynamicQuantizeLSTM|MatMulNBits|GatherBlockQuantized"
)
EIGHT_BIT = frozenset({TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4})
LAYERS = WEIGHTED | {"ConvTranspose"}
BLOCKED = "com.microsoft.nchwc"  # float convolutions and pooling over blocks of channels, named after their output
TOKEN = re.compile(r"_token_\d+$")


def optimize(model: ModelProto, threads: int = 1) -> ModelProto:
    """The graph that onnxruntime's CPU provider runs after all of its optimizations."""
    with tempfile.TemporaryDirectory(prefix="zsq-") as folder:
        path = Path(folder, "optimized.onnx")
        open_session(model, threads, optimized_path=str(path))
        return onnx.load(path)


def count_macs(graph: Graph) -> dict[str, int]:
    """Multiply-adds of one sample of each Conv, ConvTranspose, Gemm and MatMul of known shapes, by node name."""
    found = {}
    for node in graph.nodes:
        if node.op_type in LAYERS:
            macs = _macs(node, graph)
            if macs is not None:
                found[node.name] = macs
    return found


def _macs(node: NodeProto, graph: Graph) -> int | None:
    data, weight, output = (_sizes(graph, name) for name in (node.input[0], node.input[1], node.output[0]))
    if data is None or weight is None or output is None or not (data and weight and output):
        return None
    match node.op_type:
        case "Conv":
            return math.prod(output) * math.prod(weight[1:])
        case "ConvTranspose":
            return math.prod(data) * math.prod(weight[1:])
        case "Gemm":
            return math.prod(output) * data[0 if attribute(node, "transA", 0) else -1]
    return math.prod(output) * data[-1]


def _sizes(graph: Graph, name: str) -> tuple[int, ...] | None:
    """The shape with an open first size as 1, or None where any other is open."""
    shape = graph.shapes.get(name)
    if shape is None:
        return None
    closed = tuple(1 if axis == 0 and not isinstance(size, int) else size for axis, size in enumerate(shape))
    return tuple(size for size in closed if isinstance(size, int)) if all(isinstance(s, int) for s in closed) else None


def count_kernels(float32: ModelProto, int8: ModelProto, threads: int = 1) -> Kernels:
    """How many nodes of the optimized INT8 graph compute on integers, which compute in float, and who they were.

    The share of multiply-adds is left open where the shapes of any node that has them are.
    """
    optimized = optimize(int8, threads)
    source = Graph(float32)
    macs = count_macs(source)
    names = {node.name: node for node in source.nodes if node.name}
    types = _element_types(optimized)
    integer: Counter[str] = Counter()
    in_float: list[FloatNode] = []
    conversions = other = total = 0
    integer_originals: set[str] = set()
    for node, _ in walk(optimized.graph):
        total += 1
        original = _original(node, names, source)
        if node.op_type in CONVERSIONS:
            conversions += 1
        elif _on_integers(node, types) and (node.op_type != "Transpose" or original is not None):
            integer[node.op_type] += 1
            if original is not None:
                integer_originals.add(original)
        elif _computes_in_float(node, types):
            in_float.append(
                FloatNode(name=node.name, operator=node.op_type, original=original, macs=macs.get(original or ""))
            )
        else:
            other += 1
    weighted = sum(node.op_type in LAYERS for node in source.nodes)
    known = sum(macs.values()) if len(macs) == weighted else 0
    return Kernels(
        optimizer=f"onnxruntime {ort.__version__}, CPUExecutionProvider, all optimizations",
        nodes=total,
        integer=sum(integer.values()),
        float_compute=len(in_float),
        conversions=conversions,
        other=other,
        integer_operators=dict(integer),
        float_operators=dict(Counter(node.operator for node in in_float)),
        float_nodes=tuple(in_float),
        integer_macs_share=sum(macs.get(name, 0) for name in integer_originals) / known if known else None,
    )


def _original(node: NodeProto, names: Mapping[str, NodeProto], source: Graph) -> str | None:
    """The node of the float model that an optimized node stands for: fusions keep the name and append to it."""
    name = TOKEN.sub("", node.name)
    while name:
        if name in names:
            return name
        name = name.rpartition("/")[0]
    results = [
        *(float_name(output, CODES, DEQUANTIZED, ROUNDED) for output in node.output),
        node.name.removesuffix("_nchwc"),
    ]
    made_by = (source.producer(result) for result in results if result)
    return next((producer.name for producer in made_by if producer is not None), None)


def _element_types(model: ModelProto) -> dict[str, int]:
    """The element types that the optimized file states, and those that follow from its integer kernels."""
    types: dict[str, int] = {}
    for _, graph in [(None, model.graph), *((None, body) for _, body in walk(model.graph))]:
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.HasField("tensor_type"):
                types[value.name] = value.type.tensor_type.elem_type
        types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    for node, _ in walk(model.graph):
        if node.op_type == "QuantizeLinear":
            known = types.get(node.input[2], TensorProto.UINT8) if len(node.input) > 2 else TensorProto.UINT8
        elif node.op_type in CONVERSIONS:
            known = TensorProto.FLOAT
        elif node.op_type.startswith("Nhwc") or (
            INTEGER.fullmatch(node.op_type) and node.op_type.startswith("QLinear")
        ):
            known = TensorProto.UINT8
        else:
            known = types.get(node.input[0], 0) if node.op_type in SAME_TYPE and node.input else 0
        for output in node.output:
            if known:
                types.setdefault(output, known)
    return types


def _on_integers(node: NodeProto, types: Mapping[str, int]) -> bool:
    if INTEGER.fullmatch(node.op_type):
        return True
    data = node.input[1] if node.op_type == "Where" and len(node.input) > 1 else next(iter(node.input), "")
    return types.get(data) in EIGHT_BIT


def _computes_in_float(node: NodeProto, types: Mapping[str, int]) -> bool:
    if node.op_type in MOVEMENT:
        return False
    if node.domain == BLOCKED:
        return True
    return _any_float(node.output, types) or (
        not any(o in types for o in node.output) and _any_float(node.input, types)
    )


def _any_float(names: Iterable[str], types: Mapping[str, int]) -> bool:
    return any(types.get(name) in FLOAT for name in names)
