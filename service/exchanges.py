"""What a client does with the service, written once, as generators of what they need from the network.

An operation yields ``Open``, ``Read``, ``Chunk`` or ``Sleep`` and is sent the answer, or thrown a transport error;
``Emit`` hands an event to whoever listens. Nothing here knows whether the network is synchronous.
"""

from __future__ import annotations

import json
import os
import random
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import httpx2

from service.remote import FINAL, Conversion, ConversionFailed, Event, Page, Unreachable, problem

__all__ = [
    "Chunk",
    "Emit",
    "EventLines",
    "Flow",
    "Listener",
    "Need",
    "Open",
    "Opened",
    "Operations",
    "Read",
    "Request",
    "Run",
    "Sleep",
    "Transferred",
    "Upload",
]

T = TypeVar("T")
Listener = Callable[[Conversion], None]
Transferred = Callable[[int, int | None], None]  # bytes so far, bytes in all
ARTEFACTS = {"model": "model", "report": "report", "html": "report.html"}
TRANSIENT = (429, 502, 503, 504)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Opened:
    """An answer whose body has not been read."""

    response: httpx2.Response
    chunks: Any  # an iterator of bytes, or an asynchronous one


@dataclass(frozen=True)
class Open:
    request: Request


@dataclass(frozen=True)
class Read:
    opened: Opened


@dataclass(frozen=True)
class Chunk:
    opened: Opened


@dataclass(frozen=True)
class Sleep:
    seconds: float


@dataclass(frozen=True)
class Emit:
    value: Event


Need = Open | Read | Chunk | Sleep | Emit
Flow = Generator[Need, Any, T]


class Run(Generic[T]):
    """One operation under way: either it needs something, or it has a value."""

    def __init__(self, flow: Flow[T]) -> None:
        self._flow = flow
        self.value: T | None = None
        self.need: Need | None = None
        self._advance(lambda: next(flow))

    def resume(self, answer: object) -> None:
        self._advance(lambda: self._flow.send(answer))

    def fail(self, error: httpx2.TransportError) -> None:
        self._advance(lambda: self._flow.throw(error))

    def _advance(self, step: Callable[[], Need]) -> None:
        try:
            self.need = step()
        except StopIteration as end:
            self.need, self.value = None, end.value


