"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from converter.errors import OutputNotWritable

__all__ = ["ELSEWHERE", "refusing", "write_whole"]


def write_whole(contents: Mapping[Path, bytes]) -> None:
    """All files are there with these bytes, or none of them has changed and OutputNotWritable is raised."""
    with contextlib.ExitStack() as written:
        staged = [(written.enter_context(_staged(path, data)), path) for path, data in contents.items()]
        for temporary, path in staged:
            with refusing(path):
                temporary.replace(path)


@contextlib.contextmanager
def _staged(path: Path, data: bytes) -> Iterator[Path]:
    """The bytes are on disk under a temporary name in the same folder, which is gone afterwards."""
    with refusing(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    try:
        with refusing(path), os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            with contextlib.suppress(PermissionError):  # in the service's sandbox, where its owner alone reads it
                os.fchmod(stream.fileno(), 0o666 & ~_umask())
            os.fsync(stream.fileno())
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


@contextlib.contextmanager
def refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise OutputNotWritable(
            f"{path} cannot be written: {problem.strerror or problem}.", field="output", remedy=ELSEWHERE
        ) from problem


ELSEWHERE = "Choose another place with -o."


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
