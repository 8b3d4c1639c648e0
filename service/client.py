"""A client of the service, synchronous and asynchronous from one source.

Both only perform what ``service.exchanges`` asks for. Dropped connections are taken up again: uploads under the same
idempotency key, events after the last one seen, downloads where they broke off.

    with Client("http://127.0.0.1:8000") as client:
        conversion = client.submit("model.onnx", {"seed": 1})
        client.wait(conversion.id, print)
        client.download(conversion.id, "model", "model.int8.onnx")
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx2

from service.exchanges import (
    Chunk,
    Emit,
    Flow,
    Listener,
    Need,
    Open,
    Opened,
    Operations,
    Read,
    Request,
    Run,
    Sleep,
    Transferred,
)
from service.remote import (
    Busy,
    ClientError,
    Conversion,
    ConversionFailed,
    Event,
    NotFound,
    NotReady,
    Page,
    Problem,
    TooLarge,
    Unauthorized,
    Unreachable,
)

__all__ = [
    "AsyncClient",
    "Busy",
    "Client",
    "ClientError",
    "Conversion",
    "ConversionFailed",
    "Event",
    "NotFound",
    "NotReady",
    "Page",
    "Problem",
    "TooLarge",
    "Unauthorized",
    "Unreachable",
]

T = TypeVar("T")
QUIET = 60.0  # seconds without a byte, pings included, after which a connection is given up


def _settings(url: str, api_key: str | None) -> dict[str, Any]:
    headers = {"User-Agent": "zsq-client"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
    timeout = httpx2.Timeout(QUIET, connect=10.0)
    # a proxy from the environment is not on the way to this machine itself
    return {"base_url": url.rstrip("/"), "headers": headers, "timeout": timeout, "trust_env": not _is_loopback(url)}


def _is_loopback(url: str) -> bool:
    host = httpx2.URL(url).host
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _arguments(request: Request) -> dict[str, Any]:
    given = {"headers": dict(request.headers), "params": dict(request.params) or None, "files": request.files}
    return {"method": request.method, "url": request.path, **given}


class Client:
    """The service at ``url``; every method blocks until it is done."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        *,
        attempts: int = 6,
        longest_pause: float = 30.0,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._operations = Operations(attempts, longest_pause)
        self._http = httpx2.Client(**_settings(url, api_key), transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def health(self) -> Mapping[str, Any]:
        """What the service says of itself; raises Unreachable if nothing answers."""
        return self._do(self._operations.health())

    def submit(
        self,
        model: str | Path,
        options: Mapping[str, Any] | None = None,
        *,
        fresh: bool = False,
        sent: Transferred | None = None,
    ) -> Conversion:
        """The model is with the service and waits for its turn; ``fresh`` refuses an earlier result of the same."""
        return self._do(self._operations.submit(Path(model), options or {}, fresh, sent))

    def get(self, identifier: str) -> Conversion:
        return self._do(self._operations.get(identifier))

    def list(self, cursor: str | None = None, limit: int = 50, status: str | None = None) -> Page:
        return self._do(self._operations.list(cursor, limit, status))

    def cancel(self, identifier: str) -> Conversion:
        return self._do(self._operations.cancel(identifier))

    def delete(self, identifier: str) -> None:
        """Nothing of the conversion is left."""
        self._do(self._operations.delete(identifier))

    def wait(self, identifier: str, progress: Listener | None = None) -> Conversion:
        """The conversion has succeeded; raises ConversionFailed if it did not."""
        return self._do(self._operations.wait(identifier, progress))

    def download(self, identifier: str, artefact: str, target: str | Path, received: Transferred | None = None) -> Path:
        """The artefact (model, report or html) is at the target, whole."""
        return self._do(self._operations.download(identifier, artefact, Path(target), received))

    def events(self, identifier: str, after: str | None = None) -> Iterator[Event]:
        """Everything that happens to the conversion, until it ends."""
        return self._steps(Run(self._operations.events(identifier, after)))

    def _do(self, flow: Flow[T]) -> T:
        run = Run(flow)
        for _ in self._steps(run):
            raise AssertionError("only events are emitted")
        return run.value  # type: ignore[return-value]  # a run that needs nothing more has its value

    def _steps(self, run: Run[Any]) -> Iterator[Event]:
        with contextlib.ExitStack() as answers:
            while (need := run.need) is not None:
                if isinstance(need, Emit):
                    yield need.value
                    run.resume(None)
                    continue
                try:
                    answer = self._perform(need, answers)
                except httpx2.TransportError as error:
                    run.fail(error)
                else:
                    run.resume(answer)

    def _perform(self, need: Need, answers: contextlib.ExitStack) -> object:
        match need:
            case Open(request):
                answers.close()  # one connection at a time
                response = self._http.send(self._http.build_request(**_arguments(request)), stream=True)
                answers.callback(response.close)
                return Opened(response, response.iter_bytes())
            case Read(opened):
                return opened.response.read()
            case Chunk(opened):
                return next(opened.chunks, None)
            case Sleep(seconds):
                time.sleep(seconds)
        return None


class AsyncClient:
    """The service at ``url``, for asyncio; the same methods as ``Client``."""

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        *,
        attempts: int = 6,
        longest_pause: float = 30.0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._operations = Operations(attempts, longest_pause)
        self._http = httpx2.AsyncClient(**_settings(url, api_key), transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def health(self) -> Mapping[str, Any]:
        return await self._do(self._operations.health())

    async def submit(
        self,
        model: str | Path,
        options: Mapping[str, Any] | None = None,
        *,
        fresh: bool = False,
        sent: Transferred | None = None,
    ) -> Conversion:
        return await self._do(self._operations.submit(Path(model), options or {}, fresh, sent))

    async def get(self, identifier: str) -> Conversion:
        return await self._do(self._operations.get(identifier))

    async def list(self, cursor: str | None = None, limit: int = 50, status: str | None = None) -> Page:
        return await self._do(self._operations.list(cursor, limit, status))

    async def cancel(self, identifier: str) -> Conversion:
        return await self._do(self._operations.cancel(identifier))

    async def delete(self, identifier: str) -> None:
        await self._do(self._operations.delete(identifier))

    async def wait(self, identifier: str, progress: Listener | None = None) -> Conversion:
        return await self._do(self._operations.wait(identifier, progress))

    async def download(
        self, identifier: str, artefact: str, target: str | Path, received: Transferred | None = None
    ) -> Path:
        return await self._do(self._operations.download(identifier, artefact, Path(target), received))

    def events(self, identifier: str, after: str | None = None) -> AsyncIterator[Event]:
        return self._steps(Run(self._operations.events(identifier, after)))

    async def _do(self, flow: Flow[T]) -> T:
        run = Run(flow)
        async for _ in self._steps(run):
            raise AssertionError("only events are emitted")
        return run.value  # type: ignore[return-value]  # a run that needs nothing more has its value

    async def _steps(self, run: Run[Any]) -> AsyncIterator[Event]:
        async with contextlib.AsyncExitStack() as answers:
            while (need := run.need) is not None:
                if isinstance(need, Emit):
                    yield need.value
                    run.resume(None)
                    continue
                try:
                    answer = await self._perform(need, answers)
                except httpx2.TransportError as error:
                    run.fail(error)
                else:
                    run.resume(answer)

    async def _perform(self, need: Need, answers: contextlib.AsyncExitStack) -> object:
        match need:
            case Open(request):
                await answers.aclose()
                response = await self._http.send(self._http.build_request(**_arguments(request)), stream=True)
                answers.push_async_callback(response.aclose)
                return Opened(response, response.aiter_bytes())
            case Read(opened):
                return await opened.response.aread()
            case Chunk(opened):
                return await anext(opened.chunks, None)
            case Sleep(seconds):
                await asyncio.sleep(seconds)
        return None
