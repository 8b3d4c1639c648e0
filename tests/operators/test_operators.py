"""Operators, one node at a time, against onnxruntime and against ONNX's own definitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from converter.errors import InvalidModel, UnsupportedModel
from converter.operators import STEPWISE, TABLE, select
from converter.operators.signatures import Ints, signature_of
from converter.reconstruction import reconstruct

Array = NDArray[Any]


def floats(*shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def integers(low: int, high: int, *shape: int) -> Array:
    return np.random.default_rng(shape).integers(low, high, shape)


def fractions(*shape: int) -> Array:
    return np.random.default_rng(shape).random(shape).astype(np.float32)


def one_node(
    operator: str,
    inputs: Sequence[Array | None],
    attributes: Mapping[str, Any],
    opset: int = 17,
    outputs: int = 1,
    constants: Sequence[int] = (),
) -> ModelProto:
    """A model of one node; the inputs at the positions ``constants`` are initializers."""
    names = ["" if value is None else f"x{k}" for k, value in enumerate(inputs)]
    node = helper.make_node(operator, names, [f"y{k}" for k in range(outputs)], name="node", **attributes)
    given = {name: value for name, value in zip(names, inputs, strict=True) if value is not None}
    weights = {f"x{k}" for k in constants}
    graph = helper.make_graph(
        [node],
        "graph",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in given.items()
            if name not in weights
        ],
        [helper.make_empty_tensor_value_info(f"y{k}") for k in range(outputs)],
        [numpy_helper.from_array(value, name) for name, value in given.items() if name in weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def check_against_onnxruntime(
    operator: str,
    inputs: Sequence[Array | None],
    opset: int = 17,
    outputs: int = 1,
    constants: Sequence[int] = (),
    **attributes: Any,
) -> None:
    model = one_node(operator, inputs, attributes, opset, outputs, constants)
    feeds = {f"x{k}": value for k, value in enumerate(inputs) if value is not None and k not in constants}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    wanted = session.run(None, feeds)
    with torch.no_grad():
        result = reconstruct(model)(*(torch.from_numpy(value) for value in feeds.values()))
    for got, want in zip(result if isinstance(result, tuple) else (result,), wanted, strict=True):
        assert got.numpy().dtype == want.dtype
        assert got.shape == want.shape
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=2e-5)


# ---------------------------------------------------------------- the table


def test_the_newest_function_not_above_the_opset_is_chosen() -> None:
    versions = TABLE["Softmax"]
    assert not callable(versions)
    assert select("Softmax", 12) is versions[1]
    assert select("Softmax", 13) is versions[13]
    assert select("Softmax", 28) is versions[13]
    assert select("Upsample", 6) is None
    assert select("NoSuchOperator", 17) is None
    assert set(TABLE) >= STEPWISE


@pytest.mark.parametrize("name", sorted(TABLE))
def test_functions_have_the_signatures_of_onnx(name: str) -> None:
    """Every attribute of every version is a parameter, with ONNX's default; every input has its place."""
    for schema in onnx.defs.get_all_schemas_with_history():
        function = select(name, schema.since_version)
        if schema.name != name or schema.domain or function is None:
            continue
        signature = signature_of(function)
        assert signature.variadic or len(signature.inputs) >= len(schema.inputs)
        for attribute, definition in schema.attributes.items():
            if attribute in NEITHER_NEEDED_NOR_SUPPORTED:
                continue
            assert attribute in signature.attributes, f"{name}-{schema.since_version}"
            default = definition.default_value
            if default.name and (name, attribute) not in OTHER_DEFAULTS:
                wanted = helper.get_attribute_value(default)
                wanted = wanted.decode() if isinstance(wanted, bytes) else wanted
                wanted = tuple(wanted) if isinstance(wanted, list) else wanted
                assert signature.attributes[attribute].default == pytest.approx(wanted)


NEITHER_NEEDED_NOR_SUPPORTED = {"consumed_inputs", "pool_strings"}
OTHER_DEFAULTS = {
    ("Clip", "max"),  # none instead of the largest float
    ("Clip", "min"),
    ("GRU", "direction"),  # misspelt in opset 1
    ("GRU", "output_sequence"),  # whether an output that nobody reads is computed
    ("LSTM", "output_sequence"),
    ("RNN", "output_sequence"),
    ("RNN", "activations"),  # none means these
}


