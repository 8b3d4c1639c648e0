"""What an integer model says of its own making: enough to make it again and compare."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from onnx import ModelProto

from converter.errors import InvalidModel
from converter.options import Options

__all__ = ["Provenance", "digest", "versions"]

KEY = "zsq"  # of the entry in the file's metadata
PACKAGES = ("zsq", "onnx", "onnxruntime", "torch", "numpy")
WITHOUT_EFFECT = frozenset({"validation", "min_agreement", "max_drop", "expected_accuracy"})  # on the model's bytes
FILES = frozenset({"calibration"})  # of the owner's, known by their digest
ALWAYS = frozenset({"seed", "threads"})


def versions() -> dict[str, str]:
    """What the result depends on, beside model and options."""
    return {name: version(name) for name in PACKAGES}


@dataclass(frozen=True)
class Provenance:
    """The source's SHA-256, the options that decide the bytes, the packages' versions, and the SHA-256 of the owner's
    calibration data where there were any.
    """

    source: str
    options: Mapping[str, Any]
    packages: Mapping[str, str]
    calibration: str = ""

    @classmethod
    def of(cls, source: str, options: Options, calibration: str = "") -> Self:
        """The provenance of a conversion by this installation."""
        given, default = options.to_dict(), Options().to_dict()
        kept = {
            name: value
            for name, value in given.items()
            if name in ALWAYS or (name not in WITHOUT_EFFECT | FILES and value != default[name])
        }
        return cls(source, kept, versions(), calibration)

    @classmethod
    def read(cls, model: ModelProto) -> Self:
        """What the model says of itself; raises InvalidModel where that is nothing."""
        for entry in model.metadata_props:
            if entry.key == KEY:
                try:
                    facts = json.loads(entry.value)
                    return cls(
                        str(facts["source"]), facts["options"], facts["packages"], str(facts.get("calibration", ""))
                    )
                except (ValueError, LookupError, TypeError, AttributeError) as problem:
                    raise InvalidModel("What the model says of its making cannot be read.", field=KEY) from problem
        raise InvalidModel(
            "The model does not say how it was made.", field=KEY, remedy="Give one that zsq convert wrote."
        )

    def write(self, model: ModelProto) -> None:
        """The model says all this of itself, in one entry of its metadata."""
        facts = {"source": self.source, "options": dict(self.options), "packages": dict(self.packages)}
        if self.calibration:
            facts["calibration"] = self.calibration
        kept = [entry for entry in model.metadata_props if entry.key != KEY]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        model.metadata_props.add(key=KEY, value=json.dumps(facts, sort_keys=True, separators=(",", ":")))


def digest(source: str | Path | bytes | ModelProto) -> str:
    """SHA-256 of the file, its bytes, or the model's serialization."""
    if isinstance(source, str | Path):
        with Path(source).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(source if isinstance(source, bytes) else source.SerializeToString()).hexdigest()
