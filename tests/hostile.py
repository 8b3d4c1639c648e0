"""Files that must be refused, each made by a small function; for the tests of admission and of the service.

``HOSTILE`` lists them: ``make(folder)`` puts the file there and returns its path, ``error`` and ``says`` are what the
refusal must be.  ``uploadable`` tells which of them are one regular file whose bytes alone are hostile.
"""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from converter.errors import InvalidModel, Refusal, TooLarge, UnsupportedModel

__all__ = ["HOSTILE", "Hostile", "convolution"]

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@dataclass(frozen=True)
class Hostile:
    """One kind of file: how to make it in a folder, and the refusal that it must meet."""

    name: str
    make: Callable[[Path], Path]
    error: type[Refusal]
    says: str
    uploadable: bool


HOSTILE: list[Hostile] = []


def content(error: type[Refusal], says: str) -> Callable[[Callable[[], bytes | ModelProto]], None]:
    """Registers a function that returns the bytes (or the model) of a hostile file."""

    def register(function: Callable[[], bytes | ModelProto]) -> None:
        def make(folder: Path) -> Path:
            made = function()
            path = folder / "model.onnx"
            path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
            return path

        HOSTILE.append(Hostile(function.__name__, make, error, says, uploadable=True))

    return register


def place(error: type[Refusal], says: str) -> Callable[[Callable[[Path], Path]], None]:
    """Registers a function that arranges something in a folder and returns the path to convert."""

    def register(function: Callable[[Path], Path]) -> None:
        HOSTILE.append(Hostile(function.__name__, function, error, says, uploadable=False))

    return register


def serialized(model: ModelProto) -> bytes:
    data: bytes = model.SerializeToString()
    return data


