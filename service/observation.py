"""Around every request: its name in the log, its time in the metrics, safe headers, and no traceback to strangers."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import structlog
from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import Metrics
from service.problems import too_large, unexpected

__all__ = ["LEAVING", "Observation"]

LEAVING = "zsq.leaving"  # in the scope: what is to be called once the answer has been sent or cut off
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Where a route did not set its own."""


class Observation:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        leaving: list[Callable[[], None]] = []
        scope[LEAVING] = leaving
        started = time.perf_counter()
        request_id = secrets.token_hex(8)
        status, answered, replaced = 0, 0.0, False

        async def watched(message: Message) -> None:
            nonlocal status, answered, replaced
            if replaced:
                return
            if message["type"] == "http.response.start":
                if _is_bare_413(message):
                    await too_large(Request(scope))(scope, receive, watched)
                    replaced = True
                    return
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if headers.get("content-type", "").startswith("text/event-stream"):
                    answered = time.perf_counter()
            await send(message)

        client = (scope.get("client") or ("",))[0]
        with structlog.contextvars.bound_contextvars(request=request_id, client=client):
            try:
                await self._app(scope, receive, watched)
            except Exception as problem:  # the boundary: a bug of ours ends this request and no other
                if status:
                    raise  # the answer is under way; the server cuts it off
                await unexpected(Request(scope), problem)(scope, receive, watched)
            finally:
                for leave in leaving:
                    leave()
                self._observe(scope, status, (answered or time.perf_counter()) - started)

    def _observe(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.http_seconds.labels(method, route, str(status)).observe(seconds)
        if route not in QUIET:
            job = scope.get("path_params", {}).get("conversion")
            facts = {"method": method, "path": scope["path"], "status": status, "seconds": round(seconds, 4)}
            structlog.get_logger().info("request", **facts, **({"job": job} if job else {}))


def _is_bare_413(message: Message) -> bool:
    """Whether it begins the framework's own answer to a body over the limit, which is no problem document."""
    kind = MutableHeaders(raw=list(message.get("headers", ()))).get("content-type", "")
    return message["status"] == 413 and kind.startswith("text/plain")
