"""Branches that nobody but a Concat reads are rounded to the Concat's own grid, once.

Onnxruntime brings every input of an integer Concat to the grid of its result. A finer grid of a branch's own is lost
there, costs a second rounding and a table look-up for each value, where equal grids are copied: a third of the time of
NanoDet's 16 joins (tests/bench/RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import NodeProto

from converter.graph import Graph
from converter.quantization.qdq_writer import Range

__all__ = ["join_ranges"]


def join_ranges(
    graph: Graph, nodes: frozenset[str], shared: Mapping[str, str], ranges: Mapping[str, Range]
) -> dict[str, Range]:
    """``ranges`` with the result's in place of a branch's wherever an integer Concat alone reads the branch.

    ``shared`` maps each quantized tensor to the one whose range it has, ``ranges`` holds those. Later joins go first,
    so that a join of joins is rounded once as well.
    """
    joined = dict(ranges)
    members: dict[str, list[str]] = {}
    for tensor, source in shared.items():
        members.setdefault(source, []).append(tensor)
    for node in reversed(graph.nodes):
        if node.op_type != "Concat" or node.name not in nodes or node.output[0] not in shared:
            continue
        wanted = joined[shared[node.output[0]]]
        for source in dict.fromkeys(shared[tensor] for tensor in node.input if tensor in shared):
            if joined[source].levels == wanted.levels and _alone(node, members[source], graph):
                joined[source] = wanted
    return joined


def _alone(join: NodeProto, members: list[str], graph: Graph) -> bool:
    """Whether the tensors of one range are read by the join and by what hands them on to it, and come from a node."""
    readers = {reader.name for member in members for reader in graph.consumers(member)}
    inside = {node.name for member in members if (node := graph.producer(member)) is not None}
    made = all(graph.producer(member) is not None for member in members)
    return made and readers <= inside | {join.name} and graph.output_names.isdisjoint(members)
