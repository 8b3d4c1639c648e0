"""Whether every node is one that the standard defines at the model's opset, used as defined."""

from __future__ import annotations

import onnx
from onnx import AttributeProto, ModelProto, NodeProto
from onnx.defs import OpSchema

from converter.admission.wire import shorten
from converter.errors import InvalidModel, UnsupportedModel
from converter.graph import attribute, opset, walk
from converter.limits import NEWEST_OPSET

__all__ = ["STANDARD", "check_operators"]

STANDARD = ("", "ai.onnx")
QUANTIZED = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "QLinearMatMul",
    "MatMulInteger",
    "ConvInteger",
}
QUANTIZED_MICROSOFT = (
    "QLinear", "QAttention", "QEmbed", "QGemm", "QMoE", "QOrdered", "DynamicQuantize", "MatMulNBits", "MatMulBnb4",
    "MatMulInteger", "GatherBlockQuantized", "QuantizeLinear", "DequantizeLinear",
)  # fmt: skip
RANDOM = {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
POSITIVE = {"strides", "dilations", "kernel_shape", "group", "blocksize", "size", "num_outputs", "hidden_size"}
UNBOUNDED = {"starts", "ends", "value_int", "value_ints"}  # where exporters write the largest number for "to the end"
LARGEST = 2**31 - 1  # beyond it onnxruntime's own products overflow, down to a division by zero that ends the process
TRAINING = {"Gradient", "Adam", "Adagrad", "Momentum", "NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss"}


def check_operators(model: ModelProto) -> None:
    """Every node is of the standard domain, known at the model's opset, and has the inputs and attributes it needs."""
    version = opset(model)
    for node, _ in walk(model.graph):
        _check_domain(node)
        _check_kind(node)
        schema = _schema(node, version)
        _check_attributes(node, schema)
        _check_arity(node, schema)


def name_of(node: NodeProto) -> str:
    """What to call a node in a sentence: its name, or else its first output."""
    return shorten(node.name or next(filter(None, node.output), "") or "without a name")


def _check_domain(node: NodeProto) -> None:
    if node.domain in STANDARD:
        return
    domain, operator = shorten(node.domain), shorten(node.op_type)
    if node.domain == "com.microsoft" and node.op_type.startswith(QUANTIZED_MICROSOFT):
        raise _already_quantized(node)
    remedy = "Export it with standard ONNX operators only."
    if node.domain == "com.microsoft":
        remedy = "It comes from onnxruntime's optimizer; give the model as it was before that."
    elif node.domain == "ai.onnx.ml":
        remedy = "Classical machine-learning operators have nothing to quantize; give the neural network alone."
    raise UnsupportedModel(
        f"The node {name_of(node)!r} is {operator} of the domain {domain}, which is not standard ONNX.",
        node=name_of(node),
        operator=operator,
        field="domain",
        remedy=remedy,
    )


def _check_kind(node: NodeProto) -> None:
    operator = node.op_type
    if operator in QUANTIZED:
        raise _already_quantized(node)
    if operator in RANDOM:
        raise UnsupportedModel(
            f"The node {name_of(node)!r} ({operator}) draws random numbers, so the model has no definite output.",
            node=name_of(node),
            operator=operator,
            remedy="Make the random values an input of the model.",
        )
    training = operator in TRAINING or (operator == "BatchNormalization" and attribute(node, "training_mode", 0))
    if training:
        raise UnsupportedModel(
            f"The node {name_of(node)!r} ({operator}) belongs to training.",
            node=name_of(node),
            operator=operator,
            remedy="Export the model in inference mode (model.eval()).",
        )


def _already_quantized(node: NodeProto) -> UnsupportedModel:
    return UnsupportedModel(
        f"The model is already quantized: the node {name_of(node)!r} is {shorten(node.op_type)}.",
        node=name_of(node),
        operator=shorten(node.op_type),
        remedy="Give the FP32 model that it was made from.",
    )


def _schema(node: NodeProto, version: int) -> OpSchema:
    operator = shorten(node.op_type)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        schema = None
    if schema is not None and not schema.deprecated:
        return schema
    try:
        since = onnx.defs.get_schema(node.op_type, onnx.defs.onnx_opset_version(), "").since_version
        known = f"which opset {version} does not have"
        remedy = f"Export the model with an opset from {since} to {NEWEST_OPSET}."
    except onnx.defs.SchemaError:
        known = "which ONNX does not define"
        remedy = "Export the model with standard ONNX operators only."
    raise UnsupportedModel(
        f"The node {name_of(node)!r} has the operator {operator!r}, {known}.",
        node=name_of(node),
        operator=operator,
        remedy=remedy,
    )


def _check_attributes(node: NodeProto, schema: OpSchema) -> None:
    seen: set[str] = set()
    for each in node.attribute:
        known = schema.attributes.get(each.name)
        if known is None or each.name in seen:
            raise _misused(node, each.name, "is unknown to the operator" if known is None else "is given twice")
        seen.add(each.name)
        if each.ref_attr_name:
            raise _misused(node, each.name, "refers to a function's attribute outside any function")
        if each.type in (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS):
            raise _misused(node, each.name, "is a sparse tensor")
        if each.type != int(known.type):  # type: ignore[call-overload]
            raise _misused(node, each.name, "has the wrong type")
        _check_numbers(node, each)
    for name, known in schema.attributes.items():
        if known.required and name not in seen:
            raise _misused(node, name, "is missing")


def _check_numbers(node: NodeProto, given: AttributeProto) -> None:
    numbers = [given.i] if given.type == AttributeProto.INT else given.ints
    if given.name in POSITIVE and any(number < 1 for number in numbers):
        raise _misused(node, given.name, "is not positive")
    if given.name not in UNBOUNDED and any(abs(number) > LARGEST for number in numbers):
        raise _misused(node, given.name, "is beyond 2147483647")


def _misused(node: NodeProto, name: str, what: str) -> InvalidModel:
    return InvalidModel(
        f"The attribute {shorten(name)!r} of the node {name_of(node)!r} ({node.op_type}) {what}.",
        node=name_of(node),
        operator=node.op_type,
        attribute=shorten(name),
        remedy="Export the model again.",
    )


def _check_arity(node: NodeProto, schema: OpSchema) -> None:
    given, made = len(node.input), len(node.output)
    if not schema.min_input <= given <= schema.max_input or not schema.min_output <= made <= schema.max_output:
        raise InvalidModel(
            f"The node {name_of(node)!r} ({node.op_type}) has {given} inputs and {made} outputs, which the operator "
            "does not allow.",
            node=name_of(node),
            operator=node.op_type,
            remedy="Export the model again.",
        )
    for name, formal in zip(node.input, schema.inputs, strict=False):
        if not name and formal.option == OpSchema.FormalParameterOption.Single:
            raise InvalidModel(
                f"The node {name_of(node)!r} ({node.op_type}) lacks its input {formal.name}.",
                node=name_of(node),
                operator=node.op_type,
                remedy="Export the model again.",
            )
