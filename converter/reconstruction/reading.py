"""From an ONNX graph to a program: every node checked and given its function before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, inliner, numpy_helper
from torch import Tensor

from converter.admission.operators import STANDARD
from converter.errors import InvalidModel, UnsupportedModel
from converter.operators import STEPWISE, select
from converter.operators.casting import TORCH_TYPES
from converter.operators.signatures import GIVEN, REFUSALS, Operator, Parameter, Signature, Value, signature_of
from converter.reconstruction.execution import Operation, Program

__all__ = ["read_model", "read_tensor"]

NEWEST_OPSET = 28  # the newest whose operators were verified
LEGACY = {"consumed_inputs"}  # a hint of opset 5 and before, without meaning for the result


def read_model(model: ModelProto) -> Program:
    """The model as a program; raises UnsupportedModel or InvalidModel naming what is in the way."""
    opset = _opset(model)
    if model.functions:
        model = inliner.inline_local_functions(model)
    for node in model.graph.node:
        if node.domain not in STANDARD:
            raise UnsupportedModel(
                f"Node {node.name!r} uses the operator {node.domain}.{node.op_type}, which is not part of ONNX.",
                node=node.name,
                operator=f"{node.domain}.{node.op_type}",
            )
    return _Reader(opset).graph(model.graph, frozenset())


def _opset(model: ModelProto) -> int:
    opset = max((each.version for each in model.opset_import if each.domain in STANDARD), default=1)
    if opset > NEWEST_OPSET:
        raise UnsupportedModel(
            f"The model uses opset {opset}; up to {NEWEST_OPSET} is supported.",
            field="opset_import",
            remedy="Export it with an older opset.",
        )
    return opset


class _Reader:
    """Reads graphs of one opset."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.signatures: dict[Operator, Signature] = {}

    def graph(self, graph: GraphProto, outer: frozenset[str]) -> Program:
        constants = {each.name: read_tensor(each) for each in graph.initializer}
        if graph.sparse_initializer:
            name = graph.sparse_initializer[0].values.name
            raise UnsupportedModel(f"The initializer {name!r} is sparse.", tensor=name)
        inputs = tuple(each.name for each in graph.input if each.name not in constants)
        for each in graph.input:
            _check_type(each)
        known = {*outer, *constants, *inputs}
        operations = []
        for number, node in enumerate(graph.node):
            name = node.name or f"{node.op_type}_{number}"
            self._check_inputs(node, name, known)
            if node.op_type == "Constant":
                constants[node.output[0]] = _constant(node, name)
            else:
                operations.append(self._operation(node, name, known, constants))
            known.update(node.output)
        for each in graph.output:
            if each.name not in known:
                raise InvalidModel(f"The output {each.name!r} is made by no node.", tensor=each.name)
        outputs = tuple(each.name for each in graph.output)
        nothing = tuple(map(_stacked_nothing, graph.output)) if outer else ()
        _lay_filters(constants, operations)
        return Program(inputs, outputs, constants, tuple(operations), nothing)

    def _check_inputs(self, node: NodeProto, name: str, known: set[str]) -> None:
        for tensor in node.input:
            if tensor and tensor not in known:
                raise InvalidModel(
                    f"Node {name!r} reads {tensor!r}, which is no input, no initializer and no earlier node's output.",
                    node=name,
                    operator=node.op_type,
                    tensor=tensor,
                )

    def _operation(self, node: NodeProto, name: str, known: set[str], constants: Mapping[str, Value]) -> Operation:
        operator = self._versioned(node, name)
        function = select(node.op_type, self.opset)
        if function is None:
            raise UnsupportedModel(
                f"Node {name!r} uses the operator {operator}, which is not supported.", node=name, operator=operator
            )
        if function not in self.signatures:
            self.signatures[function] = signature_of(function)
        signature = self.signatures[function]
        outputs = _trimmed(node.output)
        attributes, bodies = self._attributes(node, signature, name, operator, known)
        if signature.counts_outputs:
            attributes["output_count"] = len(outputs)
        inputs = _trimmed(node.input)
        if len(inputs) > len(signature.inputs) and not signature.variadic:
            raise UnsupportedModel(
                f"Node {name!r}: {operator} is given {len(inputs)} inputs, {len(signature.inputs)} are supported.",
                node=name,
                operator=operator,
            )
        inputs += ("",) * (sum(each.required for each in signature.inputs) - len(inputs))
        self._check_combinations(function, signature, inputs, {**attributes, **bodies}, constants, name, operator)
        return Operation(
            name=name,
            operator=operator,
            function=function,
            inputs=inputs,
            outputs=outputs,
            attributes=attributes,
            readers=tuple(signature.reader(position) for position in range(len(inputs))),
            bodies=bodies,
            differentiable=node.op_type not in STEPWISE,
        )

    def _attributes(
        self, node: NodeProto, signature: Signature, name: str, operator: str, known: set[str]
    ) -> tuple[dict[str, object], dict[str, Program]]:
        """The node's attributes, and those of them that are subgraphs."""
        attributes: dict[str, object] = {}
        bodies: dict[str, Program] = {}
        for attribute in node.attribute:
            if attribute.name in LEGACY and attribute.name not in signature.attributes:
                continue
            parameter = signature.attributes.get(attribute.name)
            if parameter is None:
                raise UnsupportedModel(
                    f"Node {name!r}: the attribute {attribute.name!r} of {operator} is not supported.",
                    node=name,
                    operator=operator,
                    attribute=attribute.name,
                )
            if attribute.type == AttributeProto.GRAPH:
                bodies[attribute.name] = self.graph(attribute.g, frozenset(known))
            else:
                attributes[attribute.name] = _attribute(attribute, parameter, name, operator)
        for parameter in signature.attributes.values():
            if parameter.required and parameter.name not in attributes and parameter.name not in bodies:
                raise InvalidModel(
                    f"Node {name!r}: {operator} lacks its attribute {parameter.name!r}.",
                    node=name,
                    operator=operator,
                    attribute=parameter.name,
                )
        return attributes, bodies

    def _check_combinations(
        self,
        function: Operator,
        signature: Signature,
        inputs: tuple[str, ...],
        attributes: Mapping[str, object],
        constants: Mapping[str, Value],
        name: str,
        operator: str,
    ) -> None:
        """Refuses combinations of arguments that were not verified, as far as they are known before a run."""
        if function not in REFUSALS:
            return
        known: dict[str, object] = {each.name: each.default for each in signature.attributes.values()}
        for position, parameter in enumerate(signature.inputs):
            tensor = inputs[position] if position < len(inputs) else ""
            value = constants.get(tensor, GIVEN) if tensor else parameter.default
            known[parameter.name] = parameter.reader(value) if parameter.reader and isinstance(value, Tensor) else value
        for refused in REFUSALS[function]:
            if refused.applies({**known, **attributes}):
                raise UnsupportedModel(
                    f"Node {name!r}: {operator} with {refused.attribute} {refused.what} is not supported.",
                    node=name,
                    operator=operator,
                    attribute=refused.attribute,
                )

    def _versioned(self, node: NodeProto, name: str) -> str:
        """The operator's name and the version of its definition that holds at this opset."""
        if node.domain not in STANDARD or not onnx.defs.has(node.op_type):
            known = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise UnsupportedModel(
                f"Node {name!r} uses the operator {known}, which is not part of ONNX.", node=name, operator=known
            )
        try:
            return f"{node.op_type}-{onnx.defs.get_schema(node.op_type, self.opset).since_version}"
        except onnx.defs.SchemaError as problem:
            raise InvalidModel(
                f"Node {name!r} uses the operator {node.op_type}, which opset {self.opset} does not have.",
                node=name,
                operator=node.op_type,
            ) from problem


