"""Nodes that stay in float have integer weights in the file, unless their owner or the outputs forbid it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, numpy_helper

from converter import Options, Result, convert
from converter.evaluation.kernels import optimize
from converter.graph import Graph, copied
from converter.options import Precision, Target
from converter.quantization.float_weights import choose_stored
from converter.quantization.integer_weights import codes_on_grid, round_channels
from converter.quantization.qdq_writer import WeightGrid
from converter.quantization.treatments import Treatment, treat
from tests.networks import HEAD, Prepared, biases, difference, head, model_of, node, prepare, residual, run, weights

ACCEPTABLE = 0.01  # of the outputs' variance
INTEGERS = {TensorProto.INT8, TensorProto.INT16}


def pictures() -> ModelProto:
    """A first layer that stays in float while the scale of its input is open, and layers that become integers."""
    return model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1] * 4),
            node("Relu", ["c0"], ["r0"]),
            node("Conv", ["r0", "w1", "b1"], ["c1"], pads=[1] * 4),
            node("Relu", ["c1"], ["last"]),
            *HEAD,
        ],
        {
            "w0": weights(16, 3, 3, 3),
            "w1": weights(16, 16, 3, 3, seed=1),
            "b0": biases(16),
            "b1": biases(16, 1),
            **head(16),
        },
        (8, 3, 16, 16),
    )


def converted(**options: object) -> Result:
    return convert(pictures(), Options.from_dict({"samples": 8, "time_budget": 5, **options}))


def stored_type(model: ModelProto, shape: tuple[int, ...]) -> list[int]:
    """The element types of all initializers of a shape."""
    return [each.data_type for each in model.graph.initializer if tuple(each.dims) == shape]


def layers(model: ModelProto) -> list[str]:
    return [each.name for each in prepare(model).graph.nodes if each.op_type == "Conv"]


def test_a_node_left_in_float_has_integer_weights_and_computes_in_float() -> None:
    result, first = converted(), layers(pictures())[0]
    decisions = result.report.quantization
    (kept,) = [each for each in decisions.kept_float if each.node == first]
    assert "sure" in kept.reason
    assert kept.reason.endswith("its weights are integers in the file")
    assert kept.weights_stored
    assert set(stored_type(result.model, (16, 3, 3, 3))) <= INTEGERS
    ran = {each.name: each.op_type for each in optimize(result.model).graph.node}
    assert "Conv" in ran.values()  # beside the QLinearConv of the others
    assert not {"Cast", "Mul"} & set(ran.values())  # unpacked when the file is loaded
    assert (decisions.nodes_stored, decisions.stored_operators) == (1, {"Conv": 1})
    total = decisions.nodes_quantized + decisions.nodes_stored + decisions.nodes_float
    assert total == len(prepare(pictures()).graph.nodes)
    assert decisions.quantized_operators["Conv"] == 1
    assert "1 node with weights as integers in the file alone" in " ".join(result.report.to_html().split())
    assert converted().model.SerializeToString() == result.model.SerializeToString()


def test_what_its_owner_excludes_stays_as_it_came() -> None:
    first = layers(pictures())[0]
    result = converted(exclude=[first])
    (kept,) = [each for each in result.report.quantization.kept_float if each.node == first]
    assert (kept.reason, kept.weights_stored) == (f"excluded by {first!r}", False)
    (there,) = [each for each in result.model.graph.initializer if tuple(each.dims) == (16, 3, 3, 3)]
    np.testing.assert_array_equal(numpy_helper.to_array(there), weights(16, 3, 3, 3))
    assert result.report.quantization.nodes_stored == 0
    assert result.model.ByteSize() > converted().model.ByteSize()


def test_a_target_that_takes_no_such_weights_gets_none() -> None:
    result = converted(target=Target.TENSORRT)
    assert result.report.quantization.nodes_stored == 0
    assert TensorProto.FLOAT in stored_type(result.model, (16, 3, 3, 3))


def test_other_precisions_have_them_too() -> None:
    result = converted(precision=Precision.W4A8)
    assert set(stored_type(result.model, (16, 3, 3, 3))) <= INTEGERS
    assert result.report.quantization.nodes_stored == 1


def outlying(factor: float) -> ModelProto:
    """The residual network with a dead channel whose weights in the next layer are so many times the others."""
    model = copied(residual())
    values = {each.name: numpy_helper.to_array(each).copy() for each in model.graph.initializer}
    values["w0"][0], values["b0"][0] = 0, -1
    values["w1"][:, 0] = factor * np.abs(values["w1"]).max()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    return model


def layer_of(given: Prepared, weight: str) -> str:
    return next(each.name for each in given.graph.nodes if weight in each.input)


def test_weights_whose_rounding_costs_too_much_have_16_bits_and_the_others_8() -> None:
    given = prepare(outlying(50.0))
    able = frozenset(each.name for each in given.graph.nodes)
    stored = choose_stored(given.model, able, given.batches, {"y": 1e-3}, ACCEPTABLE)
    assert layer_of(given, "w1") in stored.wide
    assert {layer_of(given, "w2"), layer_of(given, "w3")} & stored.narrow
    (step,) = stored.steps
    assert f"of 8 bits in {len(stored.narrow)}, of 16 in {len(stored.wide)}" in step.sentence
    assert step.before is not None
    assert step.after is not None
    assert 1e-3 == step.before < step.after <= 1.07 * 1e-3
    wanted = dict.fromkeys(stored.narrow, Treatment.WEIGHTS) | dict.fromkeys(stored.wide, Treatment.WIDE_WEIGHTS)
    made = treat(given.model, wanted)
    assert difference(run(given.model, given.batches[0]), run(made.model, given.batches[0])) < 0.1
    assert {np.dtype(np.int8), np.dtype(np.int16)} <= {each.dtype for each in Graph(made.model).initializers.values()}
    assert made.model.ByteSize() < given.model.ByteSize() / 2


@pytest.mark.parametrize(
    ("before", "eight"),
    [
        ({"y": 1e-12}, False),  # beside integers that lose next to nothing
        ({"y": 0.005}, True),
        ({}, False),  # no output that integers touch
        (None, True),  # nothing computes on integers: all that is acceptable
    ],
)
def test_what_weights_may_cost_is_measured_by_what_is_lost_anyway(before: dict[str, float] | None, eight: bool) -> None:
    given = prepare(residual())
    able = {layer_of(given, "w1")}
    stored = choose_stored(given.model, able, given.batches, before, ACCEPTABLE)
    assert (stored.narrow if eight else stored.wide) == able


def test_few_samples_are_not_asked_about_8_bits() -> None:
    given = prepare(residual())
    able = {layer_of(given, "w1")}
    assert choose_stored(given.model, able, given.batches, {"y": 0.005}, ACCEPTABLE, sure=False).wide == able
    assert choose_stored(given.model, able, given.batches, None, ACCEPTABLE, sure=False).narrow == able


def test_weights_that_16_bits_would_damage_stay_as_they_are() -> None:
    given = prepare(outlying(1e5))
    damaged = layer_of(given, "w1")
    stored = choose_stored(given.model, {damaged, layer_of(given, "w3")}, given.batches, {"y": 1e-3}, ACCEPTABLE)
    assert stored.narrow | stored.wide == {layer_of(given, "w3")}
    assert "1 keep FP32 weights" in stored.steps[0].sentence


def test_sixteen_bits_cost_nothing() -> None:
    given = prepare(residual())
    made = treat(given.model, {each.name: Treatment.WIDE_WEIGHTS for each in given.graph.nodes}).model
    assert difference(run(given.model, given.batches[0]), run(made, given.batches[0])) < 1e-3
    assert made.ByteSize() < given.model.ByteSize() / 1.5
    assert "Cast" not in {each.op_type for each in optimize(made).graph.node}


def twins() -> ModelProto:
    """Two layers with the same weights."""
    return model_of(
        [
            node("MatMul", ["x", "w"], ["a"]),
            node("Relu", ["a"], ["r"]),
            node("MatMul", ["r", "w"], ["y"]),
        ],
        {"w": weights(24, 24)},
        (8, 24),
    )


def test_nodes_that_share_weights_are_stored_together_or_not_at_all() -> None:
    given = prepare(twins())
    both = [each.name for each in given.graph.nodes if each.op_type == "MatMul"]
    assert choose_stored(given.model, set(both), given.batches, None, ACCEPTABLE).narrow == frozenset(both)
    alone = choose_stored(given.model, {both[0]}, given.batches, None, ACCEPTABLE)
    assert not alone.narrow | alone.wide
    made = treat(given.model, dict.fromkeys(both[:1], Treatment.WEIGHTS))
    assert made.reasons == {both[0]: f"{both[1]} reads its weights in float"}


def test_a_model_whose_nodes_have_no_weights_has_nothing_to_store() -> None:
    given = prepare(model_of([node("Relu", ["x"], ["y"])], {}, (8, 4)))
    assert choose_stored(given.model, {"Relu_0"}, given.batches, None, ACCEPTABLE).steps == ()


def test_weights_on_a_grid_are_stored_on_it() -> None:
    """Fitted weights lie on steps of their own, which their largest code need not reach."""
    given = prepare(residual())
    layer = next(each.name for each in given.graph.nodes if "w3" in each.input)
    scale = np.full(16, 0.01, np.float32)
    fitted = np.clip(np.rint(weights(16, 16, 1, 1, seed=3) / 0.01), -100, 100).astype(np.float32) * np.float32(0.01)
    model = copied(given.model)
    for tensor in model.graph.initializer:
        if tensor.name == "w3":
            tensor.CopyFrom(numpy_helper.from_array(fitted, "w3"))
    np.testing.assert_array_equal(codes_on_grid(fitted, scale, 0).real, fitted)
    assert not np.array_equal(round_channels(fitted, (0,)).real, fitted)
    made = treat(model, {layer: Treatment.WEIGHTS}, {"w3": WeightGrid(scale, 0)}).model
    assert difference(run(model, given.batches[0]), run(made, given.batches[0])) < 1e-5
    assert len(Graph(made).initializers) == len(Graph(model).initializers) + 1
