"""INT8 models without fixed ranges: dynamic products, or integers for weights alone.

What no synthetic sample can get wrong: ranges are found while the model runs, or activations stay float. On
transformers that is the faithful choice; networks of convolutions have no dynamic kernels worth using, so that static
ranges serve them better. all-MiniLM-L6-v2 keeps the nearest neighbour of 45 % of sentences with onnxruntime's static
integers from real sentences, of 87 % with its dynamic ones, of 96 % with integer weights at FP32's speed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from onnx import ModelProto

from converter.findings import KeptFloat, Quantization, StepTaken
from converter.graph import Graph
from converter.inputs.task import Task
from converter.options import Options, Precision, Step
from converter.quantization.smoothing import Smoothed, smooth
from converter.quantization.treatments import Treated, Treatment, treat, uniform
from converter.sessions import Feeds

__all__ = ["Rangeless", "make_rangeless"]

ACTIVATIONS = {Treatment.DYNAMIC: "U8 at run time", Treatment.WEIGHTS: "float"}


@dataclass(frozen=True)
class Rangeless:
    """The INT8 model, the float model whose tensors it rounds, and the report's decisions."""

    model: ModelProto
    float32: ModelProto
    decisions: Quantization


def make_rangeless(task: Task, calibration: Iterable[Feeds], options: Options) -> Rangeless:
    """The model of ``--precision dynamic`` or ``weights``; samples only tell outliers among channels."""
    treatment = Treatment.DYNAMIC if options.precision is Precision.DYNAMIC else Treatment.WEIGHTS
    wanted = {name: each for name, each in uniform(task.graph, treatment).items() if name not in task.excluded}
    model, steps = task.model, list[StepTaken]()
    if treatment is Treatment.DYNAMIC and Step.MIGRATION not in options.skip:
        dynamic = [name for name, each in wanted.items() if each is Treatment.DYNAMIC]
        smoothed = smooth(task.model, task.graph, task.network, dynamic, calibration)
        model = smoothed.model
        steps.append(_smoothing_taken(smoothed))
    treated = treat(model, wanted)
    return Rangeless(treated.model, model, _decisions(Graph(model), treated, treatment, task.excluded, steps, options))


def _smoothing_taken(smoothed: Smoothed) -> StepTaken:
    return StepTaken(
        name=Step.MIGRATION,
        applied=bool(smoothed.gains),
        sentence=f"Outliers of channels moved from the inputs of dynamic products into their weights: "
        f"{len(smoothed.gains)} tensors, the function unchanged.",
    )


def _decisions(
    graph: Graph,
    treated: Treated,
    treatment: Treatment,
    excluded: Mapping[str, str],
    steps: list[StepTaken],
    options: Options,
) -> Quantization:
    operators = {node.name: node.op_type for node in graph.nodes}
    reasons = dict(treated.reasons) | {name: why for name, why in excluded.items() if name not in treated.nodes}
    counts = Counter(treated.nodes.values())
    sentence = (
        f"{counts[Treatment.DYNAMIC]} nodes compute on integers whose ranges are found at run time, "
        f"{counts[Treatment.WEIGHTS]} have integer weights and compute in float."
    )
    return Quantization(
        precision=str(options.precision),
        target=str(options.target),
        weight_type="S8",
        activation_type=ACTIVATIONS[treatment],
        steps=(*steps, StepTaken(name=str(options.precision), applied=bool(treated.nodes), sentence=sentence)),
        nodes_quantized=counts[Treatment.DYNAMIC],
        nodes_stored=counts[Treatment.WEIGHTS],
        nodes_float=len(graph.nodes) - len(treated.nodes),
        quantized_operators=_operators(Treatment.DYNAMIC, treated, operators),
        stored_operators=_operators(Treatment.WEIGHTS, treated, operators),
        kept_float=tuple(
            KeptFloat(node=name, operator=operators[name], reason=why, weights_stored=name in treated.nodes)
            for name, why in sorted(reasons.items())
            if name in operators and treated.nodes.get(name) is not Treatment.DYNAMIC
        ),
    )


def _operators(treatment: Treatment, treated: Treated, operators: Mapping[str, str]) -> dict[str, int]:
    return dict(Counter(operators[name] for name, each in treated.nodes.items() if each is treatment))
