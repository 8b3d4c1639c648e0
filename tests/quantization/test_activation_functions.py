"""The function of one number through which a tensor is read, and ranges judged behind it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from converter.graph import Graph
from converter.quantization.activation_functions import function_after
from converter.quantization.calibration import Observer, RangeRule
from converter.reconstruction import reconstruct


def network_of(*nodes: tuple[str, list[str], str]) -> ModelProto:
    made = [helper.make_node(operator, inputs, [output]) for operator, inputs, output in nodes]
    graph = helper.make_graph(
        made,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [
            numpy_helper.from_array(np.array(3.0, np.float32), "three"),
            numpy_helper.from_array(np.array(6.0, np.float32), "six"),
            numpy_helper.from_array(np.array(0.0, np.float32), "zero"),
            numpy_helper.from_array(np.arange(4, dtype=np.float32), "each"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


SILU = (("Identity", ["x"], "t"), ("Sigmoid", ["t"], "s"), ("Mul", ["t", "s"], "u"), ("Neg", ["u"], "y"))
HARD_SWISH = (
    ("Identity", ["x"], "t"),
    ("Add", ["t", "three"], "a"),
    ("Clip", ["a", "zero", "six"], "c"),
    ("Div", ["c", "six"], "d"),
    ("Mul", ["t", "d"], "u"),
    ("Neg", ["u"], "y"),
)


@pytest.mark.parametrize("nodes", [SILU, HARD_SWISH])
def test_a_gate_written_in_pieces_is_one_function(nodes: tuple[tuple[str, list[str], str], ...]) -> None:
    model = network_of(*nodes)
    function = function_after("t", Graph(model), reconstruct(model))
    assert function is not None
    values = np.linspace(-8, 8, 33)
    gate = 1 / (1 + np.exp(-values)) if nodes is SILU else np.clip(values + 3, 0, 6) / 6
    assert function(values) == pytest.approx(values * gate, abs=1e-5)


def test_a_tensor_that_is_read_as_it_is_has_no_function() -> None:
    read_twice = network_of(("Identity", ["x"], "t"), ("Sigmoid", ["t"], "s"), ("MatMul", ["t", "s"], "y"))
    assert function_after("t", Graph(read_twice), reconstruct(read_twice)) is None
    by_column = network_of(("Identity", ["x"], "t"), ("Mul", ["t", "each"], "y"))
    assert function_after("t", Graph(by_column), reconstruct(by_column)) is None


def test_codes_are_spent_where_they_are_felt() -> None:
    """A SiLU lets nothing below -6 through: the range need not reach there, while its upper end stays."""
    model = network_of(*SILU)
    observer = Observer()
    observer.update(torch.randn(20_000, generator=torch.Generator().manual_seed(0)) * 20)
    alone = observer.range(RangeRule.MSE)
    behind = observer.range(RangeRule.MSE, 256, function_after("t", Graph(model), reconstruct(model)))
    assert alone.low < -30
    assert -12 < behind.low < -2
    assert behind.high > 30


def test_an_end_of_a_few_codes_stays() -> None:
    """A SiLU's own results end at -0.28, which beside 60 is one code: giving it up would turn all of them to zero."""
    observer = Observer()
    observer.update(torch.tensor([-0.2785] * 1000 + [0.1] * 1000 + [60.0] * 50))
    assert observer.range(RangeRule.MSE).low == pytest.approx(-0.2785)
