"""A kept HTTP connection that costs its process little, so that a load hardly measures itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

__all__ = ["Connection"]


class Connection:
    """Speaks as much HTTP/1.1 as the service answers with; any other answer is a ValueError or a KeyError."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body; connects if it has to. Raises OSError or EOFError when the line is cut."""
        status, headers, reader = await self._begin(method, target, body)
        return status, await reader.readexactly(int(headers["content-length"]))

    async def lines(self, target: str) -> AsyncIterator[bytes]:
        """The lines of an event stream until its end; raises ValueError if there is none."""
        status, headers, reader = await self._begin("GET", target, b"")
        if status != 200 or headers["transfer-encoding"] != "chunked":
            raise ValueError(f"{target} {status}")
        while length := int(await reader.readline(), 16):
            for line in (await reader.readexactly(length)).splitlines():
                yield line
            await reader.readline()
        await reader.readline()

    async def _begin(self, method: str, target: str, body: bytes) -> tuple[int, dict[str, str], asyncio.StreamReader]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + body)
        first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
        return int(first.split()[1]), headers, reader

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None