def convolution(*nodes: NodeProto, opset: int = 17, ir: int = 8) -> ModelProto:
    """A sound model x -> Conv -> y, or the nodes given in place of it with its weight w and input x at hand."""
    graph = helper.make_graph(
        list(nodes) or [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")],
        "small",
        [helper.make_tensor_value_info("x", FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(np.linspace(-1, 1, 4 * 3 * 3 * 3, dtype=np.float32).reshape(4, 3, 3, 3), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


CONV = helper.make_node("Conv", ["x", "w"], ["c"], name="conv")


# not ONNX at all


@content(InvalidModel, "empty")
def empty() -> bytes:
    return b""


@content(InvalidModel, "text")
def text() -> bytes:
    return b"Dear converter,\nplease find my model attached.\n"


@content(InvalidModel, "HTML")
def web_page() -> bytes:
    return b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body>404</body></html>"


@content(InvalidModel, "text")
def json() -> bytes:
    return b'{"error": "access denied"}'


@content(InvalidModel, "Git LFS")
def lfs_pointer() -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"


@content(UnsupportedModel, "XML")
def openvino() -> bytes:
    return b'<?xml version="1.0"?>\n<net name="model" version="11"></net>'


@content(InvalidModel, "")
def noise() -> bytes:
    return np.random.default_rng(0).bytes(4096)


@content(InvalidModel, "truncated")
def truncated() -> bytes:
    return serialized(convolution())[:-100]


@content(InvalidModel, "truncated")
def length_beyond_the_end() -> bytes:
    return b"\x08\x08\x3a\xff\xff\xff\xff\x0f\x00"


@content(InvalidModel, "longer than 64 bits")
def endless_number() -> bytes:
    return b"\x08" + b"\xff" * 40 + b"\x01"


@content(UnsupportedModel, "pickle")
def checkpoint() -> bytes:
    return pickle.dumps({"weight": list(range(100))}, protocol=4)


@content(UnsupportedModel, "HDF5")
def keras() -> bytes:
    return b"\x89HDF\r\n\x1a\n" + bytes(100)


@content(UnsupportedModel, "NumPy")
def array() -> bytes:
    return b"\x93NUMPY\x01\x00" + bytes(100)


@content(UnsupportedModel, "gzip")
def gzip_archive() -> bytes:
    return b"\x1f\x8b\x08\x00" + bytes(100)


@content(UnsupportedModel, "TensorFlow Lite")
def tflite() -> bytes:
    return b"\x1c\x00\x00\x00TFL3" + bytes(100)


@content(UnsupportedModel, "safetensors")
def safetensors() -> bytes:
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return struct.pack("<Q", len(header)) + header + bytes(4)


@content(UnsupportedModel, "TensorFlow")
def frozen_graph() -> bytes:
    return b"\x0a\x10\x0a\x01x\x12\x0bPlaceholder" + b"\x0a\x03\x0a\x01y" + b"\x22\x03\x08\x86\x01"


@content(InvalidModel, "no graph")
def no_graph() -> ModelProto:
    model = convolution()
    model.ClearField("graph")
    return model


# archives


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


@content(UnsupportedModel, "PyTorch")
def torch_zip() -> bytes:
    return archive({"archive/data.pkl": b"\x80\x02}q\x00.", "archive/data/0": bytes(64)})


@content(UnsupportedModel, "without an .onnx")
def zip_without_model() -> bytes:
    return archive({"readme.md": b"nothing here"})


@content(InvalidModel, "2 .onnx files")
def zip_with_two_models() -> bytes:
    return archive({name: convolution().SerializeToString() for name in ("a.onnx", "b.onnx")})


@content(TooLarge, "unpacks to")
def zip_bomb() -> bytes:
    return archive({"model.onnx": bytes(2**26)})


@content(InvalidModel, "outside itself")
def zip_traversal() -> bytes:
    return archive({"../../model.onnx": convolution().SerializeToString()})


@content(InvalidModel, "symbolic link")
def zip_link() -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("model.onnx", convolution().SerializeToString())
        link = zipfile.ZipInfo("weights.bin")
        link.external_attr = 0o120777 << 16
        file.writestr(link, "/etc/passwd")
    return buffer.getvalue()


@content(InvalidModel, "encrypted")
def zip_encrypted() -> bytes:
    data = bytearray(archive({"model.onnx": convolution().SerializeToString()}))
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + flags] |= 1
    return bytes(data)


@content(InvalidModel, "damaged")
def zip_damaged() -> bytes:
    data = bytearray(archive({"model.onnx": convolution().SerializeToString()}, zipfile.ZIP_STORED))
    data[200] ^= 0xFF
    return bytes(data)


@content(InvalidModel, "damaged")
def zip_cut() -> bytes:
    return archive({"model.onnx": convolution().SerializeToString()})[:-30]


# sizes that lie


def with_weight(**fields: object) -> ModelProto:
    model = convolution()
    for name, value in fields.items():
        target = getattr(model.graph.initializer[0], name)
        if isinstance(value, list):
            del target[:]
            target.extend(value)
        else:
            setattr(model.graph.initializer[0], name, value)
    return model


@content(TooLarge, "elements")
def false_shape() -> ModelProto:
    return with_weight(dims=[1_000_000, 1_000_000])


@content(InvalidModel, "declares shape")
def shape_beyond_data() -> ModelProto:
    return with_weight(dims=[64, 3, 3, 3])


@content(InvalidModel, "impossible shape")
def negative_shape() -> ModelProto:
    return with_weight(dims=[-4, 3, 3, 3])


@content(InvalidModel, "impossible shape")
def thousand_axes() -> ModelProto:
    return with_weight(dims=[1] * 1000)


@content(InvalidModel, "declares 108 elements but holds 5")
def missing_elements() -> ModelProto:
    model = convolution()
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].float_data.extend([1.0] * 5)
    return model


@content(UnsupportedModel, "element type")
def unknown_element_type() -> ModelProto:
    return with_weight(data_type=99, raw_data=bytes(108))


@content(TooLarge, "more than 50,000 nodes")
def many_empty_nodes() -> bytes:
    graph = b"\x0a\x00" * 200_000
    model = ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)])
    return serialized(model) + b"\x3a" + varint(len(graph)) + graph


@content(TooLarge, "protobuf fields")
def many_empty_fields() -> bytes:
    return serialized(ModelProto(ir_version=8)) + b"\x42\x00" * 3_100_000


def varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


