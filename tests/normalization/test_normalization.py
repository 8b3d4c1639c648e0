"""Each pass on a graph small enough to see through, and the function before and after."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from converter.admission import admit
from converter.errors import UnsupportedModel, VerificationFailed
from converter.graph import Graph, attribute, captures
from converter.normalization import BatchNormStatistics, Normalized, normalize, probe, verify_equivalence
from converter.normalization.equivalence import difference
from converter.sessions import open_session
from tests.bench.evaluator import zoo_folder

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
Array = NDArray[np.float32]
node = helper.make_node


def random(*shape: int, seed: int = 0, low: float | None = None) -> Array:
    generator = np.random.default_rng(seed + len(shape))
    if low is not None:
        return generator.uniform(low, low + 2, shape).astype(np.float32)
    return generator.standard_normal(shape).astype(np.float32)


def model_of(
    nodes: list[NodeProto],
    shape: tuple[int | str, ...] = ("N", 3, 8, 8),
    outputs: tuple[str, ...] = ("y",),
    opset: int = 17,
    constants: Mapping[str, NDArray[np.generic] | float] | None = None,
) -> ModelProto:
    """x -> nodes -> outputs with constants at hand."""
    arrays = {
        name: np.asarray(value, np.float32 if isinstance(value, float) else None)
        for name, value in (constants or {}).items()
    }
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def checked(model: ModelProto, largest: float = 1e-5) -> Normalized:
    """The normalized model, which computes what the model did, has a name per node and is made again the same."""
    given = model.SerializeToString(deterministic=True)
    normalized = normalize(model)
    feeds = probe(model)
    assert feeds
    assert verify_equivalence(model, normalized.model, feeds) <= largest
    assert model.SerializeToString(deterministic=True) == given
    again = normalize(model).model
    assert again.SerializeToString(deterministic=True) == normalized.model.SerializeToString(deterministic=True)
    names = [each.name for each in normalized.model.graph.node]
    assert all(names)
    assert len(set(names)) == len(names)
    assert list(normalized.model.graph.input) == [
        value for value in model.graph.input if value.name not in {each.name for each in model.graph.initializer}
    ]
    assert normalized.model.graph.output == model.graph.output
    return normalized


def operators(normalized: Normalized) -> list[str]:
    return [each.op_type for each in normalized.model.graph.node]


def batch_norm(channels: int, seed: int = 1) -> dict[str, Array]:
    return {
        "gamma": random(channels, seed=seed),
        "beta": random(channels, seed=seed + 1),
        "mean": random(channels, seed=seed + 2),
        "variance": random(channels, seed=seed + 3, low=0.1),
    }


BN = node("BatchNormalization", ["c", "gamma", "beta", "mean", "variance"], ["y"], epsilon=1e-3)


# constants, names, what nobody needs


def test_constants_are_initializers_and_nodes_have_names() -> None:
    normalized = checked(
        model_of(
            [
                node("Constant", [], ["w"], value=numpy_helper.from_array(random(4, 3, 3, 3))),
                node("Constant", [], ["slope"], value_floats=[0.1, 0.2, 0.3, 0.4]),
                node("Constant", [], ["target"], value_ints=[4, 1, 1]),
                node("Reshape", ["slope", "target"], ["s"]),
                node("Conv", ["x", "w"], ["c"], name="Conv_5"),
                node("PRelu", ["c", "s"], ["y"]),
                node("Exp", ["c"], ["nobody"]),
            ]
        )
    )
    assert operators(normalized) == ["Conv", "PRelu"]
    assert {tensor.name for tensor in normalized.model.graph.initializer} == {"w", "s"}
    assert [each.name for each in normalized.model.graph.node] == ["Conv_5", "PRelu_2"]
    assert [change.name for change in normalized.changes] == [
        "hoist_constants",
        "name_nodes",
        "fold_constants",
        "remove_unused",
    ]


def test_the_owners_description_stays_and_the_exporters_notes_go() -> None:
    model = model_of(
        [node("Conv", ["x", "w"], ["y"], doc_string="/home/someone/secret.py")], constants={"w": random(4, 3, 3, 3)}
    )
    model.doc_string, model.producer_name = "A model", "someone"
    model.metadata_props.add(key="author", value="someone")
    model.graph.node[0].metadata_props.add(key="trace", value="File /home/someone/secret.py")
    after = checked(model).model
    assert (after.doc_string, after.producer_name, after.metadata_props[0].value) == ("A model", "someone", "someone")
    assert b"secret" not in after.SerializeToString()


def test_initializers_are_no_inputs() -> None:
    model = model_of([node("Conv", ["x", "w"], ["y"])], constants={"w": random(4, 3, 3, 3)})
    model.graph.input.insert(0, helper.make_tensor_value_info("w", FLOAT, [4, 3, 3, 3]))
    assert [value.name for value in checked(model).model.graph.input] == ["x"]


def test_a_result_too_large_to_store_is_not_folded() -> None:
    model = model_of(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("ConstantOfShape", ["sizes"], ["big"]),
            node("ReduceSum", ["big"], ["sum"], keepdims=0),
            node("Add", ["c", "sum"], ["y"]),
        ],
        constants={"w": random(4, 3, 3, 3), "sizes": np.array([2048, 2048])},
    )
    normalized = checked(model)
    assert "ConstantOfShape" in operators(normalized)
    assert normalized.model.ByteSize() < 5000


# sizes


def test_shape_arithmetic_is_done_beforehand() -> None:
    normalized = checked(
        model_of(
            [
                node("Conv", ["x", "w"], ["c"]),
                node("Shape", ["c"], ["shape"]),
                node("Gather", ["shape", "zero"], ["batch"]),
                node("Unsqueeze", ["batch", "axis"], ["batches"]),
                node("Gather", ["shape", "two"], ["height"]),
                node("Mul", ["height", "height"], ["area"]),
                node("Unsqueeze", ["area", "axis"], ["areas"]),
                node("Concat", ["batches", "four", "areas"], ["target"], axis=0),
                node("Reshape", ["c", "target"], ["y"]),
            ],
            constants={
                "w": random(4, 3, 3, 3),
                "zero": np.array(0),
                "two": np.array(2),
                "axis": np.array([0]),
                "four": np.array([4]),
            },
        )
    )
    assert operators(normalized) == ["Conv", "Reshape"]
    target = numpy_helper.to_array(normalized.model.graph.initializer[-1])
    assert target.tolist() == [0, 4, 36]


def test_sizes_with_the_same_vague_name_are_not_taken_for_equal() -> None:
    """The shape (N, 3, "?", "?") is turned; a target of zeros would say "as before"."""
    model = model_of(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("Transpose", ["c"], ["t"], perm=[0, 1, 3, 2]),
            node("Shape", ["t"], ["shape"]),
            node("Reshape", ["c", "shape"], ["y"]),
        ],
        ("N", 3, "?", "?"),
        constants={"w": random(4, 3, 1, 1)},
    )
    normalized = normalize(model).model
    feeds: dict[str, Array] = {"x": random(1, 3, 4, 6)}
    assert verify_equivalence(model, normalized, [feeds]) == 0


def test_expanding_to_the_own_size_is_nothing() -> None:
    normalized = checked(
        model_of(
            [
                node("Conv", ["x", "w"], ["c"]),
                node("Shape", ["c"], ["sizes"]),
                node("Equal", ["sizes", "minus"], ["open"]),
                node("Where", ["open", "ones", "sizes"], ["target"]),
                node("Expand", ["c", "target"], ["e"]),
                node("Relu", ["e"], ["y"]),
            ],
            constants={"w": random(4, 3, 3, 3), "minus": np.array([-1, -1, -1, -1]), "ones": np.array([1, 1, 1, 1])},
        )
    )
    assert operators(normalized) == ["Conv", "Relu"]


# what changes nothing

NOTHING: dict[str, list[NodeProto]] = {
    "identity": [node("Identity", ["c"], ["d"])],
    "dropout": [node("Dropout", ["c"], ["d"])],
    "cast": [node("Cast", ["c"], ["d"], to=FLOAT)],
    "pad": [node("Pad", ["c", "zeros"], ["d"])],
    "transpose": [node("Transpose", ["c"], ["d"], perm=[0, 1, 2, 3])],
    "transposes": [
        node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
        node("Transpose", ["t"], ["d"], perm=[0, 3, 1, 2]),
    ],
    "slice": [node("Slice", ["c", "zero", "most", "two"], ["d"])],
    "slice_to_the_end": [node("Slice", ["c", "zero", "six", "two"], ["d"])],
    "reshape": [node("Reshape", ["c", "same"], ["d"])],
    "expand": [node("Expand", ["c", "ones"], ["d"])],
    "concat": [node("Concat", ["c"], ["d"], axis=1)],
    "max": [node("Max", ["c"], ["d"])],
    "resize": [node("Resize", ["c", "", "unit"], ["d"])],
    "squeezing": [node("Relu", ["c"], ["r"]), node("Mul", ["r", "one"], ["d"])],
}


@pytest.mark.parametrize("name", NOTHING)
@pytest.mark.parametrize("last", [False, True], ids=["inside", "at the output"])
def test_what_changes_nothing_is_gone(name: str, last: bool) -> None:
    result = "y" if last else "d"
    nodes = [NodeProto.FromString(each.SerializeToString()) for each in NOTHING[name]]
    nodes[-1].output[0] = result
    tail = [] if last else [node("Sigmoid", ["d"], ["y"])]
    normalized = checked(
        model_of(
            [node("Conv", ["x", "w"], ["c"]), *nodes, *tail],
            constants={
                "w": random(4, 3, 3, 3),
                "zeros": np.zeros(8, np.int64),
                "zero": np.array([0]),
                "most": np.array([2**63 - 1]),
                "six": np.array([6]),
                "two": np.array([2]),
                "same": np.array([0, 4, 6, 6]),
                "ones": np.array([1, 1, 1]),
                "unit": np.ones(4, np.float32),
                "one": 1.0,
            },
        )
    )
    expected = ["Conv", *(["Relu"] if name == "squeezing" else []), *(["Sigmoid"] if not last else [])]
    assert operators(normalized) == expected


SOMETHING = [
    node("Slice", ["c", "one", "most", "two"], ["y"]),
    node("Cast", ["c"], ["i"], to=INT64),
    node("Expand", ["c", "wider"], ["y"]),
    node("Mul", ["c", "ones"], ["y"]),
]


@pytest.mark.parametrize("something", SOMETHING, ids=lambda each: each.op_type)
def test_what_changes_something_stays(something: NodeProto) -> None:
    nodes = [node("Conv", ["x", "w"], ["c"]), something]
    if something.op_type == "Cast":
        nodes.append(node("Cast", ["i"], ["y"], to=FLOAT))
    normalized = checked(
        model_of(
            nodes,
            constants={
                "w": random(4, 3, 3, 3),
                "one": np.array([1]),
                "most": np.array([2**31 - 1]),
                "two": np.array([2]),
                "wider": np.array([2, 1, 1, 1, 1]),
                "ones": np.ones((2, 1, 1, 1, 1), np.float32),
            },
        )
    )
    assert something.op_type in operators(normalized)


def test_an_input_that_is_an_output_keeps_its_identity() -> None:
    model = model_of(
        [node("Identity", ["x"], ["z"]), node("Conv", ["x", "w"], ["y"])],
        outputs=("y", "z"),
        constants={"w": random(4, 3, 3, 3)},
    )
    assert sorted(operators(checked(model))) == ["Conv", "Identity"]


def test_a_mask_that_is_used_keeps_its_dropout() -> None:
    model = model_of(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("Dropout", ["c"], ["d", "mask"]),
            node("Cast", ["mask"], ["m"], to=FLOAT),
            node("Add", ["d", "m"], ["y"]),
        ],
        constants={"w": random(4, 3, 3, 3)},
    )
    assert "Dropout" in operators(checked(model))


# branches


def branch(name: str, operator: str) -> onnx.GraphProto:
    output = helper.make_tensor_value_info(name, FLOAT, None)
    constant = numpy_helper.from_array(np.array(2.0, np.float32), "inner")
    return helper.make_graph(
        [node(operator, ["c", "inner"], [f"{name}_raw"]), node("Relu", [f"{name}_raw"], [name])],
        name,
        [],
        [output],
        [constant],
    )


@pytest.mark.parametrize("taken", [True, False])
def test_a_known_branch_stands_in_place_of_its_if(taken: bool) -> None:
    model = model_of(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("Shape", ["c"], ["shape"]),
            node("Size", ["shape"], ["rank"]),
            node("Equal", ["rank", "expected"], ["condition"]),
            node("If", ["condition"], ["f"], then_branch=branch("t", "Add"), else_branch=branch("e", "Mul")),
            node("Neg", ["f"], ["y"]),
        ],
        constants={"w": random(4, 3, 3, 3), "expected": np.array(4 if taken else 3)},
    )
    folded = operators(checked(model))
    assert folded == ["Conv", "Relu", "Neg"]  # the addition and the product are in the weights


def test_a_branch_that_depends_on_data_stays() -> None:
    model = model_of(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("ReduceMax", ["c"], ["m"], keepdims=0),
            node("Cast", ["m"], ["condition"], to=TensorProto.BOOL),
            node("Identity", ["c"], ["d"]),
            node("If", ["condition"], ["y"], then_branch=branch("t", "Add"), else_branch=branch("e", "Mul")),
        ],
        constants={"w": random(4, 3, 3, 3)},
    )
    assert operators(checked(model)) == ["Conv", "ReduceMax", "Cast", "If"]


# normalizations and other affine nodes

LINEAR: dict[str, tuple[NodeProto, tuple[int | str, ...], dict[str, Array], int]] = {
    "conv": (node("Conv", ["x", "w"], ["c"], pads=[1] * 4), ("N", 3, 8, 8), {"w": random(6, 3, 3, 3)}, 6),
    "conv_bias": (
        node("Conv", ["x", "w", "bias"], ["c"], strides=[2, 2]),
        ("N", 3, 8, 8),
        {"w": random(6, 3, 3, 3), "bias": random(6)},
        6,
    ),
    "conv_grouped": (node("Conv", ["x", "w"], ["c"], group=2), ("N", 4, 8, 8), {"w": random(6, 2, 3, 3)}, 6),
    "conv_1d": (node("Conv", ["x", "w"], ["c"]), ("N", 4, 16), {"w": random(6, 4, 3)}, 6),
    "transposed": (
        node("ConvTranspose", ["x", "w", "bias"], ["c"], strides=[2, 2]),
        ("N", 3, 4, 4),
        {"w": random(3, 6, 2, 2), "bias": random(6)},
        6,
    ),
    "transposed_grouped": (
        node("ConvTranspose", ["x", "w"], ["c"], group=2, strides=[2, 2]),
        ("N", 4, 4, 4),
        {"w": random(4, 3, 2, 2)},
        6,
    ),
    "gemm": (node("Gemm", ["x", "w", "bias"], ["c"], transB=1), ("N", 5), {"w": random(6, 5), "bias": random(6)}, 6),
    "gemm_untransposed": (node("Gemm", ["x", "w"], ["c"]), ("N", 5), {"w": random(5, 6)}, 6),
    "matmul": (node("MatMul", ["x", "w"], ["c"]), ("N", 5), {"w": random(5, 6)}, 6),
}


@pytest.mark.parametrize("name", LINEAR)
def test_normalizations_are_folded_with_their_statistics(name: str) -> None:
    linear, shape, weights, channels = LINEAR[name]
    parameters = batch_norm(channels)
    normalized = checked(model_of([linear, BN], shape, constants={**weights, **parameters}))
    assert operators(normalized) == ([linear.op_type, "Add"] if name == "matmul" else [linear.op_type])
    (statistics,) = normalized.batch_norms
    assert (statistics.tensor, statistics.folded) == ("y", True)
    np.testing.assert_allclose(statistics.mean, parameters["beta"], rtol=1e-6)
    expected = np.abs(parameters["gamma"]) * np.sqrt(parameters["variance"] / (parameters["variance"] + 1e-3))
    np.testing.assert_allclose(statistics.std, expected, rtol=1e-6)
    for field, value in {"gamma": "gamma", "beta": "beta", "running_mean": "mean"}.items():
        np.testing.assert_array_equal(getattr(statistics, field), parameters[value])
    np.testing.assert_array_equal(statistics.running_variance, parameters["variance"])
    assert statistics.epsilon == pytest.approx(1e-3)


def test_statistics_describe_the_tensor_that_they_name() -> None:
    """With inputs drawn so that the convolution's own output has the recorded mean and variance."""
    weight = random(6, 3, 1, 1)
    inputs = random(16, 3, 8, 8, seed=5)
    plain = np.einsum("nchw,oc->nohw", inputs, weight[:, :, 0, 0])
    parameters = batch_norm(6) | {"mean": plain.mean((0, 2, 3)), "variance": plain.var((0, 2, 3))}
    nodes = [node("Conv", ["x", "w"], ["c"]), BN, node("Mul", ["y", "two"], ["z"])]
    model = model_of(nodes, outputs=("z",), constants={"w": weight, "two": -2.0, **parameters})
    (statistics,) = normalize(model).batch_norms
    session = open_session(normalize(model).model)
    (output,) = session.run([statistics.tensor], {"x": inputs})
    assert statistics.tensor == "z"
    np.testing.assert_allclose(output.mean((0, 2, 3)), statistics.mean, atol=1e-4)
    np.testing.assert_allclose(output.std((0, 2, 3)), statistics.std, rtol=1e-4)


