"""Where the files of a conversion go: named, checked before work starts, and written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from converter.errors import InvalidModel, OutputNotWritable
from converter.files import ELSEWHERE, refusing, write_whole

if TYPE_CHECKING:
    from converter.pipeline import Result

__all__ = ["Outputs", "existing_model", "write_result"]


@dataclass(frozen=True)
class Outputs:
    """The three files of one conversion."""

    model: Path
    report: Path
    html: Path

    @classmethod
    def beside(
        cls, source: Path, model: Path | None = None, report: Path | None = None, html: Path | None = None
    ) -> Self:
        """``M.onnx`` becomes ``M.int8.onnx``; reports are named after the model that is written, beside it."""
        model = model or source.with_name(f"{_stem(source)}.int8.onnx")
        base = _stem(model)
        return cls(
            model, report or model.with_name(f"{base}.report.json"), html or model.with_name(f"{base}.report.html")
        )

    def check(self, source: Path) -> None:
        """Raises OutputNotWritable unless all three can be created, apart from each other and from the source."""
        fields = {"output": self.model, "report": self.report, "html": self.html}
        taken = {source.resolve(): "the model that is read"}
        for field, path in fields.items():
            if (same := taken.get(path.resolve())) is not None:
                raise OutputNotWritable(
                    f"{path} would overwrite {same}.", field=field, remedy="Give it a name of its own with -o."
                )
            taken[path.resolve()] = f"the {field}"
            _require_writable(path, field)


def existing_model(path: Path) -> Path:
    """The path, if it is a file that can be opened; raises InvalidModel saying what it is instead."""
    if path.is_dir():
        raise InvalidModel(f"{path} is a folder.", remedy="Name the .onnx file in it.")
    if not path.exists():
        raise InvalidModel(f"There is no file {path}.", remedy="Check the path.")
    if not path.is_file():
        raise InvalidModel(f"{path} is not a regular file.", remedy="Give a file.")
    if not os.access(path, os.R_OK):
        raise InvalidModel(f"{path} may not be read.", remedy="Check its permissions.")
    return path


def write_result(result: Result, outputs: Outputs) -> None:
    """Model and reports are at their places, or nothing has changed."""
    contents = {
        outputs.html: result.report.to_html().encode(),
        outputs.report: result.report.to_json().encode(),
        outputs.model: result.model.SerializeToString(deterministic=True),
    }
    write_whole(contents)


def _require_writable(path: Path, field: str) -> None:
    if path.is_dir():
        raise OutputNotWritable(f"{path} is a folder.", field=field, remedy="Name a file in it.")
    if path.exists() and not path.is_file():
        raise OutputNotWritable(f"{path} is not a regular file.", field=field, remedy=ELSEWHERE)
    if not path.parent.is_dir():
        raise OutputNotWritable(f"There is no folder {path.parent}.", field=field, remedy="Create it first.")
    with refusing(path):  # permissions alone say too little: read-only mounts, quotas, root
        tempfile.TemporaryFile(dir=path.parent).close()


def _stem(path: Path) -> str:
    return path.name[: -len(".onnx")] if path.name.lower().endswith(".onnx") else path.name
