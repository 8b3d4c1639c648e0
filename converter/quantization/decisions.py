"""All that is decided about the integer model before onnxruntime writes it: ranges, float nodes, weights and biases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from onnx import ModelProto

from converter.attempts import Attempts
from converter.capacity import FORWARD_BYTES, affordable, forward_seconds, spread
from converter.findings import StepTaken
from converter.graph import Graph, multiply_adds
from converter.inputs.plans import tensors
from converter.inputs.sizes import sizes
from converter.options import Effort, Method, Options, Precision, Step
from converter.process_memory import return_freed_memory
from converter.quantization.allowance import JUDGED, allow
from converter.quantization.bit_widths import Widths, coarse_activations, settle_widths
from converter.quantization.block_reconstruction import affordable_steps, reconstruct_blocks
from converter.quantization.calibration import Observer, RangeRule, observe
from converter.quantization.channels_last import keep_channels_last
from converter.quantization.correction import WIDEST, Correction, Settings, apply_correction, correct
from converter.quantization.equalization import LAYERS, NORMALIZATIONS, Equalization, Maker, equalize
from converter.quantization.float_fallback import ACCEPTABLE, FEW_WEIGHTS, Floor, choose_precision
from converter.quantization.placement import Placement, place, quantized_tensors
from converter.quantization.qdq_writer import Plan, Range
from converter.quantization.ranges import choose_ranges
from converter.quantization.sensitivity import (
    divide,
    measure_damage,
    padded,
    refer,
    simulate_rounding,
)
from converter.reconstruction import Reconstruction, reconstruct
from converter.scores import judged_tensors
from converter.sessions import Feeds

__all__ = ["Optimized", "optimize"]

BLOCKS_SHARE = 0.4  # of the time budget that GENIE-M may take
MOST_FITTED = 128  # samples the weights are fitted on, however many calibrate the ranges
STREAM_BYTES = 96e6  # that the largest tensor may take for all samples the weights are fitted on
PIECE_BYTES = 12e6  # that the largest tensor may take for the samples that go through a layer at a time
JUDGED_BYTES = 128e6  # of activations that one backward pass may keep
BACKWARD_BYTES = 150e6  # of all tensors that a backward pass goes through for one sample


@dataclass(frozen=True)
class Optimized:
    """The equalized float model, the same with rounded weights and corrected biases, the plan, and the reasons."""

    float32: ModelProto
    model: ModelProto
    plan: Plan
    placement: Placement
    damage: Mapping[str, float]
    correction: Correction
    observed: Mapping[str, Observer]
    steps: Sequence[StepTaken]
    widths: Widths


def optimize(
    model: ModelProto,
    network: Reconstruction,
    graph: Graph,
    calibration: Sequence[Feeds],
    options: Options,
    progress: Callable[[float, str], None],
    stated: Mapping[str, Range] = MappingProxyType({}),
    kept_float: Mapping[str, str] = MappingProxyType({}),
    margin: float = 1.0,
    pictures: Mapping[str, int] = MappingProxyType({}),
) -> Optimized:
    """The plan of the integer model, from batches of calibration inputs; ``stated`` ranges need no looking.

    ``kept_float`` are nodes that stay in float for the reason given, whatever is measured; ``margin`` is by how much
    the range of an 8-bit activation exceeds the best one for the samples; ``pictures`` are inputs with the axis of
    their rows, which are judged with bars above and below too.
    """
    attempts = Attempts()
    elements = sizes(network, graph, calibration[0])
    macs, numbers = sum(multiply_adds(node, graph, elements) for node in graph.nodes), sum(elements.values())
    largest = max(elements.values(), default=1)
    fitted = max(affordable(largest, MOST_FITTED, STREAM_BYTES), affordable(largest, JUDGED, FORWARD_BYTES / 4))
    allowed = allow(forward_seconds(macs, numbers), fitted, options)
    convention = options.convention
    everything = place(graph, kept_float, convention)
    shared = quantized_tensors(graph, everything.nodes, convention)
    equalized = None
    if kinds := _equalized_kinds(options, graph):
        with attempts.optional(_equalizing(options), "Bringing channels to one range"):
            equalized = equalize(model, network, graph, shared, spread(calibration, allowed.equalized), kinds)
            graph, network, model = Graph(equalized.model), reconstruct(equalized.model), equalized.model
    providers = sorted(set(shared.values()))
    observed = observe(network, providers, calibration, lambda share: progress(0.2 * share, "observing ranges"))
    progress(0.2, "ranges observed")
    rule = RangeRule.MSE if Step.RANGE_SEARCH not in options.skip else RangeRule.MINMAX
    coarse = coarse_activations(graph, everything.nodes, shared) if options.precision is Precision.W4A4 else frozenset()
    ranges = choose_ranges(
        network, graph, observed, everything.nodes, shared, rule, coarse, margin, stated, convention.levels
    )
    judged_together = affordable(numbers, JUDGED, JUDGED_BYTES)
    judged = [tensors(part) for feeds in spread(calibration, allowed.judged) for part in _parts(feeds, judged_together)]
    damage, placement = dict.fromkeys(ranges, 0.0), everything
    bars = [each for feeds in judged if (each := padded(feeds, pictures))]
    harm = dict.fromkeys(shared, 0.0)
    few = FEW_WEIGHTS if options.precision is Precision.INT8 else 0  # who asks for fewer bits wants a small file
    if Step.FLOAT_FALLBACK not in allowed.left_out:
        with attempts.optional(Step.FLOAT_FALLBACK, "Choosing nodes to leave in float"):
            places = judged_tensors(graph)
            segments = divide(graph, elements, places, BACKWARD_BYTES / 4)
            damage = measure_damage(network, ranges, places, [*judged, *bars], options.seed, segments)
            progress(0.35, "damage of each rounding measured")
            harm = {name: damage[source] for name, source in shared.items()}
            if Step.FLOAT_FALLBACK not in options.skip:
                references = refer(network, places, judged, pictures)

                def error_of(trial: Placement) -> float:
                    tried = quantized_tensors(graph, trial.nodes, convention)
                    rounding = {name: ranges[shared[each]] for name, each in tried.items()}
                    return max(simulate_rounding(network, rounding, references).values(), default=0.0)

                floor = Floor(ACCEPTABLE[options.prefer], error_of) if options.precision is Precision.INT8 else None
                placement = choose_precision(graph, harm, elements, kept_float, few, floor, convention)
    rounded = quantized_tensors(graph, placement.nodes, convention)
    chosen = {name: ranges[shared[source]] for name, source in rounded.items()}
    settings = Settings(
        Step.ROUNDING not in options.skip and not _hurried(options),
        Step.BIAS_CORRECTION not in options.skip,
        saturating=convention.pairs_saturate,
    )
    together = affordable(largest, MOST_FITTED, PIECE_BYTES)
    batches = [tensors(part) for feeds in spread(calibration, allowed.fitted) for part in _parts(feeds, together)]
    widths = Widths({})
    with attempts.optional("widths", "Choosing bit widths"):
        widths = settle_widths(options, network, graph, placement.nodes, batches, settings, elements)
    return_freed_memory()
    progress(0.4, "bits of the weights settled")
    settings = replace(settings, bits=widths.bits)

    def advance(share: float) -> None:
        progress(0.4 + 0.6 * share, "weights rounded and biases corrected")

    correction: Correction | None = None
    if options.method is Method.GENIE and settings.compensate:
        with attempts.optional("blocks", "Fitting weights block by block"):
            size = max(len(value) if value.dim() else 1 for value in batches[0].values())
            rounds = affordable_steps(macs, size, len(placement.nodes), options.time_budget * BLOCKS_SHARE)
            correction = reconstruct_blocks(
                network, graph, placement.nodes, chosen, batches, settings.bits, rounds, options.seed, advance
            )
    if correction is None:
        with attempts.optional(Step.ROUNDING, "Rounding against the samples"):
            correction = correct(network, graph, placement.nodes, chosen, batches, settings, advance)
    correction = correction or Correction()  # without grids onnxruntime rounds each weight to nearest
    plan = Plan(placement.nodes, chosen, correction.grids, convention)
    rounded_model = apply_correction(model, correction)
    if convention.onnxruntime:
        with attempts.optional("channels-last", "Keeping channels last"):
            rounded_model, plan = keep_channels_last(rounded_model, plan)
    steps = _steps_taken(options, equalized, placement, everything, harm, correction, settings.compensate)
    failed = {each.step: each.as_step() for each in (*attempts.left_out, *allowed.left_out.values())}
    steps = [failed.pop(each.name, each) for each in [*steps, *widths.steps]]
    steps += failed.values()
    return Optimized(model, rounded_model, plan, placement, damage, correction, observed, steps, widths)


def _steps_taken(
    options: Options,
    equalized: Equalization | None,
    placement: Placement,
    everything: Placement,
    harm: Mapping[str, float],
    correction: Correction,
    compensated: bool,
) -> list[StepTaken]:
    """The report's list of steps, each with the effect that was measured while it was taken."""
    taken = []
    if equalized is not None:
        taken.append(
            StepTaken(
                name=_equalizing(options),
                applied=equalized.channels > 0,
                sentence=f"{equalized.channels} channels of {equalized.layers} layers brought to one range, "
                "the function unchanged.",
            )
        )
    floats = sorted(everything.nodes - placement.nodes)
    if Step.FLOAT_FALLBACK not in options.skip:
        taken.append(
            StepTaken(
                name=Step.FLOAT_FALLBACK,
                applied=bool(floats),
                sentence=f"{len(floats)} nodes left in float, where integers cost most and save least.",
                measure="estimated damage to the outputs by rounding activations",
                before=_damage(everything, harm),
                after=_damage(placement, harm),
                unit="relative squared error",
            )
        )
    before = sum(each.nearest_error for each in correction.changes)
    after = sum(each.error for each in correction.changes)
    count = max(len(correction.changes), 1)
    for step, applied, words in (
        (
            Step.ROUNDING,
            compensated,
            _rounded_words(correction) if compensated else "Weights rounded to nearest.",
        ),
        (
            Step.BIAS_CORRECTION,
            bool(correction.biases),
            f"Biases of {len(correction.biases)} layers took up the mean error.",
        ),
    ):
        taken.append(
            StepTaken(
                name=step,
                applied=applied,
                sentence=words,
                measure="mean error of the layers' outputs, rounding and bias correction together",
                before=before / count,
                after=after / count,
                unit="relative squared error",
            )
        )
    return taken