AFFINE = {
    "mul": node("Mul", ["c", "scale"], ["y"]),
    "mul_left": node("Mul", ["scale", "c"], ["y"]),
    "add": node("Add", ["c", "scale"], ["y"]),
    "sub": node("Sub", ["c", "scale"], ["y"]),
    "sub_from": node("Sub", ["scale", "c"], ["y"]),
    "div": node("Div", ["c", "scale"], ["y"]),
}


@pytest.mark.parametrize("name", AFFINE)
@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (), (1,)], ids=str)
def test_factors_and_terms_per_channel_are_folded(name: str, shape: tuple[int, ...]) -> None:
    model = model_of(
        [node("Conv", ["x", "w"], ["c"]), AFFINE[name]],
        constants={"w": random(6, 3, 3, 3), "scale": random(*shape, low=0.5)},
    )
    assert operators(checked(model)) == ["Conv"]


@pytest.mark.parametrize(
    "affine",
    [
        node("Mul", ["c", "position"], ["y"]),
        node("Add", ["c", "deeper"], ["y"]),
        node("Div", ["factor", "c"], ["y"]),
        node("Add", ["c", "c"], ["y"]),
    ],
    ids=["per position", "of higher rank", "divided by", "doubled"],
)
def test_what_is_not_per_channel_stays(affine: NodeProto) -> None:
    model = model_of(
        [node("Conv", ["x", "w"], ["c"]), affine],
        constants={
            "w": random(6, 3, 3, 3),
            "position": random(6, 6, 6),
            "deeper": random(2, 1, 1, 1, 1),
            "factor": 2.0,
        },
    )
    assert operators(checked(model)) == ["Conv", affine.op_type]


