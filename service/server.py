"""uvicorn as this service runs it: guarded doors, no log of its own, and bounds on how long it waits."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.doors import Guarded, guarded
from service.settings import Settings
from service.startup import raise_descriptors

__all__ = ["Server"]


class Server(uvicorn.Server):
    """One server of one application; ``announce`` is called once it answers, ``leaving`` when it is told to end.

    At SIGTERM it first says that it is not ready, and goes on serving for ``drain_wait`` seconds, so that whoever
    spreads requests over many has time to look elsewhere. A second signal, and SIGINT, do not wait.
    """

    def __init__(
        self,
        settings: Settings,
        app: FastAPI,
        announce: Callable[[], None],
        leaving: Callable[[], None] = lambda: None,
        *,
        grace: int = 5,
    ) -> None:
        self._app, self._leaving, self._drain_wait = app, leaving, settings.drain_wait
        self._until: float | None = None
        self._protocol: type[Guarded] = guarded(settings, raise_descriptors())
        self._announce = announce
        config = uvicorn.Config(
            app,
            http=self._protocol,
            ws="none",
            lifespan="on",
            forwarded_allow_ips=settings.trusted_proxies,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=grace,  # an event stream would otherwise hold the process for ever
            timeout_keep_alive=30,  # longer than clients keep an idle connection, who else send into one just closed
            server_header=False,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._watch = asyncio.create_task(self._protocol.doors.watch())
        gc.freeze()  # else each full collection looks through all modules again and stops every request
        self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._leaving()
        self._app.state.draining = True
        if sig == signal.SIGTERM and self._until is None and self._drain_wait > 0:
            self._until = time.monotonic() + self._drain_wait
            self._captured_signals.append(sig)
        else:
            super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        if self._until is not None and time.monotonic() > self._until:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self._watch.cancel()
