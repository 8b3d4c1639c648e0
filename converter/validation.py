"""A converted model measured again, on data that its owner has found since."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from converter.admission import admit
from converter.admission.widening import widen
from converter.errors import InvalidModel, InvalidOption
from converter.evaluation.validation import measure_validation
from converter.findings import Validation
from converter.inputs.description import describe_task
from converter.inputs.own_data import find_data
from converter.normalization import normalize
from converter.options import Options
from converter.pipeline import one_thread_each
from converter.provenance import Provenance, digest
from converter.reconstruction import reconstruct

__all__ = ["read_converted", "validate"]


def validate(int8: Path, float32: Path, data: Path, threads: int = 1) -> Validation:
    """How often ``int8`` decides as ``float32``, which it was made from, on the samples in ``data``, and how often
    rightly where they have labels.

    Pictures are prepared as the conversion took its input to be. Raises ConversionError.
    """
    model, told = read_converted(int8, float32)
    options = Options.from_dict({**told.options, "threads": threads})
    if not data.exists():
        raise InvalidOption(f"There is no validation data at {data}.", field="validation")
    with one_thread_each(threads):
        admitted = admit(float32)
        normalized = normalize(admitted.model)
        task = describe_task(admitted.model, normalized, reconstruct(normalized.model), options)
        found = find_data(admitted.model, task.plans, data, kinds=options.outputs)
        assert found is not None
        widen(model)  # as the admitted one is: both take and give float32
        return measure_validation(
            found, admitted.model, model, threads=threads, seed=options.seed, kinds=options.outputs
        )


def read_converted(int8: Path, float32: Path) -> tuple[ModelProto, Provenance]:
    """A converted model and what it says of its making.

    Raises InvalidModel where it says nothing, or that it was made from another file than ``float32``.
    """
    try:
        given = onnx.load(int8)
    except (DecodeError, OSError) as problem:
        raise InvalidModel(f"{int8.name} is not an ONNX model that can be read.", field="file") from problem
    told = Provenance.read(given)
    if (found := digest(float32)) != told.source:
        raise InvalidModel(
            f"{int8.name} was not made from {float32.name}: it names a file with the SHA-256 {told.source[:16]}..., "
            f"and this one has {found[:16]}...",
            field="file",
            remedy="Give the FP32 file that was converted.",
        )
    return given, told