@content(TooLarge, "deeper than")
def deep_messages() -> bytes:
    graph = b""
    for _ in range(300):  # GraphProto.node, NodeProto.attribute, AttributeProto.g
        attribute = b"\x32" + varint(len(graph)) + graph
        node = b"\x2a" + varint(len(attribute)) + attribute
        graph = b"\x0a" + varint(len(node)) + node
    return serialized(ModelProto(ir_version=8)) + b"\x3a" + varint(len(graph)) + graph


@content(InvalidModel, "not UTF-8")
def name_that_is_no_text() -> bytes:
    return serialized(convolution()).replace(b"conv", b"c\xff\xfen")


@content(TooLarge, "elements")
def enormous_input() -> ModelProto:
    model = convolution()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 2**40
    return model


# versions


@content(InvalidModel, "which opset")
def no_opset() -> ModelProto:
    model = convolution()
    del model.opset_import[:]
    return model


@content(UnsupportedModel, "opset 6")
def old_opset() -> ModelProto:
    return convolution(opset=6)


@content(UnsupportedModel, "opset 27")
def new_opset() -> ModelProto:
    return convolution(opset=27)


@content(InvalidModel, "opset -3")
def negative_opset() -> ModelProto:
    return convolution(opset=-3)


@content(InvalidModel, "two different opsets")
def two_opsets() -> ModelProto:
    model = convolution()
    model.opset_import.append(helper.make_opsetid("ai.onnx", 11))
    return model


@content(InvalidModel, "IR version 1")
def old_ir() -> ModelProto:
    return convolution(ir=1)


# graphs


@content(InvalidModel, "circle")
def cycle() -> ModelProto:
    return convolution(
        CONV,
        helper.make_node("Add", ["c", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="second"),
        helper.make_node("Relu", ["a"], ["y"], name="last"),
    )


@content(InvalidModel, "'w'")
def missing_initializer() -> ModelProto:
    model = convolution()
    del model.graph.initializer[:]
    return model


@content(InvalidModel, "made twice")
def name_made_twice() -> ModelProto:
    return convolution(CONV, helper.make_node("Relu", ["c"], ["y"]), helper.make_node("Neg", ["c"], ["y"]))


@content(InvalidModel, "Two initializers")
def initializer_twice() -> ModelProto:
    model = convolution()
    model.graph.initializer.append(model.graph.initializer[0])
    return model


@content(InvalidModel, "made by no node")
def output_from_nowhere() -> ModelProto:
    model = convolution()
    model.graph.output[0].name = "z"
    return model


@content(InvalidModel, "no outputs")
def no_output() -> ModelProto:
    model = convolution()
    del model.graph.output[:]
    return model


@content(UnsupportedModel, "no inputs")
def no_input() -> ModelProto:
    model = convolution(
        helper.make_node("Constant", [], ["x"], value=numpy_helper.from_array(np.ones((1, 3, 8, 8), np.float32))),
        helper.make_node("Conv", ["x", "w"], ["y"]),
    )
    del model.graph.input[:]
    return model


@content(UnsupportedModel, "'FancyConv'")
def unknown_operator() -> ModelProto:
    return convolution(CONV, helper.make_node("FancyConv", ["c"], ["y"], name="fancy"))


@content(UnsupportedModel, "opset 13 does not have")
def operator_from_the_future() -> ModelProto:
    return convolution(CONV, helper.make_node("Mish", ["c"], ["y"], name="mish"), opset=13)


@content(InvalidModel, "'colour'")
def unknown_attribute() -> ModelProto:
    return convolution(helper.make_node("Conv", ["x", "w"], ["y"], name="conv", colour=3))


@content(InvalidModel, "wrong type")
def attribute_of_wrong_type() -> ModelProto:
    return convolution(helper.make_node("Conv", ["x", "w"], ["y"], name="conv", strides=2))


@content(InvalidModel, "'group' of the node 'conv' (Conv) is not positive")
def no_groups() -> ModelProto:
    return convolution(helper.make_node("Conv", ["x", "w"], ["y"], name="conv", group=0))


@content(InvalidModel, "'blocksize' of the node 'depth' (DepthToSpace) is beyond")
def overflowing_block() -> ModelProto:
    """Its square is 0 in 64 bits; onnxruntime divides by it and ends the process."""
    return convolution(CONV, helper.make_node("DepthToSpace", ["c"], ["y"], name="depth", blocksize=2**62))


@content(InvalidModel, "'to'")
def missing_attribute() -> ModelProto:
    return convolution(CONV, helper.make_node("Cast", ["c"], ["y"], name="cast"))


@content(InvalidModel, "1 inputs")
def missing_input() -> ModelProto:
    return convolution(helper.make_node("Conv", ["x"], ["y"], name="conv"))


@content(InvalidModel, "onnxruntime does not load")
def weight_of_wrong_rank() -> ModelProto:
    return with_weight(dims=[4, 27])


@content(InvalidModel, "axis of size 0")
def input_of_size_zero() -> ModelProto:
    model = convolution()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 0
    return model


@content(InvalidModel, "axis of size 0")
def weight_of_size_zero() -> ModelProto:
    return with_weight(dims=[0, 3, 3, 3], raw_data=b"")


def with_first_weight(value: float) -> ModelProto:
    weight = np.ones((4, 3, 3, 3), np.float32)
    weight[0, 0, 0, 0] = value
    return with_weight(raw_data=weight.tobytes())


@content(InvalidModel, "'w' of node 'conv' (Conv) contains NaN")
def not_a_number() -> ModelProto:
    return with_first_weight(np.nan)


@content(InvalidModel, "'w' of node 'conv' (Conv) contains an infinity")
def infinite() -> ModelProto:
    return with_first_weight(np.inf)


@content(InvalidModel, "'v' of node 'bn' (BatchNormalization) is negative")
def negative_variance() -> ModelProto:
    model = convolution(CONV, helper.make_node("BatchNormalization", ["c", "s", "s", "s", "v"], ["y"], name="bn"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "s"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, -1, 1], np.float32), "v"))
    return model


