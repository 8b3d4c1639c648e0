"""Samples that tell nothing are said to, statements that ruin a model are refused, and no output counts twice."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from converter import convert
from converter.errors import InvalidOption
from converter.evaluation.fidelity import compare
from converter.options import Options
from converter.specifications import InputSpec
from tests.inputs.kind_models import FLOAT, array, model, node

QUICK = Options(samples=16, time_budget=5)


def classifier(bias: float) -> ModelProto:
    nodes = [node("Gemm", "x w", "m"), node("Relu", "m", "r"), node("Gemm", "r wl b", "l"), node("Softmax", "l", "y")]
    preference = np.asarray([bias, 0, 0, 0, 0], np.float32)
    return model(
        nodes,
        {"x": (["N", 20], FLOAT)},
        {"y": ["N", 5]},
        constants={"w": array(20, 16), "wl": array(16, 5), "b": preference},
    )


def test_one_class_for_all_samples_is_said_and_predicts_nothing() -> None:
    report = convert(classifier(200.0), QUICK).report
    assert "degenerate-samples" in {each.kind for each in report.warnings}
    assert report.predicted.agreement is None
    assert "one and the same class" in (report.predicted.reason or "")


def test_many_classes_are_no_matter() -> None:
    report = convert(classifier(0.0), QUICK).report
    assert "degenerate-samples" not in {each.kind for each in report.warnings}
    assert report.predicted.agreement is not None
    (given,) = report.inputs
    assert "20 features" in given.reason
    assert given.overrule.startswith("--input 'x=")


def test_a_constant_output_is_said() -> None:
    made = classifier(0.0)
    made.graph.node.append(node("Mul", "m nothing", "z"))
    made.graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    made.graph.output.append(model([node("Relu", "z", "z2")], {"z": (None, FLOAT)}, ("z",)).graph.output[0])
    feeds = [{"x": array(8, 20)}]
    found = {each.name: each.constant for each in compare(made, made, feeds).outputs}
    assert found == {"y": False, "z": True}


def test_an_output_listed_twice_counts_once() -> None:
    made = classifier(0.0)
    made.graph.output.append(made.graph.output[0])
    compared = compare(made, made, [{"x": array(8, 20)}])
    assert [each.samples for each in compared.outputs] == [8]
    assert len(compared.before) == 8


def test_a_stated_scale_that_makes_no_numbers_is_refused_by_name() -> None:
    nodes = [node("Gemm", "x w", "m"), node("Log", "m", "y")]
    made = model(nodes, {"pixels": (["N", 20], FLOAT)}, constants={"w": np.ones((20, 4), np.float32)})
    made.graph.node[0].input[0] = "pixels"
    assert convert(made, Options(samples=8, inputs={"pixels": InputSpec(value_range=(1, 2))})).model.graph.node
    with pytest.raises(InvalidOption, match=r"'pixels'.*not a number"):
        convert(made, Options(samples=8, inputs={"pixels": InputSpec(value_range=(-2, -1))}))
