"""Every change of meaning between opset 7 and 17, run in onnxruntime before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from converter.errors import UnsupportedModel
from converter.graph import opset
from converter.normalization import normalize, probe, verify_equivalence
from converter.normalization.opsets import unify_opset
from tests.hostile import CONV, convolution

FLOAT = TensorProto.FLOAT
node = helper.make_node


def model_of(
    nodes: list[NodeProto],
    version: int,
    shape: tuple[int | str, ...] = (2, 3, 8, 8),
    outputs: tuple[tuple[str, int], ...] = (("y", FLOAT),),
    constants: Mapping[str, NDArray[np.generic]] | None = None,
) -> ModelProto:
    """x -> nodes -> outputs with constants at hand."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=6)


ONES = np.ones(3, np.float32)
CASES = {
    "slice": ([node("Slice", ["x"], ["y"], starts=[1, 0], ends=[7, 2], axes=[3, 1])], range(7, 10)),
    "slice_without_axes": ([node("Slice", ["x"], ["y"], starts=[0, 1], ends=[1, 3])], range(7, 10)),
    "clip": ([node("Clip", ["x"], ["y"], min=-0.5, max=0.25)], range(7, 11)),
    "clip_below": ([node("Clip", ["x"], ["y"], min=0.0)], range(7, 11)),
    "pad": ([node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 0, 1], value=0.5)], range(7, 11)),
    "pad_edge": ([node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 0, 1], mode="edge")], range(7, 11)),
    "softmax": ([node("Softmax", ["x"], ["y"])], range(7, 13)),
    "softmax_last": ([node("Softmax", ["x"], ["y"], axis=3)], range(7, 13)),
    "log_softmax": ([node("LogSoftmax", ["x"], ["y"], axis=2)], range(7, 13)),
    "hardmax": ([node("Hardmax", ["x"], ["y"])], range(7, 13)),
    "reduce_sum": ([node("ReduceSum", ["x"], ["y"], axes=[2, 3], keepdims=0)], range(7, 13)),
    "reduce_all": ([node("ReduceSum", ["x"], ["y"])], range(7, 13)),
    "split": ([node("Split", ["x"], ["a", "y"], axis=3, split=[3, 5])], range(7, 13)),
    "split_evenly": ([node("Split", ["x"], ["a", "y"], axis=3)], range(7, 13)),
    "squeeze": (
        [node("ReduceMax", ["x"], ["r"], axes=[1]), node("Squeeze", ["r"], ["y"], axes=[1])],
        range(7, 13),
    ),
    "squeeze_everything": ([node("ReduceMax", ["x"], ["r"]), node("Squeeze", ["r"], ["y"])], range(7, 13)),
    "unsqueeze": ([node("Unsqueeze", ["x"], ["y"], axes=[0, 3])], range(7, 13)),
    "top_k": ([node("TopK", ["x"], ["y", "i"], k=3, axis=3)], range(7, 10)),
    "dropout": ([node("Dropout", ["x"], ["d"], ratio=0.3), node("Relu", ["d"], ["y"])], range(7, 12)),
    "upsample_7": ([node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 2.0, 2.0], mode="nearest")], range(7, 9)),
    "upsample_linear": ([node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 2.0, 2.0], mode="linear")], range(7, 9)),
    "upsample_9": ([node("Upsample", ["x", "scales"], ["y"], mode="nearest")], range(9, 10)),
    "resize_10": ([node("Resize", ["x", "scales"], ["y"], mode="nearest")], range(10, 11)),
    "resize_10_linear": ([node("Resize", ["x", "scales"], ["y"], mode="linear")], range(10, 11)),
    "resize_10_smaller": ([node("Resize", ["x", "shrink"], ["y"], mode="nearest")], range(10, 11)),
    "scatter": ([node("Scatter", ["x", "where", "what"], ["y"], axis=1)], range(9, 11)),
    "batch_norm": ([node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"])], range(7, 17)),
    "roi_align": (
        [node("RoiAlign", ["x", "rois", "batch"], ["y"], output_height=3, output_width=3, sampling_ratio=2)],
        range(10, 16),
    ),
    "leaky": ([node("LeakyRelu", ["x"], ["y"], alpha=0.1)], range(7, 17)),
}
CONSTANTS = {
    "scales": np.array([1, 1, 2, 2.5], np.float32),
    "shrink": np.array([1, 1, 0.5, 0.4], np.float32),
    "where": np.array([[[[2]]], [[[0]]]]),
    "what": np.array([[[[5.0]]], [[[6.0]]]], np.float32),
    "g": np.array([0.5, -1, 2], np.float32),
    "b": ONES,
    "m": 0.1 * ONES,
    "v": 2 * ONES,
    "rois": np.array([[0, 0, 6.3, 5.1], [1.2, 2.2, 7, 7]], np.float32),
    "batch": np.array([0, 1]),
}


@pytest.mark.parametrize(
    ("name", "version"), [(name, version) for name, (_, all_) in CASES.items() for version in all_]
)
def test_the_meaning_of_older_opsets_is_kept(name: str, version: int) -> None:
    nodes = [NodeProto.FromString(each.SerializeToString()) for each in CASES[name][0]]
    used = {each: CONSTANTS[each] for one in nodes for each in one.input if each in CONSTANTS}
    before = model_of(nodes, version, constants=used)
    after = normalize(before).model
    assert opset(after) == 17
    assert verify_equivalence(before, after, probe(before)) < 1e-6


def test_bodies_are_upgraded_too() -> None:
    def body(name: str, **attributes: Any) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(name, FLOAT, None)
        return helper.make_graph([node("Clip", ["x"], [name], **attributes)], name, [], [output])

    nodes = [
        node("ReduceMax", ["x"], ["m"], keepdims=0),
        node("Cast", ["m"], ["condition"], to=TensorProto.BOOL),
        node("If", ["condition"], ["y"], then_branch=body("t", min=0.5), else_branch=body("e", max=0.5)),
    ]
    before = model_of(nodes, 10)
    after, change = unify_opset(ModelProto.FromString(before.SerializeToString()))
    assert change.sentence == "Nodes moved from opset 10 to 17: 5."
    assert verify_equivalence(before, after, probe(before)) == 0


@pytest.mark.parametrize(
    ("nodes", "version", "attribute"),
    [
        ([node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"], name="bn", spatial=0)], 7, "spatial"),
        ([node("Resize", ["x", "both"], ["y"], name="resize")], 10, "scales"),
    ],
)
def test_what_no_newer_opset_says_is_refused_by_name(nodes: list[NodeProto], version: int, attribute: str) -> None:
    model = model_of(nodes, version, constants={"both": np.array([1, 1, 2, 0.5], np.float32), **CONSTANTS})
    with pytest.raises(UnsupportedModel) as caught:
        unify_opset(model)
    assert caught.value.attribute == attribute
    assert caught.value.node == nodes[0].name


@pytest.mark.parametrize(("version", "expected"), [(7, 17), (16, 17), (17, 17), (18, 18), (21, 21), (22, 21), (26, 21)])
def test_the_result_has_an_opset_from_17_to_21(version: int, expected: int) -> None:
    before = convolution(opset=version, ir=10)
    after = normalize(before).model
    assert [(each.domain, each.version) for each in after.opset_import] == [("", expected)]
    assert after.ir_version <= 10
    assert verify_equivalence(before, after, probe(before)) == 0


def test_a_newer_opset_stays_where_the_model_needs_it() -> None:
    before = convolution(CONV, node("CumProd", ["c", "axis"], ["y"], name="product"), opset=26, ir=11)
    before.graph.initializer.append(numpy_helper.from_array(np.array(1), "axis"))
    after = normalize(before).model
    assert opset(after) == 26
