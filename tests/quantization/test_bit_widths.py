from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from converter.errors import InvalidOption
from converter.graph import Graph
from converter.options import Options, Precision
from converter.pipeline import convert
from converter.quantization.bit_widths import (
    Choice,
    choose_widths,
    coarse_activations,
    edge_weights,
    pareto,
    uniform_widths,
)
from converter.quantization.correction import Settings
from converter.quantization.placement import place, quantized_tensors
from converter.reconstruction import reconstruct
from converter.sessions import open_session

LAYERS = 5


def classifier() -> ModelProto:
    """Five convolutions with a residual connection, pooling and a head of 10 classes."""
    generator = np.random.default_rng(0)
    nodes, values = [], {}
    width, tensor = 3, "x"
    for index in range(LAYERS):
        out = 16
        values[f"w{index}"] = generator.standard_normal((out, width, 3, 3)) * (2 / (9 * width)) ** 0.5
        values[f"b{index}"] = generator.standard_normal(out) * 0.1
        inputs = [tensor, f"w{index}", f"b{index}"]
        nodes.append(helper.make_node("Conv", inputs, [f"c{index}"], f"conv{index}", pads=[1] * 4))
        if index == 2:
            nodes.append(helper.make_node("Add", ["c2", "r0"], ["sum"], "add"))
        source = "sum" if index == 2 else f"c{index}"
        nodes.append(helper.make_node("Relu", [source], [f"r{index}"], f"relu{index}"))
        width, tensor = out, f"r{index}"
    values["head"], values["head_b"] = generator.standard_normal((10, 16)), np.zeros(10)
    nodes += [
        helper.make_node("GlobalAveragePool", [tensor], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "head", "head_b"], ["y"], "gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in values.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


INNER = frozenset({"w1", "w2", "w3", "w4"})
EVERY = INNER | {"w0", "head"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.floats(0, 1), st.floats(0, 1)).map(
            lambda each: [
                Choice("w", 4, each[0], max(each[1], each[2])),
                Choice("w", 8, 2 * each[0], min(each[1], each[2])),
            ]
        ),
        min_size=1,
        max_size=7,
    )
)
def test_the_frontier_is_that_of_all_choices(layers: list[list[Choice]]) -> None:
    points = pareto(layers)
    everything = [
        (sum(each.size for each in chosen), sum(each.divergence for each in chosen))
        for chosen in itertools.product(*layers)
    ]
    for size in {size for size, _ in everything}:
        best = min(divergence for each, divergence in everything if each <= size)
        assert min(point.divergence for point in points if point.size <= size) == pytest.approx(best)
    assert [point.size for point in points] == sorted(point.size for point in points)
    assert [point.divergence for point in points] == sorted((p.divergence for p in points), reverse=True)
    for point in points:
        assert point.size == sum(
            next(each.size for each in choices if each.bits == bits)
            for choices, bits in zip(layers, point.bits, strict=True)
        )


def test_the_first_and_the_last_layers_are_told_by_the_graph() -> None:
    graph = Graph(classifier())
    nodes = place(graph, {}).nodes
    assert edge_weights(graph, nodes) == {"w0", "head"}
    widths = uniform_widths(graph, nodes, Precision.W4A8)
    assert {name for name, bits in widths.bits.items() if bits == 4} == INNER
    assert {name for name, bits in widths.bits.items() if bits == 8} == {"w0", "head"}


def test_a_head_in_float_does_not_make_the_layer_before_it_the_last() -> None:
    graph = Graph(classifier())
    nodes = place(graph, {"gemm": "test"}).nodes
    assert edge_weights(graph, nodes) == {"w0"}


def test_four_bits_for_what_inner_layers_read() -> None:
    graph = Graph(classifier())
    nodes = place(graph, {}).nodes
    coarse = coarse_activations(graph, nodes, quantized_tensors(graph, nodes))
    assert {"r0", "r1", "r2", "r3"} <= coarse
    assert coarse.isdisjoint({"x", "f", "p"})