@content(UnsupportedModel, "nothing to quantize")
def nothing_to_quantize() -> ModelProto:
    return convolution(helper.make_node("Relu", ["x"], ["y"]))


@content(UnsupportedModel, "STRING")
def text_input() -> ModelProto:
    model = convolution()
    model.graph.input.append(helper.make_tensor_value_info("words", TensorProto.STRING, ["N"]))
    return model


@content(UnsupportedModel, "sequence")
def sequence_input() -> ModelProto:
    model = convolution()
    model.graph.input.append(helper.make_tensor_sequence_value_info("several", FLOAT, None))
    return model


@content(UnsupportedModel, "sparse")
def sparse_weight() -> ModelProto:
    model = convolution()
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [10]))
    return model


@content(UnsupportedModel, "training graph")
def training_graph() -> ModelProto:
    model = convolution()
    model.training_info.add().algorithm.CopyFrom(GraphProto(name="step"))
    return model


@content(UnsupportedModel, "training")
def training_mode() -> ModelProto:
    model = convolution(
        CONV, helper.make_node("BatchNormalization", ["c", "s", "s", "s", "s"], ["y"], name="bn", training_mode=1)
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "s"))
    return model


@content(UnsupportedModel, "already quantized")
def quantized() -> ModelProto:
    model = convolution(CONV, helper.make_node("QuantizeLinear", ["c", "s"], ["y"], name="q"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "s"))
    return model