def _trimmed(names: Iterable[str]) -> tuple[str, ...]:
    kept = list(names)
    while kept and not kept[-1]:
        kept.pop()
    return tuple(kept)


# ---------------------------------------------------------------- values


def _check_type(value: ValueInfoProto) -> None:
    kind = value.type
    while not kind.HasField("tensor_type"):
        if kind.HasField("sequence_type"):
            kind = kind.sequence_type.elem_type
        elif kind.HasField("optional_type"):
            kind = kind.optional_type.elem_type
        else:
            return
    _torch_type(kind.tensor_type.elem_type, value.name)


def _lay_filters(constants: dict[str, Tensor], operations: Sequence[Operation]) -> None:
    """The filters of two-dimensional convolutions lie with their channels last, and what they make comes out so.

    Of such tensors torch's kernels for pooling, depthwise and small convolutions are 1.5 to 18 times as fast, and every
    operator of theirs keeps the order it finds; what a tensor holds at which index does not change.
    """
    for operation in operations:
        filters = constants.get(operation.inputs[1]) if operation.operator.startswith("Conv-") else None
        if filters is not None and filters.dim() == 4 and filters.is_floating_point():
            constants[operation.inputs[1]] = filters.contiguous(memory_format=torch.channels_last)


def _stacked_nothing(value: ValueInfoProto) -> Tensor:
    """No value of this type, stacked; open sizes are 0."""
    kind = value.type.tensor_type
    return torch.empty(0, *(size.dim_value for size in kind.shape.dim), dtype=TORCH_TYPES.get(kind.elem_type))


