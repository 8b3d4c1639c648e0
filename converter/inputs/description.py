"""How a task is found out: sizes, scales and kinds of the inputs, checked against the original model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import torch
from onnx import ModelProto
from onnxruntime import InferenceSession

from converter.admission.loading import load
from converter.capacity import affordable
from converter.errors import InvalidOption
from converter.exclusions import excluded_nodes
from converter.families import SOFTMAXES
from converter.graph import Graph, multiply_adds, weight_of
from converter.inputs.batching import with_honest_batch
from converter.inputs.calibration_data import fit_to_data
from converter.inputs.conventions import describe_origin
from converter.inputs.drawing import draw_inputs
from converter.inputs.free_sizes import relate, trials
from converter.inputs.plans import ADJUSTABLE, SOUND, InputKind, InputPlan, assemble, batch_limit, tensors
from converter.inputs.recognition import describe_inputs
from converter.inputs.scaling import SAMPLES, settle_scalings
from converter.inputs.sizes import sizes
from converter.inputs.task import Task
from converter.normalization import Normalized
from converter.normalization.equivalence import probe, verify_equivalence
from converter.options import Options
from converter.reconstruction import Reconstruction
from converter.scores import ClassOutput, class_output
from converter.sessions import Feeds
from converter.specifications import input_option

__all__ = ["describe_task"]


def describe_task(
    original: ModelProto,
    normalized: Normalized,
    network: Reconstruction,
    options: Options,
    given: Sequence[Feeds] = (),
) -> Task:
    """The task, with the rewritten float model checked against the original on samples from the priors.

    ``given`` are inputs as the owner prepares them, which tell sizes and scales that nobody stated.
    Raises InvalidOption for specifications of inputs, outputs or nodes that do not fit, VerificationFailed where
    rewriting changed the function.
    """
    graph = Graph(normalized.model)
    plans = fit_to_data(describe_inputs(graph, options.inputs), given)
    plans = _with_fitting_sizes(original, normalized.model, graph, network, plans)
    plans = with_honest_batch(original, plans)
    elements = _elements(network, graph, plans)
    judged = affordable(sum(elements.values()), SAMPLES)
    plans = settle_scalings(
        network, graph, plans, normalized.batch_norms, options.seed, describe_origin(original), judged
    )
    generator = np.random.default_rng(options.seed)
    feeds = assemble(plans, draw_inputs(plans, batch_limit(plans, 1), generator))
    error = verify_equivalence(original, normalized.model, [feeds])
    _check_stated(network, graph, plans, feeds)
    elements = elements or sizes(network, graph, feeds)
    macs = sum(multiply_adds(node, graph, elements) for node in graph.nodes)
    classes = class_output(graph, options.outputs)
    return Task(
        normalized.model,
        graph,
        network,
        plans,
        normalized.batch_norms,
        classes,
        _logits(graph, classes),
        macs,
        sum(elements.values()),
        error,
        excluded_nodes(original, graph, options.exclude, options.include),
    )


def _elements(network: Reconstruction, graph: Graph, plans: tuple[InputPlan, ...]) -> dict[str, int]:
    """The numbers in each tensor; none where the network does not take such inputs, which is to be said later."""
    generator = np.random.default_rng(0)
    feeds = assemble(plans, draw_inputs(plans, batch_limit(plans, 1), generator))
    with suppress(RuntimeError, IndexError, ValueError):
        return sizes(network, graph, feeds)
    return {}


def _check_stated(network: Reconstruction, graph: Graph, plans: tuple[InputPlan, ...], feeds: Feeds) -> None:
    """Raises InvalidOption where an input prepared as its owner stated makes outputs that are no numbers."""
    stated = [plan for plan in plans if plan.stated and plan.kind in ADJUSTABLE]
    if not stated:
        return
    with torch.no_grad():
        outputs = network.run(tensors(feeds), [each.name for each in graph.outputs])
    for name, value in outputs.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and bool(value.isnan().any()):
            raise InvalidOption(
                f"The input {stated[0].name!r}, prepared as stated, makes the output {name!r} not a number.",
                field="inputs",
                remedy=f"Check what {input_option(stated[0].name, '...')} says of its range, mean and std.",
            )


WINDOWS = (512, 576, 1024, 640, 400, 320, 256)  # samples of sound that networks which listen piece by piece take
HEARD = 8  # sounds of each length that a network is judged on


def _with_fitting_sizes(
    original: ModelProto, model: ModelProto, graph: Graph, network: Reconstruction, plans: tuple[InputPlan, ...]
) -> tuple[InputPlan, ...]:
    """The plans with the sizes that the model left open set to the likeliest ones that it runs on.

    Raises InvalidOption for stated sizes that it does not run on, and where none was found.
    """
    if not any(plan.free_size for plan in plans):
        related = relate(plans)
        if any(plan.stated for plan in plans) and not _runs(load(model), related):
            raise _no_size(related, "The model does not run on the sizes")
        return related
    session = load(model)
    if any(plan.kind is InputKind.SIGNAL and plan.free_size for plan in plans):
        if _runs(session, related := relate(plans)):
            return related
        windows = [relate(tuple(_with_window(plan, length) for plan in plans)) for length in WINDOWS]
        if running := [trial for trial in windows if _runs(session, trial)]:
            return min(running, key=lambda trial: _excitement(graph, network, trial))
    for trial in trials(graph, plans, {each.key: each.value for each in original.metadata_props}):
        if _runs(session, related := relate(trial)):
            return related
    found = probe(model, 1)
    if not found:
        raise _no_size(relate(plans), "No sizes were found that the model runs on, the last being")
    return relate(
        tuple(
            replace(plan, shape=found[0][plan.name].shape[1:]) if plan.free_size and plan.batch_axis == 0 else plan
            for plan in plans
        )
    )


def _no_size(plans: tuple[InputPlan, ...], words: str) -> InvalidOption:
    shapes = ", ".join(f"{plan.name} {'x'.join(map(str, plan.shape))}" for plan in plans)
    first = next((plan for plan in plans if plan.free_size or plan.stated), plans[0])
    return InvalidOption(
        f"{words} {shapes} of a sample.",
        field="inputs",
        remedy=f"State what it was made for, such as {input_option(first.name, 'shape=1x3x224x224')}.",
    )


def _runs(session: InferenceSession, trial: tuple[InputPlan, ...]) -> bool:
    feeds = assemble(trial, draw_inputs(trial, batch_limit(trial, 1), np.random.default_rng(0)))
    try:
        session.run(None, feeds)
    except Exception:  # boundary: onnxruntime's exceptions share no narrower base; these sizes do not go together
        return False
    return True


def _excitement(graph: Graph, network: Reconstruction, trial: tuple[InputPlan, ...]) -> float:
    """Mean log peak of the layers' results: least for the length that a network was trained on.

    Silero's detector takes 512 samples after 64 of the piece before; on 512 alone its last encoder layer reaches 2,700
    instead of 9, since its pieces then end elsewhere (tests/bench/RESULTS.md).
    """
    generator = np.random.default_rng(0)
    quiet = [replace(plan, scaling=SOUND) if plan.kind is InputKind.SIGNAL else plan for plan in trial]
    layers = [node.output[0] for node in graph.nodes if weight_of(node, graph)]
    peaks = []
    for _ in range(HEARD):
        raw = draw_inputs(quiet, batch_limit(trial, 1), generator)
        with torch.no_grad():
            found = network.run({name: torch.from_numpy(each) for name, each in assemble(quiet, raw).items()}, layers)
        peaks.append([float(value.abs().max()) for value in found.values()])
    return float(np.log(np.maximum(np.max(peaks, 0), 1e-30)).mean()) if layers else 0.0


def _with_window(plan: InputPlan, length: int) -> InputPlan:
    if plan.kind is not InputKind.SIGNAL or not plan.free_size:
        return plan
    axis = plan.time_axis
    return replace(plan, shape=(*plan.shape[:axis], length, *plan.shape[axis + 1 :]))


def _logits(graph: Graph, classes: ClassOutput | None) -> str | None:
    if classes is None:
        return None
    node = graph.producer(classes.name)
    return node.input[0] if node is not None and node.op_type in SOFTMAXES else classes.name
