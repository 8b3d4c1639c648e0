"""Weights that an ONNX file keeps in files beside it, read only from the places where they may be."""

from __future__ import annotations

import os
import re
import stat
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Protocol

from onnx import TensorProto

from converter.admission.wire import check_tensor_size, check_total, shorten
from converter.errors import InvalidModel, TooLarge, UnsupportedModel
from converter.limits import Limits

__all__ = ["Archive", "Folder", "Place", "load_external_data", "nowhere"]

KNOWN_KEYS = {"location", "offset", "length", "checksum"}


class Place(Protocol):
    """Where the files beside a model are."""

    def read(self, location: str, offset: int, length: int, tensor: str) -> bytes:
        """Exactly ``length`` bytes, or a refusal naming the tensor."""


@dataclass(frozen=True)
class Reference:
    """Which bytes of which file hold a tensor."""

    tensor: TensorProto
    location: str
    offset: int
    length: int


def load_external_data(tensors: Iterable[TensorProto], place: Place, limits: Limits) -> int:
    """Every tensor holds its own data; the number that was read from other files is returned."""
    references = [_reference(each, limits) for each in tensors if each.data_location == TensorProto.EXTERNAL]
    total = 0
    for reference in references:  # the sum is known before the first byte is read
        total += reference.length
        check_total(total, limits)
    for reference in references:
        tensor = reference.tensor
        tensor.raw_data = place.read(reference.location, reference.offset, reference.length, tensor.name)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return len(references)


def _reference(tensor: TensorProto, limits: Limits) -> Reference:
    name = shorten(tensor.name)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    unknown = sorted(entries.keys() - KNOWN_KEYS)
    if unknown or len(entries) != len(tensor.external_data):
        what = f"the unknown key {shorten(unknown[0])!r}" if unknown else "a key twice"
        raise InvalidModel(
            f"The external data of tensor {name!r} have {what}.",
            tensor=name,
            field="external_data",
            remedy=f"Known keys are {', '.join(sorted(KNOWN_KEYS))}; export the model again.",
        )
    size = check_tensor_size(tensor.name, list(tensor.dims), tensor.data_type, None, True, limits)
    offset = _number(entries.get("offset", "0"), "offset", name)
    length = _number(entries.get("length", str(size)), "length", name)
    if length != size:
        raise InvalidModel(
            f"The external data of tensor {name!r} have length {length:,}, but its shape is {size:,} bytes.",
            tensor=name,
            field="external_data",
            remedy="Export the model again.",
        )
    return Reference(tensor, _safe_location(entries.get("location", ""), name), offset, length)


def _number(text: str, key: str, tensor: str) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text, re.ASCII):
        raise InvalidModel(
            f"The external data of tensor {tensor!r} have the {key} {shorten(text)!r}, which is not a file position.",
            tensor=tensor,
            field="external_data",
            remedy="Export the model again.",
        )
    return int(text)


def _safe_location(location: str, tensor: str) -> str:
    path = PurePosixPath(location)
    harmless = location and "\0" not in location and "\\" not in location and ":" not in location
    if not harmless or path.is_absolute() or ".." in path.parts or len(location) > 1024 or not path.parts:
        raise InvalidModel(
            f"The external data of tensor {tensor!r} point to {shorten(location)!r}, outside the model's folder.",
            tensor=tensor,
            field="external_data",
            remedy="Put the data file beside the model and export with a relative location.",
        )
    return str(path)


@dataclass(frozen=True)
class Folder:
    """The folder of a model on disk; only regular files in it are read, and never through a link."""

    path: Path

    def read(self, location: str, offset: int, length: int, tensor: str) -> bytes:
        """Exactly ``length`` bytes, or a refusal naming the tensor."""
        try:
            descriptor = self._open(location)
        except OSError as problem:
            raise InvalidModel(
                f"The external data file {shorten(location)!r} of tensor {shorten(tensor)!r} cannot be opened: "
                f"{problem.strerror}; links are not followed.",
                tensor=shorten(tensor),
                field="external_data",
                remedy="Put the data file itself beside the model, or send both in one .zip.",
            ) from None
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise InvalidModel(
                    f"The external data file {shorten(location)!r} of tensor {shorten(tensor)!r} is not a regular file "
                    "with a single name.",
                    tensor=shorten(tensor),
                    field="external_data",
                    remedy="Put a copy of the data file, not a link, beside the model.",
                )
            if offset + length > status.st_size:
                raise _beyond(location, tensor, offset + length, status.st_size)
            file.seek(offset)
            return file.read(length)

    def _open(self, location: str) -> int:
        """A descriptor of the file, every folder on the way opened without following links."""
        parts = PurePosixPath(location).parts
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts[:-1]:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                os.close(folder)
                folder = inner
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO must not make us wait
            return os.open(parts[-1], flags, dir_fd=folder)
        finally:
            os.close(folder)


