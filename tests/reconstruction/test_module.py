"""The module as a whole: outputs, parts of the graph, edits, batches, subgraphs, refusals, the zoo."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor

from converter.errors import InvalidModel, UnsupportedModel
from converter.reconstruction import Reconstruction, reconstruct
from tests.bench.evaluator import zoo_folder

FLOAT = TensorProto.FLOAT
Sizes = Sequence[int | str]


def graph(
    nodes: Sequence[NodeProto],
    inputs: dict[str, Sizes],
    outputs: Sequence[str],
    **weights: NDArray[np.float32] | NDArray[np.int64],
) -> GraphProto:
    return helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )


def model(body: GraphProto, opset: int = 17) -> ModelProto:
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def chain(batch: int | str = "N") -> Reconstruction:
    """x -> Mul w -> scaled -> Relu -> positive -> ReduceSum -> total; positive is an output too."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["scaled"], name="mul"),
        helper.make_node("Relu", ["scaled"], ["positive"], name="relu"),
        helper.make_node("ReduceSum", ["positive", "axes"], ["total"], name="sum", keepdims=0),
    ]
    weights = {"w": np.array([1, -2, 3], np.float32), "axes": np.array([1])}
    return reconstruct(model(graph(nodes, {"x": [batch, 3]}, ["total", "positive"], **weights)))


X = torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, 2.0]])


# ---------------------------------------------------------------- the whole and its parts


def test_forward_gives_the_outputs_in_graph_order() -> None:
    total, positive = chain()(X)
    assert positive.tolist() == [[1, 0, 3], [0, 2, 6]]
    assert total.tolist() == [4, 8]


def test_a_single_output_comes_by_itself() -> None:
    module = reconstruct(model(graph([helper.make_node("Neg", ["x"], ["y"])], {"x": [2]}, ["y"])))
    assert module(torch.ones(2)).tolist() == [-1, -1]


def test_forward_counts_its_inputs() -> None:
    with pytest.raises(TypeError, match="1 inputs: x"):
        chain()(X, X)


def test_any_tensor_can_be_fed_and_fetched() -> None:
    module = chain()
    assert module.run({"x": X}, ["scaled"])["scaled"].tolist() == [[1, -2, 3], [-1, 2, 6]]
    assert module.run({"scaled": X}, ["total"])["total"].tolist() == [3, 2]
    assert module.run({"x": X, "w": torch.ones(3)}, ["total", "x"])["total"].tolist() == [3, 2]
    assert module.run({}, ["w"])["w"].tolist() == [1, -2, 3]


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="'x'"):
        chain().run({}, ["total"])
    with pytest.raises(ValueError, match="'nothing'"):
        chain().run({"x": X}, ["nothing"])


def test_only_what_is_needed_runs() -> None:
    def fail(_: Tensor) -> Tensor:
        raise AssertionError("this tensor is not needed")

    module = chain()
    module.run({"positive": X}, ["total"], edit={"scaled": fail, "x": fail, "w": fail})
    module.run({"x": X}, ["scaled"], edit={"positive": fail})


def test_edits_apply_before_anything_reads_the_tensor() -> None:
    module = chain()
    assert module.run({"x": X}, ["total"], edit={"positive": lambda t: t + 1})["total"].tolist() == [7, 11]
    assert module.run({"x": X}, ["scaled"], edit={"w": torch.zeros_like})["scaled"].tolist() == [[0, 0, 0], [0, 0, 0]]
    edited = module.run({"x": X}, ["x", "scaled"], edit={"x": lambda t: t * 2})
    assert edited["scaled"].tolist() == [[2, -4, 6], [-2, 4, 12]]
    assert edited["x"].tolist() == (X * 2).tolist()


def test_tensors_are_freed_after_their_last_use() -> None:
    alive: list[weakref.ref[Tensor]] = []

    def note(x: Tensor) -> Tensor:
        alive.append(weakref.ref(x))
        return x

    def check(x: Tensor) -> Tensor:
        assert alive
        assert alive[0]() is None
        return x

    with torch.no_grad():
        chain().run({"x": X}, ["total"], edit={"scaled": note, "total": check})


def test_gradients_reach_inputs_and_fed_weights() -> None:
    x, w = X.clone().requires_grad_(), torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    chain().run({"x": x, "w": w}, ["total"])["total"].sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 0, 3], [0, -2, 3]]
    assert w.grad is not None
    assert w.grad.tolist() == [1, -1, 3]


