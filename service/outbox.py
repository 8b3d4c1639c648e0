"""What is to be told to somebody else's server: kept in a table until it has arrived, tried for a day, then kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa
import structlog

from service import database as tables
from service import tally
from service.database import Database, now
from service.engine import JobEngine, Kind, Task, TaskState

__all__ = ["PAUSES", "REGISTRATIONS", "WEBHOOKS", "Box", "NotSent", "Outbox", "Sender", "post", "resend"]

PAUSES = (5, 60, 300, 1800, 7200, 18_000, 28_800, 28_800)
"""Seconds between tries: nine tries within about a day; then the message is a dead letter."""


@dataclass(frozen=True)
class Box:
    """The messages of one kind: their table, the task that tries one, and the count of tries."""

    table: sa.Table
    kind: Kind
    tries: str


WEBHOOKS = Box(tables.deliveries, Kind.DELIVERY, "webhook_tries")
REGISTRATIONS = Box(tables.registrations, Kind.REGISTRATION, "registration_tries")


class NotSent(Exception):
    """The message did not arrive: why, in a sentence that its owner may read."""


class Sender(Protocol):
    """Sends the message of a row; returns what to note in the row, or raises NotSent."""

    def __call__(self, row: sa.Row[Any], /) -> Mapping[str, Any]: ...


class Outbox:
    """The handler of one box's tasks: each call is one try of one message, and enqueues the next if it must."""

    def __init__(self, box: Box, database: Database, engine: JobEngine, send: Sender) -> None:
        self._box, self._columns = box, box.table.c
        self._database = database
        self._engine = engine
        self._send = send

    def __call__(self, message_id: str) -> None:
        with self._database.reading() as connection:
            query = sa.select(self._box.table).where(self._columns.id == message_id)
            row = connection.execute(query).one_or_none()
        if row is None or row.status != "pending":
            return
        tries = row.attempts + 1
        values: dict[str, Any] = {"attempts": tries, "last_error": None, "updated_at": now()}
        try:
            values |= self._send(row)
            values["status"] = "delivered"
        except NotSent as problem:
            values["last_error"] = str(problem)
            if tries > len(PAUSES):
                values["status"] = "dead"
        with self._database.writing() as connection:
            if "status" not in values:
                again = Task(f"{message_id}.{tries + 1}", self._box.kind, message_id, delay=PAUSES[tries - 1])
                self._engine.enqueue(connection, again)
            # a twin of this call, after a takeover, finds the number of tries changed and changes nothing
            same = (self._columns.id == message_id) & (self._columns.attempts == row.attempts)
            if connection.execute(sa.update(self._box.table).where(same).values(**values)).rowcount:
                tally.add(connection, {(self._box.tries, values.get("status", "failed")): 1})
        log = structlog.get_logger().bind(job=row.job_id, **{str(self._box.kind): message_id}, tries=tries)
        said = "delivered" if values.get("status") == "delivered" else "not delivered"
        log.info(said, reason=values["last_error"], status=values.get("status"))

    def reconcile(self) -> int:
        """Every message that is still to be sent is known to the engine; how many were not and are queued again."""
        pending = self._columns.status == "pending"
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(self._box.table).where(pending).limit(500)).all()
        tasks = {f"{row.id}.{row.attempts + 1}": row for row in rows}
        lost = 0
        for task_id, state in self._engine.states(list(tasks)).items():
            if state in (TaskState.QUEUED, TaskState.RUNNING):
                continue
            row = tasks[task_id]
            unchanged = pending & (self._columns.id == row.id) & (self._columns.attempts == row.attempts)
            with self._database.reading() as connection:
                if connection.execute(sa.select(self._columns.id).where(unchanged)).scalar() is None:
                    continue  # it was sent between the two looks
            self._engine.forget([task_id])
            with self._database.writing() as connection:
                self._engine.enqueue(connection, Task(task_id, self._box.kind, row.id))
            lost += 1
        return lost


def post(connection: sa.Connection, engine: JobEngine, box: Box, message_id: str, **values: Any) -> None:
    """The message is in the table and in the queue once this transaction commits."""
    at = now()
    row = {"id": message_id, "status": "pending", "created_at": at, "updated_at": at, **values}
    connection.execute(box.table.insert().values(**row))
    engine.enqueue(connection, Task(f"{message_id}.1", box.kind, message_id))


def resend(database: Database, engine: JobEngine, box: Box, message_id: str, owner: str | None) -> bool:
    """The message is tried once more, soon; whether there is such a message that is not waiting anyway."""
    known = box.table.c.id == message_id
    if owner is not None:
        known &= box.table.c.owner == owner
    with database.writing() as connection:
        row = connection.execute(sa.select(box.table).where(known).with_for_update()).one_or_none()
        if row is None or row.status == "pending":
            return False
        values = {"status": "pending", "updated_at": now()}
        connection.execute(sa.update(box.table).where(known).values(**values))
        engine.enqueue(connection, Task(f"{message_id}.{row.attempts + 1}", box.kind, message_id))
    return True