def test_an_annotation_says_which_inputs_are_constants() -> None:
    def operator(data: torch.Tensor, shape: Ints, axis: int | None = None, *, keep: bool = True) -> torch.Tensor:
        raise AssertionError

    signature = signature_of(operator)
    data, shape, axis = signature.inputs
    assert data.reader is None
    assert shape.reader is not None
    assert shape.reader(torch.tensor([2, 3])) == (2, 3)
    assert axis.reader is not None
    assert axis.reader(torch.tensor(4)) == 4
    assert signature.attributes["keep"].boolean


# ---------------------------------------------------------------- convolutions and pooling


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("auto_pad", ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("group", [1, 2])
def test_conv(rank: int, auto_pad: str, group: int) -> None:
    pads: dict[str, Any] = {"pads": [1, 0, 2][:rank] + [0, 1, 2][:rank]} if auto_pad == "NOTSET" else {}
    x, w, b = floats(2, 4, *(9, 8, 7)[:rank]), floats(6, 4 // group, *(3, 2, 3)[:rank]), floats(6)
    check_against_onnxruntime(
        "Conv", [x, w, b], constants=[1, 2], auto_pad=auto_pad, group=group, strides=[2, 1, 2][:rank], **pads
    )


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [0, 1, 1, 0]},
        {"pads": [1, 1, 1, 1], "output_padding": [1, 1]},
        {"output_shape": [10, 9]},
        {"output_shape": [10, 9], "auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
        {"auto_pad": "VALID"},
        {"dilations": [2, 1]},
        {"group": 2},
    ],
)
def test_conv_transpose(attributes: dict[str, Any]) -> None:
    w = floats(4, 3, 3, 3)
    bias = floats(3 * attributes.get("group", 1))
    check_against_onnxruntime(
        "ConvTranspose", [floats(2, 4, 5, 4), w, bias], constants=[1, 2], strides=[2, 2], **attributes
    )


@pytest.mark.parametrize(("ceil_mode", "dilation", "pads"), list(product((0, 1), (1, 2), ([0, 0, 0, 0], [1, 0, 0, 1]))))
def test_pooling(ceil_mode: int, dilation: int, pads: list[int]) -> None:
    x = floats(2, 3, 10, 9)
    common: dict[str, Any] = {"ceil_mode": ceil_mode, "pads": pads, "kernel_shape": [3, 2], "strides": [2, 3]}
    dilations = [dilation, dilation]
    check_against_onnxruntime("MaxPool", [x], outputs=2, opset=12, dilations=dilations, **common)
    check_against_onnxruntime("LpPool", [x], opset=18, p=3, dilations=dilations, **common)
    for count in (0, 1):
        check_against_onnxruntime("AveragePool", [x], opset=19, count_include_pad=count, dilations=dilations, **common)


