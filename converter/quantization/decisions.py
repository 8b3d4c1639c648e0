"""All that is decided about the integer model before onnxruntime writes it: ranges, float nodes, weights and biases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto

from converter.attempts import Attempts
from converter.capacity import FORWARD_BYTES, affordable, forward_seconds, spread
from converter.findings import StepTaken
from converter.graph import Graph, multiply_adds, weight_of
from converter.inputs.plans import tensors
from converter.inputs.sizes import sizes
from converter.options import Effort, Method, Options, Precision, Step
from converter.process_memory import return_freed_memory
from converter.quantization.allowance import JUDGED, Allowance, allow
from converter.quantization.bit_widths import Widths, coarse_activations, settle_widths
from converter.quantization.block_reconstruction import affordable_steps, reconstruct_blocks
from converter.quantization.calibration import Observer, RangeRule, observe
from converter.quantization.channels_last import keep_channels_last
from converter.quantization.correction import WIDEST, Correction, Settings, apply_correction, correct
from converter.quantization.equalization import Equalization, equalize, equalized_kinds, equalizing_step
from converter.quantization.float_fallback import ACCEPTABLE, FEW_WEIGHTS, Floor, choose_precision
from converter.quantization.float_weights import FLOAT_WEIGHTS, Stored, choose_stored
from converter.quantization.integer_weights import round_channels
from converter.quantization.judged_samples import divide_batch, part_hypotheses
from converter.quantization.placement import Placement, place, quantized_tensors
from converter.quantization.qdq_writer import Plan, Range, WeightGrid
from converter.quantization.ranges import choose_ranges
from converter.quantization.sensitivity import (
    Reference,
    divide,
    measure_damage,
    padded,
    refer,
    simulate_rounding,
)
from converter.reconstruction import Reconstruction, reconstruct
from converter.scores import judged_tensors
from converter.sessions import Feeds

__all__ = ["Given", "Optimized", "optimize"]

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
    stored: Stored  # nodes left in float whose weights are to be integers in the file


@dataclass(frozen=True)
class Given:
    """What is settled before anything is measured.

    ``stated`` ranges need no looking; ``kept_float`` are nodes that stay in float for the reason given, whatever is
    measured; ``margin`` is by how much the range of an 8-bit activation exceeds the best one for the samples;
    ``pictures`` are inputs with the axis of their rows, which are judged with bars above and below too; ``shares`` are
    the probabilities of what samples in turn were scaled as; ``storable``
    are nodes that may have integer weights in the file should they stay in float; ``dynamic`` is whether others
    compute on integers, of ranges found at run time.
    """

    stated: Mapping[str, Range]
    kept_float: Mapping[str, str]
    margin: float
    pictures: Mapping[str, int]
    shares: tuple[float, ...] = (1.0,)
    storable: frozenset[str] = frozenset()
    dynamic: bool = False


@dataclass(frozen=True)
class _Work:
    """What every decision reads: the network, its samples, what is wished and given, and all that could be rounded."""

    model: ModelProto
    network: Reconstruction
    graph: Graph
    calibration: Sequence[Feeds]
    options: Options
    given: Given
    progress: Callable[[float, str], None]
    attempts: Attempts
    elements: Mapping[str, int]  # of each tensor of one sample
    macs: int  # of one sample
    allowed: Allowance  # samples that each decision may take
    everything: Placement
    shared: Mapping[str, str]  # tensors that integers carry, by the one whose range they have


def optimize(
    model: ModelProto,
    network: Reconstruction,
    graph: Graph,
    calibration: Sequence[Feeds],
    options: Options,
    given: Given,
    progress: Callable[[float, str], None],
) -> Optimized:
    """The plan of the integer model, from batches of calibration inputs."""
    everything = place(graph, given.kept_float, options.convention)
    shared = quantized_tensors(graph, everything.nodes, options.convention)
    elements = sizes(network, graph, calibration[0])
    macs, largest = sum(multiply_adds(node, graph, elements) for node in graph.nodes), max(elements.values(), default=1)
    room = max(affordable(largest, MOST_FITTED, STREAM_BYTES), affordable(largest, JUDGED, FORWARD_BYTES / 4))
    allowed = allow(forward_seconds(macs, sum(elements.values())), room, options)
    known = (calibration, options, given, progress, Attempts(), elements, macs, allowed, everything, shared)
    work, equalized = _equalize(_Work(model, network, graph, *known))
    ranges, observed = _choose_ranges(work)
    fallback = _leave_in_float(work, ranges)
    placement = fallback.placement
    rounded = quantized_tensors(work.graph, placement.nodes, options.convention)
    chosen = {name: ranges[shared[source]] for name, source in rounded.items()}
    stored = Stored()
    with work.attempts.optional(FLOAT_WEIGHTS, "Storing the weights of float nodes as integers"):
        stored = _store_weights(work, fallback)
    fitted = _fit_weights(work, placement, chosen, stored.narrow)
    plan = Plan(placement.nodes, chosen, fitted.correction.grids, options.convention)
    rounded_model = apply_correction(work.model, fitted.correction)
    if options.convention.onnxruntime:
        with work.attempts.optional("channels-last", "Keeping channels last"):
            rounded_model, plan = keep_channels_last(rounded_model, plan)
    steps = [*_steps_taken(options, equalized, everything, fallback, fitted), *stored.steps]
    failed = {each.step: each.as_step() for each in work.attempts.left_out}
    steps = [failed.pop(each.name, each) for each in [*steps, *fitted.widths.steps]]
    steps += failed.values()
    return Optimized(
        work.model, rounded_model, plan, placement, fallback.damage, fitted.correction, observed, steps, fitted.widths,
        stored,
    )  # fmt: skip


def _equalize(work: _Work) -> tuple[_Work, Equalization | None]:
    """The work on the network whose channels have been brought to one range, where the options want that."""
    kinds = equalized_kinds(work.options, work.graph)
    if kinds:
        with work.attempts.optional(equalizing_step(work.options), "Bringing channels to one range"):
            few = spread(work.calibration, work.allowed.equalized)
            done = equalize(work.model, work.network, work.graph, work.shared, few, kinds)
            network = reconstruct(done.model)
            return replace(work, model=done.model, network=network, graph=Graph(done.model)), done
    return work, None


def _choose_ranges(work: _Work) -> tuple[Mapping[str, Range], Mapping[str, Observer]]:
    """The range of every tensor that others share, and what was seen of it."""
    options, convention = work.options, work.options.convention
    providers = sorted(set(work.shared.values()))
    observed = observe(
        work.network, providers, work.calibration, lambda share: work.progress(0.2 * share, "observing ranges")
    )
    work.progress(0.2, "ranges observed")
    rule = RangeRule.MSE if Step.RANGE_SEARCH not in options.skip else RangeRule.MINMAX
    coarse = frozenset[str]()
    if options.precision is Precision.W4A4:
        coarse = coarse_activations(work.graph, work.everything.nodes, work.shared)
    given, nodes = work.given, work.everything.nodes
    ranges = choose_ranges(
        work.network, work.graph, observed, nodes, work.shared, rule, coarse, given.margin, given.stated,
        convention.levels,
    )  # fmt: skip
    return ranges, observed


@dataclass(frozen=True)
class _Fallback:
    """The nodes on integers, the damage of rounding each range, and the same of each tensor that has it."""

    placement: Placement
    damage: Mapping[str, float]
    harm: Mapping[str, float]
    errors: Mapping[str, float]  # of outputs and what they are made of, all ranges rounded; relative to their variance


def _leave_in_float(work: _Work, ranges: Mapping[str, Range]) -> _Fallback:
    """Where integers cost the outputs most and save least."""
    network, graph, options, shared, given = work.network, work.graph, work.options, work.shared, work.given
    together = affordable(sum(work.elements.values()), JUDGED, JUDGED_BYTES)
    judged = part_hypotheses(work.calibration, work.allowed.judged, together, given.shares)
    plain = [part.feeds for part in judged]
    bars = [each for feeds in plain if (each := padded(feeds, given.pictures))]
    damage, placement, harm = dict.fromkeys(ranges, 0.0), work.everything, dict.fromkeys(shared, 0.0)
    errors: Mapping[str, float] = {}
    free = FEW_WEIGHTS if options.precision is Precision.INT8 else 0  # who asks for fewer bits wants a small file
    with work.attempts.optional(Step.FLOAT_FALLBACK, "Choosing nodes to leave in float"):
        places = judged_tensors(graph)
        segments = divide(graph, work.elements, places, BACKWARD_BYTES / 4)
        damage = measure_damage(network, ranges, places, [*plain, *bars], options.seed, segments)
        work.progress(0.35, "damage of each rounding measured")
        harm = {name: damage[source] for name, source in shared.items()}
        references = refer(network, places, judged, given.pictures)

        def errors_of(trial: Placement, compared: Sequence[Reference]) -> Mapping[str, float]:
            tried = quantized_tensors(graph, trial.nodes, options.convention)
            rounding = {name: ranges[shared[each]] for name, each in tried.items()}
            return simulate_rounding(network, rounding, compared)

        def error_of(trial: Placement) -> float:
            return max(errors_of(trial, references).values(), default=0.0)

        if Step.FLOAT_FALLBACK not in options.skip:
            floor = Floor(ACCEPTABLE[options.prefer], error_of) if options.precision is Precision.INT8 else None
            placement = choose_precision(graph, harm, work.elements, given.kept_float, free, floor, options.convention)
        errors = errors_of(placement, refer(network, sorted({*places, *graph.output_names}), judged))
    return _Fallback(placement, damage, harm, errors)


def _store_weights(work: _Work, fallback: _Fallback) -> Stored:
    """Which nodes left in float have integer weights in the file."""
    nodes, given = fallback.placement.nodes, work.given
    few = spread(work.calibration, work.allowed.judged)
    before = fallback.errors if nodes or given.dynamic else None
    acceptable = ACCEPTABLE[work.options.prefer]
    return choose_stored(work.model, given.storable - nodes, few, before, acceptable, sure=_sure(work))


def _sure(work: _Work) -> bool:
    """Whether the time budget has room for samples enough to tell what rounding a float node's weights costs."""
    return work.allowed.judged >= JUDGED