def test_weights_are_there_by_name_without_gradient() -> None:
    constant = numpy_helper.from_array(np.array([5.0], np.float32))
    nodes = [
        helper.make_node("Constant", [], ["c"], value=constant),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    weights = reconstruct(model(graph(nodes, {"x": [1]}, ["y"], w=np.ones(2, np.float32)))).weights
    assert {name: value.tolist() for name, value in weights.items()} == {"c": [5], "w": [1, 1]}
    assert not any(value.requires_grad for value in weights.values())


def test_initializers_that_are_inputs_too_are_weights() -> None:
    body = graph([helper.make_node("Add", ["x", "w"], ["y"])], {"x": [2], "w": [2]}, ["y"], w=np.ones(2, np.float32))
    module = reconstruct(model(body))
    assert module.input_names == ("x",)
    assert module(torch.zeros(2)).tolist() == [1, 1]


def test_constants_are_folded_unless_they_are_fed_or_edited() -> None:
    nodes = [
        helper.make_node("Mul", ["a", "a"], ["b"]),
        helper.make_node("Reshape", ["x", "b"], ["y"]),
    ]
    module = reconstruct(model(graph(nodes, {"x": ["N"]}, ["y"], a=np.array([2]))))
    x = torch.arange(4.0)
    assert len(module.program.plan(["x"], ["y"]).steps) == 1
    assert module(x).shape == (4,)
    assert module.run({"x": x[:1], "a": torch.tensor([1])}, ["y"])["y"].shape == (1,)
    assert module.run({"x": x[:2]}, ["y"], edit={"b": lambda t: t - 2})["y"].shape == (2,)


def test_the_type_of_the_module_and_its_weights_can_change() -> None:
    module = chain().double()
    assert module.weights["w"].dtype == torch.float64
    assert module(X.double())[0].dtype == torch.float64
    assert module.weights["axes"].dtype == torch.int64


def test_nodes_without_gradient_are_listed() -> None:
    nodes = [helper.make_node("Round", ["x"], ["r"], name="rounding"), helper.make_node("Neg", ["r"], ["y"])]
    assert reconstruct(model(graph(nodes, {"x": [2]}, ["y"]))).without_gradient == ("rounding",)
    assert chain().without_gradient == ()


def test_an_error_in_a_node_names_it() -> None:
    with pytest.raises(RuntimeError) as problem:
        chain()(torch.ones(2, 4))
    assert "in node 'mul' (Mul-14)" in problem.value.__notes__


def test_any_cut_through_the_graph_gives_the_same() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Split", ["a", "halves"], ["b", "c"], axis=1),
        helper.make_node("Mul", ["b", "c"], ["d"]),
        helper.make_node("Concat", ["d", "a"], ["e"], axis=1),
        helper.make_node("Sub", ["e", "d2"], ["y"]),
        helper.make_node("ReduceMean", ["d"], ["d2"], axes=[1]),
    ]
    nodes[4], nodes[5] = nodes[5], nodes[4]
    module = reconstruct(model(graph(nodes, {"x": ["N", 4]}, ["y"], halves=np.array([2, 2]))))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    names = ["a", "b", "c", "d", "e", "d2", "y"]
    values = module.run({"x": x}, names)
    for cut in (["a"], ["b", "c", "a"], ["d", "a"], ["e", "d2"], ["a", "d2"], ["y"]):
        assert torch.equal(module.run({name: values[name] for name in cut}, ["y"])["y"], values["y"])


# ---------------------------------------------------------------- subgraphs and functions


def test_branches_and_loops_see_the_tensors_around_them() -> None:
    any_float = [helper.make_tensor_value_info(name, FLOAT, None) for name in ("more", "less")]
    more = helper.make_graph([helper.make_node("Add", ["x", "w"], ["more"])], "more", [], any_float[:1])
    less = helper.make_graph([helper.make_node("Sub", ["x", "w"], ["less"])], "less", [], any_float[1:])
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=more, else_branch=less),
    ]
    weights = {"w": np.full(2, 5, np.float32), "zero": np.array(0, np.float32)}
    module = reconstruct(model(graph(nodes, {"x": [2]}, ["y"], **weights)))
    assert module(torch.ones(2)).tolist() == [6, 6]
    assert module(-torch.ones(2)).tolist() == [-6, -6]
    assert module.run({"x": torch.ones(2), "w": torch.zeros(2)}, ["y"])["y"].tolist() == [1, 1]


@pytest.mark.parametrize("trips", [0, 3])
def test_a_loop_carries_and_stacks(trips: int) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Add", ["state", "x"], ["next"]),
            helper.make_node("Identity", ["next"], ["seen"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, [2]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, [2]),
            helper.make_tensor_value_info("seen", FLOAT, [2]),
        ],
    )
    loop = helper.make_node("Loop", ["trips", "", "start"], ["last", "all"], body=body)
    weights = {"trips": np.array(trips), "start": np.zeros(2, np.float32)}
    last, seen = reconstruct(model(graph([loop], {"x": [2]}, ["last", "all"], **weights)))(torch.ones(2))
    assert last.tolist() == [trips, trips]
    assert seen.tolist() == [[k + 1, k + 1] for k in range(trips)]
    assert seen.shape == (trips, 2)