def test_a_chain_is_folded_at_once_and_moves_the_statistics() -> None:
    parameters = batch_norm(6)
    nodes = [
        node("Conv", ["x", "w"], ["c0"]),
        node("Add", ["c0", "term"], ["c"]),
        BN,
        node("Identity", ["y"], ["i"]),
        node("Mul", ["i", "factor"], ["m"]),
        node("Sub", ["m", "term"], ["z"]),
        node("Relu", ["z"], ["r"]),
    ]
    term, factor = random(6, 1, 1), random(6, 1, 1, seed=9)
    normalized = checked(
        model_of(
            nodes, outputs=("r",), constants={"w": random(6, 3, 3, 3), "term": term, "factor": factor, **parameters}
        )
    )
    assert operators(normalized) == ["Conv", "Relu"]
    (statistics,) = normalized.batch_norms
    assert statistics.tensor == "z"
    np.testing.assert_allclose(
        statistics.mean, parameters["beta"] * factor.ravel() - term.ravel(), rtol=1e-5, atol=1e-6
    )


def test_a_tensor_that_others_read_is_not_folded_away() -> None:
    parameters = batch_norm(6)
    nodes = [node("Conv", ["x", "w"], ["c"]), BN, node("Add", ["c", "y"], ["z"])]
    normalized = checked(model_of(nodes, outputs=("z",), constants={"w": random(6, 3, 3, 3), **parameters}))
    assert operators(normalized) == ["Conv", "Conv", "Add"]
    assert normalized.batch_norms[0].tensor == "y"


