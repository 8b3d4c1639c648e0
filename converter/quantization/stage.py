"""The optimization and quantization stages: from samples to the INT8 model, with the reasons for every decision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto

from converter.capacity import affordable
from converter.checkpoints import Checkpoints, Saved
from converter.findings import KeptFloat, Quantization, StepTaken
from converter.graph import Graph
from converter.inputs.plans import InputKind, InputPlan, picture_bounds
from converter.inputs.task import Task
from converter.options import RANGELESS, Method, Options, Precision
from converter.progress import Reporter, Stage
from converter.quantization.calibration import SampleReader
from converter.quantization.closed_loop import ClosedLoop, run_closed_loop
from converter.quantization.decisions import Given, Optimized, optimize
from converter.quantization.doubtful_inputs import first_layers_in_doubt
from converter.quantization.int4_packing import pack
from converter.quantization.integer_weights import stored_weights
from converter.quantization.judged_samples import open_shares
from converter.quantization.mixing import Mix, plan_mix, weights_alone, write_mix
from converter.quantization.placement import candidates, weighted_nodes
from converter.quantization.qdq_writer import Plan, Range, quantize
from converter.quantization.rangeless import make_rangeless
from converter.quantization.running import write_running
from converter.quantization.treatments import STORED, Treatment
from converter.synthesis import Synthesis
from converter.targets import Convention

__all__ = ["Integers", "make_integers"]

BATCH = 8
MARGIN = 1.3  # by which ranges exceed the best ones for samples: real inputs reach further. Of 51 networks of 28
# architectures 1.28 leaves layers the least error, of the 14 trained in earnest 1.42; laws of depth or of size do no
# better on architectures left out (tests/bench/RESULTS.md)
IN_FILE = ", its weights are integers in the file"
LEAST_IN_LOOP = 5.0  # dB between FP32 and integers that each feed their own state back


@dataclass(frozen=True)
class Integers:
    """The INT8 model, the float model whose tensors it rounds, the report's decisions, and how ranges were chosen."""

    model: ModelProto
    float32: ModelProto
    decisions: Quantization
    methods: Mapping[str, str]
    observed: Mapping[str, tuple[float, float]]


def make_integers(
    task: Task, samples: Synthesis, options: Options, reporter: Reporter, checkpoints: Checkpoints
) -> Integers:
    """The INT8 model that onnxruntime wrote by our plan, or that of an earlier attempt."""
    saved = checkpoints.load(Stage.QUANTIZATION)
    if saved is not None and saved.model is not None:
        values = saved.values
        observed = {name: (low, high) for name, (low, high) in values["observed"].items()}
        float32 = ModelProto.FromString(saved.arrays["float32"].tobytes())
        return Integers(
            saved.model, float32, Quantization.model_validate(values["decisions"]), values["methods"], observed
        )
    if options.precision in RANGELESS:
        plain = make_rangeless(task, samples.feeds(affordable(task.elements, BATCH)), options)
        made = Integers(plain.model, plain.float32, plain.decisions, {}, {})
        _keep(made, checkpoints)
        return made
    mix = plan_mix(task, samples.feeds(affordable(task.elements, BATCH)), options)
    doubted = first_layers_in_doubt(task.graph, task.plans)
    written = _write(mix, samples, options, reporter, {**doubted, **task.excluded})
    loop = run_closed_loop(task.model, written.model, task.graph, task.plans, samples.held_out)
    if loop is not None and loop.sqnr_db < LEAST_IN_LOOP:
        kept = {**_every_layer(task, loop), **task.excluded}
        written = _write(weights_alone(task, options.convention), samples, options, reporter, kept)
    optimized = written.optimized
    if loop is not None:
        optimized = replace(optimized, steps=[*optimized.steps, _loop_tried(loop)])
    made = Integers(
        written.model,
        optimized.float32,
        _decisions(task, optimized, written.treated, options),
        {name: each.method for name, each in optimized.plan.ranges.items()},
        {name: (each.low, each.high) for name, each in optimized.observed.items()},
    )
    _keep(made, checkpoints)
    return made


def _keep(made: Integers, checkpoints: Checkpoints) -> None:
    checkpoints.save(
        Stage.QUANTIZATION,
        Saved(
            {"decisions": made.decisions.model_dump(mode="json"), "methods": made.methods, "observed": made.observed},
            {"float32": np.frombuffer(made.float32.SerializeToString(), np.uint8)},
            made.model,
        ),
    )


@dataclass(frozen=True)
class _Written:
    """What was decided for the integer model, its file, and the nodes in it that are integers without a fixed range."""

    optimized: Optimized
    model: ModelProto
    treated: Mapping[str, Treatment]