@dataclass(frozen=True)
class Operations:
    """What can be done, written once for both clients."""

    attempts: int
    longest_pause: float  # seconds, also where the service asks for more

    def _pause(self, attempt: int, response: httpx2.Response | None = None) -> Sleep:
        """What the service asked for, else doubling from half a second, with some chance so that clients part."""
        asked = response.headers.get("retry-after", "") if response is not None else ""
        seconds = float(asked) if asked.isdigit() else 0.5 * 2**attempt * random.uniform(0.75, 1.25)
        return Sleep(min(seconds, self.longest_pause))

    def _send(self, request: Request) -> Flow[Opened]:
        """An answer that is not an error; raises Problem or Unreachable."""
        for attempt in range(self.attempts):
            last = attempt == self.attempts - 1
            try:
                opened: Opened = yield Open(request)
                if opened.response.status_code < 400:
                    return opened
                body: bytes = yield Read(opened)
            except httpx2.TransportError as error:
                if last or isinstance(error, httpx2.UnsupportedProtocol):
                    raise Unreachable(f"The service does not answer: {error or type(error).__name__}.") from error
                yield self._pause(attempt)
                continue
            if opened.response.status_code in TRANSIENT and not last:
                yield self._pause(attempt, opened.response)
                continue
            raise problem(opened.response.status_code, body)
        raise AssertionError("the loop returns or raises")

    def _json(self, request: Request) -> Flow[Any]:
        for attempt in range(self.attempts):
            opened = yield from self._send(request)
            try:
                body: bytes = yield Read(opened)
            except httpx2.TransportError as error:
                if attempt == self.attempts - 1:
                    raise Unreachable(f"The answer broke off: {error or type(error).__name__}.") from error
                yield self._pause(attempt)
                continue
            try:
                return json.loads(body) if body else {}
            except ValueError as error:
                raise Unreachable("What answers there is not zsq: it does not speak JSON.") from error
        raise AssertionError("the loop returns or raises")

    def health(self) -> Flow[Mapping[str, Any]]:
        return (yield from self._json(Request("GET", "/healthz")))  # type: ignore[no-any-return]

    def submit(
        self, model: Path, options: Mapping[str, Any], fresh: bool, sent: Transferred | None
    ) -> Flow[Conversion]:
        headers = {"Idempotency-Key": uuid.uuid4().hex}  # the same at every attempt: one conversion, however often sent
        params = {"fresh": "true"} if fresh else {}
        with open(model, "rb") as stream:
            files: dict[str, Any] = {"model": (model.name, Upload(stream, sent), "application/octet-stream")}
            if options:
                files["options"] = (None, json.dumps(dict(options)).encode(), "application/json")
            return Conversion.read((yield from self._json(Request("POST", "/v1/conversions", headers, params, files))))

    def get(self, identifier: str) -> Flow[Conversion]:
        return Conversion.read((yield from self._json(Request("GET", f"/v1/conversions/{identifier}"))))

    def list(self, cursor: str | None, limit: int, status: str | None) -> Flow[Page]:
        given = {"cursor": cursor, "limit": str(limit), "status": status}
        params = {name: value for name, value in given.items() if value is not None}
        found = yield from self._json(Request("GET", "/v1/conversions", params=params))
        return Page(tuple(Conversion.read(row) for row in found["conversions"]), found.get("next_cursor"))

    def cancel(self, identifier: str) -> Flow[Conversion]:
        found = yield from self._json(Request("POST", f"/v1/conversions/{identifier}/cancel"))
        return Conversion.read(found) if "status" in found else (yield from self.get(identifier))

    def delete(self, identifier: str) -> Flow[None]:
        yield from self._json(Request("DELETE", f"/v1/conversions/{identifier}"))

    def events(self, identifier: str, after: str | None, tell: Callable[[Event], None] | None = None) -> Flow[None]:
        """Every event once, in order, until the conversion has ended: told, or else emitted."""
        failures = 0
        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
            opened = yield from self._send(Request("GET", f"/v1/conversions/{identifier}/events", headers))
            lines, ended = EventLines(), False
            try:
                while not ended and (chunk := (yield Chunk(opened))) is not None:
                    for event in lines.feed(chunk):
                        after, failures = event.id or after, 0
                        ended = ended or event.data.get("status") in FINAL
                        if tell:
                            tell(event)
                        else:
                            yield Emit(event)
            except httpx2.TransportError:
                failures += 1
            if (yield from self.get(identifier)).finished:
                return
            yield self._pause(min(failures, 6))

    def wait(self, identifier: str, progress: Listener | None) -> Flow[Conversion]:
        """The conversion has succeeded; raises ConversionFailed if it did not."""
        conversion = yield from self.get(identifier)

        def tell(event: Event) -> None:
            nonlocal conversion
            conversion = conversion.after(event)
            if progress and not conversion.finished:
                progress(conversion)

        if progress:
            progress(conversion)
        if not conversion.finished:
            yield from self.events(identifier, None, tell)
            conversion = yield from self.get(identifier)
            if progress:
                progress(conversion)
        if conversion.status != "succeeded":
            raise ConversionFailed(conversion)
        return conversion

    def download(self, identifier: str, artefact: str, target: Path, received: Transferred | None) -> Flow[Path]:
        """The whole artefact is at the target; a connection that drops is continued where it broke off."""
        path = f"/v1/conversions/{identifier}/{ARTEFACTS[artefact]}"
        partial = target.with_name(f".{target.name}.{os.getpid()}.part")
        tag: str | None = None
        failures = 0  # in a row, without a byte in between
        try:
            with open(partial, "wb") as stream:
                while True:
                    done = stream.tell()
                    headers = {"Accept-Encoding": "identity"}
                    if done:
                        headers |= {"Range": f"bytes={done}-"} | ({"If-Range": tag} if tag else {})
                    request = Request("GET", path, headers)
                    opened = yield from self._send(request)
                    if opened.response.status_code != 206 and done:
                        stream.seek(0)  # the service began again
                        stream.truncate()
                        done = 0
                    tag = opened.response.headers.get("etag") or tag
                    length = opened.response.headers.get("content-length", "")
                    total = done + int(length) if length.isdigit() else None
                    try:
                        while (chunk := (yield Chunk(opened))) is not None:
                            stream.write(chunk)
                            failures = 0
                            if received:
                                received(stream.tell(), total)
                        if total is None or stream.tell() == total:
                            break
                        why = "it is shorter than announced"
                    except httpx2.TransportError as error:
                        why = str(error) or type(error).__name__
                    failures += 1
                    if failures >= self.attempts:
                        raise Unreachable(f"The download broke off: {why}.")
                    yield self._pause(failures)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return target


class Upload:
    """A file that is read once from where it stands, telling how far it got."""

    def __init__(self, stream: BinaryIO, sent: Transferred | None) -> None:
        self._stream, self._sent = stream, sent
        self._total = os.fstat(stream.fileno()).st_size

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        if self._sent:
            self._sent(self._stream.tell(), self._total)
        return data

    def fileno(self) -> int:
        return self._stream.fileno()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


class EventLines:
    """Server-sent events out of chunks that may break anywhere."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, list[str]] = {}

    def feed(self, chunk: bytes) -> Iterator[Event]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            text = line.rstrip(b"\r").decode("utf-8", "replace")
            if not text and self._fields:
                event = self._event()
                self._fields = {}
                if event is not None:
                    yield event
            elif text and not text.startswith(":"):
                name, _, value = text.partition(":")
                self._fields.setdefault(name, []).append(value.removeprefix(" "))

    def _event(self) -> Event | None:
        if "data" not in self._fields:
            return None
        data = json.loads("\n".join(self._fields["data"]))  # ours always is JSON
        kind, identifier = (self._fields.get(name, [""])[-1] for name in ("event", "id"))
        return Event(identifier, kind or "message", data if isinstance(data, dict) else {"value": data})
