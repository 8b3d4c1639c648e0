"""Nodes that change nothing are gone: Identity, Dropout, and casts, pads, transposes, slices, reshapes to the same."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto

from converter.graph import Graph, Shape, attribute
from converter.normalization.rewriting import Change, Rewriting

__all__ = ["merge_transposes", "remove_identities"]

VARIADIC = {"Concat", "Sum", "Max", "Min", "Mean"}


def remove_identities(model: ModelProto) -> tuple[ModelProto, Change]:
    """No node returns its first input as it is, except where an input of the model is also its output."""
    graph = Graph(model)
    rewriting = Rewriting(model)
    count = sum(_changes_nothing(node, graph, rewriting) and rewriting.bypass(node) for node in rewriting.nodes)
    return rewriting.finish(), Change("remove_identities", count, "Nodes removed that changed nothing")


def _changes_nothing(node: NodeProto, graph: Graph, rewriting: Rewriting) -> bool:
    operator = node.op_type
    if not node.input or not node.input[0] or not node.output[0]:
        return False
    if operator == "Identity":
        return True
    if operator == "Dropout":
        mask = node.output[1] if len(node.output) > 1 else ""
        mask_is_used = bool(mask) and (bool(rewriting.readers(mask)) or mask in graph.output_names)
        training = rewriting.constant_input(node, 2)
        inference = len(node.input) < 3 or not node.input[2] or (training is not None and not training.any())
        return not mask_is_used and inference
    if operator in VARIADIC:
        return len(node.input) == 1
    source, result = graph.shapes.get(node.input[0]), graph.shapes.get(node.output[0])
    match operator:
        case "Cast":
            return bool(graph.element_types.get(node.input[0]) == attribute(node, "to"))
        case "CastLike":
            known = graph.element_types.get(node.input[0])
            return known is not None and known == graph.element_types.get(node.input[1])
        case "Pad":
            pads = rewriting.constant_input(node, 1)
            return pads is not None and not pads.any()
        case "Transpose":
            order = attribute(node, "perm")
            return order is not None and list(order) == list(range(len(order)))
        case "Reshape" | "Expand" | "Flatten":
            return _same(source, result)
        case "Slice":
            return _keeps_all(node, source, rewriting)
        case "Add" | "Sub":
            return _is_neutral(rewriting, node, 0.0, source)
        case "Mul" | "Div":
            return _is_neutral(rewriting, node, 1.0, source)
        case "Resize":
            scales = rewriting.constant_input(node, 2)
            cropping = attribute(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize"
            return scales is not None and scales.size > 0 and bool((scales == 1).all()) and not cropping
    return False


def _same(before: Shape | None, after: Shape | None) -> bool:
    return before is not None and None not in before and before == after


def _keeps_all(node: NodeProto, shape: Shape | None, rewriting: Rewriting) -> bool:
    starts, ends = rewriting.constant_input(node, 1), rewriting.constant_input(node, 2)
    axes, steps = rewriting.constant_input(node, 3), rewriting.constant_input(node, 4)
    if starts is None or ends is None or starts.any() or (len(node.input) > 4 and node.input[4] and steps is None):
        return False
    if ends.ndim != 1 or starts.shape != ends.shape or (axes is not None and axes.shape != ends.shape):
        return False
    if steps is not None and (steps != 1).any():
        return False
    if (ends >= 2**31 - 1).all():
        return True
    if shape is None or (len(node.input) > 3 and node.input[3] and axes is None):
        return False
    places = [int(axis) for axis in (axes if axes is not None else range(len(ends)))]
    if not all(-len(shape) <= axis < len(shape) for axis in places):
        return False
    sizes = [shape[axis] for axis in places]
    return all(isinstance(size, int) and end >= size for size, end in zip(sizes, ends, strict=True))


def _is_neutral(rewriting: Rewriting, node: NodeProto, neutral: float, shape: Shape | None) -> bool:
    other = rewriting.constant_input(node, 1)
    if other is None or other.size == 0 or shape is None or other.ndim > len(shape) or (other != neutral).any():
        return False
    known = shape[len(shape) - other.ndim :]
    return all(theirs in (1, ours) for theirs, ours in zip(other.shape, known, strict=True))


def merge_transposes(model: ModelProto) -> tuple[ModelProto, Change]:
    """A Transpose of nothing but another Transpose is one, and none if they undo each other."""
    rewriting = Rewriting(model)
    count = 0
    for node in rewriting.nodes:
        first = rewriting.maker(node.input[0]) if node.op_type == "Transpose" else None
        if first is None or first.op_type != "Transpose" or rewriting.sole_reader(node.input[0]) is not node:
            continue
        inner, outer = attribute(first, "perm"), attribute(node, "perm")
        if not inner or not outer or len(inner) != len(outer):
            continue
        order = np.array(inner)[list(outer)]
        for each in node.attribute:
            if each.name == "perm":
                each.ints[:] = [int(axis) for axis in order]
        rewriting.set_inputs(node, [first.input[0]])
        rewriting.remove(first)
        count += 1
    return rewriting.finish(), Change("merge_transposes", count, "Pairs of transposes merged")