def widths_of(budget: float, samples: int = 16) -> tuple[dict[str, int], float]:
    model = classifier()
    graph, network = Graph(model), reconstruct(model)
    torch.manual_seed(0)
    batches = [{"x": torch.randn(8, 3, 12, 12)} for _ in range(samples // 8)]
    found = choose_widths(network, graph, place(graph, {}).nodes, batches, Settings(), budget, 10**6)
    (chosen,) = [point for point in found.frontier if point.chosen]
    assert found.steps[0].before == pytest.approx(chosen.predicted_kl)
    return dict(found.bits), chosen.predicted_kl


def test_a_larger_budget_gives_more_bits_and_less_divergence() -> None:
    least, divergence = widths_of(0.5)
    assert set(least.values()) == {4}
    some, less = widths_of(0.75)
    assert set(some.values()) == {4, 8}
    most, none = widths_of(1.0)
    assert set(most.values()) == {8}
    assert divergence > less > none >= 0


def test_a_budget_above_one_is_in_bytes() -> None:
    weights = {each.name: int(np.prod(each.dims)) for each in classifier().graph.initializer if len(each.dims) > 1}
    bits, _ = widths_of(0.7 * sum(weights.values()))
    assert sum(weights[name] * bits[name] / 8 for name in weights) <= 0.7 * sum(weights.values())
    assert bits == widths_of(0.7)[0]


def test_a_budget_below_4_bits_is_refused_with_the_least_that_is_possible() -> None:
    with pytest.raises(InvalidOption, match="below") as refused:
        widths_of(0.4)
    assert refused.value.field == "size_budget"
    assert "0.5" in str(refused.value.facts())


def test_what_stays_in_float_makes_no_share_impossible() -> None:
    model, wide = classifier(), np.random.default_rng(1).standard_normal((10, 4000)).astype(np.float32)
    model.graph.node.extend(
        [
            helper.make_node("Gemm", ["y", "wide"], ["z"], "float"),
            helper.make_node("Gemm", ["z", "wide"], ["last"], "float2", transB=1),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(wide, "wide"))
    model.graph.output[0].name = "last"
    graph, nodes = Graph(model), frozenset({f"conv{index}" for index in range(LAYERS)} | {"gemm"})
    feeds = {"x": torch.randn(8, 3, 12, 12, generator=torch.Generator().manual_seed(0))}
    least = choose_widths(reconstruct(model), graph, nodes, [feeds], Settings(), 0.5, 1)
    assert set(least.bits.values()) == {4}
    with pytest.raises(InvalidOption, match="below"):
        choose_widths(reconstruct(model), graph, nodes, [feeds], Settings(), 100_000, 1)


def run(model: ModelProto) -> np.ndarray:
    x = np.random.default_rng(3).standard_normal((8, 3, 12, 12)).astype(np.float32)
    result: np.ndarray = open_session(model).run(None, {"x": x})[0]
    return result


@pytest.mark.parametrize("precision", ["w4a8", "w4a4", "mixed"])
def test_whole_conversions_give_smaller_files_that_run(precision: str) -> None:
    options = Options(precision=Precision(precision), samples=16, time_budget=5)
    result = convert(classifier(), options)
    onnx.checker.check_model(result.model, full_check=True)
    types = {each.name: each.data_type for each in result.model.graph.initializer}
    four = [name for name, kind in types.items() if kind == TensorProto.INT4]
    assert four
    assert result.model.ir_version == 10
    decisions = result.report.quantization
    assert decisions.weight_type in ("S4", "S4, S8")
    assert ("U4" in decisions.activation_type) == (precision == "w4a4")
    assert (decisions.frontier is not None) == (precision == "mixed")
    assert any(step.name == precision for step in decisions.steps)
    if precision == "w4a4":
        assert any("simulation" in step.sentence for step in decisions.steps)
    expected, actual = run(classifier()), run(result.model)
    assert np.corrcoef(expected.ravel(), actual.ravel())[0, 1] > (0.8 if precision == "w4a4" else 0.95)
    assert "Size against fidelity" in result.report.to_html() or precision != "mixed"


def test_mixed_conversions_repeat_to_the_byte() -> None:
    options = Options(precision=Precision.MIXED, samples=16, time_budget=5)
    first, second = (convert(classifier(), options).model.SerializeToString() for _ in range(2))
    assert first == second
