"""Dynamic nodes, integer weights and integer tables compute what the float model does, on the kernels they are for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto, TensorProto

from converter.evaluation.kernels import optimize
from converter.graph import Graph
from converter.normalization import normalize
from converter.quantization.integer_weights import PAIR_TOP, round_channels
from converter.quantization.qdq_writer import quantize
from converter.quantization.treatments import Treatment, treat, uniform
from converter.sessions import Feeds
from tests.networks import Array, biases, model_of, node, prepare, residual, run, transformer, upsampled, weights
from tests.normalization.test_bodies import carried_layer, chosen_layer
from tests.quantization.test_qdq_writer import plan_of


def decibels(one: list[Array], other: list[Array]) -> float:
    """The least ratio of signal to error of any output."""
    return min(
        10 * math.log10(float((a**2).sum() / max(((a - b) ** 2).sum(), 1e-30))) for a, b in zip(one, other, strict=True)
    )


def ready(model: ModelProto) -> tuple[ModelProto, Graph]:
    normalized = normalize(model).model
    return normalized, Graph(normalized)


def operators(model: ModelProto) -> Counter[str]:
    """What onnxruntime runs after its own optimizer."""
    return Counter(node.op_type for node in optimize(model).graph.node)


def language(kind: str) -> ModelProto:
    """Tokens to rows of a table, a layer, and scores by the same table in one of the forms that exporters write."""
    table = weights(400, 32)
    last = {
        "gemm": [node("Reshape", ["h", "flat"], ["f"]), node("Gemm", ["f", "table"], ["y"], transB=1)],
        "matrix": [node("MatMul", ["h", "turned"], ["y"])],
        "transpose": [node("Transpose", ["table"], ["t"], perm=[1, 0]), node("MatMul", ["h", "t"], ["y"])],
    }[kind]
    constants = {"table": table, "w": weights(32, 32, seed=1), "flat": np.array([-1, 32])}
    constants |= {"turned": table.T.copy()} if kind == "matrix" else {}
    nodes = [node("Gather", ["table", "x"], ["e"]), node("MatMul", ["e", "w"], ["h"]), *last]
    return model_of(nodes, constants, ("N", "L"), element_type=TensorProto.INT64)


def recurrent(operator: str, directions: int) -> ModelProto:
    gates, hidden = {"LSTM": 4, "GRU": 3}[operator], 24
    return model_of(
        [
            node(
                *(operator, ["x", "w", "r", "b"], ["y"]),
                hidden_size=hidden,
                direction="forward" if directions == 1 else "bidirectional",
            )
        ],
        {
            "w": np.stack([weights(gates * hidden, 16, seed=each) for each in range(directions)]),
            "r": np.stack([weights(gates * hidden, hidden, seed=each + 5) * 0.5 for each in range(directions)]),
            "b": np.stack([biases(2 * gates * hidden, each) for each in range(directions)]),
        },
        ("L", "N", 16),
    )


TOKENS: Feeds = {"x": np.random.default_rng(3).integers(0, 400, (4, 9))}
SEQUENCE: Feeds = {"x": np.random.default_rng(3).standard_normal((12, 3, 16)).astype(np.float32)}


def test_products_become_one_dynamic_kernel_each() -> None:
    given = prepare(transformer())
    made = treat(given.model, uniform(given.graph, Treatment.DYNAMIC))
    assert set(made.nodes.values()) == {Treatment.DYNAMIC}
    assert operators(made.model)["DynamicQuantizeMatMul"] == 3
    assert decibels(run(given.model, given.batches[0]), run(made.model, given.batches[0])) > 28


@pytest.mark.parametrize("kind", ["gemm", "matrix", "transpose"])
@pytest.mark.parametrize("treatment", [Treatment.DYNAMIC, Treatment.WEIGHTS])
def test_a_table_that_is_the_last_matrix_too_is_in_the_file_once(kind: str, treatment: Treatment) -> None:
    model, graph = ready(language(kind))
    made = treat(model, uniform(graph, treatment))
    codes = [each for each in made.model.graph.initializer if each.data_type == TensorProto.INT8]
    assert sorted(int(np.prod(each.dims)) for each in codes) == [32 * 32, 400 * 32]
    assert made.model.ByteSize() < (400 * 32 + 32 * 32) * 4 / 2.5
    assert decibels(run(model, TOKENS), run(made.model, TOKENS)) > (24 if treatment is Treatment.DYNAMIC else 30)
    assert operators(made.model)["DynamicQuantizeMatMul"] == (2 if treatment is Treatment.DYNAMIC else 0)


def test_a_table_that_is_read_in_float_stays_whole() -> None:
    model, graph = ready(language("gemm"))
    wanted = uniform(graph, Treatment.WEIGHTS)
    last = next(each.name for each in graph.nodes if each.op_type == "Gemm")
    made = treat(model, {name: each for name, each in wanted.items() if name != last})
    assert f"{last} reads its table in float" in made.reasons.values()
    assert made.model.ByteSize() < model.ByteSize()


@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_layers(directions: int) -> None:
    model, graph = ready(recurrent("LSTM", directions))
    made = treat(model, uniform(graph, Treatment.DYNAMIC))
    assert operators(made.model) == {"DynamicQuantizeLSTM": 1}
    assert decibels(run(model, SEQUENCE), run(made.model, SEQUENCE)) > 28
    model, graph = ready(recurrent("GRU", directions))
    made = treat(model, dict.fromkeys([graph.nodes[0].name], Treatment.DYNAMIC))
    assert made.nodes == {graph.nodes[0].name: Treatment.WEIGHTS}
    assert "no kernel for GRU" in made.reasons[graph.nodes[0].name]
    assert decibels(run(model, SEQUENCE), run(made.model, SEQUENCE)) > 35
    assert made.model.ByteSize() < model.ByteSize() / 2


@pytest.mark.parametrize("network", [residual, upsampled])
def test_integer_weights_run_the_float_kernels_of_fp32(network: Callable[[], ModelProto]) -> None:
    given = prepare(network())
    made = treat(given.model, uniform(given.graph, Treatment.WEIGHTS))
    assert made.model.ByteSize() < given.model.ByteSize() / 1.8
    assert operators(made.model) == operators(given.model)  # the codes are unpacked when the file is loaded
    assert decibels(run(given.model, given.batches[0]), run(made.model, given.batches[0])) > 30


def test_weights_of_more_axes_and_products_by_letters_keep_their_function() -> None:
    model, graph = ready(
        model_of(
            [node("MatMul", ["x", "w"], ["a"]), node("Einsum", ["a", "v"], ["y"], equation="bhij,hjk->bihk")],
            {"w": np.stack([weights(16, 16, seed=i) for i in range(3)]), "v": weights(3, 16, 20)},
            ("N", 3, 5, 16),
        )
    )
    made = treat(model, dict.fromkeys([each.name for each in graph.nodes], Treatment.DYNAMIC))
    assert set(made.nodes.values()) == {Treatment.WEIGHTS}
    assert "more than two axes" in made.reasons[graph.nodes[0].name]
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 16)).astype(np.float32)
    assert decibels(run(model, {"x": x}), run(made.model, {"x": x})) > 35
    assert made.model.ByteSize() < model.ByteSize() / 2


def test_static_dynamic_and_float_nodes_live_in_one_file() -> None:
    given = prepare(transformer())
    products = [each.name for each in given.graph.nodes if each.op_type == "MatMul"]
    whole = plan_of(given)
    static = quantize(given.model, replace(whole, nodes=frozenset(products[:1])), None)
    made = treat(static, {products[1]: Treatment.DYNAMIC, products[2]: Treatment.WEIGHTS})
    assert made.nodes == {products[1]: Treatment.DYNAMIC, products[2]: Treatment.WEIGHTS}
    found = operators(made.model)
    assert [found[each] for each in ("DynamicQuantizeMatMul", "QuantizeLinear", "MatMul")] == [1, 1, 1]
    assert decibels(run(given.model, given.batches[0]), run(made.model, given.batches[0])) > 28


def test_no_pair_of_neighbours_can_leave_16_bits() -> None:
    weight = np.random.default_rng(5).uniform(0.9, 1, (6, 31)).astype(np.float32)
    plain, safe = round_channels(weight, (0,)), round_channels(weight, (0,), summed=1)
    assert np.abs(plain.values.astype(int)).max() == 127
    padded = np.pad(safe.values.astype(int), ((0, 0), (0, 1))).reshape(6, -1, 2).sum(-1)
    assert np.abs(padded).max() * 255 < 2**15
    assert np.abs(padded).max() >= int(PAIR_TOP)  # no coarser than that needs
    np.testing.assert_allclose(safe.real, weight, atol=float(safe.scale.max()) / 2)


@pytest.mark.parametrize("model", [carried_layer(), chosen_layer()], ids=["loop", "branches"])
def test_weights_of_bodies_are_codes_in_the_file_and_floats_in_the_session(model: ModelProto) -> None:
    given, graph = ready(model)
    treated = treat(given, uniform(graph, Treatment.WEIGHTS))
    matrices = [tensor for tensor in treated.model.graph.initializer if tuple(tensor.dims) == (24, 24)]
    assert [tensor.data_type for tensor in matrices] == [TensorProto.INT8] * 2
    feeds: Feeds = {"x": np.random.default_rng(5).standard_normal((24, 24)).astype(np.float32)}
    assert decibels(run(given, feeds), run(treated.model, feeds)) > 30
    assert not {"Cast", "Mul"} & operators(treated.model).keys()  # computed once, when the file is loaded


def test_a_weight_of_a_body_that_a_dynamic_product_reads_too_is_in_the_file_once() -> None:
    given, graph = ready(carried_layer())  # its last product has a matrix of the Loop
    treated = treat(given, uniform(graph, Treatment.DYNAMIC))
    assert "MatMulInteger" in {each.op_type for each in treated.model.graph.node}
    assert sum(tuple(tensor.dims) == (24, 24) for tensor in treated.model.graph.initializer) == 2
    feeds: Feeds = {"x": np.random.default_rng(5).standard_normal((24, 24)).astype(np.float32)}
    assert decibels(run(given, feeds), run(treated.model, feeds)) > 25
