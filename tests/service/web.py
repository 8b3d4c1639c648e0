"""The HTTP application for tests: on a real port, over a real database and store."""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import httpx2

from service import logs
from service.app import create_app
from service.server import Server
from service.settings import Settings

__all__ = ["PROBLEM", "Api", "served", "told"]

PROBLEM = "application/problem+json"


class Api(httpx2.Client):
    """An HTTP client of one running service."""

    def submit(self, model: bytes, options: dict[str, Any] | None = None, **query: Any) -> httpx2.Response:
        files: dict[str, Any] = {"model": ("net.onnx", model, "application/octet-stream")}
        if options is not None:
            files["options"] = (None, json.dumps(options).encode(), "application/json")
        return self.post("/v1/conversions", files=files, params=query)

    def wait_final(self, conversion: str, seconds: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found: dict[str, Any] = self.get(f"/v1/conversions/{conversion}").json()
            if found["status"] in ("succeeded", "failed", "cancelled"):
                return found
            time.sleep(0.05)
        raise TimeoutError(f"{conversion} is still {found['status']}")


def told(**what: Any) -> bytes:
    """A model that tells the child of the tests what to do."""
    return json.dumps(what).encode()


LOGS: list[TextIO] = []  # of the servers that run at this moment, the one begun last behind the others


@contextmanager
def served(settings: Settings, key: str | None = None) -> Iterator[Api]:
    """The application answers on a port of loopback until the end of the block.

    Its log comes on standard error after that: while its thread runs, it would fall between the lines of pytest.
    """
    with socket.socket() as listener, tempfile.TemporaryFile("w+") as said:
        listener.bind(("127.0.0.1", 0))
        server = Server(settings, create_app(settings), lambda: None, grace=1)
        LOGS.append(said)
        logs.configure(settings, said)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with Api(base_url=url, headers=headers, timeout=30, trust_env=False) as api:
                yield api
        finally:
            server.should_exit = True
            thread.join()
            LOGS.remove(said)
            logs.configure(settings, LOGS[-1] if LOGS else None)
            said.seek(0)
            sys.stderr.write(said.read())
