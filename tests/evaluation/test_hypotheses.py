"""The INT8 model under preprocessings that nobody can exclude, each judged once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from converter.checkpoints import Checkpoints
from converter.evaluation.fidelity import measure_fidelity
from converter.evaluation.hypotheses import FEWEST, judge_hypotheses, worst_plausible
from converter.inputs.conventions import candidates
from converter.inputs.description import describe_task
from converter.inputs.plans import InputPlan, Scaling
from converter.inputs.task import Task
from converter.normalization import normalize
from converter.options import Options
from converter.progress import Reporter
from converter.reconstruction import reconstruct
from converter.synthesis import batches
from converter.synthesis.stage import make_samples
from tests.networks import model_of, node, weights


def pictured() -> ModelProto:
    return model_of(
        [
            node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
            node("GlobalAveragePool", ["c"], ["g"]),
            node("Flatten", ["g"], ["y"]),
        ],
        {"w": weights(8, 3, 3, 3)},
        shape=("N", 3, 32, 32),
    )


def task_of(model: ModelProto, options: Options) -> Task:
    normalized = normalize(model)
    return describe_task(model, normalized, reconstruct(normalized.model), options)


def blurred(model: ModelProto) -> ModelProto:
    """The model with weights that are a little off, as integers would be."""
    changed = ModelProto()
    changed.CopyFrom(model)
    weight = changed.graph.initializer[0]
    values = np.array(numpy_helper.to_array(weight))
    values += np.random.default_rng(0).normal(0, 0.01, values.shape).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    return changed


def in_doubt(plan: InputPlan) -> InputPlan:
    """0..1 as likely as 0..255, and nothing else."""
    found: dict[str, Scaling] = {each.name: replace(each, probability=0.5) for each in candidates(plan)}
    considered = (found["0..1"], found["0..255"])
    return replace(plan, scaling=considered[0], considered=considered, rivals=())


@pytest.mark.parametrize("covered", [False, True])
def test_every_open_preprocessing_is_judged_and_the_taken_one_not_twice(covered: bool) -> None:
    options = Options(samples=16)
    model = pictured()
    task = task_of(model, options)
    plan = in_doubt(task.plans[0])
    task = replace(task, plans=(replace(plan, rivals=plan.considered[1:] if covered else ()),))
    samples = make_samples(task, options, Reporter(), Checkpoints())
    fidelity = measure_fidelity(model, blurred(model), batches(task.plans, samples.held_out, 8), "a test")
    judged = judge_hypotheses(model, blurred(model), task, samples, options, fidelity)
    assert [each.scaling for each in judged] == list(plan.considered)
    assert [each.covered for each in judged] == [True, covered]
    assert (judged[0].compared.outputs == fidelity.outputs) is not covered
    assert judged[0].sqnr_db != judged[1].sqnr_db
    assert worst_plausible(judged) in judged


def test_large_networks_are_judged_on_few_samples() -> None:
    options = Options(samples=16)
    model = pictured()
    task = task_of(model, options)
    task = replace(task, plans=(in_doubt(task.plans[0]),))
    samples = make_samples(task, options, Reporter(), Checkpoints())
    fidelity = measure_fidelity(model, blurred(model), batches(task.plans, samples.held_out, 8), "a test")
    large = replace(task, multiply_adds=10**11)
    counts = [
        [each.compared.samples for each in judge_hypotheses(model, blurred(model), size, samples, options, fidelity)]
        for size in (task, large)
    ]
    assert counts == [[16, 16], [16, FEWEST]]
