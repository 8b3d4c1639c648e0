"""Where a network says what it sees: class scores, and the scores of detectors and segmenters place by place."""

from __future__ import annotations

from dataclasses import dataclass

from converter.graph import Graph, attribute

__all__ = ["Score", "find_scores"]

MOVING = frozenset(
    {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat", "Identity", "Gather"}
)


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
        if node.op_type in ("Sigmoid", "HardSigmoid"):
            found.append(Score(node.input[0], None))
        elif node.op_type in ("Softmax", "LogSoftmax"):
            found.append(Score(node.input[0], int(attribute(node, "axis", -1))))
        elif node.op_type in MOVING:
            pending.extend(name for name in node.input if name and name not in graph.initializers)
    return tuple(sorted(found, key=lambda each: each.tensor))