@dataclass(frozen=True)
class Nowhere:
    """A model given as bytes or as an object has nothing beside it."""

    def read(self, location: str, offset: int, length: int, tensor: str) -> bytes:
        """A refusal naming the tensor."""
        raise InvalidModel(
            f"The tensor {shorten(tensor)!r} is in the external file {shorten(location)!r}, which was not given.",
            tensor=shorten(tensor),
            field="external_data",
            remedy="Give the model by its path, or send a .zip with the .onnx file and its data files.",
        )


nowhere = Nowhere()


class Archive:
    """A zip archive holding one .onnx file and perhaps its external data; nothing is ever unpacked to disk."""

    def __init__(self, source: bytes, limits: Limits) -> None:
        try:
            self._zip = zipfile.ZipFile(BytesIO(source))
            members = [each for each in self._zip.infolist() if not each.is_dir() and "__MACOSX" not in each.filename]
        except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as problem:
            raise _bad_archive(f"is damaged ({shorten(str(problem))})") from None
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._data: dict[str, bytes] = {}
        if len(members) > limits.archive_members:
            raise TooLarge(
                f"The archive holds {len(members):,} files; at most {limits.archive_members:,} are accepted.",
                field="file",
                remedy="Pack only the .onnx file and its data files.",
            )
        self._check(members, limits)

    def _check(self, members: list[zipfile.ZipInfo], limits: Limits) -> None:
        total = 0
        for member in members:
            path = PurePosixPath(member.filename)
            if path.is_absolute() or ".." in path.parts or "\\" in member.filename or member.filename in self._members:
                raise _bad_archive(f"names a member {shorten(member.filename)!r} outside itself or twice")
            if stat.S_ISLNK(member.external_attr >> 16):
                raise _bad_archive(f"holds the symbolic link {shorten(member.filename)!r}")
            if member.flag_bits & 1:
                raise _bad_archive("is encrypted")
            total += member.file_size
            bomb = member.file_size > 2**20 and member.file_size > limits.archive_ratio * max(member.compress_size, 1)
            if bomb or total > limits.file_bytes + limits.weight_bytes:
                raise TooLarge(
                    f"The archive's member {shorten(member.filename)!r} unpacks to {member.file_size:,} bytes "
                    f"from {member.compress_size:,}.",
                    field="file",
                    remedy="Send the .onnx file itself.",
                )
            self._members[str(path)] = member

    def model(self, limits: Limits) -> bytes:
        """The bytes of the one .onnx file."""
        models = [name for name in self._members if name.lower().endswith(".onnx")]
        if not models:
            torch = any(name.endswith(("data.pkl", "constants.pkl")) for name in self._members)
            what = "a PyTorch file (a zip with pickles)" if torch else "a zip archive without an .onnx file"
            raise UnsupportedModel(
                f"The file is {what}, not an ONNX model.",
                field="file",
                remedy="Export the trained model to ONNX, for instance with torch.onnx.export, and give that file.",
            )
        if len(models) > 1:
            raise _bad_archive(f"holds {len(models)} .onnx files where one is expected")
        if self._members[models[0]].file_size > limits.file_bytes:
            raise TooLarge("The .onnx file in the archive is above the size limit.", field="file")
        self._folder = PurePosixPath(models[0]).parent
        return self._unpack(models[0])

    def read(self, location: str, offset: int, length: int, tensor: str) -> bytes:
        """Exactly ``length`` bytes, or a refusal naming the tensor."""
        name = str(self._folder / location)
        if name not in self._members:
            raise InvalidModel(
                f"The external data file {shorten(location)!r} of tensor {shorten(tensor)!r} is not in the archive.",
                tensor=shorten(tensor),
                field="external_data",
                remedy="Pack the data file beside the .onnx file.",
            )
        if name not in self._data:
            self._data = {name: self._unpack(name)}  # one file at a time is held
        data = self._data[name]
        if offset + length > len(data):
            raise _beyond(location, tensor, offset + length, len(data))
        return data[offset : offset + length]

    def _unpack(self, name: str) -> bytes:
        member = self._members[name]
        try:
            with self._zip.open(member) as file:
                data = file.read(member.file_size + 1)
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError, RuntimeError) as problem:
            raise _bad_archive(f"is damaged ({shorten(str(problem))})") from None
        except Exception as problem:
            if type(problem).__module__ in ("zlib", "_lzma", "lzma"):  # their errors share no base class
                raise _bad_archive(f"is damaged ({shorten(str(problem))})") from None
            raise
        if len(data) != member.file_size:
            raise _bad_archive(f"states a wrong size for {shorten(name)!r}")
        return data


def _bad_archive(what: str) -> InvalidModel:
    return InvalidModel(
        f"The zip archive {what}.", field="file", remedy="Pack one .onnx file and its data files into a plain zip."
    )


def _beyond(location: str, tensor: str, needed: int, size: int) -> InvalidModel:
    return InvalidModel(
        f"The tensor {shorten(tensor)!r} needs {needed:,} bytes of {shorten(location)!r}, which has {size:,}.",
        tensor=shorten(tensor),
        field="external_data",
        remedy="The data file is truncated; download or export it again.",
    )