def _hurried(options: Options) -> bool:
    """Whether weights are rounded to nearest to save the time of anything better, which 8 bits alone can do without."""
    return options.effort is Effort.FAST and options.precision is Precision.INT8


def _rounded_words(correction: Correction) -> str:
    """How weights were rounded, and which layers were too wide for that."""
    words = "Weights rounded so that errors compensate within each layer"
    wide = [each.node for each in correction.changes if each.too_wide]
    if not wide:
        return f"{words}."
    named = ", ".join(wide[:3]) + (" ..." if len(wide) > 3 else "")
    return (
        f"{words}; {len(wide)} of {len(correction.changes)} have more than {WIDEST} weights a row, where errors only "
        f"cancel within a filter's window, or are those of the nearest code ({named})."
    )


def _damage(placement: Placement, harm: Mapping[str, float]) -> float:
    return sum(each for name, each in harm.items() if name in placement.rounded)


def _equalizing(options: Options) -> Step:
    """The step that equalization is: of layers where those take part, else of what normalizations leave."""
    layers = options.precision is Precision.W4A4 and Step.EQUALIZATION not in options.skip
    return Step.EQUALIZATION if layers else Step.MIGRATION


def _equalized_kinds(options: Options, graph: Graph) -> frozenset[Maker]:
    """What fits activations' codes better and weights' codes worse: layers at 4-bit activations, normalizations unless
    weights alone have 4 bits.

    Weights of 4 bits suffer most: at the mixed precision equalized layers cost SqueezeNet 2.9 points of agreement and
    five small classifiers 0.8, normalizations cost ViT 2.3. At 8 bits equalized layers fill every channel's range up to
    what the samples showed, and real inputs show more: 5 points on SqueezeNet (tests/bench/RESULTS.md).
    """
    if options.precision in (Precision.W4A8, Precision.MIXED):
        return frozenset()
    scaled = any(node.op_type in ("LayerNormalization", "Mul") for node in graph.nodes)
    kinds = NORMALIZATIONS if scaled and Step.MIGRATION not in options.skip else frozenset[Maker]()
    return kinds | LAYERS if _equalizing(options) is Step.EQUALIZATION else kinds


def _parts(feeds: Feeds, together: int) -> list[Feeds]:
    """A batch in parts of at most ``together`` samples, whole where some input has no batch axis in front."""
    sizes = {len(value) if value.ndim else 0 for value in feeds.values()}
    if len(sizes) != 1 or max(sizes) <= together:
        return [feeds]
    starts = range(0, max(sizes), together)
    return [{name: value[start : start + together] for name, value in feeds.items()} for start in starts]