@pytest.mark.parametrize("operator", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_pooling_with_automatic_padding(operator: str, auto_pad: str) -> None:
    check_against_onnxruntime(operator, [floats(1, 2, 8, 9)], auto_pad=auto_pad, kernel_shape=[3, 3], strides=[2, 1])


# ---------------------------------------------------------------- resampling and padding


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("transformation", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("sizes", [(12, 14), (3, 5), (9, 4)])
def test_resize(mode: str, transformation: str, sizes: tuple[int, int]) -> None:
    x = floats(1, 2, 6, 7)
    check_against_onnxruntime(
        "Resize",
        [x, None, None, np.array([1, 2, *sizes])],
        constants=[3],
        mode=mode,
        coordinate_transformation_mode=transformation,
    )


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_without_aliasing(mode: str) -> None:
    inputs = [floats(1, 2, 9, 8), None, np.array([0.6, 0.5], np.float32)]
    check_against_onnxruntime("Resize", inputs, opset=18, constants=[2], mode=mode, antialias=1, axes=[2, 3])


@pytest.mark.parametrize("nearest_mode", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_rounding(nearest_mode: str) -> None:
    inputs = [floats(1, 1, 5, 6), None, np.array([1, 1, 1.5, 0.5], np.float32)]
    check_against_onnxruntime("Resize", inputs, constants=[2], mode="nearest", nearest_mode=nearest_mode)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample_of_old_opsets(mode: str) -> None:
    x = floats(1, 2, 3, 4)
    check_against_onnxruntime("Upsample", [x], opset=7, mode=mode, scales=[1.0, 1.0, 2.0, 3.0])
    scales = np.array([1, 1, 2, 3], np.float32)
    check_against_onnxruntime("Upsample", [x, scales], opset=9, constants=[1], mode=mode)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pad(mode: str) -> None:
    check_against_onnxruntime(
        "Pad", [floats(4, 5, 3), np.array([1, 2, 0, 2]), None, np.array([1, -1])], opset=19, mode=mode
    )


# ---------------------------------------------------------------- shapes and indices


@pytest.mark.parametrize(
    ("starts", "ends", "steps"),
    [
        ([1, 0], [-1, 100], [1, 2]),
        ([-1, -1], [-100, 0], [-1, -2]),
        ([-100, 3], [2**63 - 1, -(2**63)], [1, -1]),
        ([2, 5], [1, 5], [1, 1]),
        ([-100, -100], [-(2**63), -(2**31)], [-2, -1]),
    ],
)
def test_slice(starts: list[int], ends: list[int], steps: list[int]) -> None:
    inputs = [floats(6, 7), *(np.array(each) for each in (starts, ends, [0, -1], steps))]
    check_against_onnxruntime("Slice", inputs)
    check_against_onnxruntime("Slice", inputs, constants=[1, 2, 3, 4])


def test_gather_and_scatter() -> None:
    x = floats(4, 5)
    check_against_onnxruntime("Gather", [x, np.array([[0, -1], [2, -4]])], axis=0)
    check_against_onnxruntime("Gather", [x, np.array(-2)], axis=1)
    check_against_onnxruntime("GatherElements", [x, np.array([[0, -1, 2, 1, -4]])], axis=0)
    check_against_onnxruntime("GatherND", [x, np.array([[0], [-2], [1], [4]])], batch_dims=1)
    for reduction in ("none", "add", "mul", "min", "max"):
        places = np.array([[3, 0, -4, 1, 2]])
        check_against_onnxruntime("ScatterElements", [x, places, floats(1, 5)], opset=18, reduction=reduction)
        check_against_onnxruntime("ScatterND", [x, np.array([[1], [-1]]), floats(2, 5)], opset=18, reduction=reduction)


def test_choices() -> None:
    ties = integers(0, 3, 4, 6).astype(np.float32)
    for operator, last in product(("ArgMax", "ArgMin"), (0, 1)):
        check_against_onnxruntime(operator, [ties], axis=1, select_last_index=last)
    for largest in (0, 1):
        check_against_onnxruntime("TopK", [ties, np.array([4])], outputs=2, largest=largest)
    for kept in (0, 1):
        check_against_onnxruntime("Unique", [ties], outputs=4, sorted=kept)
    check_against_onnxruntime("OneHot", [np.array([1, -2, 9]), np.array(4), np.array([2.0, 5.0], np.float32)], axis=0)


def test_split_leaves_a_smaller_rest() -> None:
    check_against_onnxruntime("Split", [floats(7, 2)], opset=18, outputs=3, num_outputs=3)
    check_against_onnxruntime("Split", [floats(7, 2), np.array([2, 5])], outputs=2)


def test_reshape_keeps_and_infers() -> None:
    check_against_onnxruntime("Reshape", [floats(2, 3, 4), np.array([0, -1])])
    check_against_onnxruntime("Reshape", [floats(0, 3), np.array([3, 0])], allowzero=1)


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.int64])
def test_arithmetic(kind: type) -> None:
    a: Array = np.array([7, -7, 7, -7, 0], kind)
    b: Array = np.array([2, 2, -2, -2, 3], kind)
    for operator in ("Add", "Sub", "Mul", "Div", "Max", "Min"):
        check_against_onnxruntime(operator, [a, b])
    check_against_onnxruntime("Mod", [a, b], fmod=1)
    if kind is not np.float32:
        check_against_onnxruntime("Mod", [a, b])
    check_against_onnxruntime("Pow", [a, np.array([2.0], np.float32)])
    check_against_onnxruntime("Pow", [np.abs(a) + 1, np.abs(b)])


@pytest.mark.parametrize(
    "operator", ["Softplus", "Sigmoid", "Tanh", "Gelu", "Mish", "HardSwish", "Selu", "Celu", "Elu"]
)
def test_activations_far_from_zero(operator: str) -> None:
    x = np.array([-1000, -90, -20, -1, 0, 1, 20, 90, 1000], np.float32)
    check_against_onnxruntime(operator, [x], opset=20)


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (0.0, None), (None, 1.0), (2.0, -1.0)])
def test_clip(low: float | None, high: float | None) -> None:
    bounds = [None if bound is None else np.array(bound, np.float32) for bound in (low, high)]
    check_against_onnxruntime(
        "Clip", [floats(50) * 4, *bounds], constants=[k + 1 for k in (0, 1) if bounds[k] is not None]
    )


