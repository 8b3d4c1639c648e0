"""Models on their way from a request into the store: never parsed, never whole in memory, never twice on the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from sqlalchemy.dialects import postgresql, sqlite

from converter.errors import InvalidModel, TooLarge
from service import database as tables
from service.database import now
from service.jobs import Jobs
from service.problems import BadRequest, UnsupportedMediaType
from service.storage import Artefacts, Stored

__all__ = ["Upload", "discard", "receive"]

FIELD_LIMIT = 256 << 10
PARTS_LIMIT = 20
NAME_LIMIT = 200
ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")  # no ONNX file begins so: field 10 of a ModelProto is no integer


@dataclass(frozen=True)
class Upload:
    """A model in the store, and whatever else the form said."""

    model: Stored
    name: str
    archive: bool
    fields: dict[str, str]


async def receive(request: Request, jobs: Jobs, limit: int, name: str | None = None) -> Upload:
    """The model of a multipart form or of a raw body is in the store; ``limit`` is of the model alone, in bytes.

    Raises BadRequest, UnsupportedMediaType, InvalidModel if it is empty, TooLarge.
    """
    kind, parameters = parse_options_header(request.headers.get("content-type", ""))
    if kind == b"multipart/form-data":
        form = Form(request, parameters.get(b"boundary", b""))
        upload = await _receive_form(form, jobs, limit)
    elif kind in (b"application/octet-stream", b"application/zip", b"application/onnx", b"application/x-onnx"):
        upload = await _put(request.stream(), jobs.artefacts, limit, name)
    else:
        raise UnsupportedMediaType(
            "The model comes as multipart/form-data with a part named model, or raw as application/octet-stream.",
            remedy="curl -F model=@model.onnx does the former.",
        )
    return upload if name is None else Upload(upload.model, _plain(name), upload.archive, upload.fields)


async def _receive_form(form: Form, jobs: Jobs, limit: int) -> Upload:
    model: Upload | None = None
    fields: dict[str, str] = {}
    try:
        async for part in form.parts():
            if part.name != "model":
                fields[part.name] = await _field(form, part.name)
            elif model is None:
                model = await _put(form.data(), jobs.artefacts, limit, part.filename)
            else:
                raise BadRequest("The form has two parts named model.", field="model")
    except Exception:
        if model is not None:
            await discard(jobs, model.model)
        raise
    if model is None:
        raise BadRequest("The form has no part named model.", field="model", remedy="Send the file as -F model=@FILE.")
    return Upload(model.model, model.name, model.archive, fields)


async def _field(form: Form, name: str) -> str:
    value = bytearray()
    async for chunk in form.data():
        value += chunk
        if len(value) > FIELD_LIMIT:
            raise BadRequest(f"The field {name} is longer than {FIELD_LIMIT} bytes.", field=name)
    return value.decode("utf-8", "replace")


async def _put(chunks: AsyncIterator[bytes], artefacts: Artefacts, limit: int, name: str | None) -> Upload:
    head = b""
    failure: BaseException | None = None

    async def watched() -> AsyncIterator[bytes]:
        nonlocal head, failure
        size = 0
        try:
            async for chunk in chunks:
                head = (head + chunk[:4])[:4]
                size += len(chunk)
                if size > limit:
                    raise TooLarge(f"The model is larger than the {limit:,} bytes that this service takes.")
                yield chunk
            if size == 0:
                raise InvalidModel("The model is empty: the file has no bytes.", field="model")
        except BaseException as problem:
            failure = problem
            raise

    try:
        stored = await artefacts.put(watched())
    except Exception:
        if failure is not None:  # the store only reports that its source failed, not how
            raise failure from None
        raise
    return Upload(stored, _plain(name or "model.onnx"), head.startswith(ZIP_MAGICS), {})


def _plain(name: str) -> str:
    """The last part of a path, printable and not too long."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(letter for letter in last if letter.isprintable())[:NAME_LIMIT] or "model.onnx"


async def discard(jobs: Jobs, model: Stored) -> None:
    """The object is gone unless some job uses it: nobody pays for an upload that was not taken."""

    def collect() -> None:
        insert = sqlite.insert if jobs.database.is_sqlite else postgresql.insert
        with jobs.database.writing() as connection:
            row = {"key": model.key, "size": model.size, "at": now()}
            connection.execute(insert(tables.blobs).values(**row).on_conflict_do_nothing())
        jobs.blobs.collect([model.key])

    await run_in_threadpool(collect)


@dataclass
class Part:
    """The head of one part of a form."""

    name: str = ""
    filename: str | None = None
    headers: dict[bytes, bytes] = field(default_factory=dict)


END = None  # of a part's data


class Form:
    """A multipart body read as it comes: for each of ``parts()``, its ``data()``."""

    def __init__(self, request: Request, boundary: bytes) -> None:
        if not boundary:
            raise BadRequest("The form's Content-Type has no boundary.")
        self._stream = request.stream()
        self._tokens: deque[Part | bytes | None] = deque()
        self._part, self._header, self._value = Part(), b"", b""
        self._count, self._ended = 0, False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as problem:
            raise BadRequest("The form's boundary is not usable.") from problem

    async def parts(self) -> AsyncIterator[Part]:
        """The heads of all parts; data that were not asked for are passed over."""
        while not (self._ended and not self._tokens):
            token = await self._next()
            if isinstance(token, Part):
                yield token

    async def data(self) -> AsyncIterator[bytes]:
        """The rest of the present part."""
        while (token := await self._next()) is not END:
            if isinstance(token, bytes):
                yield token

    async def _next(self) -> Part | bytes | None:
        while not self._tokens:
            if self._ended:
                return END
            chunk = await anext(self._stream, None)
            if chunk is None:
                raise BadRequest("The form breaks off before its end.")
            try:
                self._parser.write(chunk)
            except FormParserError as problem:
                raise BadRequest("The form is not valid multipart/form-data.") from problem
        return self._tokens.popleft()

    def _on_part_begin(self) -> None:
        self._part = Part()
        self._count += 1
        if self._count > PARTS_LIMIT:
            raise BadRequest(f"The form has more than {PARTS_LIMIT} parts.")

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._part.headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        _, named = parse_options_header(self._part.headers.get(b"content-disposition", b""))
        if b"name" not in named:
            raise BadRequest("A part of the form has no name.")
        self._part.name = named[b"name"].decode("utf-8", "replace")
        if b"filename" in named:
            self._part.filename = named[b"filename"].decode("utf-8", "replace")
        self._tokens.append(self._part)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._tokens.append(data[start:end])

    def _on_part_end(self) -> None:
        self._tokens.append(END)

    def _on_end(self) -> None:
        self._ended = True
