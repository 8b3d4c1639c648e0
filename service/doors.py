"""Connections: how many, how long they may dawdle, and who goes when there are too many.

The server by itself waits for ever for the rest of a request's head, and takes as many connections as there are file
descriptors. Here a head has seconds to arrive, a body must keep coming, the oldest unfinished heads make way for new
connections, one address cannot have all places, and a few places are kept for health checks alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import socket
from collections import Counter, OrderedDict
from collections.abc import Iterable
from enum import Enum, auto
from typing import Any

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.problems import problem_of
from service.settings import Settings

__all__ = ["Doors", "guarded"]

HEAD_SECONDS = 10.0  # a head is one packet or a few
BODY_SECONDS = 30.0  # without a byte of a body that is to come and that we are ready to take
SLOW_AFTER, SLOWEST = 60.0, 1024.0  # seconds, and the bytes a second that a body must have made on average after them
UNACKNOWLEDGED = 60_000  # milliseconds for which a peer may leave what was sent to it unanswered
HEADS = 256  # unfinished ones at once; an honest one is whole within milliseconds
RESERVE = 32  # connections beyond the others, for these alone:
HEALTH = frozenset({"/healthz", "/readyz", "/metrics"})
LOOK_SECONDS = 1.0
LOG_SECONDS = 10.0

BODY = json.dumps(
    problem_of("TooManyConnections", "The service has too many connections.", 503).model_dump(exclude_none=True)
)
FULL = (
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 5\r\n"
    f"Connection: close\r\nContent-Length: {len(BODY)}\r\n\r\n{BODY}"
).encode()


class Verdict(Enum):
    """What a new connection may do."""

    ENTER = auto()
    ASK_HEALTH = auto()
    GO = auto()


class Doors:
    """All connections of one server; its event loop alone may use it."""

    def __init__(self, most: int, per_address: int, proxies: Iterable[str] = ()) -> None:
        self._most, self._per_address = most, per_address
        self._proxies = [ipaddress.ip_network(each.strip(), strict=False) for each in proxies if each.strip()]
        self._inside: set[Guarded] = set()
        self._by_address: Counter[str] = Counter()
        self._heads: OrderedDict[Guarded, float] = OrderedDict()  # since when each waits for the rest of its head
        self._turned_away: Counter[str] = Counter()
        self._logged = 0.0

    def admit(self, connection: Guarded) -> Verdict:
        """The connection is counted until ``leave``, whatever the verdict."""
        address = connection.address
        self._inside.add(connection)
        self._by_address[address] += 1
        if self._by_address[address] > self._per_address and not self._is_ours(address):
            self._turned_away["of one address"] += 1
            return Verdict.GO
        if len(self._inside) <= self._most:
            return Verdict.ENTER
        if self._heads:
            self._close_oldest_head()
            return Verdict.ENTER
        self._turned_away["too many"] += 1
        return Verdict.ASK_HEALTH if len(self._inside) <= self._most + RESERVE else Verdict.GO

    def leave(self, connection: Guarded) -> None:
        self._heads.pop(connection, None)
        if connection in self._inside:
            self._inside.discard(connection)
            self._by_address[connection.address] -= 1
            if not self._by_address[connection.address]:
                del self._by_address[connection.address]

    def awaits_head(self, connection: Guarded, now: float) -> None:
        self._heads.setdefault(connection, now)
        if len(self._heads) > HEADS:
            self._close_oldest_head()

    def has_head(self, connection: Guarded) -> None:
        self._heads.pop(connection, None)

    async def watch(self) -> None:
        """Whoever dawdles is sent away, for as long as this is awaited."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look(clock())

    def look(self, now: float) -> None:
        for connection, since in list(self._heads.items()):
            if now - since <= HEAD_SECONDS:
                break  # they stand in the order of their coming
            self._turned_away["slow head"] += 1
            connection.end()
        for connection in list(self._inside):
            if connection.dawdles(now):
                self._turned_away["slow body"] += 1
                connection.end()
        if self._turned_away and now - self._logged > LOG_SECONDS:
            self._logged = now
            structlog.get_logger().warning(
                "connections turned away", open=len(self._inside), unfinished=len(self._heads), **self._turned_away
            )
            self._turned_away.clear()

    def _close_oldest_head(self) -> None:
        oldest, _ = self._heads.popitem(last=False)
        self._turned_away["unfinished head"] += 1
        oldest.end()

    def _is_ours(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return True  # a unix socket
        return address.is_loopback or any(address in network for network in self._proxies)


class Guarded(H11Protocol):
    """One connection; uvicorn's own protocol with an eye on the clock."""

    doors: Doors

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.address = ""
        self._request: object = None  # the one that is being received
        self._begun = self._heard = self._looked = 0.0
        self._received = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        connection = transport.get_extra_info("socket")
        if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED)
        match self.doors.admit(self):
            case Verdict.GO:
                transport.write(FULL)
                transport.close()
            case Verdict.ASK_HEALTH:
                self.app: Any = _health_only(self.app)
                self.doors.awaits_head(self, self.loop.time())
            case Verdict.ENTER:
                self.doors.awaits_head(self, self.loop.time())

    def connection_lost(self, exc: Exception | None) -> None:
        self.doors.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        now = self.loop.time()
        if self.cycle is None or self.cycle.response_complete:
            self.doors.awaits_head(self, now)
        self._heard = now
        self._received += len(data)
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self.doors.has_head(self)
            if self._request is not self.cycle:
                self._request, self._received = self.cycle, len(data)
                self._begun = self._looked = now

    def dawdles(self, now: float) -> bool:
        """Whether we wait for a body that does not come, or comes too slowly to be meant."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.more_body:
            return False
        if self.flow.read_paused:  # it is we who do not take more
            self._begun += now - self._looked
            self._heard = self._looked = now
            return False
        self._looked = now
        passed = now - self._begun
        return now - self._heard > BODY_SECONDS or (passed > SLOW_AFTER and self._received < SLOWEST * passed)

    def end(self) -> None:
        self.transport.abort()


def guarded(settings: Settings, descriptors: int) -> type[Guarded]:
    """The protocol class of one server, which may open so many files."""
    most = max(16, min(settings.max_connections, descriptors - RESERVE - 128))  # database, store and log open files too
    doors = Doors(most, settings.connections_per_address, settings.trusted_proxies.split(","))
    return type("GuardedProtocol", (Guarded,), {"doors": doors})


def _health_only(app: ASGIApp) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in HEALTH:
            await app(scope, receive, send)
            return
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"retry-after", b"5"),
            (b"connection", b"close"),
            (b"content-length", str(len(BODY)).encode()),
        ]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": BODY.encode()})

    return answer
