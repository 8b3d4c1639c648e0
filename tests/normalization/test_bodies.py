"""Weights in bodies of If and Loop, held there or carried from turn to turn, become weights of the main graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from converter.graph import all_graphs, attribute, captures
from converter.normalization import normalize, probe, verify_equivalence
from tests.networks import model_of, node, run, weights

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def value(name: str, kind: int = FLOAT, shape: tuple[int | str, ...] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def carried_layer(swap: bool = False, seen: bool = False) -> ModelProto:
    """h = tanh(x w + h u), five times, as TensorFlow writes it: the weights go in and out of the Loop.

    With ``swap`` the body hands back the two matrices exchanged, with ``seen`` one of them is an output as well.
    """
    kept = ["u_in", "w_in"] if swap else ["w_in", "u_in"]
    body = helper.make_graph(
        [
            node("Identity", ["go"], ["go_on"]),
            node("MatMul", ["x", "w_in"], ["a"]),
            node("MatMul", ["h_in", "u_in"], ["b"]),
            node("Add", ["a", "b"], ["c"]),
            node("Tanh", ["c"], ["h_out"]),
        ],
        "body",
        [value("turn", INT64, ()), value("go", BOOL, ()), value("h_in"), value("w_in"), value("u_in")],
        [value("go_on", BOOL, ()), value("h_out"), *map(value, kept)],
    )
    loop = node("Loop", ["five", "", "x", "w", "u"], ["h", "w_after", "u_after"], body=body)
    last = [node("MatMul", ["h", "u_after"], ["y"])]
    constants = {"five": np.array(5), "w": weights(24, 24), "u": weights(24, 24, seed=1) * np.float32(0.2)}
    return model_of([loop, *last], constants, ("N", 24), ("y", "w_after") if seen else ("y",))


def chosen_layer(returned: bool = False) -> ModelProto:
    """One of two layers by the sign of the input, each weight cut out of a constant of its branch's own."""

    def branch(name: str, seed: int) -> GraphProto:
        both = numpy_helper.from_array(weights(48, 24, seed=seed), f"{name}_both")
        nodes = [
            node("Constant", [], [f"{name}_all"], value=both),
            node("Constant", [], [f"{name}_from"], value_ints=[24]),
            node("Constant", [], [f"{name}_to"], value_ints=[48]),
            node("Slice", [f"{name}_all", f"{name}_from", f"{name}_to"], [f"{name}_w"]),
            node("MatMul", ["x", f"{name}_w"], [f"{name}_y"]),
        ]
        if returned:
            nodes[-1] = node("Identity", [f"{name}_w"], [f"{name}_y"])
        return helper.make_graph(nodes, name, [], [value(f"{name}_y")])

    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["positive"]),
        node("If", ["positive"], ["m"], then_branch=branch("then", 1), else_branch=branch("else", 2)),
        node("Add", ["m", "x"], ["y"]),
    ]
    return model_of(nodes, {"zero": np.array(0.0, np.float32)}, (24, 24))


@pytest.mark.parametrize("model", [carried_layer(), chosen_layer()], ids=["loop", "branches"])
def test_weights_leave_bodies(model: ModelProto) -> None:
    normalized = normalize(model).model
    (owner,) = [each for each in normalized.graph.node if each.attribute and captures(each)]
    held = {tensor.name: tuple(tensor.dims) for tensor in normalized.graph.initializer}
    assert [held[name] for name in sorted(captures(owner)) if name in held] == [(24, 24)] * 2
    for body in list(all_graphs(normalized.graph))[1:]:
        assert not any(len(tensor.dims) > 1 for tensor in body.initializer)
        assert not any(each.op_type in ("Slice", "Constant") for each in body.node)
    assert verify_equivalence(model, normalized, probe(model)) == 0


def test_a_loop_carries_only_what_it_changes() -> None:
    normalized = normalize(carried_layer()).model
    (loop,) = [each for each in normalized.graph.node if each.op_type == "Loop"]
    assert len(loop.input) == 3
    assert list(loop.output) == ["h"]
    body: GraphProto = attribute(loop, "body")
    assert [each.name for each in body.output] == ["go_on", "h_out"]


@pytest.mark.parametrize(("swap", "seen", "left"), [(True, False, 5), (False, True, 4)])
def test_what_a_loop_exchanges_or_the_model_shows_is_carried_on(swap: bool, seen: bool, left: int) -> None:
    model = carried_layer(swap, seen)
    normalized = normalize(model).model
    (loop,) = [each for each in normalized.graph.node if each.op_type == "Loop"]
    assert len(loop.input) == left
    assert verify_equivalence(model, normalized, probe(model)) == 0


def test_a_constant_that_a_branch_returns_is_not_read_from_outside() -> None:
    model = chosen_layer(returned=True)
    normalized = normalize(model).model
    x = np.eye(24, dtype=np.float32)
    for sign in (1, -1):
        assert np.array_equal(run(normalized, {"x": x * sign})[0], run(model, {"x": x * sign})[0])


def test_equal_weights_of_two_branches_are_in_the_file_once() -> None:
    model = chosen_layer()
    for body in list(all_graphs(model.graph))[1:]:
        body.node[0].attribute[0].t.CopyFrom(numpy_helper.from_array(weights(48, 24), "same"))
    normalized = normalize(model).model
    assert [tuple(tensor.dims) for tensor in normalized.graph.initializer if len(tensor.dims) > 1] == [(24, 24)]
    assert verify_equivalence(model, normalized, probe(model)) == 0


@pytest.mark.parametrize("operator", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_noise_is_drawn_anew_at_every_run(operator: str) -> None:
    model = model_of(
        [node(operator, ["half"], ["noise"]), node("Add", ["x", "noise"], ["y"])],
        {"half": np.full((1, 24), 0.5, np.float32)},
        ("N", 24),
    )
    assert [each.op_type for each in normalize(model).model.graph.node] == [operator, "Add"]
