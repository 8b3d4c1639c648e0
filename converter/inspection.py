"""What a conversion would do with a model, found out without converting it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from onnx import ModelProto

from converter.admission import ModelFacts, admit
from converter.errors import Refusal
from converter.graph import Graph, opset, walk
from converter.inputs.description import describe_task
from converter.inputs.plans import ADJUSTABLE, InputPlan
from converter.normalization import Change, normalize
from converter.operators import select
from converter.options import Options
from converter.quantization.placement import candidates, place
from converter.reconstruction import reconstruct
from converter.specifications import input_option

__all__ = ["Inspection", "NodePlan", "inspect"]


@dataclass(frozen=True)
class NodePlan:
    """Whether a node of the normalized model would run on integers, and if not, why."""

    name: str
    operator: str
    integer: bool
    why_float: str | None = None


@dataclass(frozen=True)
class Inspection:
    """What is in a model, what each input is taken for, which nodes would run on integers, and what stands against it.

    ``refusals`` are what a conversion would be refused for, as in an error's facts; without any it would begin.
    Which nodes run on integers is what the graph alone decides; a conversion may leave more in float where it measures
    that this is better.
    """

    facts: ModelFacts
    notes: tuple[str, ...]
    changes: tuple[Change, ...]
    nodes: tuple[NodePlan, ...]
    refusals: tuple[Mapping[str, str], ...]
    inputs: tuple[InputPlan, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """The inspection as plain JSON values."""
        return {
            "model": self.facts.to_dict(),
            "notes": list(self.notes),
            "changes": [asdict(change) for change in self.changes],
            "inputs": [_input_facts(plan) for plan in self.inputs],
            "nodes": [asdict(node) for node in self.nodes],
            "refusals": [dict(refusal) for refusal in self.refusals],
        }

    def __str__(self) -> str:
        return "\n".join([*_head(self), "", *_table(self.nodes), "", *_tail(self)])


def inspect(source: str | Path | bytes | ModelProto, options: Options | None = None) -> Inspection:
    """What is in the model and what would become of it with the options; raises Refusal if not even that can be said.

    Takes seconds: the float network is rebuilt and runs, to find out how its inputs are scaled.
    """
    options = options or Options()
    admitted = admit(source)
    refusals = _refusals(admitted.model)
    if refusals:
        return Inspection(admitted.facts, admitted.notes, (), (), refusals)
    normalized = normalize(admitted.model)
    graph = Graph(normalized.model)
    try:
        task = describe_task(admitted.model, normalized, reconstruct(normalized.model), options)
    except Refusal as problem:
        return Inspection(admitted.facts, admitted.notes, tuple(normalized.changes), (), (problem.facts(),))
    able = candidates(graph, options.convention)
    placement = place(graph, task.excluded, options.convention)
    nodes = []
    for node in graph.nodes:
        integer = node.name in placement.nodes
        why = placement.kept_float.get(node.name, "there is no integer kernel for it")
        nodes.append(NodePlan(node.name, node.op_type, integer, None if integer else why))
    if not able:
        nothing = {"kind": "UnsupportedModel", "message": "Nothing in this model has an integer kernel."}
        refusals = ({**nothing, "remedy": "There is nothing to gain; use the FP32 model."},)
    return Inspection(admitted.facts, admitted.notes, tuple(normalized.changes), tuple(nodes), refusals, task.plans)


def _input_facts(plan: InputPlan) -> dict[str, object]:
    """An input as plain JSON values: what it is taken for, why, how sure, and what to state where that is wrong."""
    return {
        "name": plan.name,
        "kind": str(plan.kind),
        "type": str(plan.dtype),
        "shape": list(plan.shape),
        "scaled": [each.name for each in (plan.scaling, *plan.rivals)],
        "why": plan.reason,
        "overrule": plan.overrule,
        "confidence": plan.confidence,
        "hypotheses": [
            {
                "name": each.name,
                "probability": each.probability,
                "why": each.why,
                "specification": plan.specification(each),
            }
            for each in plan.considered
        ],
    }


def _refusals(model: ModelProto) -> tuple[Mapping[str, str], ...]:
    """Every operator without a function, each once, and otherwise the first thing that stops the reconstruction."""
    try:
        reconstruct(model)
    except Refusal as first:
        version = opset(model)
        unknown = Counter(
            node.op_type
            for node, _ in walk(model.graph)
            if node.op_type != "Constant" and not select(node.op_type, version)
        )
        others = [
            {"kind": "UnsupportedModel", "operator": name, "message": f"{name}, {count} times, is not supported."}
            for name, count in unknown.items()
            if name != (first.operator or "").partition("-")[0]
        ]
        return (first.facts(), *others)
    return ()


def _head(inspection: Inspection) -> list[str]:
    facts = inspection.facts
    made_by = f", made by {facts.producer}" if facts.producer else ""
    return [
        f"opset {facts.opset}, IR {facts.ir_version}, {facts.nodes} nodes, {facts.parameters:,} parameters, "
        f"{facts.file_bytes / 1e6:.2f} MB{made_by}",
        *(line for value in facts.inputs for line in (f"input   {value}", *_taken_for(value.name, inspection.inputs))),
        *(f"output  {value}" for value in facts.outputs),
        *(f"note    {note}" for note in inspection.notes),
        *(f"change  {change.sentence}" for change in inspection.changes),
    ]


def _taken_for(name: str, plans: tuple[InputPlan, ...]) -> list[str]:
    """What an input is taken for, how sure that is and why, and what to type if it is something else."""
    plan = next((each for each in plans if each.name == name), None)
    if plan is None:
        return []
    scales = " or ".join(each.name for each in (plan.scaling, *plan.rivals))
    scaled = f", scaled {scales}" if plan.kind in ADJUSTABLE else ""
    lines = [f"        taken for {plan.kind}{scaled}, since {plan.reason}; otherwise {plan.overrule}"]
    if plan.considered:
        lines.append(f"        {plan.scaling.name} is {plan.confidence:.0%} sure; {plan.considered[0].why}")
        lines += [
            f"        if it is {each.name} ({each.probability:.0%}): {input_option(name, plan.specification(each))}"
            for each in (plan.scaling, *plan.others)
        ]
    return lines


def _table(nodes: tuple[NodePlan, ...]) -> list[str]:
    """Operators by number of nodes: how many on integers, how many in float, and the usual reasons."""
    if not nodes:
        return []
    every = Counter(node.operator for node in nodes)
    integer = Counter(node.operator for node in nodes if node.integer)
    width = max(8, *(len(name) for name in every))
    lines = [f"{'operator':{width}}  {'nodes':>5}  {'integer':>7}  {'float':>5}  why float"]
    for name, count in every.most_common():
        reasons = Counter(node.why_float for node in nodes if node.operator == name and node.why_float)
        why = "; ".join(reason for reason, _ in reasons.most_common(2))
        lines.append(f"{name:{width}}  {count:>5}  {integer[name]:>7}  {count - integer[name]:>5}  {why}".rstrip())
    return lines


def _tail(inspection: Inspection) -> list[str]:
    if inspection.refusals:
        sentences = (f"{each['message']} {each.get('remedy', '')}".rstrip() for each in inspection.refusals)
        return [f"refused {sentence}" for sentence in sentences]
    integer = sum(node.integer for node in inspection.nodes)
    return [f"{integer} of {len(inspection.nodes)} nodes would run on integers. Nothing would be refused."]