def test_shared_weights_are_folded_apart() -> None:
    parameters = batch_norm(3)
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        BN,
        node("Conv", ["y", "w"], ["z"]),
    ]
    normalized = checked(model_of(nodes, outputs=("z",), constants={"w": random(3, 3, 3, 3), **parameters}))
    assert operators(normalized) == ["Conv", "Conv"]
    np.testing.assert_array_equal(Graph(normalized.model).initializers["w"], random(3, 3, 3, 3))


def test_a_matmul_with_its_bias_stays_as_it_is() -> None:
    model = model_of(
        [node("MatMul", ["x", "w"], ["m"]), node("Add", ["m", "b"], ["y"])],
        ("N", 7, 5),
        constants={"w": random(5, 6), "b": random(6)},
    )
    normalized = checked(model)
    assert operators(normalized) == ["MatMul", "Add"]
    assert normalized.changes == () or [change.name for change in normalized.changes] == ["name_nodes"]


def test_a_factor_after_a_matmul_with_bias_is_folded() -> None:
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Add", ["b", "m"], ["a"]), node("Mul", ["a", "half"], ["y"])]
    normalized = checked(model_of(nodes, ("N", 7, 5), constants={"w": random(5, 6), "b": random(6), "half": 0.5}))
    assert operators(normalized) == ["MatMul", "Add"]
    np.testing.assert_array_equal(Graph(normalized.model).initializers["w"], random(5, 6) / 2)


