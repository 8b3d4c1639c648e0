"""Who sends a request, and whether they may: by key, by the page's cookie, or anybody on this machine."""

from __future__ import annotations

import ipaddress
from typing import Annotated
from urllib.parse import urlsplit

import structlog
from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from service.auth import LOCAL, Allowance, Principal, Scope, shown_part
from service.context import Context, context_of
from service.problems import Forbidden, Unauthenticated
from service.settings import Settings

__all__ = ["COOKIE", "Converter", "Reader", "Scraper", "local_name", "principal_of_key", "refuse_foreign_pages"]

COOKIE = "zsq_key"

bearer = HTTPBearer(auto_error=False, scheme_name="bearer", description="A key made by `zsq keys create`.")
header = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="apiKey", description="The same key.")
cookie = APIKeyCookie(name=COOKIE, auto_error=False, scheme_name="cookie", description="Set by the page.")


class Requires:
    """A dependency: the sender, who has the scope."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def __call__(
        self,
        request: Request,
        by_bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
        by_header: Annotated[str | None, Depends(header)],
        by_cookie: Annotated[str | None, Depends(cookie)],
    ) -> Principal:
        context = context_of(request)
        refuse_foreign_pages(request, context.settings)
        if not context.settings.requires_keys:
            context.enter(request, LOCAL.owner, context.settings.requests_per_key)
            return LOCAL
        secret = by_bearer.credentials if by_bearer else by_header or by_cookie
        if not secret:
            raise Unauthenticated("This service asks for an API key.")
        principal = await principal_of_key(context, request, secret)
        structlog.contextvars.bind_contextvars(key=principal.owner)
        context.rates.count(principal)
        context.enter(request, principal.owner, context.settings.requests_per_key)
        if not principal.may(self._scope):
            raise Forbidden(f"This key lacks the scope {self._scope}.", remedy="Use a key that has it.")
        return principal


Converter = Annotated[Principal, Depends(Requires(Scope.CONVERT))]
Reader = Annotated[Principal, Depends(Requires(Scope.READ))]
Scraper = Annotated[Principal, Depends(Requires(Scope.METRICS))]


async def local_name(request: Request) -> None:
    """A dependency of routes that need no key: pages under foreign names that lead here do not read them either."""
    refuse_foreign_names(request, context_of(request).settings)


async def principal_of_key(context: Context, request: Request, secret: str) -> Principal:
    """Whose key it is; raises Unauthenticated."""
    key = await context.look(context.keys.find, secret)
    if key is None:
        address = request.client.host if request.client else ""
        structlog.get_logger().warning("wrong key", client=address, prefix=shown_part(secret), path=request.url.path)
        context.metrics.wrong_keys.inc()
        context.rates.count_wrong_key(address)
        raise Unauthenticated("This API key does not work: it is unknown or was revoked.")
    return key.principal(default_allowance(context.settings))


def default_allowance(settings: Settings) -> Allowance:
    return Allowance(
        settings.quota_active, settings.quota_per_day, settings.quota_stored_bytes, settings.quota_requests_per_minute
    )


def refuse_foreign_pages(request: Request, settings: Settings) -> None:
    """Pages of other sites, open in the same browser, can do nothing here; raises Forbidden.

    Without keys, a page could otherwise send models to a service on this machine, or read from it under a name of its
    own that resolves to this machine (DNS rebinding).
    """
    if request.method not in ("GET", "HEAD", "OPTIONS"):
        site = request.headers.get("sec-fetch-site")
        origin = request.headers.get("origin")
        foreign = site not in (None, "same-origin", "none")
        if site is None and origin is not None:
            foreign = urlsplit(origin).netloc != request.headers.get("host")
        if foreign:
            raise Forbidden("This request comes from a page of another site.")
    refuse_foreign_names(request, settings)


def refuse_foreign_names(request: Request, settings: Settings) -> None:
    """Without keys, the service answers to names of this machine alone; raises Forbidden."""
    if settings.auth is None and not settings.requires_keys and not _is_local_name(request, settings):
        raise Forbidden(
            f"This service listens on {settings.host} and does not answer to the name {request.url.hostname}.",
            remedy="Use its address, or start it with --auth or --no-auth behind a proxy.",
        )


def _is_local_name(request: Request, settings: Settings) -> bool:
    name = request.url.hostname or ""
    if "." not in name and ":" not in name:
        return True  # a name without a dot cannot be a stranger's
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name in (settings.host, "localhost.localdomain")
