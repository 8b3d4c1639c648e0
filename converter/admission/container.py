"""What kind of file was given: an ONNX model, an archive of one, or something that only looks like it to its owner."""

from __future__ import annotations

import stat
from pathlib import Path

from converter.errors import InvalidModel, TooLarge, UnsupportedModel
from converter.limits import Limits

__all__ = ["ZIP", "check_size", "read", "recognize"]

ZIP = b"PK\x03\x04"
EXPORT = "Export the trained model to ONNX, for instance with torch.onnx.export, and give that file."

FOREIGN = (  # offset, bytes there, what the file is
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras)"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"\xfd7zXZ\x00", "an xz archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"%PDF", "a PDF document"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x7fELF", "a program"),
    (0, b"GGUF", "a GGUF file"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "an onnxruntime ORT-format model"),
    (257, b"ustar", "a tar archive"),
)


def check_size(size: int, limits: Limits) -> None:
    """The file is neither empty nor above the limit."""
    if size == 0:
        raise InvalidModel("The file is empty.", field="file", remedy="Download or export it again.")
    if size > limits.file_bytes:
        raise TooLarge(
            f"The file has {size / 2**30:.2f} GiB; at most {limits.file_bytes / 2**30:.2f} GiB are accepted.",
            field="file",
            remedy="zsq converts models that fit one protobuf file of 2 GiB.",
        )


def read(path: Path, limits: Limits) -> bytes:
    """The bytes of a regular file whose size was checked before a byte of it was read."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InvalidModel(
                f"{path} is a folder, not a file.", field="file", remedy="Give the .onnx file inside it."
            )
        if not stat.S_ISREG(status.st_mode):
            raise InvalidModel(f"{path} is not a regular file.", field="file", remedy="Give an .onnx file.")
        check_size(status.st_size, limits)
        return path.read_bytes()
    except (OSError, ValueError) as problem:  # ValueError: a NUL in the path
        why = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
        raise InvalidModel(
            f"{path} cannot be read: {why}.", field="file", remedy="Check the path and its permissions."
        ) from None


def recognize(data: bytes) -> None:
    """The first bytes are not those of a known foreign format; says which one it is otherwise."""
    for offset, magic, what in FOREIGN:
        if data[offset : offset + len(magic)] == magic:
            raise UnsupportedModel(f"The file is {what}, not an ONNX model.", field="file", remedy=EXPORT)
    if data[8:10] == b'{"' and int.from_bytes(data[:8], "little") <= len(data) - 8:
        raise UnsupportedModel("The file is a safetensors file, not an ONNX model.", field="file", remedy=EXPORT)
    if data[0] == 0x80 and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise UnsupportedModel(
            "The file is a Python pickle (PyTorch checkpoint), not an ONNX model; zsq never unpickles.",
            field="file",
            remedy=EXPORT,
        )
    _recognize_text(data)
    if data[0] == 0x0A:  # field 1 holding bytes: a GraphDef's first node, where ONNX has the number ir_version
        raise UnsupportedModel(
            "The file looks like a frozen TensorFlow graph, not an ONNX model.",
            field="file",
            remedy="Convert it with tf2onnx.",
        )


def _recognize_text(data: bytes) -> None:
    start = data[:2048]
    if start.startswith(b"version https://git-lfs"):
        raise InvalidModel(
            "The file is a Git LFS pointer, not the model itself.", field="file", remedy="Run `git lfs pull` first."
        )
    stripped = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if stripped.startswith((b"<!doctype html", b"<html", b"<head")):
        raise InvalidModel(
            "The file is a web page (HTML), not an ONNX model.",
            field="file",
            remedy="The download link led to a page; use the link to the raw file.",
        )
    if stripped.startswith((b"<?xml", b"<net")):
        raise UnsupportedModel("The file is XML, not an ONNX model.", field="file", remedy=EXPORT)
    try:
        text = start.decode()
    except UnicodeDecodeError as problem:
        if problem.start < len(start) - 4:  # else only the cut at 2048 split a letter
            return
        text = start[: problem.start].decode()
    if all(letter.isprintable() or letter in "\r\n\t\f" for letter in text):
        raise InvalidModel("The file is text, not an ONNX model.", field="file", remedy="Give an .onnx file.")
