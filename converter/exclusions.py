"""Which nodes their owner keeps out of the integer model: named, matched by a pattern, or of an operator type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from onnx import ModelProto, NodeProto

from converter.errors import InvalidOption
from converter.families import MOVING, PASSING, RECTIFIERS
from converter.graph import Graph, walk

__all__ = ["excluded_nodes"]

FOLLOWING = MOVING | PASSING | RECTIFIERS  # with no arithmetic of their own, they go with their neighbours


def excluded_nodes(
    original: ModelProto, graph: Graph, exclude: Sequence[str], include: Sequence[str]
) -> Mapping[str, str]:
    """The nodes of the rewritten ``graph`` that stay in float because the owner said so, each with the reason.

    A pattern is a node's name, perhaps with ``*``, ``?`` or ``[..]``, or an operator type; it may speak of the model as
    it came or as it was rewritten. Raises InvalidOption for a pattern that fits no node of either.
    """
    given = [node for node, _ in walk(original.graph)]
    for option, patterns in (("exclude", exclude), ("include", include)):
        for pattern in patterns:
            if not any(_fits(pattern, node) for node in (*given, *graph.nodes)):
                raise InvalidOption(
                    f"No node and no operator type fits {pattern!r}.",
                    field=option,
                    remedy="zsq inspect MODEL.onnx --json lists them; quote patterns with *.",
                )
    reasons: dict[str, str] = {}
    if include:
        wanted = _matched(given, graph, include)
        reasons = {
            node.name: "not among the nodes that were to become integers (--include)"
            for node in graph.nodes
            if node.name not in wanted and node.op_type not in FOLLOWING
        }
    return reasons | {name: f"excluded by {pattern!r}" for name, pattern in _matched(given, graph, exclude).items()}


def _matched(given: Sequence[NodeProto], graph: Graph, patterns: Sequence[str]) -> dict[str, str]:
    """Nodes of the graph that fit, themselves or as they were before rewriting, and the first pattern that does."""
    found: dict[str, str] = {}
    for pattern in patterns:
        before = {node.name for node in given if node.name and _fits(pattern, node)}
        for node in graph.nodes:
            if node.name in before or _fits(pattern, node):
                found.setdefault(node.name, pattern)
    return found


def _fits(pattern: str, node: NodeProto) -> bool:
    return pattern == node.op_type or (bool(node.name) and fnmatchcase(node.name, pattern))
