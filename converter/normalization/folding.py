"""What depends on nothing but constants and known sizes is computed now, not at every run."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TypeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from converter.graph import Array, Graph, Shape, attribute, declared_shape, opset, subgraphs
from converter.normalization.rewriting import Change, Rewriting

__all__ = ["fold_constants", "fold_shapes"]

LARGEST = 2**20  # elements of a folded result that is larger than all it is made from
GROWTH = 2**24  # elements by which one pass may let the file grow
DATA_DEPENDENT = {"NonZero", "Compress", "Unique"}  # results of unknown size, but never much above their inputs
BODIES = {"If", "Loop", "Scan", "SequenceMap", "SequenceConstruct", "SequenceEmpty", "Optional", "ImageDecoder"}
SLOW = {  # what the reference evaluator computes in Python loops
    "Conv", "ConvTranspose", "DeformConv", "MaxPool", "AveragePool", "LpPool", "MaxUnpool", "Col2Im", "LRN", "LSTM",
    "GRU", "RNN", "Attention", "GridSample", "RoiAlign", "NonMaxSuppression", "DFT", "STFT",
}  # fmt: skip
RANDOM = {"RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
LEFT_ALONE = BODIES | SLOW | RANDOM | {"Resize"}  # Resize: the evaluator and onnxruntime place the corners differently


def fold_constants(model: ModelProto) -> tuple[ModelProto, Change]:
    """Nodes with constant inputs only, and of a size worth storing, are initializers."""
    rewriting = Rewriting(model)
    version = opset(model)
    count, growth = 0, 0
    for node in rewriting.nodes:
        names = [name for name in node.input if name]
        if not names or node.op_type in LEFT_ALONE or subgraphs(node) or not any(node.output):
            continue
        if not all(map(rewriting.is_constant, names)):
            continue
        given = sum(math.prod(rewriting.constant_shape(name)) for name in set(names))
        values = {name: value for name in names if (value := rewriting.constant(name)) is not None}
        results = evaluate(node, values, version, max(LARGEST, given))
        made = sum(value.size for value in results.values())
        if not results or growth + max(0, made - given) > GROWTH:
            continue
        growth += max(0, made - given)
        rewriting.remove(node)
        for name, value in results.items():
            rewriting.make_constant(name, value)
        count += 1
    model = rewriting.finish()
    return model, Change("fold_constants", count, "Nodes replaced by the constants that they computed")


def evaluate(node: NodeProto, values: Mapping[str, Array], version: int, largest: int) -> dict[str, Array]:
    """The node's outputs by onnx's reference evaluator; empty if they would be too large or it cannot."""
    kinds = {name: helper.make_tensor_type_proto(_element_type(value), value.shape) for name, value in values.items()}
    small = {name: numpy_helper.from_array(value, name) for name, value in values.items() if value.size <= 1024}
    if not _is_bounded(node, kinds, small, version, largest):
        return {}
    inputs = [onnx.ValueInfoProto(name=name, type=kind) for name, kind in kinds.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "constant", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, dict(values))
    except Exception:  # boundary: the evaluator raises whatever numpy does; the node then stays for onnxruntime
        return {}
    arrays = {output.name: result for output, result in zip(outputs, results, strict=True)}
    if not all(isinstance(each, np.ndarray | np.generic) for each in arrays.values()):
        return {}
    return {name: np.asarray(each) for name, each in arrays.items()}


def _element_type(value: Array) -> int:
    return int(helper.np_dtype_to_tensor_dtype(value.dtype))


def _is_bounded(
    node: NodeProto, kinds: Mapping[str, TypeProto], small: Mapping[str, onnx.TensorProto], version: int, largest: int
) -> bool:
    if node.op_type in DATA_DEPENDENT:
        return True
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
        inferred = onnx.shape_inference.infer_node_outputs(
            schema, node, dict(kinds), dict(small), opset_imports=[helper.make_opsetid("", version)], ir_version=8
        )
    except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, RuntimeError):
        return False
    shapes = [declared_shape(inferred[name]) if name in inferred else None for name in node.output if name]
    return all(
        shape is not None and all(isinstance(size, int) for size in shape) and _count(shape) <= largest
        for shape in shapes
    )


def _count(shape: Shape) -> int:
    return math.prod(size for size in shape if isinstance(size, int))


def fold_shapes(model: ModelProto) -> tuple[ModelProto, Change]:
    """Shape arithmetic over known sizes is constant, and Reshape and Expand say in constants what they leave open."""
    vectors = ShapeVectors(Graph(model))
    rewriting = Rewriting(model)
    count = 0
    for node in rewriting.nodes:
        result = node.output[0] if node.output else ""
        known = vectors.known.get(result)
        if known is not None and not rewriting.is_constant(result) and all(isinstance(size, int) for size in known):
            rewriting.remove(node)
            rewriting.make_constant(result, vectors.array(result))
            count += 1
        elif node.op_type in ("Reshape", "Expand") and not rewriting.is_constant(node.input[1]):
            target = vectors.reshape_target(node) if node.op_type == "Reshape" else vectors.expand_target(node)
            if target is not None:
                name = rewriting.add_constant(f"{node.input[1]}_constant", np.array(target, np.int64))
                rewriting.set_inputs(node, [node.input[0], name])
                kept = [each for each in node.attribute if each.name != "allowzero"]  # no size in the target was 0
                if len(kept) < len(node.attribute):
                    del node.attribute[:]
                count += 1
    model = rewriting.finish()
    return model, Change("fold_shapes", count, "Computations of sizes replaced by the sizes")


class ShapeVectors:
    """The integers that flow through shape arithmetic, as far as they are numbers or named sizes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.known: dict[str, Shape] = {}
        self._scalars: set[str] = set()
        for node in graph.nodes:
            self._follow(node)

    def array(self, name: str) -> Array:
        """A vector or scalar all of whose elements are numbers."""
        values = np.array(self.known[name], np.int64)
        return values.reshape(()) if name in self._scalars else values

    def _get(self, name: str) -> Shape | None:
        if name in self.known:
            return self.known[name]
        if name in self.graph.initializers:
            shape = self.graph.initializers.shape(name)
            if len(shape) <= 1 and math.prod(shape) <= 64 and self._is_integer(name):
                if not shape:
                    self._scalars.add(name)
                self.known[name] = tuple(int(value) for value in self.graph.initializers[name].reshape(-1))
                return self.known[name]
        return None

    def _is_integer(self, name: str) -> bool:
        return self.graph.initializers.element_type(name) == onnx.TensorProto.INT64

    def _set(self, name: str, values: Shape, scalar: bool = False) -> None:
        self.known[name] = values
        if scalar:
            self._scalars.add(name)

    def _follow(self, node: NodeProto) -> None:
        operator, result = node.op_type, node.output[0] if node.output else ""
        if operator == "Shape":
            shape = self.graph.shapes.get(node.input[0])
            if shape is not None:
                start, end = attribute(node, "start", 0), attribute(node, "end")
                self._set(result, shape[start:end])
            return
        if operator == "Size":
            shape = self.graph.shapes.get(node.input[0], (None,))
            sizes = [size for size in shape if isinstance(size, int)]
            if len(sizes) == len(shape):
                self._set(result, (math.prod(sizes),), scalar=True)
            return
        if operator == "Where":
            self._choose(node, result)
            return
        if operator == "Concat":
            parts = [self._get(name) for name in node.input]
            if all(part is not None for part in parts) and self._scalars.isdisjoint(node.input):
                self._set(result, tuple(size for part in parts if part is not None for size in part))
            return
        source = self._get(node.input[0]) if node.input else None
        if source is None:
            return
        scalar = node.input[0] in self._scalars
        match operator:
            case "Identity":
                self._set(result, source, scalar)
            case "Cast" if attribute(node, "to") == onnx.TensorProto.INT64:
                self._set(result, source, scalar)
            case "Squeeze" if len(source) == 1:
                self._set(result, source, scalar=True)
            case "Unsqueeze" if scalar and self._get(node.input[1]) in ((0,), (-1,)):
                self._set(result, source)
            case "Reshape" if self._get(node.input[1]) in ((-1,), (len(source),)):
                self._set(result, source)
            case "Gather" if not scalar and attribute(node, "axis", 0) == 0:
                self._gather(node, source, result)
            case "Slice" if not scalar:
                self._slice(node, source, result)
            case "Add" | "Sub" | "Mul" | "Div":
                self._calculate(node, source, result)

    def _choose(self, node: NodeProto, result: str) -> None:
        """Where(sizes == -1, others, sizes), as exporters write "-1 keeps the size": sizes are never -1."""
        test = self.graph.producer(node.input[0])
        sizes = self._get(node.input[2])
        if test is None or test.op_type != "Equal" or sizes is None or node.input[2] not in test.input:
            return
        other = self._get(test.input[1 - list(test.input).index(node.input[2])])
        if other is not None and set(other) == {-1} and all(size != -1 for size in sizes):
            self._set(result, sizes)

    def _gather(self, node: NodeProto, source: Shape, result: str) -> None:
        indices = self._get(node.input[1])
        if indices is None:
            return
        numbers = [index for index in indices if isinstance(index, int) and -len(source) <= index < len(source)]
        if len(numbers) == len(indices):
            self._set(result, tuple(source[index] for index in numbers), scalar=node.input[1] in self._scalars)

    def _slice(self, node: NodeProto, source: Shape, result: str) -> None:
        starts, ends = self._get(node.input[1]), self._get(node.input[2])
        steps = self._get(node.input[4]) if len(node.input) > 4 and node.input[4] else (1,)
        match starts, ends, steps:
            case (int(start),), (int(end),), (int(step),) if step:
                self._set(result, source[start:end:step])

    def _calculate(self, node: NodeProto, left: Shape, result: str) -> None:
        right = self._get(node.input[1])
        if right is None or len(left) != 1 or len(right) != 1:
            return
        scalar = node.input[0] in self._scalars and node.input[1] in self._scalars
        match node.op_type, left[0], right[0]:
            case "Add", int(a), int(b):
                self._set(result, (a + b,), scalar)
            case "Sub", int(a), int(b):
                self._set(result, (a - b,), scalar)
            case "Mul", int(a), int(b):
                self._set(result, (a * b,), scalar)
            case "Div", int(a), int(b) if b:
                self._set(result, (int(a / b) if abs(a) < 2**52 else a // b,), scalar)

    def expand_target(self, node: NodeProto) -> tuple[int, ...] | None:
        """The target of an Expand with 1, which changes nothing, for every size that the source already has."""
        target, source = self.known.get(node.input[1]), self.graph.shapes.get(node.input[0])
        if target is None or source is None or len(target) < len(source) or node.input[1] in self._scalars:
            return None
        sizes: list[int] = []
        for size, old in zip(target, (None,) * (len(target) - len(source)) + source, strict=True):
            if isinstance(size, int):
                sizes.append(size)
            elif size is not None and size == old:
                sizes.append(1)
            else:
                return None
        return tuple(sizes)

    def reshape_target(self, node: NodeProto) -> tuple[int, ...] | None:
        """The target of a Reshape with 0 for "as before" and at most one -1 for what is not a number."""
        target, source = self.known.get(node.input[1]), self.graph.shapes.get(node.input[0])
        if target is None or node.input[1] in self._scalars:
            return None
        sizes: list[int] = []
        for axis, size in enumerate(target):
            if isinstance(size, int):
                if size == 0:
                    return None
                sizes.append(size)
            elif size is not None and source is not None and axis < len(source) and source[axis] == size:
                sizes.append(0)
            else:
                sizes.append(-1)
        unknown = sizes.count(-1)
        if unknown > 1:
            return None
        return tuple(sizes)
