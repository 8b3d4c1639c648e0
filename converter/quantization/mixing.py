"""Which nodes of an INT8 model have no range of their own: found at run time, or integers in their weights alone.

A product whose input arrives in float pays one pass over it for a range at run time, and nothing else: onnxruntime has
the same kernel for both. In return nothing is clipped that samples did not show, which decides on transformers: MiniLM
keeps the nearest neighbour of 95 % of sentences instead of 75, Stories260K loses 0.007 nats instead of 0.021
(tests/bench/RESULTS.md). A product whose input is integers already, as that of most heads is, keeps its fixed range.

What onnxruntime has no integer kernel for (tables of embeddings, recurrent layers, transposed convolutions) has integer
weights in the file and computes as FP32 does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from onnx import ModelProto, NodeProto

from converter.attempts import Attempts
from converter.findings import StepTaken
from converter.graph import Graph
from converter.inputs.task import Task
from converter.options import Options, Precision, Step
from converter.quantization.dynamic_nodes import cannot_be_dynamic
from converter.quantization.integer_weights import stored_weights
from converter.quantization.placement import candidates, place
from converter.quantization.qdq_writer import WeightGrid
from converter.quantization.running import find_problem
from converter.quantization.smoothing import smooth
from converter.quantization.treatments import STORED, Treatment, treat, uniform
from converter.reconstruction import reconstruct
from converter.sessions import Feeds
from converter.targets import ONNXRUNTIME, Convention

__all__ = ["Mix", "Mixed", "plan_mix", "weights_alone", "write_mix"]

AT_RUN_TIME = "its range is found at run time"


@dataclass(frozen=True)
class Mix:
    """The task with outliers moved out of dynamic inputs, and what every node becomes that is not static."""

    task: Task
    treatments: Mapping[str, Treatment] = field(default_factory=dict)
    steps: tuple[StepTaken, ...] = ()

    @property
    def not_static(self) -> dict[str, str]:
        """Why each dynamic node has no fixed range."""
        return {name: AT_RUN_TIME for name, each in self.treatments.items() if each is Treatment.DYNAMIC}


@dataclass(frozen=True)
class Mixed:
    """An integer model with a mix in it, what its nodes became, and what the report says of it."""

    model: ModelProto
    nodes: Mapping[str, Treatment] = field(default_factory=dict)
    steps: tuple[StepTaken, ...] = ()


def weights_alone(task: Task, convention: Convention = ONNXRUNTIME) -> Mix:
    """The mix that rounds no activation at all."""
    wanted = uniform(task.graph, Treatment.WEIGHTS) if convention.stored_weights else {}
    return Mix(task, {name: each for name, each in wanted.items() if name not in task.excluded})


def plan_mix(task: Task, calibration: Iterable[Feeds], options: Options) -> Mix:
    """The mix for 8 bits; other precisions fix the bits of every range themselves and get none."""
    if options.precision is not Precision.INT8:
        return Mix(task)
    graph, attempts, convention = task.graph, Attempts(), options.convention
    static = place(graph, task.excluded, convention).nodes
    able = candidates(graph)
    treatments: dict[str, Treatment] = {}
    for node in graph.nodes:
        if node.name in task.excluded:
            continue
        fed_in_float = node.name in static and _fed_in_float(node, graph, static, convention)
        if fed_in_float and convention.ranges_at_run_time and not cannot_be_dynamic(node, graph):
            treatments[node.name] = Treatment.DYNAMIC
        elif node.name not in able and convention.stored_weights and stored_weights(node, graph):
            treatments[node.name] = Treatment.WEIGHTS
    dynamic = [name for name, each in treatments.items() if each is Treatment.DYNAMIC]
    steps: list[StepTaken] = []
    if dynamic and Step.MIGRATION not in options.skip:
        with attempts.optional(Step.MIGRATION, "Moving outliers from the inputs of dynamic products"):
            smoothed = smooth(task.model, graph, task.network, dynamic, calibration)
            task = replace(task, model=smoothed.model, graph=Graph(smoothed.model), network=reconstruct(smoothed.model))
            steps.append(
                StepTaken(
                    name=Step.MIGRATION,
                    applied=bool(smoothed.gains),
                    sentence=f"Outliers of channels moved from {len(smoothed.gains)} inputs of dynamic products into "
                    "their weights, the function unchanged.",
                )
            )
    return Mix(task, treatments, (*steps, *(each.as_step() for each in attempts.left_out)))


def _fed_in_float(node: NodeProto, graph: Graph, static: frozenset[str], convention: Convention) -> bool:
    """Whether no integer kernel makes what the node multiplies."""
    producer = graph.producer(node.input[0])
    return producer is None or producer.name not in static or producer.op_type in convention.float_results


def write_mix(
    model: ModelProto, mix: Mix, feeds: Feeds, grids: Mapping[str, WeightGrid] = MappingProxyType({})
) -> Mixed:
    """The integer model with the mix written into it; as it was where onnxruntime does not run the result.

    ``grids`` are those that weights lie on already.
    """
    if not mix.treatments:
        return Mixed(model)
    attempts = Attempts()
    mixed = Mixed(model)
    with attempts.optional("mix", "Integers without fixed ranges"):
        treated = treat(model, mix.treatments, grids)
        if problem := find_problem(model, treated.model, feeds):
            raise ValueError(problem)
        kinds = list(treated.nodes.values())
        sentence = (
            f"{kinds.count(Treatment.DYNAMIC)} nodes find the ranges of their inputs at run time, over all samples "
            f"that run together; {sum(each in STORED for each in kinds)} have integer weights and compute in float."
        )
        mixed = Mixed(treated.model, treated.nodes, (StepTaken(name="mix", applied=bool(kinds), sentence=sentence),))
    return replace(mixed, steps=(*mixed.steps, *(each.as_step() for each in attempts.left_out)))
