"""Which nodes run on integers: what is foretold is what onnxruntime's quantizer then does."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from converter.graph import Graph, multiply_adds, weight_of
from converter.inputs.sizes import sizes
from converter.quantization.calibration import RangeRule, observe
from converter.quantization.placement import candidates, place, quantized_tensors, weighted_nodes
from converter.quantization.qdq_writer import Plan, quantize, quantized_activations
from tests.networks import (
    NETWORKS,
    Prepared,
    biases,
    depthwise,
    model_of,
    node,
    prepare,
    residual,
    run,
    upsampled,
    weights,
)


def integers(given: Prepared, nodes: frozenset[str]) -> ModelProto:
    """The integer model with observed ranges."""
    tensors = quantized_tensors(given.graph, nodes)
    providers = sorted(set(tensors.values()))
    observed = observe(given.network, providers, given.batches)
    ranges = {name: observed[source].range(RangeRule.MINMAX) for name, source in tensors.items()}
    return quantize(given.model, Plan(nodes, ranges), None)


def foretold(given: Prepared, nodes: frozenset[str]) -> set[str]:
    """The tensors that get a QuantizeLinear, under the names that a fused Relu or Clip leaves."""
    return set(quantized_tensors(given.graph, nodes))


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_foretold_is_what_is_quantized(name: str) -> None:
    given = prepare(NETWORKS[name]())
    nodes = place(given.graph, {}).nodes
    made = integers(given, nodes)
    assert foretold(given, nodes) == set(quantized_activations(made))
    (before, *_), (after, *_) = run(given.model, given.batches[0]), run(made, given.batches[0])
    assert ((before - after) ** 2).mean() < 0.01 * (before**2).mean()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(3))
def test_it_is_foretold_too_when_some_nodes_are_kept_in_float(name: str, seed: int) -> None:
    given = prepare(NETWORKS[name](), samples=8)
    generator = np.random.default_rng(seed)
    kept = {each.name: "a test" for each in given.graph.nodes if generator.random() < 0.25}
    placement = place(given.graph, kept)
    assert not placement.nodes & set(kept)
    assert set(kept) <= set(placement.kept_float)
    assert set(placement.kept_float) & placement.nodes == set()
    if placement.nodes:
        assert foretold(given, placement.nodes) == set(quantized_activations(integers(given, placement.nodes)))


@pytest.mark.parametrize("name", NETWORKS)
def test_tensors_that_share_a_range_share_its_scale(name: str) -> None:
    given = prepare(NETWORKS[name]())
    nodes = place(given.graph, {}).nodes
    tensors, made = quantized_tensors(given.graph, nodes), integers(given, nodes)
    constants = Graph(made).initializers
    scales = {name: each.scale_name for name, each in quantized_activations(made).items()}
    for tensor, source in tensors.items():
        assert constants[scales[tensor]] == constants[scales[source]]


@pytest.mark.parametrize("name", NETWORKS)
def test_no_node_is_an_island(name: str) -> None:
    """Whatever is no layer reads integers and is read by them, but for activations that melt into their layer."""
    given = prepare(NETWORKS[name]())
    graph, nodes = given.graph, place(given.graph, {}).nodes
    rounded = set(quantized_tensors(graph, nodes))
    for each in graph.nodes:
        if each.name not in nodes or weight_of(each, graph):
            continue
        if each.op_type not in ("Relu", "Clip"):
            moving = [name for name in each.input if name and name not in graph.initializers]
            assert set(moving) <= rounded
            assert any(reader.name in nodes for output in each.output for reader in graph.consumers(output))


def test_a_lone_addition_stays_in_float() -> None:
    model = model_of(
        [node("Conv", ["x", "w0"], ["c"]), node("Sin", ["c"], ["s"]), node("Add", ["s", "s"], ["y"])],
        {"w0": weights(8, 8, 1, 1)},
    )
    graph = prepare(model).graph
    placement = place(graph, {})
    assert [each.op_type for each in graph.nodes if each.name in placement.nodes] == ["Conv"]
    assert set(placement.kept_float.values()) == {"reads a float tensor"}


def test_transposed_convolutions_stay_in_float() -> None:
    given = prepare(upsampled())
    nodes = place(given.graph, {}).nodes
    kinds = {each.name: each.op_type for each in given.graph.nodes}
    assert "ConvTranspose" not in {kinds[name] for name in candidates(given.graph)}
    assert sorted(kinds[name] for name in nodes if kinds[name] == "Conv") == ["Conv", "Conv"]
    made = integers(given, nodes)
    (transposed,) = [each for each in made.graph.node if each.op_type == "ConvTranspose"]
    assert transposed.input[1] in {tensor.name for tensor in made.graph.initializer}


def test_an_embedding_is_picked_in_float() -> None:
    model = model_of(
        [
            node("Gather", ["table", "x"], ["e"]),
            node("MatMul", ["e", "w0"], ["m"]),
            node("Relu", ["m"], ["r"]),
            node("MatMul", ["r", "w1"], ["y"]),
        ],
        {"table": weights(50, 16), "w0": weights(16, 24), "w1": weights(24, 4)},
        shape=("N", 6),
        element_type=TensorProto.INT64,
    )
    graph = Graph(model)
    for each, name in zip(model.graph.node, "abcd", strict=True):
        each.name = name
    graph = Graph(model)
    placement = place(graph, {})
    assert "a" not in placement.nodes
    assert {"b", "d"} <= placement.nodes
    assert "e" in quantized_tensors(graph, placement.nodes)


def test_results_of_products_are_not_rounded() -> None:
    given = prepare(residual())
    assert "y" not in quantized_tensors(given.graph, place(given.graph, {}).nodes)


def test_constants_are_not_added_in_integers() -> None:
    model = model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c"]),
            node("Add", ["c", "offset"], ["a"]),
            node("Conv", ["a", "w1"], ["y"], pads=[1] * 4),
        ],
        {
            "w0": weights(8, 8, 1, 1),
            "b0": biases(8),
            "w1": weights(8, 8, 3, 3),
            "offset": np.random.default_rng(0).standard_normal((1, 1, 12, 12)).astype(np.float32),
        },
    )
    given = prepare(model)
    placement = place(given.graph, {})
    kinds = {each.name: each.op_type for each in given.graph.nodes}
    assert "Add" not in {kinds[name] for name in placement.nodes}


def test_only_plain_layers_count() -> None:
    model = model_of(
        [
            node("Gemm", ["x", "w"], ["plain"], name="plain", transB=1),
            node("Gemm", ["x", "w"], ["scaled"], name="scaled", transB=1, alpha=0.5),
            node("MatMul", ["x", "x"], ["moving"], name="moving"),
        ],
        {"w": weights(4, 4)},
        shape=(4, 4),
        outputs=("plain", "scaled", "moving"),
    )
    assert [each.name for each in weighted_nodes(Graph(model))] == ["plain"]


def test_multiply_adds_of_known_layers() -> None:
    given = prepare(depthwise())
    elements = sizes(given.network, given.graph, given.batches[0])
    counted = [multiply_adds(each, given.graph, elements) for each in given.graph.nodes if each.op_type == "Conv"]
    assert counted == [16 * 6 * 6 * 8 * 9, 16 * 6 * 6 * 9, 24 * 6 * 6 * 16]
    gemm = next(each for each in given.graph.nodes if each.op_type == "Gemm")
    assert multiply_adds(gemm, given.graph, elements) == 24 * 5


def test_a_relu_that_a_body_reads_is_not_merged() -> None:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 4, 4])
    body = helper.make_graph([helper.make_node("Identity", ["rectified"], ["y"])], "body", [], [value])
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
            helper.make_node("Relu", ["c"], ["rectified"], "relu"),
            helper.make_node("If", ["flag"], ["out"], "if", then_branch=body, else_branch=body),
        ],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 2, 4, 4])],
        [numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w")],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    placement = place(Graph(model), {})
    assert "conv" in placement.nodes
    assert "relu" not in placement.nodes
