"""Calibration data from the network alone: seeded, within their bounds, in whole batches, nearer to classes."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto

from converter.checkpoints import Checkpoints
from converter.errors import VerificationFailed
from converter.inputs.description import describe_task
from converter.inputs.task import Task
from converter.normalization import normalize
from converter.options import Method, Options
from converter.pipeline import convert
from converter.progress import Reporter
from converter.reconstruction import reconstruct
from converter.synthesis import Synthesis, batches
from converter.synthesis.stage import affordable_counts, make_samples
from tests.digits import Digits
from tests.networks import HEAD, biases, head, model_of, node, residual, weights


def task_of(model: ModelProto, options: Options) -> Task:
    normalized = normalize(model)
    return describe_task(model, normalized, reconstruct(normalized.model), options)


def samples_of(model: ModelProto, **chosen: object) -> Synthesis:
    options = Options.from_dict({"samples": 24, **chosen})
    return make_samples(task_of(model, options), options, Reporter(), Checkpoints())


def classifier() -> ModelProto:
    """A classifier of coloured pictures."""
    return model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"], strides=[2, 2]),
            node("Relu", ["c0"], ["last"]),
            *HEAD,
        ],
        {"w0": weights(16, 3, 3, 3), "b0": biases(16), **head(16)},
        shape=("N", 3, 16, 16),
    )


def test_one_seed_gives_one_set_of_samples() -> None:
    first, second, other = (samples_of(classifier(), seed=seed) for seed in (1, 1, 2))
    for name in ("calibration", "held_out"):
        one, two, three = (getattr(each, name)["x"] for each in (first, second, other))
        np.testing.assert_array_equal(one, two)
        assert not np.array_equal(one, three)


def test_what_judges_was_not_calibrated_with() -> None:
    made = samples_of(classifier())
    calibration, held_out = made.calibration["x"], made.held_out["x"]
    assert len(calibration) == len(held_out) == 24
    assert not {each.tobytes() for each in calibration} & {each.tobytes() for each in held_out}


def test_pictures_stay_pictures() -> None:
    made = samples_of(classifier())
    assert made.calibration["x"].shape == (24, 3, 16, 16)
    assert made.calibration["x"].min() >= 0
    assert made.calibration["x"].max() <= 1


def test_a_share_of_the_samples_approaches_classes(digits: Digits) -> None:
    made = samples_of(digits.model)
    assert made.method is Method.AUTO
    assert made.loss[-1] < 0.5 * made.loss[0]
    assert "14 of 24" in made.distribution  # of the samples that judge, as of those that calibrate


def test_noise_is_standard_where_the_network_gets_it() -> None:
    made = samples_of(classifier(), method="noise", inputs={"x": "range=0:255"})
    given = np.concatenate([each["x"] for each in batches(made.plans, made.calibration, 8)])
    assert given.mean() == pytest.approx(0, abs=0.05)
    assert given.std() == pytest.approx(1, abs=0.05)
    assert made.held_out["x"].min() >= 0  # what judges is a picture all the same


def test_without_classes_samples_are_only_drawn() -> None:
    model = model_of([node("Conv", ["x", "w"], ["y"])], {"w": weights(8, 8, 1, 1)})
    made = samples_of(model)
    assert made.loss == ()
    assert made.distribution


@pytest.mark.parametrize("batch", [1, 4, 7, 32])
def test_batches_are_whole_where_the_model_fixes_them(batch: int) -> None:
    model = residual()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    made = samples_of(model)
    assert {len(each["x"]) for each in batches(made.plans, made.calibration, 8)} == {batch}
    assert len(made.calibration["x"]) >= 24


def test_batches_hold_every_sample_in_order() -> None:
    made = samples_of(classifier())
    whole = next(iter(batches(made.plans, made.calibration, 24)))["x"]
    parts = np.concatenate([each["x"] for each in batches(made.plans, made.calibration, 5)])
    np.testing.assert_array_equal(whole, parts)


def test_little_time_means_fewer_steps_and_not_another_result() -> None:
    """The number of steps follows from the size of the network, never from a clock."""
    options = Options(samples=24)
    task = task_of(classifier(), options)
    large, thin = replace(task, multiply_adds=10**9), replace(task, elements=10**9)
    made = [make_samples(each, options, Reporter(), Checkpoints()) for each in (task, large, large, thin)]
    assert made[0].steps > made[1].steps >= 0
    assert made[1].steps == made[2].steps
    assert made[0].steps > made[3].steps
    np.testing.assert_array_equal(made[1].calibration["x"], made[2].calibration["x"])


def test_a_task_knows_its_size_and_classes(digits: Digits) -> None:
    task = task_of(digits.model, Options())
    assert task.multiply_adds == 64 * 16 * 9 + 16 * 32 * 16 * 9 + 16 * 32 * 32 * 9 + 320
    assert task.classes is not None
    assert task.logits == "digit"
    assert task.rewriting_error < 1e-4
    assert len(task.batch_norms) == 3


def test_scores_before_their_softmax_are_what_samples_approach() -> None:
    model = classifier()
    model.graph.node[-1].output[0] = "scores"
    model.graph.node.append(node("Softmax", ["scores"], ["y"]))
    assert task_of(model, Options()).logits == "scores"


def test_a_rewriting_that_changed_the_function_is_noticed() -> None:
    given, other = residual(), residual()
    changed = np.frombuffer(other.graph.initializer[0].raw_data, np.float32) * np.float32(1.5)
    other.graph.initializer[0].raw_data = changed.tobytes()
    normalized = normalize(other)
    with pytest.raises(VerificationFailed):
        describe_task(given, normalized, reconstruct(normalized.model), Options())


@pytest.mark.parametrize("method", Method)
def test_every_method_gives_samples_that_fit(method: Method, digits: Digits) -> None:
    started = time.monotonic()
    made = samples_of(digits.model, samples=8, method=str(method), time_budget=1)
    assert made.method is method
    for raw in (made.calibration["image"], made.held_out["image"]):
        assert raw.shape == (8, 1, 8, 8)
        assert raw.dtype == np.float32
        assert np.isfinite(raw).all()
    assert 0 <= made.seconds <= time.monotonic() - started


def test_effort_decides_steps_and_samples() -> None:
    fast, normal, best = (samples_of(classifier(), effort=each) for each in ("fast", "normal", "best"))
    assert [each.count for each in (fast, normal, best)] == [24, 24, 96]
    assert fast.steps == 0 < normal.steps < best.steps
    assert not fast.loss


def test_weights_are_compensated_unless_in_a_hurry() -> None:
    for effort, compensated in (("fast", False), ("normal", True)):
        made = convert(classifier(), Options.from_dict({"samples": 8, "time_budget": 5, "effort": effort}))
        rounding = next(each for each in made.report.quantization.steps if each.name == "rounding")
        assert rounding.applied is compensated


def test_large_networks_get_as_few_samples_as_fit_and_the_report_says_so() -> None:
    """By their size alone: what is asked for where there is room, and never fewer than ranges and scales take."""
    options = Options(samples=24)
    task = task_of(classifier(), options)
    large = replace(task, multiply_adds=10**10)
    assert affordable_counts(task, options) == (24, 24)
    assert affordable_counts(large, options) == (8, 16)
    assert affordable_counts(large, replace(options, time_budget=600.0)) == (24, 24)
    assert affordable_counts(large, replace(options, samples=8)) == (8, 8)
    made = make_samples(large, options, Reporter(), Checkpoints())
    assert (len(made.calibration["x"]), len(made.held_out["x"])) == (8, 16)
    assert any("8 samples calibrate and 16 judge instead of 24" in note for note in made.notes)
    assert not make_samples(task, options, Reporter(), Checkpoints()).notes
