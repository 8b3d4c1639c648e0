"""What is usual of networks that give pictures back."""

from __future__ import annotations

import pytest
from onnx import ModelProto, TensorProto, helper

from converter.inputs.conventions import Convention, describe_origin


def ending_in(last: str, channels: int) -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Abs", ["x"], ["a"]), helper.make_node(last, ["a"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", channels, 32, 32])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize(
    ("last", "channels", "expected"),
    [
        ("Sigmoid", 3, {Convention.RETURNED}),
        ("Tanh", 3, {Convention.SQUASHED}),
        ("Tanh", 1, {Convention.SQUASHED}),
        ("Sigmoid", 8, set()),
    ],
)
def test_what_gives_pictures_back_has_conventions_of_its_own(
    last: str, channels: int, expected: set[Convention]
) -> None:
    assert describe_origin(ending_in(last, channels)).conventions == {Convention.ANY, *expected}
