"""Where a network says what it sees: class scores, and the scores of detectors and segmenters place by place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from onnx import TensorProto

from converter.errors import InvalidOption
from converter.families import MOVING, RENAMING, SIGMOIDS, SOFTMAXES
from converter.graph import Graph, Shape, attribute
from converter.options import OutputKind

__all__ = ["FLOAT", "ClassOutput", "Score", "class_output", "find_scores", "judged_tensors"]


@dataclass(frozen=True)
class Score:
    """A tensor of scores before they are squashed: one of several classes along ``axis``, or each for itself (None)."""

    tensor: str
    axis: int | None


def find_scores(graph: Graph, logits: str | None) -> tuple[Score, ...]:
    """The class scores, or else every Sigmoid's and Softmax's input whose result only moves on its way to an output."""
    if logits is not None:
        return (Score(logits, 1),)
    found: list[Score] = []
    pending, seen = [output.name for output in graph.outputs], set[str]()
    while pending:
        tensor = pending.pop()
        node = graph.producer(tensor)
        if tensor in seen or node is None:
            continue
        seen.add(tensor)
        if node.op_type in SIGMOIDS:
            found.append(Score(node.input[0], None))
        elif node.op_type in SOFTMAXES:
            found.append(Score(node.input[0], int(attribute(node, "axis", -1))))
        elif node.op_type in MOVING:
            pending.extend(name for name in node.input if name and name not in graph.initializers)
    return tuple(sorted(found, key=lambda each: each.tensor))


LARGEST_CLASSES = 100_000
KEEPING = RENAMING | {"Cast", "Dropout", "DequantizeLinear"}  # the scores stay what they are
SCORING = frozenset({"Gemm", "MatMul", "Conv", "GlobalAveragePool", "ReduceMean", "Add"})
FLOAT = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})


@dataclass(frozen=True)
class ClassOutput:
    """The output that holds one score a class, and why it is taken for that."""

    name: str
    reason: str


def class_output(graph: Graph, kinds: Mapping[str, OutputKind] = MappingProxyType({})) -> ClassOutput | None:
    """The output that the owner states to hold class scores; else the only output shaped like them whose last operator
    makes such scores, unless ``kinds`` states it to be something else; or None.

    Shape alone cannot tell class scores from an embedding; the reason goes into the report for the owner to judge.
    Raises InvalidOption for outputs that are not there or have no axis of classes.
    """
    if (stated := _stated_classes(graph, kinds)) is not None:
        return stated
    candidates = set()
    for output in graph.outputs:
        shape = output.shape or graph.shapes.get(output.name)
        scores_classes = shape is not None and output.element_type in FLOAT and _holds_classes(shape)
        if scores_classes and output.name not in kinds:
            candidates.add(output.name)
    if len(candidates) != 1 or len(graph.output_names) != 1:  # one output may be listed twice
        return None
    (name,) = candidates
    node = graph.producer(name)
    while node is not None and node.op_type in KEEPING:
        node = graph.producer(node.input[0])
    if node is None:
        return None
    if node.op_type in SOFTMAXES:
        return ClassOutput(name, f"the model ends in {node.op_type}")
    if node.op_type in SCORING:
        return ClassOutput(name, f"the model ends in one row of numbers a sample, made by {node.op_type}")
    return None


def _holds_classes(shape: Shape) -> bool:
    """[N, classes], maybe with two axes of size 1 behind."""
    if len(shape) not in (2, 4) or any(size != 1 for size in shape[2:]):
        return False
    return isinstance(shape[1], int) and 2 <= shape[1] <= LARGEST_CLASSES


def _stated_classes(graph: Graph, kinds: Mapping[str, OutputKind]) -> ClassOutput | None:
    names = [output.name for output in graph.outputs]
    for name in kinds:
        if name not in names:
            raise InvalidOption(
                f"There is no output {name!r}.", field="outputs", remedy=f"The outputs are {', '.join(names)}."
            )
    stated = [output for output in graph.outputs if kinds.get(output.name) is OutputKind.CLASSES]
    if len(stated) > 1:
        raise InvalidOption(
            f"{len(stated)} outputs are stated to be classes; decisions are compared at one.",
            field="outputs",
            remedy=f"State one of {', '.join(output.name for output in stated)}.",
        )
    for output in stated:
        shape = output.shape or graph.shapes.get(output.name)
        if output.element_type not in FLOAT or (shape is not None and not _holds_classes(shape)):
            raise InvalidOption(
                f"The output {output} cannot be classes: those are [N, classes] of floats, with 2 classes or more.",
                field="outputs",
            )
    return ClassOutput(stated[0].name, "its owner states so") if stated else None


def judged_tensors(graph: Graph) -> list[str]:
    """Where damage is measured: what the outputs are joined of, and scores before their softmax or sigmoid.

    A detector joins boxes of hundreds of pixels with scores below one: in the joined output the scores' errors are
    invisible. Saturated scores hide damage as well. Sorted, each once.
    """
    found: set[str] = set()
    pending, seen = [output.name for output in graph.outputs], set[str]()
    while pending:
        tensor = pending.pop()
        if tensor in seen or tensor in graph.initializers:
            continue
        seen.add(tensor)
        node = graph.producer(tensor)
        if node is None:
            continue
        if node.op_type == "Concat":
            pending.extend(node.input)
        elif node.op_type in MOVING | {"ArgMax", "Cast"} and node.input[0] not in graph.initializers:
            pending.append(node.input[0])
        elif node.op_type in SIGMOIDS | SOFTMAXES:
            found.add(node.input[0])
        else:
            found.add(tensor)
    return sorted(found)