@content(UnsupportedModel, "already quantized")
def quantized_by_onnxruntime() -> ModelProto:
    model = convolution(CONV, helper.make_node("QLinearAdd", ["c"] * 8, ["y"], name="q", domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


@content(UnsupportedModel, "com.microsoft")
def optimized_by_onnxruntime() -> ModelProto:
    model = convolution(CONV, helper.make_node("FusedConv", ["c"], ["y"], name="fused", domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


@content(UnsupportedModel, "ai.onnx.ml")
def classical() -> ModelProto:
    model = convolution(CONV, helper.make_node("Scaler", ["c"], ["y"], name="scaler", domain="ai.onnx.ml"))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return model


@content(UnsupportedModel, "my.company")
def custom_domain() -> ModelProto:
    model = convolution(CONV, helper.make_node("Secret", ["c"], ["y"], name="secret", domain="my.company"))
    model.opset_import.append(helper.make_opsetid("my.company", 1))
    return model


@content(UnsupportedModel, "random")
def random_numbers() -> ModelProto:
    return convolution(CONV, helper.make_node("RandomNormalLike", ["c"], ["y"], name="dice"))


# work without end


def function(name: str, body: list[NodeProto]) -> onnx.FunctionProto:
    return helper.make_function("local", name, ["a"], ["b"], body, [helper.make_opsetid("", 17), LOCAL])


LOCAL = helper.make_opsetid("local", 1)


@content(TooLarge, "Writing out the model's functions")
def function_bomb() -> ModelProto:
    model = convolution(CONV, helper.make_node("f29", ["c"], ["y"], domain="local"))
    model.opset_import.append(LOCAL)
    model.functions.append(function("f0", [helper.make_node("Relu", ["a"], ["b"])]))
    for level in range(1, 30):
        calls = [
            helper.make_node(f"f{level - 1}", ["a"], ["m"], domain="local"),
            helper.make_node(f"f{level - 1}", ["m"], ["b"], domain="local"),
        ]
        model.functions.append(function(f"f{level}", calls))
    return model


@content(TooLarge, "101 levels deep")
def function_chain() -> ModelProto:
    model = convolution(CONV, helper.make_node("f100", ["c"], ["y"], domain="local"))
    model.opset_import.append(LOCAL)
    model.functions.append(function("f0", [helper.make_node("Relu", ["a"], ["b"])]))
    for level in range(1, 101):
        model.functions.append(function(f"f{level}", [helper.make_node(f"f{level - 1}", ["a"], ["b"], domain="local")]))
    return model


@content(TooLarge, "5,000 functions")
def too_many_functions() -> ModelProto:
    model = convolution()
    for index in range(5000):
        model.functions.append(function(f"f{index}", [helper.make_node("Relu", ["a"], ["b"])]))
    return model


@content(InvalidModel, "calls itself")
def recursive_function() -> ModelProto:
    model = convolution(CONV, helper.make_node("f", ["c"], ["y"], domain="local"))
    model.opset_import.append(LOCAL)
    model.functions.append(function("f", [helper.make_node("g", ["a"], ["b"], domain="local")]))
    model.functions.append(function("g", [helper.make_node("f", ["a"], ["b"], domain="local")]))
    return model


@content(TooLarge, "nested deeper")
def nested_branches() -> ModelProto:
    body = helper.make_graph(
        [helper.make_node("Relu", ["c"], ["out0"])], "b", [], [helper.make_tensor_value_info("out0", FLOAT, None)]
    )
    for level in range(1, 18):
        name = f"out{level}"
        branch = helper.make_node("If", ["yes"], [name], then_branch=body, else_branch=body)
        body = helper.make_graph([branch], "b", [], [helper.make_tensor_value_info(name, FLOAT, None)])
        if level > 1:  # both branches at every level would double the file each time
            del branch.attribute[1:]
            other = helper.make_graph([helper.make_node("Relu", ["c"], [name])], "b", [], list(body.output))
            branch.attribute.append(helper.make_attribute("else_branch", other))
            body.node[0].CopyFrom(branch)
    model = convolution(CONV, helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=body))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    return model


@content(TooLarge, "elements")
def allocation_bomb() -> ModelProto:
    model = convolution(
        CONV,
        helper.make_node("ConstantOfShape", ["shape"], ["big"], name="bomb"),
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("Add", ["c", "sum"], ["y"]),
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([200_000, 200_000]), "shape"))
    return model


@content(TooLarge, "elements")
def doubling() -> ModelProto:
    nodes = [CONV]
    for level in range(40):
        source = f"d{level - 1}" if level else "c"
        nodes.append(helper.make_node("Concat", [source, source], [f"d{level}"], axis=1, name=f"double{level}"))
    return convolution(*nodes, helper.make_node("ReduceMean", ["d39"], ["y"]))


@content(TooLarge, "runs 4,611,686,018,427,387,904 times")
def endless_loop() -> ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Relu", ["state"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("count", INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, None),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("next", FLOAT, None)],
    )
    model = convolution(CONV, helper.make_node("Loop", ["times", "", "c"], ["y"], name="loop", body=body))
    model.graph.initializer.append(numpy_helper.from_array(np.array(2**62), "times"))
    return model


# places


@place(InvalidModel, "folder")
def directory(folder: Path) -> Path:
    (folder / "model.onnx").mkdir()
    return folder / "model.onnx"


@place(InvalidModel, "No such file")
def missing_file(folder: Path) -> Path:
    return folder / "model.onnx"


@place(InvalidModel, "regular file")
def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "model.onnx")
    return folder / "model.onnx"


