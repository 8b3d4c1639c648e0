"""What is decided between samples and the optimizer: how far ranges go beyond what synthetic samples showed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from converter import convert
from converter.checkpoints import Checkpoints
from converter.graph import Graph
from converter.inputs.description import describe_task
from converter.inputs.task import Task
from converter.normalization import normalize
from converter.options import InputSpec, Method, Options, Step
from converter.progress import Reporter, silent
from converter.quantization import stage
from converter.quantization.qdq_writer import quantized_activations
from converter.quantization.stage import MARGIN, make_integers
from converter.reconstruction import reconstruct
from converter.synthesis.stage import make_samples
from tests.networks import HEAD, NETWORKS, head, model_of, node, weights


def task_of(side: int, options: Options) -> Task:
    layers = [node("Conv", ["x", "w"], ["c"], strides=[2, 2]), node("Relu", ["c"], ["last"]), *HEAD]
    model = model_of(layers, {"w": weights(16, 3, 3, 3), **head(16)}, (1, 3, side, side))
    normalized = normalize(model)
    return describe_task(model, normalized, reconstruct(normalized.model), options)


def test_the_margin_is_in_the_steps_of_activations_and_not_in_stated_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options(samples=8, skip=frozenset({Step.FLOAT_FALLBACK}), inputs={"x": InputSpec(value_range=(0.0, 1.0))})
    task = task_of(32, options)
    samples = make_samples(task, options, Reporter(silent), Checkpoints(None))
    noise = replace(options, method=Method.NOISE)  # it may reach further than what is real

    def steps(options: Options) -> dict[str, float]:
        made = make_integers(task, samples, options, Reporter(silent), Checkpoints(None)).model
        constants = Graph(made).initializers
        return {name: constants[each.scale_name].item() for name, each in quantized_activations(made).items()}

    wide, noisy = steps(options), steps(noise)
    monkeypatch.setattr(stage, "MARGIN", 1.0)
    plain = steps(options)
    assert noisy == plain
    assert wide["x"] == plain["x"]
    assert wide["last"] == pytest.approx(MARGIN * plain["last"], rel=1e-5)


def test_the_report_tells_no_gain_where_nothing_was_left_in_float() -> None:
    made = convert(NETWORKS["concatenated"](), Options(samples=8, time_budget=2)).report.quantization
    (step,) = (each for each in made.steps if each.name == Step.FLOAT_FALLBACK)
    assert not step.applied
    assert step.before == pytest.approx(step.after)
