"""Nodes that the integer model does not run with stay float, few writings tell which."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from converter.quantization.placement import place, quantized_tensors
from converter.quantization.qdq_writer import Plan, Range, quantize
from converter.quantization.running import MOST_TRIALS, write_running
from tests.networks import NETWORKS, Prepared, difference, prepare, run


def plan_of(given: Prepared) -> Plan:
    nodes = place(given.graph, {}).nodes
    return Plan(nodes, dict.fromkeys(quantized_tensors(given.graph, nodes), Range(-4.0, 4.0, "test")))


def broken_with(given: Prepared, culprit: str, breaking: Callable[[ModelProto], None]) -> Callable[[Plan], ModelProto]:
    """Writes a plan; what comes out with the culprit on integers is broken."""

    def write(plan: Plan) -> ModelProto:
        model = quantize(given.model, plan, None)
        if culprit in plan.nodes:
            breaking(model)
        return model

    return write


def unknown_operator(model: ModelProto) -> None:
    model.graph.node[-1].op_type = "NoSuchOperator"


def infinite(model: ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.name.endswith("_scale") or tensor.name.endswith(":s"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(np.inf), tensor.name))


def refused(model: ModelProto) -> None:
    raise ValueError("the quantizer has its reasons")


@pytest.mark.parametrize("breaking", [unknown_operator, infinite, refused])
def test_only_the_culprit_stays_float(breaking: Callable[[ModelProto], None]) -> None:
    given = prepare(NETWORKS["residual"]())
    plan = plan_of(given)
    culprit = sorted(node.name for node in given.graph.nodes if node.op_type == "Conv")[1]
    writings = 0
    write = broken_with(given, culprit, breaking)

    def counted(each: Plan) -> ModelProto:
        nonlocal writings
        writings += 1
        return write(each)

    made = write_running(given.model, plan, counted, given.batches[0])
    assert culprit in made.kept_float
    assert len(made.kept_float) <= 2  # with the rectifier that would vanish into it
    assert made.plan.nodes == plan.nodes - made.kept_float.keys()
    assert writings < MOST_TRIALS
    assert all(np.isfinite(each).all() for each in run(made.model, given.batches[0]))


def test_where_nothing_runs_the_float_model_is_left() -> None:
    given = prepare(NETWORKS["residual"]())
    plan = plan_of(given)

    def write(_: Plan) -> ModelProto:
        raise ValueError("never")

    made = write_running(given.model, plan, write, given.batches[0])
    assert made.plan.nodes == frozenset()
    assert made.kept_float.keys() == plan.nodes
    assert difference(run(given.model, given.batches[0]), run(made.model, given.batches[0])) == 0


def test_what_runs_is_written_once() -> None:
    given = prepare(NETWORKS["residual"]())
    plan = plan_of(given)
    written: list[Plan] = []

    def write(each: Plan) -> ModelProto:
        written.append(each)
        return quantize(given.model, each, None)

    made = write_running(given.model, plan, write, given.batches[0])
    assert written == [plan]
    assert not made.kept_float