@pytest.mark.parametrize("name", ["L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"])
def test_reductions(name: str) -> None:
    x = floats(2, 3, 4)
    for keepdims in (0, 1):
        check_against_onnxruntime(f"Reduce{name}", [x, np.array([-1, 0])], opset=18, keepdims=keepdims)
        check_against_onnxruntime(f"Reduce{name}", [x], opset=18, keepdims=keepdims)
    check_against_onnxruntime(f"Reduce{name}", [x], opset=18, noop_with_empty_axes=1)


def test_softmax_flattens_before_opset_13() -> None:
    for opset in (11, 13):
        check_against_onnxruntime("Softmax", [floats(2, 3, 4)], opset=opset, axis=1)
        check_against_onnxruntime("LogSoftmax", [floats(2, 3, 4)], opset=opset)


def test_quantization() -> None:
    x, scale, zero = floats(2, 3, 4) * 3, np.array([0.1, 0.02, 0.3], np.float32), np.array([3, -4, 0], np.int8)
    check_against_onnxruntime("QuantizeLinear", [x, scale, zero], axis=1)
    check_against_onnxruntime("QuantizeLinear", [x, scale[:1].reshape(()), np.array(7, np.uint8)])
    check_against_onnxruntime("DequantizeLinear", [integers(-9, 9, 2, 3, 4).astype(np.int8), scale, zero])
    check_against_onnxruntime("DynamicQuantizeLinear", [x], outputs=3)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("lengths", [None, [5, 2]])
def test_recurrent(operator: str, gates: int, direction: str, lengths: list[int] | None) -> None:
    ways, hidden = 2 if direction == "bidirectional" else 1, 4
    inputs = [
        floats(5, 2, 3),
        floats(ways, gates * hidden, 3),
        floats(ways, gates * hidden, hidden),
        floats(ways, 2 * gates * hidden),
        None if lengths is None else np.array(lengths, np.int32),
        floats(ways, 2, hidden),
    ]
    common: dict[str, Any] = {"direction": direction, "hidden_size": hidden, "constants": [1, 2, 3]}
    if operator == "GRU":
        check_against_onnxruntime(operator, inputs, outputs=2, linear_before_reset=1, **common)
    check_against_onnxruntime(operator, inputs, outputs=2, **common)
    if operator == "LSTM":
        check_against_onnxruntime(operator, [*inputs, floats(ways, 2, hidden), floats(ways, 12)], outputs=3, **common)


@pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_recurrent_shapes_are_checked_before_torch_reads_past_the_end(operator: str, gates: int) -> None:
    inputs = [floats(5, 3, 2), floats(1, gates * 4, 2), floats(1, gates * 4, 4), None, None, floats(1, 1, 4)]
    attributes = {"hidden_size": 4, **({"linear_before_reset": 1} if operator == "GRU" else {})}
    module = reconstruct(one_node(operator, inputs, attributes))
    with pytest.raises(ValueError, match=r"\(1, 3, 4\), and is given \(1, 1, 4\)"):
        module(*(torch.from_numpy(value) for value in inputs if value is not None))


