"""HEAD on whatever answers GET: the same status and headers, no body, and no work for a body."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Heads"]

FOUND = ("route", "path_params")  # what the router leaves in the scope and layers outside of this one read


class Enough(Exception):
    """The answer's head is sent; raised into the application when it begins with the body."""


class Heads:
    """A layer of the application; routes and the OpenAPI document know of GET alone."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                raise Enough  # else a download would be read to its end, and an event stream for ever
            await send(message)

        as_get = dict(scope) | {"method": "GET"}  # a copy: the server must know that no body follows
        try:
            await self._app(as_get, receive, send_head)
        except* Enough:  # an event stream raises it in a group of tasks
            pass
        finally:
            scope.update({name: as_get[name] for name in FOUND if name in as_get})
