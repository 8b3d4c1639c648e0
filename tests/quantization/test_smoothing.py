"""Outliers move into weights: the same function, and less error once the products are dynamic."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

from converter.graph import Graph
from converter.quantization.smoothing import smooth
from converter.quantization.treatments import Treatment, treat, uniform
from tests.networks import Prepared, biases, difference, model_of, node, prepare, run, weights
from tests.quantization.test_treatments import decibels


def normalized_twice(residual: bool) -> ModelProto:
    """A layer after a normalization some of whose channels reach far, with or without a stream around the layer."""
    gamma = np.ones(48, np.float32)
    gamma[[3, 17]] = [60, 35]
    last = [node("Add", ["normal", "m"], ["y"])] if residual else [node("Relu", ["m"], ["y"])]
    return model_of(
        [
            node("LayerNormalization", ["x", "gamma", "beta"], ["normal"], axis=-1),
            node("MatMul", ["normal", "w0"], ["h"]),
            node("Relu", ["h"], ["r"]),
            node("MatMul", ["r", "w1"], ["m"]),
            *last,
        ],
        {
            "gamma": gamma,
            "beta": biases(48),
            "w0": weights(64, 48).T.copy(),
            "w1": weights(48, 64, seed=1).T.copy(),
        },
        ("N", 6, 48),
    )


def smoothed(given: Prepared) -> ModelProto:
    dynamic = [name for name, each in uniform(given.graph, Treatment.DYNAMIC).items() if each is Treatment.DYNAMIC]
    return smooth(given.model, given.graph, given.network, dynamic, given.batches).model


@pytest.mark.parametrize("residual", [True, False])
def test_the_function_stays_and_the_error_falls(residual: bool) -> None:
    given = prepare(normalized_twice(residual))
    changed = smoothed(given)
    feeds = given.batches[0]
    assert difference(run(given.model, feeds), run(changed, feeds)) < 1e-5
    before, after = (
        decibels(run(given.model, feeds)[:1], run(treat(model, uniform(Graph(model), Treatment.DYNAMIC)).model, feeds))
        for model in (given.model, changed)
    )
    assert after > before + 6


def test_a_normalization_takes_the_division_where_nobody_else_reads_it() -> None:
    alone, shared = (smoothed(prepare(normalized_twice(residual))) for residual in (False, True))
    makers = [{name: each for each in model.graph.node for name in each.output} for model in (alone, shared)]
    readers = [next(each for each in model.graph.node if each.name == "MatMul_1") for model in (alone, shared)]
    operators = [made[reader.input[0]].op_type for made, reader in zip(makers, readers, strict=True)]
    assert operators == ["LayerNormalization", "Mul"]


def test_a_weight_that_others_read_stays() -> None:
    given = prepare(
        model_of(
            [
                node("Mul", ["x", "spread"], ["s"]),
                node("MatMul", ["s", "w"], ["h"]),
                node("Relu", ["h"], ["r"]),
                node("MatMul", ["r", "w"], ["y"]),
            ],
            {"w": weights(32, 32), "spread": np.exp(biases(32) * 9)},
            ("N", 4, 32),
        )
    )
    assert smooth(given.model, given.graph, given.network, ["MatMul_1"], given.batches).gains == {}
    assert smoothed(given).graph.node[1].op_type == "MatMul"
