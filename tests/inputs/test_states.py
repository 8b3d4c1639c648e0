"""States that come back: which output is which, what calibration hears first, and what errors become in a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from converter import convert
from converter.graph import Graph
from converter.inputs.drawing import draw, draw_inputs
from converter.inputs.free_sizes import relate
from converter.inputs.plans import InputKind
from converter.inputs.recognition import describe_inputs
from converter.inputs.states import fill_caches, returned_states, settle_states
from converter.options import Options
from converter.quantization import closed_loop, stage
from converter.quantization.closed_loop import run_closed_loop
from converter.reconstruction import reconstruct
from tests.networks import node, recurrent, weights

FLOAT = TensorProto.FLOAT


def drawn(model: ModelProto, count: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {plan.name: draw(plan, count, generator) for plan in describe_inputs(Graph(model), {})}


def test_states_return_by_type_and_name() -> None:
    names: dict[str, list[int | str]] = {"x": ["N", 4], "h0": ["N", 8], "c0": ["N", 8], "other": ["N", 3]}
    graph = helper.make_graph(
        [node("Identity", [name], [result]) for name, result in {"x": "y", "c0": "cn", "h0": "hn"}.items()],
        "g",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in names.items()],
        [helper.make_tensor_value_info(name, FLOAT, ["N", size]) for name, size in {"y": 4, "cn": 8, "hn": 8}.items()],
    )
    given = Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    assert returned_states(given, describe_inputs(given, {})) == {"h0": "hn", "c0": "cn"}


def test_a_settled_state_has_heard_the_samples_before_its_own() -> None:
    model = recurrent()
    graph, network = Graph(model), reconstruct(model)
    plans, raw = describe_inputs(graph, {}), drawn(model, 12)
    settled = settle_states(network, graph, plans, raw)
    assert not raw["h0"].any()
    np.testing.assert_array_equal(settled["x"], raw["x"])
    state = np.zeros((1, 12), np.float32)
    for sample in [*range(12 - 8 + 3, 12), *range(3)]:  # the eight before number three
        feeds = {"x": raw["x"][sample : sample + 1], "h0": state, "sr": np.array(16_000)}
        with torch.no_grad():
            state = network.run({name: torch.from_numpy(each) for name, each in feeds.items()}, ["hn"])["hn"].numpy()
    np.testing.assert_allclose(settled["h0"][3], state[0], atol=1e-5)


def test_a_loop_shows_what_a_wrong_weight_becomes() -> None:
    model = recurrent()
    graph, raw = Graph(model), drawn(model, 16)
    plans = describe_inputs(graph, {})
    same = run_closed_loop(model, model, graph, plans, raw)
    assert same is not None
    assert same.sqnr_db > 100
    wrong = ModelProto()
    wrong.CopyFrom(model)
    for tensor in wrong.graph.initializer:
        if tensor.name == "u":
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), "u"))
    other = run_closed_loop(model, wrong, graph, plans, raw)
    assert other is not None
    assert other.sqnr_db < 10


def growing() -> ModelProto:
    """A step of attention-like averaging over all steps so far, whose cache gets longer with each of them."""
    values = {"w": weights(16, 16), "v": weights(16, 8)}
    graph = helper.make_graph(
        [
            node("MatMul", ["x", "w"], ["k"]),
            node("Concat", ["past_key", "k"], ["present_key"], axis=1),
            node("ReduceMean", ["present_key"], ["m"], axes=[1], keepdims=1),
            node("Add", ["k", "m"], ["a"]),
            node("MatMul", ["a", "v"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info(name, FLOAT, ["N", size, 16]) for name, size in (("x", "S"), ("past_key", "P"))],
        [
            helper.make_tensor_value_info("y", FLOAT, ["N", "S", 8]),
            helper.make_tensor_value_info("present_key", FLOAT, ["N", "Q", 16]),
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_cache_that_grows_is_no_state_and_holds_what_the_network_makes() -> None:
    model = growing()
    graph = Graph(model)
    plans = relate(describe_inputs(graph, {}))
    cache = next(plan for plan in plans if plan.name == "past_key")
    assert (cache.kind, cache.returned) == (InputKind.CACHE, "present_key")
    raw = draw_inputs(plans, 6, np.random.default_rng(0))
    filled = fill_caches(reconstruct(model), plans, raw)
    made = raw["x"] @ weights(16, 16)
    np.testing.assert_allclose(filled["past_key"][2, 0], made[1, 0], rtol=1e-4, atol=1e-5)
    assert filled["past_key"].shape == raw["past_key"].shape
    assert convert(model, Options(samples=8, time_budget=5)).report.quantization.nodes_quantized > 0


def test_outputs_that_are_constant_equal_or_no_numbers() -> None:
    model = recurrent()
    graph, raw = Graph(model), drawn(model, 8)
    raw["h0"] = np.full_like(raw["h0"], np.nan)
    broken = run_closed_loop(model, model, graph, describe_inputs(graph, {}), raw)
    assert broken is not None
    assert broken.sqnr_db == -np.inf
    assert closed_loop._sqnr(np.ones(4), np.ones(4)) == closed_loop.EQUAL
    assert closed_loop._sqnr(np.ones(4), np.ones(4) + 1e-3) == pytest.approx(60, abs=0.1)


def test_without_states_there_is_no_loop() -> None:
    model = recurrent()
    graph = Graph(model)
    plans = tuple(plan for plan in describe_inputs(graph, {}) if plan.kind is not InputKind.STATE)
    raw = drawn(model, 8)
    assert run_closed_loop(model, model, graph, plans, raw) is None
    assert settle_states(reconstruct(model), graph, plans, raw) is raw


def test_a_network_whose_loop_goes_astray_stays_in_float(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = Options(samples=8, time_budget=5)
    made = convert(recurrent(), quick).report.quantization
    assert made.nodes_quantized > 0
    assert ["enough" in each.sentence for each in made.steps if each.name == "closed-loop"] == [True]
    monkeypatch.setattr(stage, "LEAST_IN_LOOP", 1000.0)
    report = convert(recurrent(), quick).report
    kept = report.quantization
    assert report.kernels is not None
    assert not report.kernels.integer_operators  # weights alone may be integers: they add no error to a state
    assert ["too little" in each.sentence for each in kept.steps if each.name == "closed-loop"] == [True]
    assert any("feeds its state back" in each.reason for each in kept.kept_float)