def _torch_type(kind: int, tensor: str) -> torch.dtype:
    if kind not in TORCH_TYPES:
        word = TensorProto.DataType.Name(kind) if kind in TensorProto.DataType.values() else str(kind)
        raise UnsupportedModel(f"The tensor {tensor!r} has the type {word}, which is not supported.", tensor=tensor)
    return TORCH_TYPES[kind]


def read_tensor(tensor: TensorProto) -> Tensor:
    """The tensor's values in a torch tensor of their own."""
    kind = _torch_type(tensor.data_type, tensor.name)
    values = numpy_helper.to_array(tensor)
    if kind == torch.bfloat16:
        return torch.from_numpy(values.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(values))


def _constant(node: NodeProto, name: str) -> Tensor:
    for attribute in node.attribute:
        match attribute.name:
            case "value":
                return read_tensor(attribute.t)
            case "value_float":
                return torch.tensor(attribute.f, dtype=torch.float32)
            case "value_floats":
                return torch.tensor(list(attribute.floats), dtype=torch.float32)
            case "value_int":
                return torch.tensor(attribute.i, dtype=torch.int64)
            case "value_ints":
                return torch.tensor(list(attribute.ints), dtype=torch.int64)
        raise UnsupportedModel(
            f"Node {name!r}: a Constant given by {attribute.name!r} is not supported.",
            node=name,
            operator="Constant",
            attribute=attribute.name,
        )
    raise InvalidModel(f"Node {name!r}: the Constant has no value.", node=name, operator="Constant")


def _attribute(attribute: AttributeProto, parameter: Parameter, node: str, operator: str) -> object:
    """The attribute's value as the function wants it; refused if it is not one of those verified."""
    value = _plain(onnx.helper.get_attribute_value(attribute))
    if parameter.verified is not None and value not in parameter.verified:
        raise UnsupportedModel(
            f"Node {node!r}: {operator} with {attribute.name}={value!r} is not supported.",
            node=node,
            operator=operator,
            attribute=attribute.name,
        )
    return bool(value) if parameter.boolean else value


def _plain(value: Any) -> object:
    match value:
        case bytes():
            return value.decode()
        case TensorProto():
            return read_tensor(value)
        case str() | int() | float():
            return value
    return tuple(_plain(each) for each in value)