@dataclass(frozen=True)
class _Fitted:
    """The weights' bits, their grids and the biases, and whether errors were to compensate."""

    widths: Widths
    correction: Correction
    compensated: bool


def _fit_weights(work: _Work, placement: Placement, chosen: Mapping[str, Range], stored: frozenset[str]) -> _Fitted:
    """Weights rounded and biases corrected against the samples, as far as the options want it, also of nodes in float
    that are ``stored`` as integers.
    """
    nodes = placement.nodes | stored
    network, graph, options = work.network, work.graph, work.options
    settings = Settings(
        Step.ROUNDING not in options.skip and not _hurried(options),
        Step.BIAS_CORRECTION not in options.skip,
        saturating=placement.nodes if options.convention.pairs_saturate else frozenset(),
    )
    together = affordable(max(work.elements.values(), default=1), MOST_FITTED, PIECE_BYTES)
    few = spread(work.calibration, work.allowed.fitted)
    batches = [tensors(part) for feeds in few for part in divide_batch(feeds, together)]
    widths = Widths({})
    with work.attempts.optional("widths", "Choosing bit widths"):
        widths = settle_widths(options, network, graph, placement.nodes, batches, settings, work.elements)
    return_freed_memory()
    work.progress(0.4, "bits of the weights settled")
    settings = replace(settings, bits=widths.bits)

    def advance(share: float) -> None:
        work.progress(0.4 + 0.6 * share, "weights rounded and biases corrected")

    settled = Correction() if _sure(work) else _rounded(graph, stored)
    correction: Correction | None = None
    if options.method is Method.GENIE and settings.compensate:
        with work.attempts.optional("blocks", "Fitting weights block by block"):
            size = max(len(value) if value.dim() else 1 for value in batches[0].values())
            rounds = affordable_steps(work.macs, size, len(nodes), options.time_budget * BLOCKS_SHARE)
            correction = reconstruct_blocks(
                network,
                graph,
                nodes,
                chosen,
                batches,
                settings.bits,
                rounds,
                options.seed,
                advance,
                settled,
            )
    if correction is None:
        with work.attempts.optional(Step.ROUNDING, "Rounding against the samples"):
            correction = correct(network, graph, nodes, chosen, batches, settings, advance, settled)
    correction = correction or Correction()  # without grids onnxruntime rounds each weight to nearest
    return _Fitted(widths, correction, settings.compensate)


