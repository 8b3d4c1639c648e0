"""A conversion done again by what the integer model says of its making, and compared byte by byte."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from converter.errors import InvalidOption
from converter.options import Options
from converter.pipeline import convert
from converter.progress import Listener, silent
from converter.provenance import PACKAGES, Provenance
from converter.validation import read_converted

__all__ = ["Verification", "verify"]


@dataclass(frozen=True)
class Verification:
    """Whether the model made again has the same bytes; if not, what differs, in sentences."""

    same: bool
    differences: tuple[str, ...]


def verify(int8: Path, float32: Path, calibration: Path | None = None, progress: Listener = silent) -> Verification:
    """``float32`` converted again as ``int8`` was made from it; ``calibration`` is the data of then, if there were any.

    Raises InvalidModel where ``int8`` does not say how it was made, or says that it is of another file.
    """
    given, told = read_converted(int8, float32)
    if bool(told.calibration) != (calibration is not None):
        raise InvalidOption(
            f"{int8.name} was calibrated on {'data of the owner' if told.calibration else 'no data of anyone'}.",
            field="calibration",
            remedy="Give the same data with --calibration." if told.calibration else "Leave --calibration out.",
        )
    result = convert(float32, Options.from_dict(told.options), progress, calibration=calibration)
    made = Provenance.read(result.model)
    if _content(result.model) == _content(given):
        return Verification(True, ())
    return Verification(False, tuple(_differences(told, made, given, result.model)))


def _differences(told: Provenance, made: Provenance, given: ModelProto, again: ModelProto) -> list[str]:
    """What differs, from what would explain the rest to what is left to see."""
    found = [
        f"It was made with {name} {told.packages.get(name)}, and this installation has {made.packages.get(name)}."
        for name in PACKAGES
        if told.packages.get(name) != made.packages.get(name)
    ]
    if told.calibration != made.calibration:
        found.append("The calibration data are others than those it was made with.")
    weights = [{each.name: each.SerializeToString() for each in model.graph.initializer} for model in (given, again)]
    names = sorted(
        name for name in weights[0].keys() | weights[1].keys() if weights[0].get(name) != weights[1].get(name)
    )
    if names:
        some = ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")
        found.append(f"{len(names)} of {len(weights[1])} stored tensors differ: {some}.")
    nodes = [[each.SerializeToString(deterministic=True) for each in model.graph.node] for model in (given, again)]
    if nodes[0] != nodes[1]:
        found.append(f"The nodes differ: {len(nodes[0])} in the file, {len(nodes[1])} made again.")
    return found or ["Only what the models say of themselves differs."]


def _content(model: ModelProto) -> bytes:
    return bytes(model.SerializeToString(deterministic=True))