def alone(nodes: list[NodeProto], **more: NDArray[np.generic]) -> Normalized:
    norm = node("BatchNormalization", ["r", "gamma", "beta", "mean", "variance"], ["n"])
    return checked(
        model_of(
            [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["r"]), norm, *nodes],
            constants={"w": random(4, 3, 3, 3), **batch_norm(4), **more},
        )
    )


@pytest.mark.parametrize("group", [1, 2, 4])
def test_a_normalization_before_an_unpadded_convolution_is_in_its_weights(group: int) -> None:
    normalized = alone(
        [node("Conv", ["n", "v", "bias"], ["y"], group=group)], v=random(8, 4 // group, 3, 3), bias=random(8)
    )
    assert operators(normalized) == ["Conv", "Relu", "Conv"]
    (statistics,) = normalized.batch_norms
    assert (statistics.tensor, statistics.folded) == ("r", False)
    np.testing.assert_array_equal(statistics.mean, batch_norm(4)["mean"])
    np.testing.assert_allclose(statistics.std, np.sqrt(batch_norm(4)["variance"]), rtol=1e-6)


def test_a_normalization_before_a_padded_convolution_is_one_of_its_own() -> None:
    normalized = alone([node("Conv", ["n", "v"], ["y"], pads=[1] * 4)], v=random(8, 4, 3, 3))
    assert operators(normalized) == ["Conv", "Relu", "Conv", "Conv"]
    depthwise = normalized.model.graph.node[2]
    assert [each.i for each in depthwise.attribute if each.name == "group"] == [4]
    assert (normalized.batch_norms[0].tensor, normalized.batch_norms[0].folded) == ("n", True)


def test_a_normalization_before_a_gemm_is_in_its_weights() -> None:
    norm = node("BatchNormalization", ["x", "gamma", "beta", "mean", "variance"], ["n"])
    for transposed, weight in ((1, random(6, 4)), (0, random(4, 6))):
        model = model_of(
            [norm, node("Gemm", ["n", "w"], ["y"], transB=transposed)],
            ("N", 4),
            constants={"w": weight, **batch_norm(4)},
        )
        normalized = checked(model)
        assert operators(normalized) == ["Gemm"]
        assert normalized.batch_norms[0].tensor == "x"


@pytest.mark.parametrize("seed", range(12))
def test_random_affine_networks_keep_their_function(seed: int) -> None:
    chooser = np.random.default_rng(seed)
    nodes: list[NodeProto] = []
    constants: dict[str, Array] = {}
    channels, last = 3, "x"
    for step in range(12):
        made = f"t{step}"
        match chooser.choice(["conv", "norm", "mul", "add", "relu", "skip"]):
            case "conv":
                wider, pads = int(chooser.integers(2, 6)), int(chooser.integers(0, 2)) or 1
                constants[f"w{step}"] = random(wider, channels, 3, 3, seed=seed + step) / np.float32(3)
                nodes.append(node("Conv", [last, f"w{step}"], [made], pads=[pads] * 4))
                channels = wider
            case "norm":
                names = [f"{kind}{step}" for kind in ("gamma", "beta", "mean", "variance")]
                constants |= dict(zip(names, batch_norm(channels, seed + step).values(), strict=True))
                nodes.append(node("BatchNormalization", [last, *names], [made]))
            case "mul" | "add" as kind:
                constants[f"k{step}"] = random(channels, 1, 1, seed=seed + step)
                nodes.append(node(kind.capitalize(), [last, f"k{step}"], [made]))
            case "relu":
                nodes.append(node("Relu", [last], [made]))
            case "skip":
                nodes.append(node("Add", [last, last], [made]))
        last = made
    constants["w"] = random(2, channels, 1, 1)
    nodes.append(node("Conv", [last, "w"], ["y"]))
    normalized = checked(model_of(nodes, constants=constants))
    assert "BatchNormalization" not in operators(normalized)
    known = {name for each in normalized.model.graph.node for name in (*each.input, *each.output)}
    assert all(statistics.tensor in known for statistics in normalized.batch_norms)


# Gemm and pooling


@pytest.mark.parametrize(
    ("trans_a", "trans_b", "alpha", "beta", "bias"),
    [
        *itertools.product((0, 1), (0, 1), (1.0, 0.5), (1.0, 2.0), [(6,)]),
        (0, 1, 0.5, 2.0, ()),
        (0, 0, 1.0, 3.0, (1, 6)),
        (0, 1, 1.0, 1.0, (1,)),
        (0, 0, 0.25, 3.0, (2, 1)),
        (0, 0, 0.25, 3.0, None),
    ],
)
def test_gemm_has_one_form(trans_a: int, trans_b: int, alpha: float, beta: float, bias: tuple[int, ...] | None) -> None:
    constants = {"w": random(6, 5) if trans_b else random(5, 6)}
    inputs = ["x", "w"]
    if bias is not None:
        constants["b"] = random(*bias)
        inputs.append("b")
    gemm = node("Gemm", inputs, ["y"], transA=trans_a, transB=trans_b, alpha=alpha, beta=beta)
    normalized = checked(model_of([gemm], (5, 2) if trans_a else (2, 5), constants=constants))
    assert operators(normalized) == (["Transpose", "Gemm"] if trans_a else ["Gemm"])
    last = normalized.model.graph.node[-1]
    assert [attribute(last, name, 1.0) for name in ("alpha", "beta", "transB")] == [1, 1, 1]
    assert attribute(last, "transA", 0) == 0
    if bias not in (None, (2, 1)):
        name = normalized.model.graph.node[-1].input[2]
        assert Graph(normalized.model).initializers[name].shape == (6,)


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3, 2]], ids=str)
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("opset", [11, 17, 18, 21])
def test_the_mean_over_all_positions_is_a_pooling(axes: list[int], keepdims: int, opset: int) -> None:
    conv = node("Conv", ["x", "w"], ["c"])
    if opset < 18:
        mean = node("ReduceMean", ["c"], ["y"], axes=axes, keepdims=keepdims)
        model = model_of([conv, mean], opset=opset, constants={"w": random(4, 3, 3, 3)})
    else:
        mean = node("ReduceMean", ["c", "axes"], ["y"], keepdims=keepdims)
        model = model_of([conv, mean], opset=opset, constants={"w": random(4, 3, 3, 3), "axes": np.array(axes)})
    expected = ["Conv", "GlobalAveragePool"] + ([] if keepdims else ["Squeeze"])
    assert operators(checked(model)) == expected


