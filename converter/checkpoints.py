"""Finished stages on disk, so that a conversion that was cut off goes on instead of starting over."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import ModelProto

from converter.options import Options
from converter.progress import Stage

__all__ = ["Checkpoints", "Saved"]

PACKAGES = ("zsq", "torch", "onnxruntime")


@dataclass(frozen=True)
class Saved:
    """What a stage leaves behind: arrays, a model, and plain values."""

    values: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]
    model: ModelProto | None = None


@dataclass(frozen=True)
class Checkpoints:
    """A folder of finished stages; ``announce`` hears of each one that was made durable. Without a folder nothing is
    kept.

    A stage counts as finished when its ``.json`` is there, which is written last and renamed into place, and has this
    ``origin``.
    """

    folder: Path | None = None
    announce: Callable[[Stage, list[str]], None] = lambda stage, files: None
    origin: str = ""

    def of(self, model: ModelProto, options: Options, data: str = "") -> Self:
        """The same folder, where only stages of this model, these options, this installation and, by their digest,
        these ``data`` count.
        """
        if self.folder is None:
            return self
        facts = json.dumps([options.to_dict(), [version(name) for name in PACKAGES]], sort_keys=True)
        digest = hashlib.sha256(model.SerializeToString(deterministic=True))
        digest.update(f"{facts}{data}".encode())
        return replace(self, origin=digest.hexdigest())

    def load(self, stage: Stage) -> Saved | None:
        """What the stage left, or None if it is not finished or what is there cannot be read."""
        if self.folder is None or not (self.folder / f"{stage}.json").is_file():
            return None
        try:
            left = json.loads((self.folder / f"{stage}.json").read_text())
            if left["origin"] != self.origin:
                return None
            path = self.folder / f"{stage}.npz"
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            path = self.folder / f"{stage}.onnx"
            return Saved(left["values"], arrays, onnx.load(path) if path.is_file() else None)
        except (OSError, ValueError, LookupError, TypeError, EOFError, BadZipFile, zlib.error, DecodeError):
            return None  # half a checkpoint is none: the stage runs again

    def save(self, stage: Stage, saved: Saved) -> None:
        """Makes a finished stage durable and announces its files."""
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        files, content = [], {"origin": self.origin, "values": dict(saved.values)}
        if saved.model is not None:
            files.append(self._write(f"{stage}.onnx", lambda path: path.write_bytes(saved.model.SerializeToString())))  # type: ignore[union-attr]
        files.append(self._write(f"{stage}.npz", lambda path: _write_arrays(path, saved.arrays)))
        files.append(self._write(f"{stage}.json", lambda path: path.write_text(json.dumps(content))))
        self.announce(stage, files)

    def _write(self, name: str, write: Callable[[Path], object]) -> str:
        assert self.folder is not None
        partial = self.folder / f".{name}.part"
        write(partial)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(self.folder / name)
        return name


def _write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
