"""An integer model that runs: nodes that onnxruntime cannot run on integers after all stay in float."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from onnx import ModelProto

from converter.attempts import MOST_SAID
from converter.errors import Stopped, allocation_failed
from converter.families import RECTIFIERS, WEIGHTED
from converter.graph import Graph
from converter.quantization.qdq_writer import Plan
from converter.sessions import Feeds, open_session

__all__ = ["Written", "find_problem", "write_running"]

MOST_TRIALS = 24  # of writing the model; by halves that finds several culprits among thousands of nodes


@dataclass(frozen=True)
class Written:
    """A model that runs, the plan it follows, and why nodes of the plan wanted first stay in float."""

    model: ModelProto
    plan: Plan
    kept_float: Mapping[str, str] = field(default_factory=dict)


def write_running(float32: ModelProto, plan: Plan, write: Callable[[Plan], ModelProto], feeds: Feeds) -> Written:
    """What ``write`` makes of the plan, or of as much of it as loads, runs on ``feeds`` and stays finite.

    Nodes are taken in by halves where the whole does not run, a rectifier together with the layer before it.
    """
    said = ""
    trials = 0
    best = Written(float32, replace(plan, nodes=frozenset()))

    def runs(nodes: frozenset[str]) -> bool:
        nonlocal best, said, trials
        trials += 1
        narrowed = replace(plan, nodes=nodes)
        try:
            model = write(narrowed)
            problem = find_problem(float32, model, feeds)
        except (Stopped, MemoryError):
            raise
        except Exception as failure:  # boundary: the quantizer's and onnxruntime's exceptions share no narrower base
            if allocation_failed(failure):
                raise
            problem = f"{type(failure).__name__}: {' '.join(str(failure).split())[:MOST_SAID]}"
        if problem:
            said = problem
            return False
        best = Written(model, narrowed)
        return True

    def take_in(units: Sequence[frozenset[str]]) -> None:
        if not units or trials >= MOST_TRIALS or runs(best.plan.nodes.union(*units)) or len(units) == 1:
            return
        middle = len(units) // 2
        take_in(units[:middle])
        take_in(units[middle:])

    take_in(_units(Graph(float32), plan.nodes))
    reason = f"onnxruntime does not run the model with it on integers ({said})"
    return replace(best, kept_float=dict.fromkeys(sorted(plan.nodes - best.plan.nodes), reason))


def find_problem(float32: ModelProto, model: ModelProto, feeds: Feeds) -> str:
    """What is wrong with the integer model; nothing where it is finite wherever the float model is."""
    outputs = open_session(model).run(None, dict(feeds))
    if all(_finite(each) for each in outputs):
        return ""
    expected = open_session(float32).run(None, dict(feeds))
    names = [value.name for value in float32.graph.output]
    wrong = [name for name, x, y in zip(names, expected, outputs, strict=True) if _finite(x) and not _finite(y)]
    return f"the output {wrong[0]} is not finite" if wrong else ""


def _finite(value: object) -> bool:
    return not isinstance(value, np.ndarray) or value.dtype.kind != "f" or bool(np.isfinite(value).all())


def _units(graph: Graph, nodes: frozenset[str]) -> list[frozenset[str]]:
    """The nodes in topological order; rectifiers go with the layer whose range they decide."""
    units: list[set[str]] = []
    place: dict[str, set[str]] = {}
    for node in graph.nodes:
        if node.name not in nodes:
            continue
        producer = graph.producer(node.input[0]) if node.op_type in RECTIFIERS else None
        if producer is not None and producer.name in place and producer.op_type in WEIGHTED:
            place[producer.name].add(node.name)
            place[node.name] = place[producer.name]
        else:
            units.append({node.name})
            place[node.name] = units[-1]
    known = {name for unit in units for name in unit}
    units += [{name} for name in sorted(nodes - known)]  # such as an identity that the plan itself brings
    return [frozenset(unit) for unit in units]