def test_the_mean_over_features_is_no_pooling() -> None:
    nodes = [node("MatMul", ["x", "w"], ["c"]), node("ReduceMean", ["c"], ["y"], axes=[-1])]
    assert operators(checked(model_of(nodes, ("N", 7, 5), constants={"w": random(5, 6)}))) == ["MatMul", "ReduceMean"]


# what exporters took apart


@pytest.mark.parametrize("square", ["Pow", "Mul"])
@pytest.mark.parametrize("parts", [(), ("Mul",), ("Mul", "Add")], ids=str)
def test_a_layer_normalization_in_pieces_is_one_again(square: str, parts: tuple[str, ...]) -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["c"]),
        node("ReduceMean", ["c"], ["mean"], axes=[-1]),
        node("Sub", ["c", "mean"], ["d"]),
        node("Cast", ["d"], ["e"], to=FLOAT),
        node("Pow", ["e", "two"], ["p"]) if square == "Pow" else node("Mul", ["e", "e"], ["p"]),
        node("ReduceMean", ["p"], ["v"], axes=[-1]),
        node("Add", ["v", "epsilon"], ["a"]),
        node("Sqrt", ["a"], ["s"]),
        node("Div", ["d", "s"], ["n"]),
        *(
            node(part, ["n" if place == 0 else f"m{place - 1}", part], [f"m{place}"])
            for place, part in enumerate(parts)
        ),
    ]
    nodes.append(node("Relu", [nodes[-1].output[0]], ["y"]))
    normalized = checked(
        model_of(
            nodes,
            ("N", 7, 5),
            constants={"w": random(5, 6), "two": 2.0, "epsilon": 1e-3, "Mul": random(6), "Add": random(6, seed=3)},
        )
    )
    assert operators(normalized) == ["MatMul", "LayerNormalization", "Relu"]


