"""What onnxruntime's quantizer is handed is what is then in the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper

from converter import convert
from converter.errors import VerificationFailed
from converter.graph import Graph, weight_of
from converter.options import Options, Precision, Step, Target
from converter.quantization.calibration import RangeRule, observe
from converter.quantization.placement import place, quantized_tensors
from converter.quantization.qdq_writer import Plan, Range, WeightGrid, quantize, quantized_activations, weight_values
from converter.quantization.rounding import max_scale, nearest
from converter.sessions import open_session
from converter.targets import CONVENTIONS
from tests.networks import NETWORKS, Prepared, clipped, difference, prepare, residual, run


def plan_of(given: Prepared) -> Plan:
    nodes = place(given.graph, {}).nodes
    tensors = quantized_tensors(given.graph, nodes)
    observed = observe(given.network, sorted(set(tensors.values())), given.batches)
    grids = {}
    for each in given.graph.nodes:
        found = weight_of(each, given.graph)
        if found is not None and each.name in nodes:
            rows = torch.from_numpy(np.moveaxis(given.graph.initializers[found[0]], found[1], 0).copy()).flatten(1)
            grids[found[0]] = WeightGrid(max_scale(rows, 8).numpy(), found[1])
    return Plan(nodes, {name: observed[source].range(RangeRule.MINMAX) for name, source in tensors.items()}, grids)


def test_ranges_and_steps_reach_the_file() -> None:
    given = prepare(residual())
    plan = plan_of(given)
    made = quantize(given.model, plan, None)
    constants = Graph(made).initializers
    for name, found in quantized_activations(made).items():
        scale = float(constants[found.scale_name].item())
        wanted = plan.ranges[name].widened()
        assert scale == pytest.approx((wanted.high - wanted.low) / 255, rel=1e-4)
    for name, grid in plan.weights.items():
        np.testing.assert_array_equal(constants[f"{name}:s"], grid.scale)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_in_the_file_are_those_handed_over_rounded(name: str) -> None:
    given = prepare(NETWORKS[name]())
    plan = plan_of(given)
    values = weight_values(quantize(given.model, plan, None))
    for weight, grid in plan.weights.items():
        array = given.graph.initializers[weight]
        rows = torch.from_numpy(np.moveaxis(array, grid.axis, 0).copy())
        rounded = nearest(rows.flatten(1), torch.from_numpy(grid.scale), 8).reshape(rows.shape)
        np.testing.assert_allclose(np.moveaxis(values[weight], grid.axis, 0), rounded.numpy(), rtol=1e-5, atol=1e-7)


def test_types_of_activations_and_weights_by_target() -> None:
    given = prepare(residual())
    plan = plan_of(given)
    for target, wanted in ((Target.X64_VNNI, TensorProto.UINT8), (Target.ARM64, TensorProto.INT8)):
        made = quantize(given.model, replace(plan, convention=CONVENTIONS[target]), None)
        graph = Graph(made)
        zeros = {node.input[2] for node in made.graph.node if node.op_type == "QuantizeLinear"}
        assert {graph.initializers.element_type(name) for name in zeros} == {wanted}
        codes = {f"{name}:c" for name in plan.weights}
        assert {graph.initializers.element_type(name) for name in codes} == {TensorProto.INT8}
        assert difference(run(given.model, given.batches[0]), run(made, given.batches[0])) < 0.1


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_is_valid_small_and_loads(name: str) -> None:
    given = prepare(NETWORKS[name]())
    made = quantize(given.model, plan_of(given), None)
    onnx.checker.check_model(made, full_check=True)
    assert made.ir_version <= 10
    assert {entry.domain for entry in made.opset_import} == {""}
    assert 17 <= made.opset_import[0].version <= 21
    assert open_session(made).get_outputs()[0].name == given.model.graph.output[0].name


def test_a_clip_vanishes_into_its_range() -> None:
    given = prepare(clipped())
    made = quantize(given.model, plan_of(given), None)
    assert "Clip" not in {node.op_type for node in made.graph.node}


def test_the_same_plan_gives_the_same_bytes() -> None:
    given = prepare(residual())
    plan = plan_of(given)
    first, second = (quantize(given.model, plan, None).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


def test_a_plan_without_nodes_leaves_the_model_alone() -> None:
    given = prepare(residual())
    assert quantize(given.model, Plan(frozenset(), {}), None) == given.model


def test_a_range_that_is_missing_is_a_failed_verification() -> None:
    given = prepare(residual())
    plan = plan_of(given)
    with pytest.raises(VerificationFailed):
        quantize(given.model, replace(plan, ranges={}), None)


def test_ranges_hold_zero_and_have_a_width() -> None:
    assert Range(2.0, 3.0, "a test").widened() == Range(0.0, 3.0, "a test")
    assert Range(-3.0, -2.0, "a test", 16).widened() == Range(-3.0, 0.0, "a test", 16)
    flat = Range(0.0, 0.0, "a test").widened()
    assert flat.high > flat.low == 0.0


def test_the_weights_of_a_wide_grid_are_read_along_their_axis() -> None:
    given = prepare(NETWORKS["transformer"]())
    plan = plan_of(given)
    made = quantize(given.model, plan, None)
    stored = {each.name: numpy_helper.to_array(each) for each in made.graph.initializer}
    for name, grid in plan.weights.items():
        assert grid.axis == 1
        np.testing.assert_allclose(
            weight_values(made)[name], stored[f"{name}:c"].astype(np.float32) * grid.scale[None], rtol=1e-6
        )


def renamed(model: ModelProto, names: Mapping[str, str]) -> ModelProto:
    changed = ModelProto()
    changed.CopyFrom(model)
    for node in changed.graph.node:
        for each in (node.input, node.output):
            each[:] = [names.get(name, name) for name in each]
    for tensor in changed.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    return changed


def test_a_model_whose_names_end_like_those_of_the_quantizer() -> None:
    names = {"w1": "w1_scale", "w2": "w2_quantized", "b2": "w1_zero_point", "s2": "s2_scale", "c3": "s2_scale:s"}
    names |= {"a3": "s2", "w3": "s2_quantized_scale"}
    plain, odd = (
        convert(
            model, Options(precision=Precision.W4A8, samples=8, time_budget=5, skip=frozenset({Step.FLOAT_FALLBACK}))
        )
        for model in (residual(), renamed(residual(), names))
    )
    types = [sorted(each.data_type for each in made.model.graph.initializer) for made in (plain, odd)]
    assert types[0] == types[1]
    assert TensorProto.INT4 in types[0]
    feeds = prepare(residual()).batches[0]
    assert difference(run(plain.model, feeds), run(odd.model, feeds)) == 0
    layers = [
        [names.get(each.tensor, each.tensor) for each in plain.report.layers],
        [each.tensor for each in odd.report.layers],
    ]
    assert layers[0] == layers[1]
