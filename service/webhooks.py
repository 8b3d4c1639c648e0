"""Messages to the owner's own server when a job ends: Standard Webhooks, tried for a day, then kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import sqlalchemy as sa
import structlog
from standardwebhooks.webhooks import Webhook

from service import database as tables
from service import tally
from service.addresses import PinnedTransport, Refused, check_url
from service.database import Database, now
from service.engine import JobEngine, Kind, Task, TaskState
from service.settings import Settings
from service.signing import Secrets

__all__ = ["PAUSES", "Deliveries", "resend"]

PAUSES = (5, 60, 300, 1800, 7200, 18_000, 28_800, 28_800)
"""Seconds between tries: nine tries within about a day; then the message is a dead letter."""

TIMEOUT = 15.0


class Deliveries:
    """The handler of deliveries: each call is one try of one message, and enqueues the next if it must."""

    def __init__(self, database: Database, engine: JobEngine, settings: Settings) -> None:
        self._database = database
        self._engine = engine
        self._settings = settings
        self._secrets = Secrets(database, settings)

    def __call__(self, delivery_id: str) -> None:
        with self._database.reading() as connection:
            query = sa.select(tables.deliveries).where(tables.deliveries.c.id == delivery_id)
            row = connection.execute(query).one_or_none()
        if row is None or row.status != "pending":
            return
        problem = self._send(row.url, delivery_id, row.body, row.owner)
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
            if connection.execute(sa.update(tables.deliveries).where(same).values(**values)).rowcount:
                tally.add(connection, {("webhook_tries", values.get("status", "failed")): 1})
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

    def _send(self, url: str, delivery_id: str, body: str, owner: str) -> str | None:
        """None when the receiver took the message, else why not, in a sentence without anything of its answer."""
        try:
            check_url(url, self._settings)
            with (
                PinnedTransport(self._settings.webhook_allow_private) as transport,
                httpx2.Client(transport=transport, timeout=TIMEOUT, follow_redirects=False) as client,
                client.stream(
                    "POST", url, content=body.encode(), headers=self._headers(delivery_id, body, owner)
                ) as answer,
            ):
                return None if answer.is_success else f"The receiver answered {answer.status_code}."
        except Refused as problem:
            return str(problem)
        except httpx2.TransportError as problem:
            return f"The receiver cannot be reached: {_words(problem)}."
        except Exception:  # a message that cannot be sent is a failed try like others, not one without end
            structlog.get_logger().exception("a message could not be sent", delivery=delivery_id)
            return "The service failed at this message; its log says why."

    def _headers(self, delivery_id: str, body: str, owner: str) -> Mapping[str, str]:
        at = now()
        signatures = [Webhook(secret).sign(delivery_id, at, body) for secret in self._secrets.of(owner)]
        return {
            "content-type": "application/json",
            "user-agent": "zsq",
            "webhook-id": delivery_id,  # the same at every try, so that a receiver can tell a repetition
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(signatures),  # by the old secret too for a day after a change
        }


def resend(database: Database, engine: JobEngine, delivery_id: str, owner: str | None) -> bool:
    """The message is tried once more, soon; whether there is such a message that is not waiting anyway."""
    known = tables.deliveries.c.id == delivery_id
    if owner is not None:
        known &= tables.deliveries.c.owner == owner
    with database.writing() as connection:
        row = connection.execute(sa.select(tables.deliveries).where(known).with_for_update()).one_or_none()
        if row is None or row.status == "pending":
            return False
        values = {"status": "pending", "updated_at": now()}
        connection.execute(sa.update(tables.deliveries).where(known).values(**values))
        engine.enqueue(connection, Task(f"{delivery_id}.{row.attempts + 1}", Kind.DELIVERY, delivery_id))
    return True


def _words(problem: Exception) -> str:
    """A library's name for what went wrong, as words: connect timeout."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(problem).__name__).strip()
