"""The report, put together from what every stage left."""

from __future__ import annotations

import math
import platform
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from onnx import ModelProto

from converter.admission import Admitted
from converter.evaluation.diagnosis import diagnose
from converter.evaluation.hypotheses import worst_plausible
from converter.evaluation.latency import processor
from converter.evaluation.stage import Measured
from converter.evaluation.verdict import Evidence, reach_verdict
from converter.findings import (
    Caution,
    Change,
    Curve,
    Environment,
    Hypothesis,
    Input,
    Layer,
    Model,
    Size,
    TensorFact,
    Timings,
)
from converter.findings import Synthesis as SynthesisSection
from converter.graph import Graph, Value, multiply_adds
from converter.inputs.plans import ADJUSTABLE, COLOURED, CONVENTIONAL, SURE, InputKind, InputPlan
from converter.inputs.task import Task
from converter.normalization import Normalized
from converter.options import Options, Precision
from converter.provenance import digest, versions
from converter.quantization.stage import Integers
from converter.quantization.target_forms import target_forms
from converter.report import Report
from converter.report.command import command_line
from converter.report.examples import make_examples
from converter.specifications import input_option
from converter.synthesis import Synthesis

__all__ = ["Facts", "assemble_report"]

WORDS = {
    InputKind.PICTURE: "pictures with the 1/f spectrum of natural images",
    InputKind.SIGNAL: "signals with a 1/f spectrum and a varying loudness",
    InputKind.FEATURES: "Gaussian features whose rows share half of their variance",
    InputKind.TOKENS: "valid tokens, half of the samples with the skewed frequencies of text",
    InputKind.VIDEO: "films: windows that move over pictures with a 1/f spectrum",
    InputKind.MAP: "smooth fields of both signs",
    InputKind.SPECTRUM: "Gaussian spectra whose frames share half of their variance",
    InputKind.EMBEDDINGS: "Gaussian embeddings whose steps share half of their variance",
    InputKind.TYPES: "segments of a text, one after the other",
    InputKind.POSITIONS: "one place after the other",
    InputKind.MASK: "what keeps, up to the end of each sample",
    InputKind.LENGTHS: "lengths from a fifth of the longest on",
    InputKind.SIZES: "the size of the pictures",
    InputKind.STEP: "steps of a process, evenly",
    InputKind.CACHE: "what the network makes of other samples' tokens",
    InputKind.STATE: "as the network leaves it after some steps",
    InputKind.CONSTANT: "one constant",
}


@dataclass(frozen=True)
class Facts:
    """What the pipeline knows beside its stages' values."""

    source: str | Path | bytes | ModelProto
    started: datetime
    stages: Mapping[str, float]
    admitted: Admitted
    normalized: Normalized


def assemble_report(
    facts: Facts, task: Task, samples: Synthesis, integers: Integers, measured: Measured, options: Options
) -> Report:
    """The whole report; its numbers come from the stages, its words from here."""
    original_bytes = facts.admitted.facts.file_bytes
    layers = tuple(_layer(each, integers, measured) for each in measured.layers)
    size = Size.of(max(original_bytes, 1), integers.model.ByteSize())
    evidence = Evidence(
        measured.fidelity,
        measured.predicted,
        measured.validation,
        measured.latency,
        size,
        measured.shares,
        _work(task.graph),
        options.min_agreement,
    )
    return Report(
        verdict=reach_verdict(evidence, task.graph),
        model=_model(facts, task),
        options=options.to_dict(),
        environment=_environment(facts, options),
        inputs=tuple(_input(plan, facts, measured) for plan in task.plans),
        synthesis=_synthesis(task, samples, options),
        quantization=integers.decisions.model_copy(
            update={"targets": target_forms(task.graph, task.excluded, options.target, options.precision)}
        ),
        fidelity=measured.fidelity,
        predicted=measured.predicted,
        validation=measured.validation,
        diagnosis=diagnose(task.graph, layers, measured.shares),
        layers=layers,
        kernels=measured.kernels,
        latency=measured.latency,
        size=size,
        timings=Timings(
            stages=dict(facts.stages), total_seconds=sum(facts.stages.values()), peak_memory_bytes=_peak_memory()
        ),
        warnings=tuple(_cautions(task, integers, measured, options)),
    )