def test_a_layer_normalization_whose_pieces_are_used_stays() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["c"]),
        node("ReduceMean", ["c"], ["mean"], axes=[-1]),
        node("Sub", ["c", "mean"], ["d"]),
        node("Mul", ["d", "d"], ["p"]),
        node("ReduceMean", ["p"], ["v"], axes=[-1]),
        node("Add", ["v", "epsilon"], ["a"]),
        node("Sqrt", ["a"], ["s"]),
        node("Div", ["d", "s"], ["n"]),
        node("Concat", ["n", "v"], ["y"], axis=-1),
    ]
    assert "Sqrt" in operators(checked(model_of(nodes, ("N", 7, 5), constants={"w": random(5, 6), "epsilon": 1e-3})))


@pytest.mark.parametrize(
    ("pads", "value", "absorbed"),
    [
        ([0, 0, 1, 2, 0, 0, 3, 0], 0.0, True),
        ([0, 0, 1, 2, 0, 0, 3, 0], 1.0, False),
        ([0, 1, 1, 1, 0, 0, 1, 1], 0.0, False),
        ([0, 0, -1, 1, 0, 0, 1, 1], 0.0, False),
    ],
)
def test_zeros_around_a_convolution_are_its_padding(pads: list[int], value: float, absorbed: bool) -> None:
    channels = 3 + pads[1] + pads[5]
    nodes = [node("Pad", ["x", "pads", "value"], ["p"]), node("Conv", ["p", "w"], ["y"], pads=[0, 1, 0, 0])]
    model = model_of(nodes, constants={"w": random(4, channels, 3, 3), "pads": np.array(pads), "value": value})
    assert operators(checked(model)) == (["Conv"] if absorbed else ["Pad", "Conv"])


# the check itself


def test_a_changed_function_is_found() -> None:
    model = model_of([node("Conv", ["x", "w"], ["y"])], constants={"w": random(4, 3, 3, 3)})
    other = model_of([node("Conv", ["x", "w"], ["y"])], constants={"w": random(4, 3, 3, 3) * np.float32(1.0001)})
    with pytest.raises(VerificationFailed, match="'y'"):
        verify_equivalence(model, other, probe(model))
    broken = model_of([node("Conv", ["x", "w"], ["y"])], constants={"w": random(4, 5, 3, 3)})
    with pytest.raises(VerificationFailed, match="does not run"):
        verify_equivalence(model, broken, probe(model))


def test_rounding_that_cancelling_sums_enlarge_is_no_change() -> None:
    weight = random(4, 3, 3, 3)
    weight -= weight.mean((1, 2, 3), keepdims=True)  # takes back what is added, all but the error of rounding
    constants = {"far": np.array(1000, np.float32), "w": weight}
    constants |= {"scale": random(4), "shift": random(4), "mean": random(4), "var": random(4) ** 2 + 1}
    nodes = [
        node("Add", ["x", "far"], ["a"]),
        node("Conv", ["a", "w"], ["c"]),
        node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["y"]),
    ]
    model = model_of(nodes, constants=constants)
    folded = normalize(model)
    assert operators(folded) == ["Add", "Conv"]
    assert verify_equivalence(model, folded.model, [{"x": random(2, 3, 8, 8)}]) > 1e-5
    other = model_of(nodes, constants=constants | {"w": np.asarray(weight * 1.01, np.float32)})
    with pytest.raises(VerificationFailed, match="'y'"):
        verify_equivalence(model, other, [{"x": random(2, 3, 8, 8)}])


def test_inputs_that_the_model_never_took_are_not_blamed_on_normalization() -> None:
    model = model_of([node("Conv", ["x", "w"], ["y"])], constants={"w": random(4, 3, 3, 3)})
    with pytest.raises(UnsupportedModel, match="sizes x 1x3x2x2"):
        verify_equivalence(model, normalize(model).model, [{"x": random(1, 3, 2, 2)}])


