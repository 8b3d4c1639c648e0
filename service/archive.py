"""A .zip from a stranger that holds one ONNX model and its external data; nothing in it is trusted."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path, PurePosixPath

__all__ = ["BadArchive", "unpack"]

MEMBERS = 10_000
CHUNK = 1 << 20


class BadArchive(ValueError):
    """The archive is refused; the message says why in one sentence."""


def unpack(source: Path, model: Path, limit: int) -> None:
    """``model`` is the archive's only .onnx, its neighbours lie beside it, and all is at most ``limit`` bytes.

    Raises BadArchive, or what zipfile raises on damage, after at most ``limit`` bytes were written.
    """
    with zipfile.ZipFile(source) as archive:
        members = [each for each in archive.infolist() if not each.is_dir() and not _is_litter(each.filename)]
        if len(members) > MEMBERS:
            raise BadArchive(f"it has {len(members)} members; at most {MEMBERS} are taken.")
        paths = {each.filename: _safe_path(each) for each in members}
        if len(set(paths.values())) < len(members):
            raise BadArchive("two of its members have the same name.")
        models = [path for path in paths.values() if path.suffix.lower() == ".onnx"]
        if len(models) != 1:
            raise BadArchive(f"it holds {len(models)} files named .onnx; exactly one is wanted.")
        root = models[0].parent
        left = limit
        for member in members:
            path = paths[member.filename]
            if not path.is_relative_to(root):
                continue  # external data lie in the model's folder or below, so this is something else
            target = model if path == models[0] else model.parent / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as packed, target.open("xb") as file:
                while chunk := packed.read(CHUNK):  # sizes in the directory may lie; only bytes that came out count
                    left -= len(chunk)
                    if left < 0:
                        raise BadArchive(f"it unpacks to more than {limit} bytes.")
                    file.write(chunk)


def _is_litter(name: str) -> bool:
    return name.startswith("__MACOSX/") or PurePosixPath(name).name in (".DS_Store", "Thumbs.db")


def _safe_path(member: zipfile.ZipInfo) -> PurePosixPath:
    path = PurePosixPath(member.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in member.filename or "\0" in member.filename:
        raise BadArchive(f"the name {member.filename[:200]!r} leads outside the archive.")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise BadArchive(f"{member.filename[:200]!r} is not a plain file.")
    if member.flag_bits & 1:
        raise BadArchive(f"{member.filename[:200]!r} is encrypted.")
    return path