def test_functions_of_the_model_are_inlined() -> None:
    double = helper.make_function(
        "own", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    body = graph([helper.make_node("Double", ["x"], ["y"], domain="own")], {"x": [2]}, ["y"])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    made = helper.make_model(body, opset_imports=imports, functions=[double], ir_version=10)
    assert reconstruct(made)(torch.ones(2)).tolist() == [2, 2]


# ---------------------------------------------------------------- refusals


def test_other_domains_are_refused_by_name() -> None:
    body = graph(
        [helper.make_node("FusedMatMul", ["x"], ["y"], name="fused", domain="com.microsoft")], {"x": [2]}, ["y"]
    )
    with pytest.raises(UnsupportedModel) as refusal:
        reconstruct(model(body))
    assert refusal.value.node == "fused"
    assert refusal.value.operator == "com.microsoft.FusedMatMul"


def test_everything_is_decided_before_anything_runs() -> None:
    branch = helper.make_graph(
        [helper.make_node("RandomNormalLike", ["x"], ["r"], name="noise")],
        "branch",
        [],
        [helper.make_tensor_value_info("r", FLOAT, None)],
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    body = graph([node], {"x": [2]}, ["y"])
    body.initializer.append(numpy_helper.from_array(np.array(True), "c"))
    with pytest.raises(UnsupportedModel) as refusal:
        reconstruct(model(body))
    assert refusal.value.node == "noise"
    assert refusal.value.operator == "RandomNormalLike-1"


def test_opsets_beyond_those_verified_are_refused() -> None:
    body = graph([helper.make_node("Neg", ["x"], ["y"])], {"x": [2]}, ["y"])
    with pytest.raises(UnsupportedModel, match="opset 99"):
        reconstruct(model(body, 99))


def test_types_that_torch_does_not_compute_with_are_refused() -> None:
    body = graph([helper.make_node("Identity", ["x"], ["y"])], {}, ["y"])
    body.input.append(helper.make_tensor_value_info("x", TensorProto.STRING, [2]))
    with pytest.raises(UnsupportedModel) as refusal:
        reconstruct(model(body))
    assert refusal.value.tensor == "x"


def test_tensors_from_nowhere_are_invalid() -> None:
    body = graph([helper.make_node("Add", ["x", "ghost"], ["y"], name="add")], {"x": [2]}, ["y"])
    with pytest.raises(InvalidModel) as refusal:
        reconstruct(model(body))
    assert refusal.value.tensor == "ghost"
    with pytest.raises(InvalidModel):
        reconstruct(model(graph([], {"x": [2]}, ["y"])))


# ---------------------------------------------------------------- the zoo


def zoo_models() -> list[Path]:
    folder = zoo_folder()
    return sorted((folder / "models").glob("*.onnx")) if folder else []


@pytest.mark.zoo
@pytest.mark.parametrize("path", zoo_models(), ids=lambda path: path.stem)
@pytest.mark.parametrize("batch", [1, 3])
def test_zoo_models_agree_with_onnxruntime(path: Path, batch: int) -> None:
    loaded = onnx.load(str(path))
    module = reconstruct(loaded)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    feeds: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {}
    for value in (each for each in session.get_inputs() if each.name in module.input_names):
        shape = zoo_shape(path.stem, value.name, value.shape, batch)
        if value.type == "tensor(float)":
            feeds[value.name] = random.uniform(0, 1, shape).astype(np.float32)
        else:
            feeds[value.name] = random.integers(0, 500, shape) if shape else np.array(16_000)
    with torch.no_grad():
        result = module(*(torch.from_numpy(value) for value in feeds.values()))
    if module.for_single_samples:
        singles = [session.run(None, {name: x[k : k + 1] for name, x in feeds.items()}) for k in range(batch)]
        wanted = [np.concatenate(column) for column in zip(*singles, strict=True)]
    else:
        wanted = session.run(None, feeds)
    for got, want in zip(result if isinstance(result, tuple) else (result,), wanted, strict=True):
        assert got.shape == want.shape
        assert np.abs(got.numpy() - want).max() <= 1e-4 * np.abs(want).max() + 1e-6


def zoo_shape(name: str, tensor: str, declared: Sequence[int | str], batch: int) -> list[int]:
    if tensor == "state":
        return [2, batch, 128]
    open_size = {"ocr_ppocrv3_det": 96, "silero_vad_16k_op15": 576}.get(name, 32)
    sizes = [size if isinstance(size, int) else open_size for size in declared]
    return [batch, *sizes[1:]] if sizes else []