def _work(graph: Graph) -> dict[str, int]:
    """Multiply-adds of every node with weights whose result has a known size."""
    elements = {
        name: math.prod(size for size in shape[1:] if isinstance(size, int)) for name, shape in graph.shapes.items()
    }
    return {node.name: count for node in graph.nodes if (count := multiply_adds(node, graph, elements))}


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _model(facts: Facts, task: Task) -> Model:
    given = facts.admitted.facts
    return Model(
        name=_name(facts.source),
        sha256=digest(facts.source),
        bytes=given.file_bytes,
        ir_version=given.ir_version,
        opset=given.opset,
        producer=given.producer,
        nodes=given.nodes,
        parameters=given.parameters,
        macs=task.multiply_adds,
        operators=dict(given.operators),
        inputs=tuple(map(_tensor_fact, given.inputs)),
        outputs=tuple(map(_tensor_fact, given.outputs)),
        notes=facts.admitted.notes,
        changes=tuple(
            Change(name=each.name, count=each.count, sentence=each.sentence) for each in facts.normalized.changes
        ),
        rewriting_error=task.rewriting_error,
    )


def _name(source: str | Path | bytes | ModelProto) -> str:
    return Path(source).name if isinstance(source, str | Path) else "model.onnx"


def _tensor_fact(value: Value) -> TensorFact:
    return TensorFact(name=value.name, type=value.dtype, shape=value.shape)


def _environment(facts: Facts, options: Options) -> Environment:
    cpu = processor()
    return Environment(
        command=command_line(_name(facts.source), options),
        seed=options.seed,
        threads=options.threads,
        cpu=cpu.name,
        vnni=cpu.vnni,
        platform=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        packages=versions(),
        started=facts.started.isoformat(timespec="seconds"),
    )


def _input(plan: InputPlan, facts: Facts, measured: Measured) -> Input:
    declared = next((each.shape for each in facts.admitted.facts.inputs if each.name == plan.name), None)
    words = "voices and breath of varying loudness" if plan.is_sound else WORDS[plan.kind]
    low = high = None
    if plan.kind in COLOURED:
        turns = (plan.scaling, *plan.rivals)
        ends = [
            value
            for each in turns
            for pair in zip(each.scale, each.offset, strict=False)
            for value in (pair[1], sum(pair))
        ]
        low, high = min(ends), max(ends)
        words += f", scaled as {' or '.join(each.name for each in turns)}"
    elif plan.kind in ADJUSTABLE:
        words += f", scaled as {plan.scaling.name}"
    elif plan.kind is InputKind.TOKENS:
        low, high = float(plan.tokens[0]), float(plan.tokens[1] - 1)
    elif plan.kind is InputKind.CONSTANT:
        low, high = min(plan.choices, default=plan.value), max(plan.choices, default=plan.value)
    return Input(
        name=plan.name,
        type=str(plan.dtype),
        shape=declared,
        shape_used=plan.shape if plan.batch_axis is None else (1, *plan.shape),
        kind=str(plan.kind),
        distribution=words,
        low=low,
        high=high,
        known_by="user" if plan.stated else "found" if plan.considered else "graph",
        reason=plan.reason,
        overrule=plan.overrule,
        hypotheses=_hypotheses(plan, measured),
    )


def _hypotheses(plan: InputPlan, measured: Measured) -> tuple[Hypothesis, ...]:
    """Everything that the input may be scaled like, likeliest first, with what INT8 keeps under what is open."""
    judged = {each.scaling.name: each for each in measured.hypotheses if each.input == plan.name}
    found = []
    for scaling in plan.considered:
        under = judged.get(scaling.name)
        decisions = under.compared.decisions if under else None
        found.append(
            Hypothesis(
                input=plan.name,
                name=scaling.name,
                probability=scaling.probability,
                taken=scaling in (plan.scaling, *plan.rivals),
                why=scaling.why,
                specification=plan.specification(scaling),
                agreement=decisions.agreement if decisions else None,
                sqnr_db=under.sqnr_db if under else None,
            )
        )
    return tuple(found)


def _synthesis(task: Task, samples: Synthesis, options: Options) -> SynthesisSection:
    curve = Curve(name="cross-entropy to the chosen class", steps=tuple(range(len(samples.loss))), values=samples.loss)
    return SynthesisSection(
        method=samples.origin,
        description=samples.words,
        samples=samples.count,
        seconds=samples.seconds,
        seed=options.seed,
        batch_norm_statistics=len(task.batch_norms),
        loss=(curve,) if samples.loss else (),
        examples=make_examples(task.plans, samples.calibration or samples.held_out),
        notes=samples.notes,
    )


