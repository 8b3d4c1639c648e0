"""A static product stays on integers in every form in which exporters write a bias after it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto

from converter.evaluation.kernels import count_kernels
from converter.findings import Kernels
from converter.quantization.integer_weights import round_channels
from converter.quantization.qdq_writer import Plan, WeightGrid, quantize
from tests.networks import Prepared, biases, difference, model_of, node, prepare, run, weights
from tests.quantization.test_qdq_writer import plan_of


def feed_forward(shape: tuple[int | str, ...], bias: float = 1.0, as_gemm: bool = False) -> ModelProto:
    """Two layers with an error-function between them."""
    first = [node("MatMul", ["x", "w0"], ["m0"]), node("Add", ["b0", "m0"], ["h"])]
    last = [node("MatMul", ["g", "w1"], ["m1"]), node("Add", ["m1", "b1"], ["y"])]
    if as_gemm:
        first = [node("Gemm", ["x", "w0", "b0"], ["h"])]
        last = [node("Gemm", ["g", "w1", "b1"], ["y"])]
    return model_of(
        [*first, node("Erf", ["h"], ["e"]), node("Mul", ["h", "e"], ["g"]), *last],
        {
            "w0": weights(32, 24).T.copy(),
            "b0": biases(32) * np.float32(bias),
            "w1": weights(20, 32).T.copy(),
            "b1": biases(20),
        },
        shape,
    )


def safe_plan(given: Prepared) -> Plan:
    """Every candidate on integers, with weights whose products no processor saturates."""
    plan = plan_of(given)
    grids = {}
    for name, grid in plan.weights.items():
        codes = round_channels(given.graph.initializers[name], (grid.axis,), 1 - grid.axis)
        grids[name] = WeightGrid(codes.scale.reshape(-1), grid.axis)
    return replace(plan, weights=grids)


def products(kernels: Kernels) -> int:
    """How many products run on integers."""
    return sum(kernels.integer_operators.get(each, 0) for each in ("QGemm", "MatMulIntegerToFloat"))


@pytest.mark.parametrize("shape", [(8, 6, 24), ("N", 6, 24), ("N", "L", 24), (8, 24), ("N", 24), (8, 2, 3, 24)])
def test_products_with_a_bias_run_on_integers_whatever_sizes_are_known(shape: tuple[int | str, ...]) -> None:
    given = prepare(feed_forward(shape), 8)
    made = quantize(given.model, safe_plan(given), None)
    kernels = count_kernels(given.model, made)
    assert products(kernels) == 2
    assert not {"Gemm", "MatMul"} & set(kernels.float_operators)
    assert difference(run(given.model, given.batches[0]), run(made, given.batches[0])) < 0.05


@pytest.mark.parametrize("shape", [(8, 24), ("N", 24)])
def test_so_does_a_gemm(shape: tuple[int | str, ...]) -> None:
    given = prepare(feed_forward(shape, as_gemm=True), 8)
    made = quantize(given.model, safe_plan(given), None)
    assert products(count_kernels(given.model, made)) == 2


def test_a_bias_that_32_bits_cannot_hold_stays_exact() -> None:
    given = prepare(feed_forward((8, 6, 24), bias=1e6), 8)
    plan = safe_plan(given)
    plan = replace(plan, ranges={**plan.ranges, "x": replace(plan.ranges["x"], low=-1e-4, high=1e-4)})
    made = quantize(given.model, plan, None)
    assert products(count_kernels(given.model, made)) == 2
    assert any(tensor.name == "b0:row" for tensor in made.graph.initializer)
