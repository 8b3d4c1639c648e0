"""Messages to the owner's own server when a job ends: Standard Webhooks, to public addresses only, tried for a day."""

from __future__ import annotations

import base64
import ipaddress
import secrets as randomness
import socket
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2
import sqlalchemy as sa
import structlog
from standardwebhooks.webhooks import Webhook

from service import database as tables
from service.database import Database, now
from service.engine import JobEngine, Kind, Task, TaskState
from service.settings import Settings

__all__ = ["PAUSES", "Deliveries", "PinnedTransport", "Refused", "check_url", "signing_secret"]

PAUSES = (5, 60, 300, 1800, 7200, 18_000, 28_800, 28_800)
"""Seconds between tries: nine tries within about a day; then the message is a dead letter."""

TIMEOUT = 15.0
PORTS = {"https": 443, "http": 80}
SECRET_NAME = "webhook"


class Refused(Exception):
    """The service does not send there; the message says why."""


def check_url(url: str, settings: Settings) -> None:
    """A message may be sent there as far as the text shows; names are resolved when it is sent. Raises Refused."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as problem:
        raise Refused(f"The webhook is not a URL: {problem}.") from problem
    schemes = ("https", "http") if settings.webhook_allow_http else ("https",)
    if parts.scheme not in schemes or not parts.hostname:
        raise Refused(f"The webhook must be {' or '.join(schemes)}://HOST/...")
    if parts.username is not None or parts.password is not None:
        raise Refused("The webhook must not carry a user name or password.")
    try:
        address = ipaddress.ip_address(parts.hostname)
    except ValueError:
        return
    _check_address(address, settings.webhook_allow_private)


def _check_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address, allow_private: bool) -> None:
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None) or address
    public = address.is_global and inner.is_global and not inner.is_multicast
    if not public and not allow_private:
        raise Refused("The webhook leads to an address that is not public.")


class PinnedTransport(httpx2.BaseTransport):
    """Resolves the name once, refuses unless every address is public, and connects to the address that was checked.

    A name that resolves to something else a moment later (rebinding) makes no difference; certificates are checked
    against the name.
    """

    def __init__(self, allow_private: bool = False) -> None:
        self._allow_private = allow_private
        self._inner = httpx2.HTTPTransport(verify=ssl.create_default_context(), trust_env=False)  # no proxy either

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        host = request.url.host
        port = request.url.port or PORTS[request.url.scheme]
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as problem:
            raise httpx2.ConnectError(f"{host} cannot be resolved: {problem}") from problem
        addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        for address in addresses:
            _check_address(address, self._allow_private)
        headers = request.headers.copy()  # Host keeps the name
        extensions = {**request.extensions, "sni_hostname": host}
        pinned = request.url.copy_with(host=str(addresses[0]))
        return self._inner.handle_request(
            httpx2.Request(request.method, pinned, headers=headers, stream=request.stream, extensions=extensions)
        )

    def close(self) -> None:
        self._inner.close()


def signing_secret(database: Database, settings: Settings) -> str:
    """The secret that receivers check signatures with: the configured one, or one made once and kept."""
    if settings.webhook_secret is not None:
        return settings.webhook_secret
    query = sa.select(tables.secrets.c.value).where(tables.secrets.c.name == SECRET_NAME)
    with database.writing() as connection:
        database.lock_owner(connection, SECRET_NAME)
        known = connection.execute(query).scalar()
        if known is None:
            known = "whsec_" + base64.b64encode(randomness.token_bytes(32)).decode()
            connection.execute(tables.secrets.insert().values(name=SECRET_NAME, value=known))
    return str(known)


class Deliveries:
    """The handler of deliveries: each call is one try of one message, and enqueues the next if it must."""

    def __init__(self, database: Database, engine: JobEngine, settings: Settings) -> None:
        self._database = database
        self._engine = engine
        self._settings = settings
        self._webhook = Webhook(signing_secret(database, settings))

    def __call__(self, delivery_id: str) -> None:
        with self._database.reading() as connection:
            query = sa.select(tables.deliveries).where(tables.deliveries.c.id == delivery_id)
            row = connection.execute(query).one_or_none()
        if row is None or row.status != "pending":
            return
        problem = self._send(row.url, delivery_id, row.body)
        tries = row.attempts + 1
        log = structlog.get_logger().bind(job=row.job_id, delivery=delivery_id, tries=tries)
        values: dict[str, Any] = {"attempts": tries, "last_error": problem, "updated_at": now()}
        with self._database.writing() as connection:
            if problem is None:
                values["status"] = "delivered"
            elif tries > len(PAUSES):
                values["status"] = "dead"
            else:
                again = Task(f"{delivery_id}.{tries + 1}", Kind.DELIVERY, delivery_id, delay=PAUSES[tries - 1])
                self._engine.enqueue(connection, again)
            # a twin of this call, after a takeover, finds the number of tries changed and changes nothing
            same = (tables.deliveries.c.id == delivery_id) & (tables.deliveries.c.attempts == row.attempts)
            connection.execute(sa.update(tables.deliveries).where(same).values(**values))
        log.info("webhook sent" if problem is None else "webhook failed", reason=problem, status=values.get("status"))

    def reconcile(self) -> int:
        """Every message that is still to be sent is known to the engine; how many were not and are queued again."""
        pending = tables.deliveries.c.status == "pending"
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(tables.deliveries).where(pending).limit(500)).all()
        tasks = {f"{row.id}.{row.attempts + 1}": row for row in rows}
        lost = 0
        for task_id, state in self._engine.states(list(tasks)).items():
            if state in (TaskState.QUEUED, TaskState.RUNNING):
                continue
            row = tasks[task_id]
            unchanged = pending & (tables.deliveries.c.id == row.id) & (tables.deliveries.c.attempts == row.attempts)
            with self._database.reading() as connection:
                if connection.execute(sa.select(tables.deliveries.c.id).where(unchanged)).scalar() is None:
                    continue  # it was sent between the two looks
            self._engine.forget([task_id])
            with self._database.writing() as connection:
                self._engine.enqueue(connection, Task(task_id, Kind.DELIVERY, row.id))
            lost += 1
        return lost

    def _send(self, url: str, delivery_id: str, body: str) -> str | None:
        """None when the receiver took the message, else why not, in a sentence without anything of its answer."""
        try:
            check_url(url, self._settings)
            with (
                PinnedTransport(self._settings.webhook_allow_private) as transport,
                httpx2.Client(transport=transport, timeout=TIMEOUT, follow_redirects=False) as client,
                client.stream("POST", url, content=body.encode(), headers=self._headers(delivery_id, body)) as answer,
            ):
                return None if answer.is_success else f"The receiver answered {answer.status_code}."
        except Refused as problem:
            return str(problem)
        except httpx2.TransportError as problem:
            return f"The receiver cannot be reached: {type(problem).__name__}."

    def _headers(self, delivery_id: str, body: str) -> Mapping[str, str]:
        at = now()
        return {
            "content-type": "application/json",
            "user-agent": "zsq",
            "webhook-id": delivery_id,  # the same at every try, so that a receiver can tell a repetition
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": self._webhook.sign(delivery_id, at, body),
        }