def test_differences_are_relative_and_strict_about_the_rest() -> None:
    one = np.ones(3, np.float32)
    assert difference(one, one) == 0
    assert difference(1000 * one, 1000 * one + np.array([0, 0, 1], np.float32)) == pytest.approx(1e-3)
    assert difference(1e-9 * one, 2e-9 * one, least=1.0) == pytest.approx(1e-9)
    assert difference(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 5])) == 0.25
    assert difference(one, np.ones((3, 1), np.float32)) == np.inf
    holes = np.array([1, np.nan, -np.inf], np.float32)
    assert difference(holes, holes) == 0
    assert difference(holes, one) == np.inf


def test_sizes_are_found_for_open_axes() -> None:
    nodes = [node("Reshape", ["x", "target"], ["r"]), node("MatMul", ["r", "w"], ["y"])]
    model = model_of(nodes, ("N", "T"), constants={"target": np.array([-1, 77]), "w": random(77, 6)})
    assert [feed["x"].shape for feed in probe(model)] == [(2, 77)] * 2


def test_a_body_reads_a_copy_of_a_rectified_tensor() -> None:
    value = helper.make_tensor_value_info("z", FLOAT, None)
    body = helper.make_graph([node("Neg", ["r"], ["z"])], "body", [], [value])
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("ReduceSum", ["r"], ["s"], keepdims=0),
        node("Cast", ["s"], ["flag"], to=TensorProto.BOOL),
        node("If", ["flag"], ["y"], then_branch=body, else_branch=body),
    ]
    model = model_of(nodes, constants={"w": random(4, 3, 1, 1)})
    normalized = normalize(model)
    graph = Graph(normalized.model)
    (copy,) = [each for each in graph.nodes if each.op_type == "Identity"]
    assert copy.output[0] == "r"
    (rectifier,) = [each for each in graph.nodes if each.op_type == "Relu"]
    assert {each.op_type for each in graph.consumers(rectifier.output[0])} == {"Identity", "ReduceSum"}
    assert verify_equivalence(model, normalized.model, probe(model)) == 0


# real exporters


@pytest.mark.zoo
@pytest.mark.parametrize(
    "path", sorted((zoo_folder() or Path("absent")).glob("models/*.onnx")), ids=lambda path: path.stem
)
def test_zoo_models_keep_their_function(path: Path) -> None:
    model = admit(path).model
    normalized = normalize(model)
    onnx.checker.check_model(normalized.model)
    feeds = probe(model)
    assert feeds
    assert verify_equivalence(model, normalized.model, feeds) <= 1e-5
    assert 17 <= normalized.model.opset_import[0].version <= 21
    assert normalized.model.ir_version <= 10
    left = set(operators(normalized))
    assert left.isdisjoint({"BatchNormalization", "Constant", "Dropout"})
    bodies = set().union(*map(captures, normalized.model.graph.node))
    assert {each.output[0] for each in normalized.model.graph.node if each.op_type == "Identity"} <= bodies
    expected = sum(each.op_type == "BatchNormalization" for each in model.graph.node)
    assert len(normalized.batch_norms) == expected
    made = {name for each in normalized.model.graph.node for name in each.output}
    assert all(isinstance(each, BatchNormStatistics) and each.tensor in made for each in normalized.batch_norms)


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("kind", ["convolutional", "transformer"])
def test_todays_torch_export_is_normalized(kind: str, opset: int, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    if kind == "convolutional":
        network = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False),
            nn.BatchNorm2d(8),
            nn.SiLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(),
            nn.Linear(8, 10),
        )
        inputs = torch.randn(2, 3, 16, 16)
        for layer in network:
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.2, 3)
    else:
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu", norm_first=True)
        network = nn.Sequential(nn.Embedding(20, 16), nn.TransformerEncoder(layer, 1, enable_nested_tensor=False))
        inputs = torch.randint(0, 20, (2, 9))
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), (inputs,), path, dynamo=True, optimize=False, opset_version=opset, verbose=False,
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        )  # fmt: skip
    admitted = admit(path)
    normalized = normalize(admitted.model)
    feeds = probe(admitted.model)
    assert verify_equivalence(admitted.model, normalized.model, feeds) <= 1e-5
    assert 17 <= normalized.model.opset_import[0].version <= 21
    if kind == "convolutional":
        assert operators(normalized)[:3] == ["Conv", "Clip", "Conv"]
        assert "GlobalAveragePool" in operators(normalized)
        assert len(normalized.batch_norms) == 2


@pytest.mark.parametrize(("widest", "stays"), [(1.0, False), (1000.0, True)])
def test_a_normalization_of_uneven_columns_stays_in_front_of_the_product(widest: float, stays: bool) -> None:
    """Columns a thousand times as wide as others share no grid with them; normalized ones do."""
    deviation = np.array([1, 1, 1, widest], np.float32)
    norm = node("BatchNormalization", ["x", "gamma", "beta", "mean", "variance"], ["n"])
    constants = {"w": random(4, 6), **batch_norm(4)} | {"mean": np.zeros(4, np.float32), "variance": deviation**2}
    normalized = checked(model_of([norm, node("Gemm", ["n", "w"], ["y"])], ("N", 4), constants=constants))
    assert operators(normalized) == (["BatchNormalization", "Gemm"] if stays else ["Gemm"])
