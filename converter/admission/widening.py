"""Half and double precision become float32, everywhere in the model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import AttributeProto, ModelProto, TensorProto, TypeProto, numpy_helper

from converter.admission.wire import shorten
from converter.graph import all_graphs

__all__ = ["tensors", "widen"]

WIDENED: dict[int, str] = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
TYPE_ATTRIBUTES = {"to", "dtype", "stash_type", "output_datatype", "softmax_precision"}
LARGEST = float(np.finfo(np.float32).max)


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor in the model: initializers and attributes, bodies included."""
    for graph in all_graphs(model.graph):
        yield from graph.initializer
        for node in graph.node:
            for each in node.attribute:
                if each.type == AttributeProto.TENSOR:
                    yield each.t
                yield from each.tensors


def widen(model: ModelProto) -> tuple[str, ...]:
    """Everything of half or double precision in the model is float32 now; says so in a sentence per precision."""
    found: dict[int, int] = {}
    for tensor in tensors(model):
        if tensor.data_type in WIDENED:
            found[tensor.data_type] = found.get(tensor.data_type, 0) + 1
            _widen_tensor(tensor)
    changed_inputs = [value.name for value in model.graph.input if value.type.tensor_type.elem_type in WIDENED]
    changed_outputs = [value.name for value in model.graph.output if value.type.tensor_type.elem_type in WIDENED]
    for graph in all_graphs(model.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            _widen_type(value.type, found)
        for node in graph.node:
            for each in node.attribute:
                if each.type == AttributeProto.INT and each.name in TYPE_ATTRIBUTES and each.i in WIDENED:
                    found.setdefault(each.i, 0)
                    each.i = TensorProto.FLOAT
                elif each.type == AttributeProto.TYPE_PROTO:
                    _widen_type(each.tp, found)
    return (*_notes(found), *_interface_note("input", changed_inputs), *_interface_note("output", changed_outputs))


def _widen_type(declared: TypeProto, found: dict[int, int]) -> None:
    element_type = declared.tensor_type.elem_type
    if element_type in WIDENED:
        found.setdefault(element_type, 0)
        declared.tensor_type.elem_type = TensorProto.FLOAT


def _widen_tensor(tensor: TensorProto) -> None:
    array = numpy_helper.to_array(tensor)
    if tensor.data_type == TensorProto.DOUBLE:  # masks of -1.8e308 are meant as "as low as can be"
        finite = np.isfinite(array)
        array = np.where(finite, np.clip(array, -LARGEST, LARGEST), array)
    widened = numpy_helper.from_array(array.astype(np.float32), tensor.name)
    tensor.CopyFrom(widened)


def _notes(found: dict[int, int]) -> Iterator[str]:
    for element_type, count in sorted(found.items()):
        what = f"{count} {'tensor' if count == 1 else 'tensors'} of" if count else "Values computed in"
        yield f"{what} {WIDENED[element_type]} became float32."


def _interface_note(kind: str, names: list[str]) -> Iterator[str]:
    if names:
        shown = ", ".join(shorten(name) for name in names)
        several = len(names) > 1
        stays = "stay" if several else "stays"
        yield f"The {kind}{'s' if several else ''} {shown} of the INT8 model {stays} as declared, float32 inside."
