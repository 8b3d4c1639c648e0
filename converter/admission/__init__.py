"""From a file to a model that the converter can rely on, or a refusal that says in one sentence why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx import ModelProto

from converter.admission import container, external_data, wire
from converter.admission.extent import check_extent
from converter.admission.facts import ModelFacts, gather_facts
from converter.admission.functions import inline_functions
from converter.admission.loading import load
from converter.admission.operators import check_operators
from converter.admission.structure import check_graph, check_interface, check_sizes, check_versions, name_apart
from converter.admission.weights import check_weights
from converter.admission.widening import tensors, widen
from converter.errors import InvalidModel
from converter.graph import copied
from converter.interface import declared_types
from converter.limits import Limits

__all__ = ["Admitted", "Limits", "ModelFacts", "admit"]


@dataclass(frozen=True)
class Admitted:
    """A checked float32 model that holds all its weights, what is in it, what was changed on the way, and the types
    of inputs and outputs that were not float32 before, by name.
    """

    model: ModelProto
    facts: ModelFacts
    notes: tuple[str, ...]
    types: Mapping[str, int]


def admit(source: str | Path | bytes | ModelProto, limits: Limits = Limits()) -> Admitted:  # noqa: B008 - frozen
    """The model of a file (path or bytes; .onnx, or .zip with one .onnx), checked within limits, or a Refusal."""
    model, place, file_bytes = _open(source, limits)
    notes = check_versions(model)
    model = inline_functions(model, limits)
    check_sizes(model, limits)
    external_data.load_external_data(tensors(model), place, limits)
    check_operators(model)
    check_interface(model, limits)
    check_graph(model.graph)
    notes += name_apart(model)
    types = declared_types(model)
    notes += widen(model)
    check_weights(model)
    check_extent(model, limits)
    load(model, optimized=False)
    return Admitted(model, gather_facts(model, file_bytes), notes, types)


def _open(source: str | Path | bytes | ModelProto, limits: Limits) -> tuple[ModelProto, external_data.Place, int]:
    if isinstance(source, ModelProto):
        model = copied(source)
        return model, external_data.nowhere, model.ByteSize()
    place: external_data.Place = external_data.nowhere
    if isinstance(source, bytes):
        container.check_size(len(source), limits)
        data = source
    else:
        path = Path(source)
        data = container.read(path, limits)
        place = external_data.Folder(path.parent)
    size = len(data)
    if data.startswith(container.ZIP):
        place = archive = external_data.Archive(data, limits)
        data = archive.model(limits)
    container.recognize(data)
    return _parse(data, limits), place, size


def _parse(data: bytes, limits: Limits) -> ModelProto:
    wire.scan(data, limits)
    try:
        model = ModelProto()
        model.ParseFromString(data)
        return model
    except DecodeError as problem:
        raise InvalidModel(
            f"The file is not an ONNX model or is damaged ({wire.shorten(str(problem))}).",
            field="file",
            remedy="Download or export it again.",
        ) from None
