"""Sizes that a model leaves open are those that its file, its tables, its strides or its kind speak for."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from converter.errors import InvalidOption
from converter.graph import Graph
from converter.inputs.description import describe_task
from converter.inputs.free_sizes import picture_sizes
from converter.inputs.plans import InputPlan
from converter.normalization import normalize
from converter.options import Options
from converter.reconstruction import reconstruct
from tests.inputs.kind_models import FLOAT, POOLED, array, model, node


def taken(given: ModelProto, **options: object) -> InputPlan:
    normalized = normalize(given)
    task = describe_task(given, normalized, reconstruct(normalized.model), Options.from_dict(dict(options)))
    return task.plans[0]


def detector() -> ModelProto:
    """Three strides whose boxes are joined to rows."""
    nodes = [
        node("Conv", "x w8", "a8", strides=[8, 8]),
        node("Conv", "a8 w16", "a16", strides=[2, 2]),
        node("Conv", "a16 w32", "a32", strides=[2, 2]),
        *(node("Reshape", f"a{each} rows", f"r{each}") for each in (8, 16, 32)),
        node("Concat", "r8 r16 r32", "j", axis=2),
        node("Transpose", "j", "y", perm=[0, 2, 1]),
    ]
    weights = {"w8": array(6, 3, 8, 8), "w16": array(6, 6, 2, 2), "w32": array(6, 6, 2, 2)}
    return model(nodes, {"x": (["N", 3, "h", "w"], FLOAT)}, constants={**weights, "rows": [0, 6, -1]})


def line_reader() -> ModelProto:
    """Heights shrink by 16 and are pooled by 3: only 48 pixels leave one row and none over."""
    nodes = [
        node("Conv", "x w", "c1", strides=[4, 4]),
        node("Conv", "c1 w2", "c2", strides=[2, 1]),
        node("Conv", "c2 w2", "c3", strides=[2, 1]),
        node("AveragePool", "c3", "p", kernel_shape=[3, 2], strides=[3, 2]),
        node("Squeeze", "p two", "s"),
        node("Transpose", "s", "t", perm=[0, 2, 1]),
        node("MatMul", "t wl", "l"),
        node("Softmax", "l", "y", axis=2),
    ]
    weights = {"w": array(8, 3, 4, 4), "w2": array(8, 8, 2, 1), "wl": array(8, 40)}
    return model(nodes, {"x": (["N", 3, None, None], FLOAT)}, constants={**weights, "two": [2]})


def test_a_detector_gets_the_size_of_detectors() -> None:
    plan = taken(detector())
    assert plan.shape == (3, 640, 640)
    assert "detectors" in plan.reason


def test_what_the_file_says_comes_first() -> None:
    given = detector()
    helper.set_model_props(given, {"imgsz": "[320, 416]"})
    plan = taken(given)
    assert plan.shape == (3, 320, 416)
    assert "imgsz" in plan.reason


def test_what_the_owner_says_comes_before_all() -> None:
    assert taken(detector(), inputs={"x": "shape=1x3x64x96"}).shape == (3, 64, 96)


def test_a_reader_of_lines_gets_lines_that_fit_its_pools() -> None:
    plan = taken(line_reader())
    assert plan.shape == (3, 48, 320)
    assert "text lines" in plan.reason


def test_positions_and_anchors_tell_the_size() -> None:
    given = detector()
    given.graph.initializer.append(helper.make_tensor("anchors", TensorProto.FLOAT, [1, 2, 3549], np.zeros(7098)))
    assert (picture_sizes(Graph(given), {})[0].height, picture_sizes(Graph(given), {})[0].width) == (416, 416)
    nodes = [
        node("Conv", "x w", "c", strides=[16, 16]),
        node("Reshape", "c rows", "r"),
        node("Transpose", "r", "t", perm=[0, 2, 1]),
        node("Add", "t places", "e"),
        node("MatMul", "e wl", "m"),
        node("ReduceMean", "m", "y", axes=[1], keepdims=0),
    ]
    stored = {"w": array(8, 3, 16, 16), "places": array(1, 576, 8), "wl": array(8, 5)}
    plan = taken(model(nodes, {"x": (["N", 3, "h", "w"], FLOAT)}, constants={**stored, "rows": [0, 8, -1]}))
    assert plan.shape == (3, 384, 384)
    assert "576 positions" in plan.reason


def test_a_classifier_gets_the_usual_size() -> None:
    weights = {"w": array(8, 3, 3, 3), "wl": array(8, 5)}
    nodes = [node("Conv", "x w", "c", strides=[2, 2]), node("Relu", "c", "h"), *POOLED]
    assert taken(model(nodes, {"x": (["N", 3, "h", "w"], FLOAT)}, constants=weights)).shape == (3, 224, 224)


def test_a_stated_size_that_does_not_run_is_refused_by_name() -> None:
    with pytest.raises(InvalidOption, match="x 3x4x4") as refused:
        taken(detector(), inputs={"x": "shape=1x3x4x4"})
    assert "--input x=shape=" in (refused.value.remedy or "")


def test_a_model_that_runs_on_no_size_asks_for_one() -> None:
    nodes = [node("Conv", "x w", "c"), node("Concat", "c table", "y", axis=1)]
    stored = {"w": array(8, 3, 1, 1), "table": array(1, 8, 41, 43)}
    with pytest.raises(InvalidOption, match="No sizes were found") as asked:
        taken(model(nodes, {"x": (["N", 3, "h", "w"], FLOAT)}, constants=stored))
    assert "--input x=shape=" in (asked.value.remedy or "")
