"""uvicorn as this service runs it: guarded doors, no log of its own, and bounds on how long it waits."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from service.doors import Guarded, guarded
from service.settings import Settings
from service.startup import raise_descriptors

__all__ = ["Server"]


class Server(uvicorn.Server):
    """One server of one application; ``announce`` is called once it answers."""

    def __init__(self, settings: Settings, app: FastAPI, announce: Callable[[], None], *, grace: int = 5) -> None:
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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        self._watch.cancel()