def _rounded(graph: Graph, stored: frozenset[str]) -> Correction:
    """The weights of these nodes rounded to nearest, as it was measured when they were chosen.

    Fitted on the few samples of a small time budget, biases cost a detector more than the rounding did; fitted on
    enough, they save decisions of small classifiers (tests/bench/RESULTS.md).
    """
    settled = Correction()
    for node in graph.nodes:
        if node.name in stored and (found := weight_of(node, graph)):
            name, axis = found
            codes = round_channels(graph.initializers[name], (axis,))
            settled.weights[name] = codes.real
            settled.grids[name] = WeightGrid(codes.scale.reshape(-1), axis)
    return settled


def _steps_taken(
    options: Options,
    equalized: Equalization | None,
    everything: Placement,
    fallback: _Fallback,
    fitted: _Fitted,
) -> list[StepTaken]:
    """The report's list of steps, each with the effect that was measured while it was taken."""
    placement, correction = fallback.placement, fitted.correction
    taken = []
    if equalized is not None:
        taken.append(
            StepTaken(
                name=equalizing_step(options),
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
                before=everything.damage(fallback.harm),
                after=placement.damage(fallback.harm),
                unit="relative squared error",
            )
        )
    before = sum(each.nearest_error for each in correction.changes)
    after = sum(each.error for each in correction.changes)
    count = max(len(correction.changes), 1)
    for step, applied, words in (
        (
            Step.ROUNDING,
            fitted.compensated,
            _rounded_words(correction) if fitted.compensated else "Weights rounded to nearest.",
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
