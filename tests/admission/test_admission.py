"""What comes in, what is refused, and in which words."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from converter.admission import Limits, admit
from converter.admission.functions import expanded_size
from converter.errors import InvalidModel, Refusal, TooLarge, UnsupportedModel
from tests.bench.evaluator import zoo_folder
from tests.hostile import CONV, HOSTILE, LOCAL, Hostile, archive, convolution, external, function


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.name)
def test_hostile_files_are_refused_in_a_sentence(hostile: Hostile, tmp_path: Path) -> None:
    path = hostile.make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(hostile.error) as caught:
        admit(path.read_bytes() if hostile.uploadable else path)
    assert hostile.says in caught.value.message
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["empty", "truncated", "false_shape", "external_above", "cycle"])
def test_paths_and_models_are_refused_like_bytes(name: str, tmp_path: Path) -> None:
    hostile = next(each for each in HOSTILE if each.name == name)
    path = hostile.make(tmp_path)
    with pytest.raises(hostile.error, match=hostile.says):
        admit(path)
    with pytest.raises(hostile.error, match=hostile.says):
        admit(str(path))


def test_a_sound_model_comes_in_as_it_is(tmp_path: Path) -> None:
    model = convolution()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    admitted = admit(path)
    assert admitted.model == model == admit(model).model == admit(path.read_bytes()).model
    assert admitted.notes == ()
    facts = admitted.facts
    assert [str(value) for value in facts.inputs] == ["x float32 [Nx3x8x8]"]
    assert [value.name for value in facts.outputs] == ["y"]
    assert dict(facts.operators) == {"Conv": 1}
    assert (facts.nodes, facts.parameters, facts.weight_bytes, facts.opset, facts.ir_version) == (1, 108, 432, 17, 8)
    assert facts.file_bytes == path.stat().st_size
    assert not facts.has_batch_norm
    assert not facts.has_subgraphs
    assert facts.to_dict()["inputs"] == [{"name": "x", "type": "float32", "shape": ["N", 3, 8, 8]}]


def test_the_given_model_is_not_touched() -> None:
    model = convolution(ir=14)
    admitted = admit(model)
    assert model.ir_version == 14
    assert admitted.model.ir_version == 13
    assert "IR version 14" in admitted.notes[0]


@pytest.mark.parametrize("opset", range(7, 27))
def test_every_opset_from_7_to_26_comes_in(opset: int) -> None:
    assert admit(convolution(opset=opset, ir=4 if opset < 12 else 10)).facts.opset == opset


def test_initializers_that_are_inputs_as_well_are_not_inputs() -> None:
    model = convolution(opset=9, ir=3)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3]))
    assert [value.name for value in admit(model).facts.inputs] == ["x"]


def test_weights_in_constant_nodes_are_weights() -> None:
    model = convolution()
    constant = helper.make_node("Constant", [], ["w"], value=model.graph.initializer[0])
    del model.graph.initializer[:]
    model.graph.node.insert(0, constant)
    assert admit(model).facts.parameters == 108


def test_nodes_out_of_order_are_put_in_order() -> None:
    model = convolution(helper.make_node("Relu", ["c"], ["y"]), CONV)
    assert [node.op_type for node in admit(model).model.graph.node] == ["Conv", "Relu"]


def test_nodes_of_the_same_name_are_told_apart() -> None:
    nodes = [CONV, helper.make_node("Relu", ["c"], ["d"], name="conv"), helper.make_node("Neg", ["d"], ["y"])]
    admitted = admit(convolution(*nodes))
    assert [node.name for node in admitted.model.graph.node] == ["conv", "conv_1", ""]
    assert admitted.notes == ("Nodes renamed because another had the same name: 1.",)


def test_sizes_of_minus_one_are_dynamic() -> None:
    model = convolution()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert admit(model).facts.inputs[0].shape == (None, 3, 8, 8)


# other precisions


def in_precision(element_type: int) -> ModelProto:
    """x -> Conv -> Cast -> Clip -> y with everything in that precision."""
    dtype = helper.tensor_dtype_to_np_dtype(element_type)
    weight = np.linspace(-1, 1, 108).reshape(4, 3, 3, 3).astype(dtype)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("Cast", ["c"], ["d"], to=element_type),
            helper.make_node("Constant", [], ["low"], value=numpy_helper.from_array(np.zeros((), dtype))),
            helper.make_node("Max", ["d", "low"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", element_type, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", element_type, ["N", 4, 6, 6])],
        [numpy_helper.from_array(weight, "w")],
        value_info=[helper.make_tensor_value_info("c", element_type, ["N", 4, 6, 6])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize(
    ("element_type", "name"),
    [(TensorProto.FLOAT16, "float16"), (TensorProto.BFLOAT16, "bfloat16"), (TensorProto.DOUBLE, "float64")],
)
def test_other_precisions_become_float32_with_a_note(element_type: int, name: str) -> None:
    admitted = admit(in_precision(element_type))
    onnx.checker.check_model(admitted.model, full_check=True)
    assert {tensor.data_type for tensor in admitted.model.graph.initializer} == {TensorProto.FLOAT}
    assert admitted.facts.inputs[0].element_type == admitted.facts.outputs[0].element_type == TensorProto.FLOAT
    assert admitted.notes == (
        f"2 tensors of {name} became float32.",
        "The input x of the INT8 model stays as declared, float32 inside.",
        "The output y of the INT8 model stays as declared, float32 inside.",
    )


def test_a_double_beyond_float32_is_as_low_as_can_be() -> None:
    model = convolution(CONV, helper.make_node("Max", ["c", "low"], ["y"]))
    model.graph.node[0].output[0] = "c"
    model.graph.initializer.append(numpy_helper.from_array(np.array(-1.7e308), "low"))
    low = next(tensor for tensor in admit(model).model.graph.initializer if tensor.name == "low")
    assert numpy_helper.to_array(low) == np.finfo(np.float32).min


# functions


def test_functions_are_written_out() -> None:
    model = convolution(CONV, helper.make_node("twice", ["c"], ["y"], domain="local"))
    model.opset_import.append(LOCAL)
    model.functions.append(
        function("twice", [helper.make_node("Relu", ["a"], ["m"]), helper.make_node("Neg", ["m"], ["b"])])
    )
    assert expanded_size(model) == (3, 1)
    admitted = admit(model)
    assert [node.op_type for node in admitted.model.graph.node] == ["Conv", "Relu", "Neg"]
    assert not admitted.model.functions
    assert admitted.model.graph.initializer == model.graph.initializer
    assert model.functions


def test_the_size_of_an_expansion_is_computed_without_it() -> None:
    bomb = next(each for each in HOSTILE if each.name == "function_bomb")
    assert bomb.error is TooLarge
    model = convolution(CONV, helper.make_node("f9", ["c"], ["y"], domain="local"))
    model.functions.append(function("f0", [helper.make_node("Relu", ["a"], ["b"])]))
    for level in range(1, 10):
        call = helper.make_node(f"f{level - 1}", ["a"], ["b"], domain="local")
        model.functions.append(function(f"f{level}", [call, call]))
    assert expanded_size(model) == (1 + 2**9, 10)


# external data and archives


def save_external(folder: Path, location: str = "weights.bin", offset: int = 0) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(external(location, offset=str(offset), length="432").SerializeToString())
    data = folder / location
    data.parent.mkdir(exist_ok=True)
    data.write_bytes(bytes(offset) + convolution().graph.initializer[0].raw_data)
    return path


@pytest.mark.parametrize(("location", "offset"), [("weights.bin", 0), ("data/weights.bin", 4096)])
def test_external_data_beside_the_model_are_loaded(location: str, offset: int, tmp_path: Path) -> None:
    admitted = admit(save_external(tmp_path, location, offset))
    assert admitted.model == convolution()


@pytest.mark.parametrize("folder", ["", "export/"])
def test_an_archive_with_external_data_is_one_model(folder: str, tmp_path: Path) -> None:
    path = save_external(tmp_path)
    packed = archive(
        {f"{folder}{name}": (tmp_path / name).read_bytes() for name in ("model.onnx", "weights.bin")}
        | {"__MACOSX/model.onnx": b"a resource fork"}
    )
    assert admit(packed).model == convolution()
    (tmp_path / "model.zip").write_bytes(packed)
    assert admit(tmp_path / "model.zip").model == convolution()
    assert admit(packed).facts.file_bytes == len(packed)
    assert path.exists()


def test_an_archive_without_its_data_names_the_tensor() -> None:
    with pytest.raises(InvalidModel, match=r"'weights.bin' of tensor 'w' is not in the archive"):
        admit(archive({"model.onnx": external("weights.bin").SerializeToString()}))


def test_an_archive_that_hides_its_size_is_not_unpacked() -> None:
    data = bytearray(archive({"model.onnx": bytes(2**26)}))
    place = data.index(b"PK\x01\x02") + 24  # uncompressed size in the central directory
    data[place : place + 4] = (100).to_bytes(4, "little")
    with pytest.raises(InvalidModel, match="archive"):
        admit(bytes(data))


# limits


def test_limits_are_the_callers_to_set() -> None:
    model = convolution(CONV, helper.make_node("Relu", ["c"], ["y"]))
    for field, value in {"nodes": 1, "weight_bytes": 400, "tensor_elements": 100, "activation_elements": 100}.items():
        with pytest.raises(TooLarge):
            admit(model, replace(Limits(), **{field: value}))
    for field, value in {"file_bytes": 100, "fields": 20, "nesting": 2}.items():
        with pytest.raises(TooLarge):
            admit(model.SerializeToString(), replace(Limits(), **{field: value}))


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(2**40)  # reading it would take longer than anyone waits
    with pytest.raises(TooLarge, match=r"1024\.00 GiB"):
        admit(path)


# names that come from strangers


def test_names_are_shown_on_one_short_line() -> None:
    model = convolution(helper.make_node("Conv", ["x", "\n" + "w" * 5000], ["y"], name="bad\x1b[31m\nname"))
    with pytest.raises(InvalidModel) as caught:
        admit(model)
    assert caught.value.node == "bad?[31m?name"
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


# damage at random, in a process of its own

MUTATE = """
import random, resource, sys
import numpy as np
from converter.admission import admit
from converter.errors import Refusal
from converter.normalization import normalize
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
resource.setrlimit(resource.RLIMIT_CPU, (300, 300))
path, count, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
original = open(path, "rb").read()
chooser = random.Random(seed)
outcomes = {}
for turn in range(count):
    data = bytearray(original)
    for _ in range(chooser.choice((1, 1, 2, 8))):
        place = chooser.choice((chooser.randrange(len(data)), chooser.randrange(min(4096, len(data)))))
        match chooser.randrange(4):
            case 0: data[place] ^= 1 << chooser.randrange(8)
            case 1: data[place] = chooser.randrange(256)
            case 2: del data[place : place + chooser.randrange(1, 40)]
            case 3: data[place:place] = chooser.randbytes(chooser.randrange(1, 20))
    print(turn, file=sys.stderr, flush=True)
    try:
        normalize(admit(bytes(data)).model)
        outcome = "admitted"
    except Refusal as refusal:
        outcome = type(refusal).__name__
    outcomes[outcome] = outcomes.get(outcome, 0) + 1
print(outcomes)
"""


def mutate(path: Path, count: int, seed: int) -> subprocess.CompletedProcess[str]:
    """Damages a model that often and tries to admit and normalize it; anything but a Refusal ends the process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", MUTATE, str(path), str(count), str(seed)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["kws_dscnn_bn", "silero_vad_16k_op15", "face_ultralight_rfb320"])
def test_damaged_models_are_refused_or_converted_but_never_crash(name: str) -> None:
    folder = zoo_folder()
    assert folder is not None
    done = mutate(folder / "models" / f"{name}.onnx", 60, seed=1)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.zoo
def test_every_model_of_the_zoo_comes_in_without_notes() -> None:
    folder = zoo_folder()
    assert folder is not None
    models = sorted((folder / "models").glob("*.onnx"))
    assert models
    for path in models:
        assert admit(path).notes == (), path.name


def test_kinds_of_refusal_are_all_exercised() -> None:
    assert len(HOSTILE) >= 40
    assert {hostile.error for hostile in HOSTILE} == {InvalidModel, UnsupportedModel, TooLarge}
    assert all(issubclass(hostile.error, Refusal) for hostile in HOSTILE)