def test_detection() -> None:
    boxes, scores = fractions(2, 12, 4), fractions(2, 3, 12)
    bounds = [np.array([4]), np.array([0.3], np.float32), np.array([0.2], np.float32)]
    check_against_onnxruntime("NonMaxSuppression", [boxes, scores, *bounds])
    corner = fractions(3, 2) * 4
    rois = np.concatenate((corner, corner + 3), 1).astype(np.float32)
    for mode in ("avg", "max"):
        inputs = [floats(2, 3, 8, 8), rois, np.array([1, 0, 1])]
        check_against_onnxruntime("RoiAlign", inputs, mode=mode, output_height=2, output_width=3, sampling_ratio=2)


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes", "opset", "outputs", "attribute"),
    [
        ("Cast", [floats(2)], {"to": onnx.TensorProto.STRING}, 17, 1, "to"),
        ("Cast", [floats(2)], {"to": onnx.TensorProto.FLOAT8E4M3FN}, 19, 1, "to"),
        ("Conv", [floats(1, 1, 3, 3, 3, 3), floats(1, 1, 1, 1, 1, 1)], {}, 17, 1, "kernel_shape"),
        ("LSTM", [floats(2, 1, 3), floats(1, 16, 3), floats(1, 16, 4)], {"activations": ["Affine"] * 3}, 17, 1,
         "activations"),
        ("BatchNormalization", [floats(1, 2), *(floats(2) for _ in range(4))], {}, 9, 3, "is_test"),
        ("Dropout", [floats(2), np.array(0.5, np.float32), np.array(True)], {}, 17, 1, "training_mode"),
        ("Resize", [floats(1, 1, 4, 4), np.array([1, 1, 0.6, 0.6], np.float32)], {"mode": "nearest"}, 10, 1, "mode"),
        ("Pad", [floats(4), np.array([-1, 2])], {"mode": "wrap"}, 19, 1, "pads"),
        ("MaxPool", [floats(1, 1, 9)], {"kernel_shape": [2], "dilations": [2], "auto_pad": "SAME_UPPER"}, 12, 1,
         "auto_pad"),
        ("Slice", [floats(4), np.array([3]), np.array([2**63 - 1]), np.array([0]), np.array([-1])], {}, 17, 1, "ends"),
        ("Relu", [floats(4)], {"alpha": 1.0}, 17, 1, "alpha"),
    ],
)  # fmt: skip
def test_what_is_not_verified_is_refused_by_name(
    operator: str, inputs: list[Array], attributes: dict[str, Any], opset: int, outputs: int, attribute: str
) -> None:
    model = one_node(operator, inputs, attributes, opset, outputs, range(1, len(inputs)))
    with pytest.raises(UnsupportedModel) as refusal:
        reconstruct(model)
    version = onnx.defs.get_schema(operator, opset).since_version
    assert refusal.value.node == "node"
    assert refusal.value.operator == f"{operator}-{version}"
    assert refusal.value.attribute == attribute


@pytest.mark.parametrize("operator", ["RandomNormal", "StringNormalizer", "SoftmaxCrossEntropyLoss", "ImageDecoder"])
def test_operators_outside_the_table_are_refused_by_name(operator: str) -> None:
    with pytest.raises(UnsupportedModel, match=operator):
        reconstruct(one_node(operator, [floats(2)], {}, 22))


def test_an_operator_that_its_opset_does_not_have_is_invalid() -> None:
    with pytest.raises(InvalidModel, match="opset 9"):
        reconstruct(one_node("Gelu", [floats(2)], {}, 9))


def test_a_missing_attribute_is_invalid() -> None:
    with pytest.raises(InvalidModel) as refusal:
        reconstruct(one_node("Concat", [floats(2)], {}))
    assert refusal.value.attribute == "axis"


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"),
    [
        ("Conv", [floats(1, 2, 5, 5), floats(3, 2, 3, 3)], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
        ("ConvTranspose", [floats(1, 2, 3, 3), floats(2, 3, 3, 3)], {"pads": [0, 1, 1, 0]}),
        ("AveragePool", [floats(1, 2, 5, 5)], {"kernel_shape": [2, 2], "ceil_mode": 1}),
        ("Resize", [floats(1, 1, 4, 4), None, np.array([1, 1, 1.5, 2], np.float32)], {"mode": "cubic"}),
        ("LSTM", [floats(3, 1, 2), floats(1, 8, 2), floats(1, 8, 2)], {"hidden_size": 2}),
        ("GRU", [floats(3, 1, 2), floats(1, 6, 2), floats(1, 6, 2)], {"hidden_size": 2}),
        ("LayerNormalization", [floats(2, 3, 4), floats(4), floats(4)], {}),
        ("ReduceL2", [floats(3, 4)], {}),
        ("TopK", [floats(6), np.array([3])], {}),
        ("Einsum", [floats(2, 3), floats(3, 2)], {"equation": "ij,jk"}),
        ("ScatterND", [floats(4, 2), np.array([[1], [3]]), floats(2, 2)], {}),
        ("Pad", [floats(3, 3), np.array([1, 1, 1, 1])], {"mode": "reflect"}),
    ],
)
def test_gradients_are_those_of_differences(
    operator: str, inputs: list[Array | None], attributes: dict[str, Any]
) -> None:
    module = reconstruct(one_node(operator, inputs, attributes, outputs=2 if operator == "TopK" else 1))
    values = [torch.from_numpy(value.copy()) for value in inputs if value is not None]

    def first_output(x: torch.Tensor) -> torch.Tensor:
        result = module(x, *(each.double() if each.is_floating_point() else each for each in values[1:]))
        output: torch.Tensor = result[0] if isinstance(result, tuple) else result
        return output

    assert torch.autograd.gradcheck(first_output, values[0].double().requires_grad_())