def _write(
    mix: Mix, samples: Synthesis, options: Options, reporter: Reporter, kept_float: Mapping[str, str]
) -> _Written:
    """What is decided for the integer model, and the file that is written by it."""
    task = mix.task
    calibration = list(samples.feeds(affordable(task.elements, BATCH)))
    storable = _storable(mix, options.convention)
    given = Given(
        _stated_ranges(task.plans),
        {**mix.not_static, **kept_float},
        1.0 if samples.own or options.method is Method.NOISE else MARGIN,
        {plan.name: 1 if plan.channels_last else 2 for plan in task.plans if _padded_in_use(plan)},
        (1.0,) if samples.own else open_shares(task.plans),
        storable,
        bool(mix.not_static),
    )
    optimized = optimize(
        task.model,
        task.network,
        task.graph,
        calibration,
        options,
        given,
        lambda share, message: reporter(Stage.OPTIMIZATION, share, message),
    )
    reporter(Stage.QUANTIZATION, 0.0, "writing the integer model")
    four_bits = [name for name, bits in optimized.widths.bits.items() if bits == 4]

    def write(plan: Plan) -> ModelProto:
        model = quantize(optimized.model, plan, SampleReader(lambda: samples.feeds(affordable(task.elements, BATCH))))
        return pack(model, four_bits, options.precision is not Precision.W4A4) if four_bits else model

    first = next(iter(samples.feeds(1)))
    written = write_running(optimized.model, optimized.plan, write, first)
    if written.kept_float:
        kept = {**optimized.placement.kept_float, **written.kept_float}
        placement = replace(optimized.placement, nodes=written.plan.nodes, kept_float=kept)
        optimized = replace(optimized, plan=written.plan, placement=placement)
    grids = written.plan.weights
    fitted = {node.name for node in weighted_nodes(Graph(optimized.model)) if node.input[1] in grids}
    tried = storable & written.kept_float.keys()  # on integers, in vain; their weights are fitted where that went well
    treatments = dict.fromkeys(sorted(optimized.stored.wide | (tried - fitted)), Treatment.WIDE_WEIGHTS)
    treatments |= dict.fromkeys(sorted(optimized.stored.narrow | (tried & fitted)), Treatment.WEIGHTS)
    mix = replace(mix, treatments={**mix.treatments, **treatments})
    mixed = write_mix(written.model, mix, first, grids)
    optimized = replace(optimized, steps=[*mix.steps, *optimized.steps, *mixed.steps])
    return _Written(optimized, mixed.model, mixed.nodes)


def _storable(mix: Mix, convention: Convention) -> frozenset[str]:
    """The nodes whose weights may be integers in the file should they stay in float: none that its owner excluded."""
    settled = mix.treatments.keys() | mix.task.excluded.keys()
    graph = mix.task.graph
    able = {node.name for node in graph.nodes if node.name not in settled and stored_weights(node, graph)}
    return frozenset(able if convention.stored_weights else ())


def _stated_ranges(plans: tuple[InputPlan, ...]) -> dict[str, Range]:
    """The range of every picture input: with one scale for all channels its 256 codes then are the 256 pixel values."""
    bounds = {plan.name: picture_bounds(plan) for plan in plans}
    return {name: Range(*each, "the darkest and the brightest pixel") for name, each in bounds.items() if each}


def _padded_in_use(plan: InputPlan) -> bool:
    """Whether the input is a float picture in batches, whose rows may be padding."""
    return plan.kind is InputKind.PICTURE and plan.dtype.kind == "f" and plan.batch_axis == 0 and len(plan.shape) == 3


def _every_layer(task: Task, loop: ClosedLoop) -> dict[str, str]:
    """Every layer with weights, and why it stays in float: errors of a loop add up, and no single step shows them."""
    reason = f"the model feeds its state back, and {loop} (at least {LEAST_IN_LOOP:.0f} dB)"
    return {node.name: reason for node in weighted_nodes(task.graph)}


def _loop_tried(loop: ClosedLoop) -> StepTaken:
    verdict = "enough" if loop.sqnr_db >= LEAST_IN_LOOP else "too little"
    return StepTaken(
        name="closed-loop",
        applied=True,
        sentence=f"The model feeds its state back; on integers, {loop}: {verdict} to stay there (at least "
        f"{LEAST_IN_LOOP:.0f} dB, on synthetic inputs). Figures of single steps, as everywhere else in this report, do "
        "not show that.",
    )


def _decisions(task: Task, optimized: Optimized, treated: Mapping[str, Treatment], options: Options) -> Quantization:
    nodes = {node.name: node for node in task.graph.nodes}
    stored = {name for name, each in treated.items() if each in STORED}
    integer = (optimized.placement.nodes | treated.keys()) - stored
    reasons = {name: why for name, why in optimized.placement.kept_float.items() if name not in integer}
    able = candidates(task.graph, options.convention)
    without_kernel = [
        node.name
        for node in task.graph.nodes
        if node.name in stored or node.op_type in ("ConvTranspose", "LSTM", "GRU", "RNN", "If", "Loop")
    ]
    for name in without_kernel:
        reasons.setdefault(name, "onnxruntime has no integer kernel for it")
    coarse = any(each.levels == 16 for each in optimized.plan.ranges.values())
    kept = [
        KeptFloat(
            node=name,
            operator=nodes[name].op_type,
            reason=f"{why}{IN_FILE if name in stored else ''}",
            weights_stored=name in stored,
        )
        for name, why in reasons.items()
        if name in nodes and (name in able or name in without_kernel)
    ]
    return Quantization(
        precision=str(options.precision),
        target=str(options.target),
        weight_type=optimized.widths.weight_type,
        activation_type="U4, U8" if coarse else options.convention.activations,
        steps=tuple(optimized.steps),
        nodes_quantized=len(integer),
        nodes_stored=len(stored),
        nodes_float=len(nodes) - len(integer) - len(stored),
        quantized_operators=_operators(integer, nodes),
        stored_operators=_operators(stored, nodes),
        kept_float=tuple(kept),
        frontier=optimized.widths.frontier or None,
    )


def _operators(names: Iterable[str], nodes: Mapping[str, NodeProto]) -> dict[str, int]:
    return dict(Counter(nodes[name].op_type for name in sorted(names)))
