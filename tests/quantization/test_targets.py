"""What a file for a runtime holds: types, zero points, biases and operators that it takes, read from the graph."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from onnx import ModelProto, NodeProto, TensorProto

from converter import InputSpec, Options, Precision, Target, convert
from converter.errors import InvalidOption
from converter.families import WEIGHTED
from converter.graph import Graph
from converter.pipeline import Result
from converter.quantization.calibration import Observer, RangeRule
from converter.quantization.qdq_writer import Range
from converter.targets import SYMMETRIC
from tests.networks import NETWORKS, prepare, residual, run
from tests.transformers import encoder

QDQ = ("QuantizeLinear", "DequantizeLinear")
NAMES = ("residual", "depthwise", "shuffled")


@cache
def made(name: str, target: Target) -> Result:
    options = Options(samples=8, time_budget=1, target=target, inputs={"x": InputSpec.read("mean=0;std=1", "x")})
    return convert(NETWORKS[name](), options)


def layers(model: ModelProto) -> Iterator[tuple[NodeProto, NodeProto, NodeProto]]:
    """Every layer that reads integers, with the DequantizeLinear of its input and of its weight."""
    graph = Graph(model)
    for node in graph.nodes:
        if node.op_type in WEIGHTED:
            data, weight = graph.producer(node.input[0]), graph.producer(node.input[1])
            if weight is not None and weight.op_type == "DequantizeLinear":
                assert data is not None, f"{node.name} has integers half-way"
                assert data.op_type == "DequantizeLinear", f"{node.name} has integers half-way"
                yield node, data, weight


def standard(model: ModelProto) -> Graph:
    """The graph, of ONNX's own operators and without products or ranges that only onnxruntime makes at run time."""
    graph = Graph(model)
    assert {entry.domain for entry in model.opset_import} == {""}
    assert not any("Integer" in node.op_type or "Dynamic" in node.op_type for node in graph.nodes)
    return graph


def check_tensorrt(model: ModelProto) -> int:
    """The documented rules of TensorRT's explicit quantization; how many layers follow them."""
    graph = standard(model)
    constants = graph.initializers
    for node in graph.nodes:
        if node.op_type in QDQ:
            assert constants.element_type(node.input[2]) == TensorProto.INT8
            assert not constants[node.input[2]].any()
            assert (constants[node.input[1]] > 0).all()
        if node.op_type == "QuantizeLinear":
            assert constants[node.input[1]].size == 1, "activations have one scale"
            assert [each.op_type for each in graph.consumers(node.output[0])] == ["DequantizeLinear"]
            maker = graph.producer(node.input[0])
            assert maker is None or maker.op_type not in QDQ
            (restored,) = graph.consumers(node.output[0])
            readers = graph.consumers(restored.output[0])
            assert any(each.op_type in WEIGHTED for each in readers), "only what a layer reads is rounded"
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            assert constants.element_type(node.input[0]) == TensorProto.INT8, "no bias of 32 bits"
            assert int(constants[node.input[0]].min()) >= -127
    count = 0
    for node, _, weight in layers(model):
        count += 1
        assert constants[weight.input[1]].ndim == 1, "weights have a scale a channel"
        if len(node.input) > 2 and node.input[2]:
            assert constants.element_type(node.input[2]) == TensorProto.FLOAT
    return count


def check_openvino(model: ModelProto) -> int:
    """What OpenVINO's reader and its transformations for low precision take; how many layers follow."""
    graph = standard(model)
    constants = graph.initializers
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            assert constants.element_type(node.input[2]) == TensorProto.UINT8
            assert constants[node.input[1]].size == 1
    return sum(constants.element_type(weight.input[0]) == TensorProto.INT8 for _, _, weight in layers(model))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_for_tensorrt_keeps_to_its_rules(name: str) -> None:
    assert check_tensorrt(made(name, Target.TENSORRT).model) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_a_file_for_onnxruntime_does_not(name: str) -> None:
    with pytest.raises(AssertionError):
        check_tensorrt(made(name, Target.X64).model)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_for_openvino_keeps_to_its_rules(name: str) -> None:
    assert check_openvino(made(name, Target.OPENVINO).model) >= 2


@pytest.mark.parametrize("target", [Target.TENSORRT, Target.OPENVINO])
def test_products_have_fixed_ranges_where_ranges_at_run_time_have_no_kernels(target: Target) -> None:
    options = Options(samples=8, time_budget=1, target=target)
    model = convert(encoder(-1e4), options).model
    assert (check_tensorrt if target is Target.TENSORRT else check_openvino)(model) >= 1
    dynamic = convert(encoder(-1e4), Options(samples=8, time_budget=1)).model
    assert any(node.op_type == "DynamicQuantizeLinear" for node in dynamic.graph.node)


def test_the_function_is_kept() -> None:
    given = prepare(residual())
    exact = run(given.model, given.batches[0])
    for target in (Target.TENSORRT, Target.OPENVINO):
        found = run(made("residual", target).model, given.batches[0])
        for before, after in zip(exact, found, strict=True):
            assert np.square(before - after).mean() < 0.02 * before.var()


def test_symmetric_ranges_lie_around_zero() -> None:
    assert Range(0.0, 6.0, "", SYMMETRIC).widened() == Range(-6.0, 6.0, "", SYMMETRIC)
    observer = Observer()
    observer.update(torch.randn(4096, generator=torch.Generator().manual_seed(0)).abs())
    found = observer.range(RangeRule.MSE, SYMMETRIC)
    assert found.low == -found.high
    assert 2 < found.high <= observer.high


def test_the_report_says_what_a_target_changes() -> None:
    result = made("residual", Target.TENSORRT)
    rows = {each.name: each for each in result.report.quantization.targets}
    assert [name for name, each in rows.items() if each.chosen] == ["tensorrt"]
    assert set(rows) == {*map(str, Target), "qnn"}
    assert rows["tensorrt"].nodes is not None
    assert rows["x64"].nodes is not None
    assert rows["tensorrt"].nodes < rows["x64"].nodes
    assert result.report.quantization.activation_type == "S8"
    assert result.report.latency is None
    assert result.report.kernels is None
    assert "other-runtime" in {each.kind for each in result.report.warnings}
    page = result.report.to_html()
    assert "What runs it" in page
    assert "<b>tensorrt</b>" in page


@pytest.mark.parametrize(
    ("target", "precision"),
    [(Target.TENSORRT, Precision.WEIGHTS), (Target.TENSORRT, Precision.W4A8), (Target.OPENVINO, Precision.DYNAMIC)],
)
def test_a_precision_without_kernels_is_refused(target: Target, precision: Precision) -> None:
    with pytest.raises(InvalidOption) as refusal:
        Options(target=target, precision=precision)
    assert refusal.value.field == "precision"
    assert "int8" in (refusal.value.remedy or "")


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")
@pytest.mark.parametrize("name", NAMES)
def test_openvino_runs_every_quantized_layer_on_integers_and_as_onnxruntime_does(name: str) -> None:
    from tests.bench.openvino import open_openvino

    result = made(name, Target.OPENVINO)
    feeds = prepare(NETWORKS[name]()).batches[0]
    compiled = open_openvino(result.model.SerializeToString(), feeds)
    assert compiled.integer_layers == check_openvino(result.model)
    for expected, found in zip(run(result.model, feeds), compiled.run(None, feeds), strict=True):
        assert np.square(expected - found).mean() < 1e-3 * expected.var()
