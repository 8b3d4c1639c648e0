"""What becomes of an input inside the graph: who consumes it, as which operand, and where its axes are by then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from converter.graph import Graph, attribute

__all__ = ["Axes", "Use", "leads_to", "stored", "uses"]

Axes = tuple[int | None, ...]  # for each axis of a tensor the input's axis that it holds, None where it is new

SAME = frozenset(  # one operand's elements become the result's elements, in place
    {
        *("Cast", "Identity", "Neg", "Abs", "Sqrt", "Log", "Exp", "Reciprocal", "Clip", "Floor", "Round", "Ceil"),
        *("Dropout", "BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"),
        *("QuantizeLinear", "DequantizeLinear", "Pad", "Slice", "Resize", "Upsample", "Not", "Relu", "Tanh", "Sigmoid"),
    }
)
TWO = frozenset(  # elements of two operands meet
    {
        *("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Mod", "And", "Or", "Xor"),
        *("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual"),
    }
)
MOVED = frozenset({"Reshape", "Flatten", "Expand", "Tile"})  # elements stay, axes are lost
MOST = 256  # tensors looked at; an input that has met no weights by then meets them nowhere near


@dataclass(frozen=True)
class Use:
    """A node that reads an input, perhaps through others.

    ``place`` is the operand (-1 where a body captures it), ``axes`` where the input's axes stand in that operand (None
    where a reshape mixed them), ``passed`` the operators on the way, ``shift`` what constants added to its numbers.
    """

    node: NodeProto
    place: int
    axes: Axes | None
    passed: tuple[str, ...]
    tensor: str
    shift: float = 0.0

    @property
    def operator(self) -> str:
        """The operator that reads it."""
        return str(self.node.op_type)


def uses(graph: Graph, name: str, rank: int) -> tuple[Use, ...]:
    """Every use of an input of this rank, nearest first, up to the nodes that make something else of it.

    Weighted layers, tables, recurrent layers, transforms and bodies end the way; moves and arithmetic do not.
    """
    found: list[Use] = []
    pending: list[tuple[str, Axes | None, tuple[str, ...], float]] = [(name, tuple(range(rank)), (), 0.0)]
    seen = {name}
    while pending and len(seen) < MOST:
        tensor, axes, passed, shift = pending.pop(0)
        for node in graph.consumers(tensor):
            places = [place for place, read in enumerate(node.input) if read == tensor] or [-1]
            for place in places:
                use = Use(node, place, axes, passed, tensor, shift)
                found.append(use)
                moved = _moved(use, graph)
                if moved is not None:
                    outputs = node.output if node.op_type == "Split" else node.output[:1]
                    for output in outputs:
                        if output not in seen:
                            seen.add(output)
                            pending.append((output, moved[0], (*passed, str(node.op_type)), shift + moved[1]))
    return tuple(found)


def _moved(use: Use, graph: Graph) -> tuple[Axes | None, float] | None:
    """Where the axes are behind a node that only moves or computes elementwise, and what it adds; None for others."""
    node, axes = use.node, use.axes
    match use.operator:
        case operator if operator in SAME and use.place == 0:
            return axes, 0.0
        case operator if operator in TWO:
            return _met(use, graph)
        case "Where" if use.place > 0:
            return axes, 0.0
        case "Concat" | "Split":
            return axes, 0.0
        case "Transpose":
            perm = attribute(node, "perm")
            if axes is None:
                return None, 0.0
            return (tuple(axes[each] for each in perm) if perm else axes[::-1]), 0.0
        case "Unsqueeze" | "Squeeze" if use.place == 0:
            return _squeezed(use, graph), 0.0
        case "Gather" if use.place == 0:
            index = stored(graph, node.input[1])
            if index is None:
                return None
            axis = int(attribute(node, "axis", 0))
            kept = axes if axes is None or index.ndim == 1 else (*axes[:axis], *axes[axis:][1:])
            return (kept if index.ndim <= 1 else None), 0.0
        case "Reshape" if use.place == 0:
            return _reshaped(use, graph), 0.0
        case operator if operator in MOVED and use.place == 0:
            return None, 0.0
    return None


def _reshaped(use: Use, graph: Graph) -> Axes | None:
    """Where the axes are behind a reshape that only adds, drops or moves axes of one; None where it mixes others."""
    before, after = graph.shapes.get(use.tensor), graph.shapes.get(use.node.output[0])
    if use.axes is None or before is None or after is None or len(before) != len(use.axes):
        return None
    long = [[place for place, size in enumerate(shape) if size != 1] for shape in (before, after)]
    sizes = [
        [size if isinstance(size, int) else None for place in places if (size := shape[place]) != 1]
        for places, shape in zip(long, (before, after), strict=True)
    ]
    if sizes[0] != sizes[1] or sizes[0].count(None) > 1:
        return None
    ones = [[place for place, size in enumerate(shape) if size == 1] for shape in (before, after)]
    moved = dict(zip(long[1], long[0], strict=True))
    if len(ones[0]) == len(ones[1]):
        moved |= dict(zip(ones[1], ones[0], strict=True))
    return tuple(use.axes[moved[place]] if place in moved else None for place in range(len(after)))


def _met(use: Use, graph: Graph) -> tuple[Axes | None, float]:
    """Behind arithmetic with another operand, whose rank may be larger."""
    other = use.node.input[1 - use.place] if len(use.node.input) == 2 else ""
    constant = stored(graph, other)
    rank = constant.ndim if constant is not None else len(graph.shapes.get(other, ()))
    axes = use.axes
    if axes is not None and rank > len(axes):
        axes = (*(None for _ in range(rank - len(axes))), *axes)
    added = 0.0
    if constant is not None and constant.size and use.operator in ("Add", "Sub"):
        largest = float(np.max(constant)) if constant.dtype.kind in "iuf" else 0.0
        added = largest if use.operator == "Add" else -largest
    return axes, added if use.place == 0 or use.operator == "Add" else 0.0


def _squeezed(use: Use, graph: Graph) -> Axes | None:
    if use.axes is None:
        return None
    node = use.node
    given = attribute(node, "axes")
    if given is None and len(node.input) > 1:
        constant = stored(graph, node.input[1])
        given = None if constant is None else constant.reshape(-1).tolist()
    if given is None:
        return None
    grown = len(use.axes) + (len(given) if node.op_type == "Unsqueeze" else 0)
    places = {int(each) % max(grown, 1) for each in given}
    if node.op_type == "Squeeze":
        return tuple(axis for place, axis in enumerate(use.axes) if place not in places)
    rest = iter(use.axes)
    return tuple(None if place in places else next(rest) for place in range(grown))


def stored(graph: Graph, tensor: str) -> NDArray[Any] | None:
    """The constant that a tensor is, looking through casts of a stored one; None for anything else."""
    for _ in range(8):
        if tensor in graph.initializers:
            return graph.initializers[tensor]
        node = graph.producer(tensor)
        if node is None:
            return None
        if node.op_type == "Constant":
            value = attribute(node, "value")
            if value is not None:
                return np.asarray(numpy_helper.to_array(value))
            for kind in ("value_float", "value_int", "value_floats", "value_ints"):
                if (number := attribute(node, kind)) is not None:
                    return np.asarray(number)
            return None
        if node.op_type not in ("Cast", "Identity", "DequantizeLinear", "Unsqueeze", "Squeeze"):
            return None
        tensor = node.input[0]
    return None


def leads_to(graph: Graph, tensor: str, through: frozenset[str]) -> str | None:
    """The graph's output that a tensor becomes through nothing but the given operators, or None."""
    pending, seen = [tensor], {tensor}
    while pending:
        current = pending.pop(0)
        if current in graph.output_names:
            return current
        for node in graph.consumers(current):
            if node.op_type in through and node.input[0] == current:
                fresh = [each for each in node.output if each not in seen]
                seen.update(fresh)
                pending.extend(fresh)
    return None