@place(TooLarge, "3.00 GiB")
def three_gibibytes(folder: Path) -> Path:
    with (folder / "model.onnx").open("wb") as file:
        file.write(convolution().SerializeToString())
        file.truncate(3 * 2**30)  # sparse: takes no room
    return folder / "model.onnx"


# external data


def external(location: str, **more: str) -> ModelProto:
    model = convolution()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **more}.items():
        weight.external_data.add(key=key, value=value)
    return model


def saved(folder: Path, model: ModelProto) -> Path:
    path = folder / "inside" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(model.SerializeToString())
    (folder / "secret.bin").write_bytes(bytes(432))
    return path


@content(InvalidModel, "outside the model's folder")
def external_above() -> ModelProto:
    return external("../secret.bin")


@content(InvalidModel, "outside the model's folder")
def external_absolute() -> ModelProto:
    return external("/etc/passwd")


@content(InvalidModel, "outside the model's folder")
def external_nowhere() -> ModelProto:
    return external("")


@content(InvalidModel, "which was not given")
def external_not_sent() -> ModelProto:
    return external("weights.bin")


@content(InvalidModel, "unknown key 'basepath'")
def external_unknown_key() -> ModelProto:
    return external("weights.bin", basepath="/etc")


@content(InvalidModel, "not a file position")
def external_negative_offset() -> ModelProto:
    return external("weights.bin", offset="-8")


@content(InvalidModel, "not a file position")
def external_enormous_offset() -> ModelProto:
    return external("weights.bin", offset="9" * 5000)


@content(InvalidModel, "have length")
def external_false_length() -> ModelProto:
    return external("weights.bin", length="99999999999")


@content(TooLarge, "more than 2.0 GiB")
def external_amplification() -> ModelProto:
    model = external("weights.bin")
    for index in range(3000):
        copy = model.graph.initializer.add()
        copy.CopyFrom(model.graph.initializer[0])
        copy.name = f"w{index}"
        copy.dims[:] = [512, 512]
    return model


@place(InvalidModel, "cannot be opened")
def external_missing(folder: Path) -> Path:
    return saved(folder, external("weights.bin"))


@place(InvalidModel, "links are not followed")
def external_symlink(folder: Path) -> Path:
    path = saved(folder, external("weights.bin"))
    (path.parent / "weights.bin").symlink_to(folder / "secret.bin")
    return path


@place(InvalidModel, "links are not followed")
def external_folder_symlink(folder: Path) -> Path:
    path = saved(folder, external("data/secret.bin"))
    (path.parent / "data").symlink_to(folder)
    return path


@place(InvalidModel, "single name")
def external_hardlink(folder: Path) -> Path:
    path = saved(folder, external("weights.bin"))
    (path.parent / "weights.bin").hardlink_to(folder / "secret.bin")
    return path


@place(InvalidModel, "regular file")
def external_pipe(folder: Path) -> Path:
    path = saved(folder, external("weights.bin"))
    os.mkfifo(path.parent / "weights.bin")
    return path


@place(InvalidModel, "needs 1,432 bytes")
def external_beyond_end(folder: Path) -> Path:
    path = saved(folder, external("weights.bin", offset="1000"))
    (path.parent / "weights.bin").write_bytes(bytes(432))
    return path
