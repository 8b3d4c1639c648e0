"""The measuring stage: everything the report says about the INT8 model beyond how it was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from onnx import ModelProto

from converter.attempts import Attempts
from converter.capacity import affordable
from converter.errors import VerificationFailed
from converter.evaluation.ablation import contributions
from converter.evaluation.fidelity import measure_fidelity
from converter.evaluation.hypotheses import Judged, judge_hypotheses
from converter.evaluation.kernels import count_kernels
from converter.evaluation.latency import measure_latency
from converter.evaluation.layers import layer_fidelity
from converter.evaluation.prediction import UnderHypothesis, predict
from converter.evaluation.validation import measure_validation
from converter.findings import Caution, Fidelity, Kernels, Latency, Layer, Prediction, Validation
from converter.inputs.own_data import OwnData
from converter.inputs.plans import ADJUSTABLE, SURE, InputKind
from converter.inputs.task import Task
from converter.options import Options
from converter.quantization.stage import Integers
from converter.synthesis import Synthesis, batches

__all__ = ["Measured", "measure"]

BATCH = 8
LAYER_BATCHES = 1  # that per-layer noise is measured on
LATENCY_SECONDS = 1.0  # of running both models in turns, for medians that differ by two per cent from run to run
ROUNDING_WORK = 30  # multiply-adds in whose time one value is rounded, put back and chosen: 3 ns at 10 billion a second


@dataclass(frozen=True)
class Measured:
    """What was measured of an INT8 model beside its FP32 original."""

    fidelity: Fidelity
    predicted: Prediction
    validation: Validation | None
    layers: tuple[Layer, ...] = ()
    kernels: Kernels | None = None
    latency: Latency | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[Caution, ...] = ()  # sections that failed
    hypotheses: tuple[Judged, ...] = ()  # INT8 under every open preprocessing, likeliest first an input


def measure(
    original: ModelProto,
    task: Task,
    samples: Synthesis,
    integers: Integers,
    options: Options,
    data: OwnData | None = None,
    progress: Callable[[float, str], None] = lambda share, message: None,
) -> Measured:
    """Fidelity on held-out samples, validation and layers of the INT8 model; kernels and latency where onnxruntime is
    what will run it.

    Raises VerificationFailed for an INT8 model that does not run.
    """
    feeds = list(batches(task.plans, samples.held_out, affordable(task.elements, BATCH)))
    int8, threads = integers.model, options.threads
    try:
        fidelity = measure_fidelity(
            original,
            int8,
            feeds,
            samples.distribution,
            seed=options.seed,
            threads=threads,
            kinds=options.outputs,
            masks=[plan.name for plan in task.plans if plan.kind is InputKind.MASK],
        )
    except Exception as problem:  # boundary: onnxruntime's exceptions share no narrower base
        raise VerificationFailed(f"onnxruntime does not run the INT8 model: {problem}") from problem
    single = next(iter(batches(task.plans, samples.held_out, 1)))
    validated = None
    if data is not None:
        validated = measure_validation(data, original, int8, threads=threads, seed=options.seed, kinds=options.outputs)
    progress(0.4, "judging other preprocessings")
    attempts = Attempts()
    judged: tuple[Judged, ...] = ()
    with attempts.optional("hypotheses", "What INT8 keeps under other preprocessings"):
        judged = judge_hypotheses(original, int8, task, samples, options, fidelity)
    predicted = predict(
        _hypotheses(task, fidelity, judged), expected_accuracy=options.expected_accuracy, max_drop=options.max_drop
    )
    layers: tuple[Layer, ...] = ()
    kernels: Kernels | None = None
    latency: Latency | None = None
    shares: Mapping[str, float] = {}
    progress(0.6, "comparing layers")
    with attempts.optional("layers", "The section on layers"):
        layers = layer_fidelity(integers.float32, int8, feeds[:LAYER_BATCHES], threads=threads)
    if options.convention.onnxruntime:
        with attempts.optional("kernels", "The section on kernels"):
            kernels = count_kernels(task.model, int8, threads)
        progress(0.7, "timing both models")
        with attempts.optional("latency", "The section on latency"):
            latency = measure_latency(original, int8, single, threads=threads, seconds=LATENCY_SECONDS)
    progress(0.85, "telling the layers' shares of the error")
    with attempts.optional("contributions", "The layers' shares of the error"):
        shares = contributions(
            integers.float32,
            int8,
            list(batches(task.plans, samples.held_out, 1))[:BATCH],
            multiply_adds=task.multiply_adds + ROUNDING_WORK * task.elements,
            suspects=_suspects(layers),
            threads=threads,
        )
    left_out = tuple(each.as_caution() for each in attempts.left_out)
    return Measured(fidelity, predicted, validated, layers, kernels, latency, shares, left_out, judged)


def _suspects(layers: Sequence[Layer]) -> list[str]:
    """The tensors whose own rounding is coarsest, first."""
    known = [(layer.sqnr_alone_db, layer.tensor) for layer in layers if layer.sqnr_alone_db is not None]
    return [tensor for _, tensor in sorted(known)]


def _hypotheses(task: Task, fidelity: Fidelity, judged: Sequence[Judged]) -> list[UnderHypothesis]:
    """The comparison under every open preparation of every input that has one."""
    adjustable = [plan for plan in task.plans if plan.kind in ADJUSTABLE] or list(task.plans[:1])
    found = []
    for plan in adjustable:
        certain = plan.confidence >= SURE
        others = [each for each in judged if each.input == plan.name]
        found += [
            UnderHypothesis(plan.name, each.scaling.name, each.compared.decisions, certain, each.scaling.probability)
            for each in others
        ]
        if not others:
            found.append(UnderHypothesis(plan.name, plan.scaling.name, fidelity.decisions, certain))
    return found