def _layer(layer: Layer, integers: Integers, measured: Measured) -> Layer:
    """The measured layer with how its range was chosen, what had been observed, and its share of the outputs' error."""
    changes: dict[str, object] = {"contribution": measured.shares.get(layer.tensor)}
    if layer.kind == "activation":
        changes["method"] = integers.methods.get(layer.tensor, "shared with the tensor it moves")
        if layer.tensor in integers.observed:
            changes["observed_low"], changes["observed_high"] = integers.observed[layer.tensor]
    elif layer.kind == "weight":
        whole = layer.bits == 8
        changes["method"] = "full range of each output channel" if whole else "least error of each output channel"
    return layer.model_copy(update=changes)


def _degenerate(measured: Measured) -> list[Caution]:
    """Where the synthetic inputs tell nothing, because FP32 itself makes the same of all of them."""
    decisions, found = measured.fidelity.decisions, list[Caution]()
    if decisions is not None and decisions.distinct_classes == 1 and decisions.agreement.n > 1:
        found.append(
            Caution(
                kind="degenerate-samples",
                message=f"FP32 chooses one and the same class for all {decisions.agreement.n} synthetic inputs, so "
                "that unchanged decisions say little; state what the inputs are with --input, or judge with "
                "--validation.",
                place=decisions.output,
            )
        )
    return found + [
        Caution(
            kind="constant-output",
            message=f"The output {each.name} is the same for all synthetic inputs, so that its fidelity says little.",
            place=each.name,
        )
        for each in measured.fidelity.outputs
        if each.constant
    ]


def _undecided(plan: InputPlan, measured: Measured) -> list[Caution]:
    """What to know of an input whose preprocessing is not settled: how sure it is, what is at stake, what to type."""
    if plan.confidence >= SURE:
        return []
    others = plan.others
    worst = worst_plausible([each for each in measured.hypotheses if each.input == plan.name])
    stake = ""
    if worst is not None and worst.scaling in others:
        kept = worst.agreement
        figure = f"keeps {kept:.0%} of its decisions" if kept is not None else f"carries {worst.sqnr_db:.0f} dB"
        stake = f" Were it {worst.scaling.name}, INT8 {figure}."
    ways = [input_option(plan.name, plan.specification(each)) for each in (plan.scaling, *others[:1])]
    words = "" if plan.kind in CONVENTIONAL else ", or the mean and deviation that all numbers of your inputs have"
    message = (
        f"The input {plan.name} was taken for {plan.scaling.name} with a probability of {plan.confidence:.0%}"
        f"{'; it may be ' + others[0].name if others else ''}.{stake} "
        f"State it: {' or '.join(ways)}{words}."
    )
    return [Caution(kind="preprocessing-undecided", message=message, place=plan.name)]


def _cautions(task: Task, integers: Integers, measured: Measured, options: Options) -> list[Caution]:
    cautions = [*measured.left_out]
    if not options.convention.onnxruntime:
        cautions.append(
            Caution(
                kind="other-runtime",
                message=f"The file is for {options.convention.runs}. Its figures are what onnxruntime computes of it; "
                "times and kernels were not measured, for they would be onnxruntime's.",
            )
        )
    if measured.latency is not None and measured.latency.slower:
        message = "On this processor the INT8 model is slower than FP32."
        if options.precision is Precision.INT8:
            message += " --precision weights makes a file as small that computes in float, as fast as FP32."
        cautions.append(Caution(kind="slower", message=message))
    if not integers.decisions.nodes_quantized and options.precision is not Precision.WEIGHTS:
        message = "No node computes on integers; the reasons stand with the nodes."
        if integers.decisions.nodes_stored:
            message += " Weights alone are integers in the file: it is smaller, and computes as FP32 does."
        cautions.append(Caution(kind="nothing-quantized", message=message))
    decisions = measured.fidelity.decisions
    if decisions is not None and decisions.agreement.value < 0.9:
        cautions.append(
            Caution(
                kind="disagreement",
                message="INT8 decides otherwise than FP32 on "
                f"{1 - decisions.agreement.value:.0%} of the synthetic inputs.",
            )
        )
    cautions += _degenerate(measured)
    worst = [each for each in measured.fidelity.outputs if each.sqnr_db is not None and each.sqnr_db < 15]
    cautions += [
        Caution(
            kind="noisy-output",
            message=f"The output {each.name} carries only {each.sqnr_db:.0f} dB of signal over error.",
            place=each.name,
        )
        for each in worst
    ]
    cautions += [caution for plan in task.plans for caution in _undecided(plan, measured)]
    if task.network.without_gradient:
        cautions.append(
            Caution(
                kind="no-gradient",
                message=f"No gradient passes through {len(task.network.without_gradient)} nodes; "
                "samples were not moved through them.",
            )
        )
    return cautions
