"""Brings the operators of every opset from 7 on to 17, and those above 21 down to 21 where nothing is lost.

One adapter per change of meaning in the standard's changelog; versions that only added element types need none.
onnx.version_converter does not enter bodies of If and Loop, copies the weights several times and stops at
Upsample and Resize; its results were compared with these where it has any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, helper, numpy_helper

from converter.admission.operators import name_of
from converter.errors import UnsupportedModel
from converter.graph import Array, Graph, attribute, opset, set_nodes, subgraphs, walk
from converter.normalization.expansion import HIGHEST, fits
from converter.normalization.rewriting import Change

__all__ = ["TARGET", "unify_opset"]

TARGET = 17  # of older models: the last before reductions and Split changed again, and read by every onnxruntime


class Upgrade:
    """What adapters need to know beyond the node: fresh names and ranks."""

    def __init__(self, model: ModelProto) -> None:
        self.version = opset(model)
        self._names = {name for node, _ in walk(model.graph) for name in (*node.input, *node.output)}
        self._names |= {tensor.name for tensor in model.graph.initializer}
        self._model = model
        self._ranks: dict[str, int] | None = None
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.read = {value.name for _, graph in walk(model.graph) for value in graph.output}
        for node, _ in walk(model.graph):
            self.read.update(node.input)
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t

    def fresh(self, hint: str) -> str:
        """A tensor name used nowhere in the model, bodies included."""
        name, number = hint, 0
        while name in self._names:
            number += 1
            name = f"{hint}_{number}"
        self._names.add(name)
        return name

    def rank(self, tensor: str) -> int | None:
        """The number of axes as far as shape inference knows it."""
        if self._ranks is None:
            self._ranks = {name: len(shape) for name, shape in Graph(self._model).shapes.items()}
        return self._ranks.get(tensor)

    def constant(self, hint: str, values: Any, dtype: type) -> NodeProto:
        """A Constant node; inside bodies too that is where a moved attribute goes."""
        name = self.fresh(hint)
        tensor = numpy_helper.from_array(np.asarray(values, dtype), name)
        return helper.make_node("Constant", [], [name], name=name, value=tensor)

    def value(self, tensor: str) -> Array | None:
        """The value of a tensor that is constant."""
        return numpy_helper.to_array(self.constants[tensor]) if tensor in self.constants else None


Adapter = Callable[[NodeProto, Upgrade], list[NodeProto]]


def unify_opset(model: ModelProto) -> tuple[ModelProto, Change]:
    """The model uses one opset from 17 to 21, a newer one only if it must, with an IR version to match."""
    before = version = opset(model)
    nodes = [node for node, _ in walk(model.graph)]
    if version < TARGET:
        _upgrade(model.graph, Upgrade(model))
        version = TARGET
    elif version > HIGHEST and all(fits(node, HIGHEST) for node in nodes):
        version = HIGHEST
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", version))
    for node, _ in walk(model.graph):
        node.domain = ""
    model.ir_version = max(8, helper.find_min_ir_version_for(list(model.opset_import)))
    moved = len(nodes) if before != version else 0
    return model, Change("unify_opset", moved, f"Nodes moved from opset {before} to {version}")


def _upgrade(graph: GraphProto, upgrade: Upgrade) -> None:
    nodes: list[NodeProto] = []
    for node in graph.node:
        for body in subgraphs(node):
            _upgrade(body, upgrade)
        adapted = [node]
        for version, operators in ADAPTERS.items():
            if version > upgrade.version and adapted[-1].op_type in operators:
                adapted[-1:] = operators[adapted[-1].op_type](adapted[-1], upgrade)
        nodes.extend(adapted)
    set_nodes(graph, nodes)


def _take(node: NodeProto, name: str, default: Any = None) -> Any:
    """The attribute's value; the node no longer has it."""
    value = attribute(node, name, default)
    kept = [each for each in node.attribute if each.name != name]
    if len(kept) != len(node.attribute):
        copies = [AttributeProto.FromString(each.SerializeToString()) for each in kept]
        del node.attribute[:]
        node.attribute.extend(copies)
    return value


def _move(
    node: NodeProto, upgrade: Upgrade, moves: Sequence[tuple[str, int, type]], defaults: dict[str, Any] | None = None
) -> list[NodeProto]:
    """Attributes (name, input index, element type) become constant inputs."""
    made: list[NodeProto] = []
    for name, index, dtype in moves:
        value = _take(node, name, (defaults or {}).get(name))
        if value is None:
            continue
        made.append(upgrade.constant(f"{node.output[0]}_{name}", value, dtype))
        while len(node.input) <= index:
            node.input.append("")
        node.input[index] = made[-1].output[0]
    return [*made, node]


def _moving(*moves: tuple[str, int, type], **defaults: Any) -> Adapter:
    return lambda node, upgrade: _move(node, upgrade, moves, defaults)


def _refuse(node: NodeProto, what: str, name: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"The node {name_of(node)!r} ({node.op_type}) {what}.",
        node=name_of(node),
        operator=node.op_type,
        attribute=name,
        remedy="Export the model again with opset 13 or newer.",
    )


