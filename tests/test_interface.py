"""Models of half and double precision keep the face that their callers know."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from converter import Options, convert
from converter.interface import INSIDE, restore_types

TYPES: dict[int, type[np.floating]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.DOUBLE: np.float64,
}


def layered(element_type: int) -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    dtype = TYPES[element_type]

    def weight(*shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(generator.normal(0, 0.3, shape).astype(dtype), "w" + "x".join(map(str, shape)))

    first, second = weight(16, 3, 3, 3), weight(16, 5)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", first.name], ["c"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
            helper.make_node("Flatten", ["p"], ["features"], name="flat"),
            helper.make_node("MatMul", ["features", second.name], ["y"], name="last"),
        ],
        "g",
        [helper.make_tensor_value_info("x", element_type, ["n", 3, 16, 16])],
        [
            helper.make_tensor_value_info("y", element_type, ["n", 5]),
            helper.make_tensor_value_info("features", element_type, ["n", 16]),
        ],
        [first, second],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("element_type", TYPES)
def test_callers_hand_over_and_get_what_they_did_before(element_type: int) -> None:
    import onnxruntime

    source = layered(element_type)
    made = convert(source, Options(samples=16)).model
    onnx.checker.check_model(made, full_check=True)
    for before, after in ((source.graph.input, made.graph.input), (source.graph.output, made.graph.output)):
        assert [(each.name, each.type.tensor_type.elem_type) for each in before] == [
            (each.name, each.type.tensor_type.elem_type) for each in after
        ]
    x = np.random.default_rng(1).random((2, 3, 16, 16)).astype(TYPES[element_type])
    found = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})
    assert [each.dtype for each in found] == [TYPES[element_type]] * 2
    (*expected,) = onnxruntime.InferenceSession(layered(TensorProto.FLOAT).SerializeToString()).run(
        None, {"x": x.astype(np.float32)}
    )
    for got, wanted in zip(found, expected, strict=True):
        assert np.square(got - wanted).mean() < 0.02 * np.square(wanted).mean()


def test_what_only_passes_through_stays_as_it_is() -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("y", "x")],
    )
    model = helper.make_model(graph)
    restore_types(model, {"x": TensorProto.FLOAT16, "y": TensorProto.FLOAT16})
    assert [node.op_type for node in model.graph.node] == ["Relu", "Cast"]
    assert model.graph.node[0].input[0] == "x"
    assert model.graph.node[0].output[0] == "y" + INSIDE
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