def _batch_norm_9(node: NodeProto, _: Upgrade) -> list[NodeProto]:
    if _take(node, "spatial", 1) != 1:
        raise _refuse(node, "has statistics per position (spatial=0)", "spatial")
    return [node]


def _batch_norm_14(node: NodeProto, upgrade: Upgrade) -> list[NodeProto]:
    """Inference mode has one output; the others were the running statistics of training."""
    if not upgrade.read.isdisjoint(filter(None, node.output[1:])):
        raise _refuse(node, "hands out statistics of training", "training_mode")
    del node.output[1:]
    return [node]


def _scan_9(node: NodeProto, _: Upgrade) -> list[NodeProto]:
    raise _refuse(node, "is the batched Scan of opset 8, which no opset since has", "body")


def _upsample_10(node: NodeProto, upgrade: Upgrade) -> list[NodeProto]:
    """Upsample, with scales as attribute (7) or input (9), is Resize of opset 11 with the coordinates it used."""
    scales = _take(node, "scales")
    made = []
    if scales is not None:
        made.append(upgrade.constant(f"{node.output[0]}_scales", scales, np.float32))
        node.input.append(made[0].output[0])
    return [*made, *_resize_11(node, upgrade)]


def _resize_11(node: NodeProto, upgrade: Upgrade) -> list[NodeProto]:
    data, scales = node.input
    node.op_type = "Resize"
    mode = _take(node, "mode", "nearest")
    mode = "linear" if mode in ("linear", "bilinear") else mode
    factors = upgrade.value(scales)
    rounding = "floor"
    if mode == "nearest" and factors is not None and (factors < 1).any():
        if (factors > 1).any():
            raise _refuse(node, "shrinks one axis and enlarges another", "scales")
        rounding = "ceil"  # what onnxruntime does for opset 10
    del node.input[:]
    node.input.extend([data, "", scales])
    node.attribute.append(helper.make_attribute("mode", mode))
    node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
    node.attribute.append(helper.make_attribute("nearest_mode", rounding))
    return [node]


def _scatter_11(node: NodeProto, _: Upgrade) -> list[NodeProto]:
    node.op_type = "ScatterElements"
    return [node]


def _dropout_12(node: NodeProto, _: Upgrade) -> list[NodeProto]:
    _take(node, "ratio")
    return [node]


def _flattening_13(node: NodeProto, upgrade: Upgrade) -> list[NodeProto]:
    """Softmax and its kin over everything from an axis on, now over one axis: the same if that axis is the last."""
    axis = _take(node, "axis", 1)
    source, result = node.input[0], node.output[0]
    rank = upgrade.rank(source)
    if rank is not None and axis % max(rank, 1) == rank - 1:
        node.attribute.append(helper.make_attribute("axis", -1))
        return [node]
    flat, made, shape = (upgrade.fresh(f"{result}_{part}") for part in ("flat", "flat_result", "shape"))
    node.input[0], node.output[0] = flat, made
    node.attribute.append(helper.make_attribute("axis", -1))
    return [
        helper.make_node("Shape", [source], [shape], name=shape),
        helper.make_node("Flatten", [source], [flat], name=flat, axis=axis),
        node,
        helper.make_node("Reshape", [made, shape], [result], name=f"{result}_unflatten"),
    ]


def _roi_align_16(node: NodeProto, _: Upgrade) -> list[NodeProto]:
    node.attribute.append(helper.make_attribute("coordinate_transformation_mode", "output_half_pixel"))
    return [node]


ADAPTERS: dict[int, dict[str, Adapter]] = {  # opset in which the meaning changed -> operator -> what makes up for it
    9: {"BatchNormalization": _batch_norm_9, "Scan": _scan_9},
    10: {
        "Upsample": _upsample_10,
        "Slice": _moving(("starts", 1, np.int64), ("ends", 2, np.int64), ("axes", 3, np.int64)),
        "TopK": lambda node, upgrade: _top_k_10(node, upgrade),
    },
    11: {
        "Resize": lambda node, upgrade: _resize_11(node, upgrade) if len(node.input) == 2 else [node],
        "Clip": _moving(("min", 1, np.float32), ("max", 2, np.float32)),
        "Pad": _moving(("pads", 1, np.int64), ("value", 2, np.float32)),
        "Scatter": _scatter_11,
    },
    12: {"Dropout": _dropout_12},
    13: {
        "Softmax": _flattening_13,
        "LogSoftmax": _flattening_13,
        "Hardmax": _flattening_13,
        "ReduceSum": _moving(("axes", 1, np.int64)),
        "Split": _moving(("split", 1, np.int64)),
        "Squeeze": _moving(("axes", 1, np.int64)),
        "Unsqueeze": _moving(("axes", 1, np.int64)),
    },
    14: {"BatchNormalization": _batch_norm_14},
    16: {"RoiAlign": _roi_align_16},
}


def _top_k_10(node: NodeProto, upgrade: Upgrade) -> list[NodeProto]:
    count = _take(node, "k")
    made = upgrade.constant(f"{node.output[0]}_k", [count], np.int64)
    node.input.append(made.output[0])
    return [made, node]
