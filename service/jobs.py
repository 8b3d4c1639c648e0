"""Jobs as their owners see them: submitted, watched, cancelled, deleted.

The tables are the truth; the engine only executes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from importlib.metadata import version
from typing import Any, Self

import sqlalchemy as sa

from service import database as tables
from service import tally
from service.announcements import announce
from service.blobs import Blobs
from service.database import Database, now
from service.engine import JobEngine, Kind, Task
from service.engine_dbos import DbosEngine
from service.liveness import living
from service.outbox import REGISTRATIONS, WEBHOOKS
from service.records import (
    ACTIVE,
    EVENT,
    JOB,
    Delivery,
    IdempotencyConflict,
    Job,
    JobEvent,
    JobStatus,
    NewJob,
    Page,
    QueueFull,
    Quota,
    QuotaExceeded,
    Registration,
    Statistics,
    Worker,
    job_of,
)
from service.settings import Settings
from service.storage import Artefacts

__all__ = [
    "Delivery",
    "IdempotencyConflict",
    "Job",
    "JobEvent",
    "JobStatus",
    "Jobs",
    "NewJob",
    "Page",
    "QueueFull",
    "Quota",
    "QuotaExceeded",
    "Statistics",
    "Worker",
]

VERSION = version("zsq")
INSPECTION = str(Kind.INSPECTION)
ASKED_TO_LOOK = {"kind": INSPECTION}  # among the options of a result's name: no conversion has them
SEEN = timedelta(seconds=15)  # a worker that has said nothing for so long is not counted, even if it lives


class Jobs:
    """Synchronous and safe to call from many threads."""

    def __init__(self, database: Database, artefacts: Artefacts, engine: JobEngine, settings: Settings) -> None:
        self.database = database
        self.artefacts = artefacts
        self.engine = engine
        self.blobs = Blobs(database, artefacts)
        self.settings = settings

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Jobs over the configured database and store, whose tables exist after the call."""
        database = Database(settings)
        database.migrate()
        engine = DbosEngine(database)
        engine.migrate()
        return cls(database, Artefacts(settings.store_url), engine, settings)

    def close(self) -> None:
        self.engine.close()
        self.database.dispose()

    def submit(self, new: NewJob) -> Job:
        """The job is in the table and in the queue, both or neither; or a known result is given at once.

        Raises IdempotencyConflict, QuotaExceeded, QueueFull, and storage.Missing if the model is no longer stored.
        """
        row = _row_of(new)
        twin = None if new.fresh else self._intact_twin(new.owner, row["result_key"])
        with self.database.writing() as connection:
            self.database.lock_owner(connection, new.owner)
            if (earlier := _same_request(connection, new.owner, new.idempotency_key, new.fingerprint)) is not None:
                return earlier
            _check_quota(connection, new.owner, new.quota, new.model.size)
            reused = None if twin is None else _still_succeeded(connection, twin.id)
            if reused is None:
                self._check_queue(connection)
            else:
                finished = now()
                row |= {"status": JobStatus.SUCCEEDED, "progress": 1.0, "artefacts": reused.artefacts}
                row |= {"sizes": reused.sizes, "isolation": reused.isolation, "reused_from": reused.id}
                row |= {"started_at": finished, "finished_at": finished, "stage": reused.stage, "stage_progress": 1.0}
            connection.execute(tables.jobs.insert().values(**row))
            connection.execute(tables.submissions.insert().values(owner=new.owner, at=now()))
            self.blobs.use(connection, row["id"], new.model.key, new.model.size)
            add_event(connection, row["id"], "queued", {})
            if new.idempotency_key is not None:
                entry = {"owner": new.owner, "key": new.idempotency_key, "fingerprint": new.fingerprint}
                connection.execute(tables.idempotency.insert().values(**entry, job_id=row["id"], at=now()))
            if reused is None:
                self.engine.enqueue(connection, Task(row["id"], Kind(new.kind), row["id"], new.priority))
            else:
                for name, key in reused.artefacts.items():
                    self.blobs.use(connection, row["id"], key, reused.sizes[name])
                add_event(connection, row["id"], "succeeded", {"reused_from": reused.id})
                if new.kind != INSPECTION:
                    tally.add(connection, {("conversions", "reused"): 1})
            job = _one(connection, tables.jobs.c.id == row["id"])
            if reused is not None:
                announce(connection, self.engine, self.settings, job)
            return job

    def check(self, owner: str, quota: Quota, size: int, idempotency_key: str | None) -> None:
        """A submission of so many bytes may be read; what is refused here spares its body.

        Raises QuotaExceeded, QueueFull. A repetition of an earlier request is always read: it only asks again.
        """
        with self.database.reading() as connection:
            if idempotency_key is not None and _entry(connection, owner, idempotency_key) is not None:
                return
            _check_quota(connection, owner, quota, size)

    def _intact_twin(self, owner: str, key: str) -> Job | None:
        """A succeeded job with the same result whose files are all in the store, with the bytes they had."""
        with self.database.reading() as connection:
            twin = _finished_twin(connection, owner, key)
        if twin is None or not all(map(self.artefacts.is_intact, twin.artefacts.values())):
            return None
        return twin

    def _check_queue(self, connection: sa.Connection) -> None:
        waiting = sa.select(sa.func.count()).where(tables.jobs.c.status == JobStatus.QUEUED)
        if (connection.execute(waiting).scalar() or 0) >= self.settings.queue_limit:
            raise QueueFull(retry_after=30)

    def get(self, job_id: str, owner: str | None) -> Job | None:
        """The job if it is this owner's; ``None`` as owner sees all."""
        with self.database.reading() as connection:
            row = connection.execute(_job(owner is not None), {"id": job_id, "owner": owner}).one_or_none()
        return None if row is None else job_of(row)

    def list(
        self, owner: str | None, cursor: str | None = None, limit: int = 50, status: JobStatus | None = None
    ) -> Page:
        """Jobs newest first; raises ValueError on a cursor that was not given out here."""
        number = None if cursor is None else _number_of(cursor)
        query = _page(owner is not None, status is not None, number is not None)
        given = {"owner": owner, "status": status, "number": number, "limit": limit + 1}
        with self.database.reading() as connection:
            rows = connection.execute(query, given).all()
        more = len(rows) > limit
        rows = rows[:limit]
        return Page(tuple(map(job_of, rows)), _cursor_of(rows[-1].number) if more else None)

    def events(self, job_id: str, after: int = 0, limit: int = 500) -> Sequence[JobEvent]:
        """What happened to the job since the event ``after``, in order."""
        with self.database.reading() as connection:
            return _events(connection, job_id, after, limit)

    def news(self, job_id: str, after: int, limit: int) -> tuple[bool, Sequence[JobEvent]]:
        """Whether the job has ended, and then what happened: in this order, so that the last word is not missed."""
        with self.database.reading() as connection:
            status = connection.execute(STATUS, {"id": job_id}).scalar()
            return status not in ACTIVE, _events(connection, job_id, after, limit)

    def cancel(self, job_id: str, owner: str | None) -> Job | None:
        """The job will not run on, and a running child is killed within two seconds; a finished job stays as it is."""
        with self.database.writing() as connection:
            query = sa.select(*JOB).where(_owned(job_id, owner)).with_for_update()
            row = connection.execute(query).one_or_none()
            if row is None or row.status not in ACTIVE:
                return None if row is None else job_of(row)
            values = {"status": JobStatus.CANCELLED, "finished_at": now(), "revision": row.revision + 1}
            connection.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job_id).values(**values))
            add_event(connection, job_id, "cancelled", {})
            if row.kind != INSPECTION:
                tally.add(connection, {("conversions", "cancelled"): 1})
            job = _one(connection, tables.jobs.c.id == job_id)
            announce(connection, self.engine, self.settings, job)
        if row.status == JobStatus.QUEUED:  # a running one ends by itself when its worker notices
            self.engine.cancel(job_id)
        return job

    def delete(self, job_id: str, owner: str | None) -> bool:
        """Nothing of the job remains, a running child included; whether there was such a job."""
        cancelled = self.cancel(job_id, owner)
        if cancelled is None:
            return False
        self.remove([job_id])
        return True

    def remove(self, job_ids: Sequence[str]) -> None:
        """Nothing of these jobs, none of which is active, remains in tables, engine and store."""
        with self.database.writing() as connection:
            keys = self.blobs.used_by(connection, job_ids)
            for box in (WEBHOOKS, REGISTRATIONS):
                connection.execute(box.table.delete().where(box.table.c.job_id.in_(job_ids)))
            connection.execute(tables.jobs.delete().where(tables.jobs.c.id.in_(job_ids)))
        self.engine.forget(job_ids)  # what still runs of them is told by its worker first, and goes with what has ended
        self.blobs.collect(keys)

    def deliveries(self, job_id: str, owner: str | None) -> Sequence[Delivery]:
        """The webhook messages of a job, dead letters among them."""
        query = sa.select(tables.deliveries).where(tables.deliveries.c.job_id == job_id)
        if owner is not None:
            query = query.where(tables.deliveries.c.owner == owner)
        with self.database.reading() as connection:
            rows = connection.execute(query.order_by(tables.deliveries.c.created_at)).all()
        return [Delivery(**{name: row._mapping[name] for name in Delivery.__dataclass_fields__}) for row in rows]

    def all_deliveries(self, owner: str | None, status: str | None, limit: int) -> Sequence[Delivery]:
        """The webhook messages of an owner, or of all, the newest first; of one status only, if it is given."""
        query = sa.select(tables.deliveries).order_by(tables.deliveries.c.created_at.desc()).limit(limit)
        if owner is not None:
            query = query.where(tables.deliveries.c.owner == owner)
        if status is not None:
            query = query.where(tables.deliveries.c.status == status)
        with self.database.reading() as connection:
            rows = connection.execute(query).all()
        return [Delivery(**{name: row._mapping[name] for name in Delivery.__dataclass_fields__}) for row in rows]

    def registrations(self, status: str | None, limit: int) -> Sequence[Registration]:
        """What is told to MLflow, the newest first; of one status only, if it is given."""
        query = sa.select(tables.registrations).order_by(tables.registrations.c.created_at.desc()).limit(limit)
        if status is not None:
            query = query.where(tables.registrations.c.status == status)
        with self.database.reading() as connection:
            return [Registration(**row._mapping) for row in connection.execute(query)]

    def statistics(self) -> Statistics:
        """Queue, workers and storage, counted now."""
        with self.database.reading() as connection:
            grouped = sa.select(tables.jobs.c.status, sa.func.count()).group_by(tables.jobs.c.status)
            counts = {JobStatus(status): count for status, count in connection.execute(grouped)}
            waiting = sa.select(sa.func.min(tables.jobs.c.created_at)).where(tables.jobs.c.status == JobStatus.QUEUED)
            oldest = connection.execute(waiting).scalar()
            seen = sa.select(tables.workers).where(tables.workers.c.seen_at > now() - SEEN)
            workers = [Worker(**row._mapping) for row in connection.execute(seen)]
            alive = living(self.settings, connection, [each.id for each in workers])
            stored = connection.execute(sa.select(sa.func.sum(tables.blobs.c.size))).scalar() or 0
            dead_deliveries, dead_registrations = (
                connection.execute(sa.select(sa.func.count()).where(box.table.c.status == "dead")).scalar() or 0
                for box in (WEBHOOKS, REGISTRATIONS)
            )
        return Statistics(
            queued=counts.get(JobStatus.QUEUED, 0),
            running=counts.get(JobStatus.RUNNING, 0),
            oldest_queued_seconds=0.0 if oldest is None else max(0.0, (now() - oldest).total_seconds()),
            by_status={status: counts.get(status, 0) for status in JobStatus},
            workers=tuple(each for each in workers if each.id in alive),
            stored_bytes=int(stored),
            dead_deliveries=dead_deliveries,
            dead_registrations=dead_registrations,
        )


# Statements that are executed all the time are built once: building one costs as much as executing it.

STATUS = sa.select(tables.jobs.c.status).where(tables.jobs.c.id == sa.bindparam("id"))
EVENTS = (
    sa.select(*EVENT)
    .where(tables.events.c.job_id == sa.bindparam("id"), tables.events.c.id > sa.bindparam("after"))
    .order_by(tables.events.c.id)
    .limit(sa.bindparam("limit"))
)


@cache
def _job(of_owner: bool) -> sa.Select[Any]:
    query = sa.select(*JOB).where(tables.jobs.c.id == sa.bindparam("id"))
    return query.where(tables.jobs.c.owner == sa.bindparam("owner")) if of_owner else query


@cache
def _page(of_owner: bool, of_status: bool, below: bool) -> sa.Select[Any]:
    number = tables.jobs.c.number
    query = sa.select(*JOB, number).order_by(number.desc()).limit(sa.bindparam("limit"))
    query = query.where(tables.jobs.c.kind != INSPECTION)
    if of_owner:
        query = query.where(tables.jobs.c.owner == sa.bindparam("owner"))
    if of_status:
        query = query.where(tables.jobs.c.status == sa.bindparam("status"))
    if below:
        query = query.where(number < sa.bindparam("number"))
    return query


def _events(connection: sa.Connection, job_id: str, after: int, limit: int) -> list[JobEvent]:
    found = connection.execute(EVENTS, {"id": job_id, "after": after, "limit": limit})
    return [JobEvent(*row) for row in found]


def result_key(model_sha256: str, options: Mapping[str, Any]) -> str:
    """One name for "this file, these options, this version of zsq": equal names have equal results."""
    facts = json.dumps([model_sha256, dict(options), VERSION], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(facts.encode()).hexdigest()


def add_event(connection: sa.Connection, job_id: str, kind: str, data: Mapping[str, Any]) -> None:
    connection.execute(tables.events.insert().values(job_id=job_id, at=now(), kind=kind, data=dict(data)))


def _row_of(new: NewJob) -> dict[str, Any]:
    return {
        "id": secrets.token_hex(16),
        "owner": new.owner,
        "status": JobStatus.QUEUED,
        "options": dict(new.options),
        "model_name": new.model_name,
        "model_key": new.model.key,
        "model_sha256": new.model.sha256,
        "model_bytes": new.model.size,
        "archive": new.archive,
        "result_key": result_key(
            new.model.sha256, dict(new.options) | ASKED_TO_LOOK if new.kind == INSPECTION else new.options
        ),
        "kind": new.kind,
        "priority": new.priority,
        "webhook": new.webhook,
        "created_at": now(),
    }


def _one(connection: sa.Connection, condition: sa.ColumnElement[bool]) -> Job:
    return job_of(connection.execute(sa.select(*JOB).where(condition)).one())


def _owned(job_id: str, owner: str | None) -> sa.ColumnElement[bool]:
    found = tables.jobs.c.id == job_id
    return found if owner is None else found & (tables.jobs.c.owner == owner)


def _entry(connection: sa.Connection, owner: str, idempotency_key: str) -> sa.Row[Any] | None:
    known = (tables.idempotency.c.owner == owner) & (tables.idempotency.c.key == idempotency_key)
    return connection.execute(sa.select(tables.idempotency).where(known)).one_or_none()


def _same_request(connection: sa.Connection, owner: str, idempotency_key: str | None, fingerprint: str) -> Job | None:
    entry = None if idempotency_key is None else _entry(connection, owner, idempotency_key)
    if entry is None:
        return None
    if entry.fingerprint != fingerprint:
        raise IdempotencyConflict("This idempotency key was used with another request.")
    return _one(connection, tables.jobs.c.id == entry.job_id)


def _check_quota(connection: sa.Connection, owner: str, quota: Quota, size: int) -> None:
    own = tables.jobs.c.owner == owner
    if quota.active is not None:
        active = sa.select(sa.func.count()).where(own, tables.jobs.c.status.in_(ACTIVE))
        if (connection.execute(active).scalar() or 0) >= quota.active:
            raise QuotaExceeded("active", quota.active, retry_after=30)
    if quota.per_day is not None:
        submitted = tables.submissions.c
        recent = (submitted.owner == owner) & (submitted.at > now() - timedelta(days=1))
        today = sa.select(sa.func.count()).where(recent)  # what was deleted since counts too
        if (connection.execute(today).scalar() or 0) >= quota.per_day:
            raise QuotaExceeded("per_day", quota.per_day, retry_after=3600)
    if quota.stored_bytes is not None:
        own_keys = sa.select(tables.blob_uses.c.key).join(tables.jobs).where(own)
        used = sa.select(sa.func.sum(tables.blobs.c.size)).where(tables.blobs.c.key.in_(own_keys))
        if (connection.execute(used).scalar() or 0) + size > quota.stored_bytes:
            raise QuotaExceeded("stored_bytes", quota.stored_bytes, retry_after=None)


def _finished_twin(connection: sa.Connection, owner: str, key: str) -> Job | None:
    """A succeeded job of the same owner with the same result; others' results stay their secret."""
    condition = (
        (tables.jobs.c.owner == owner)
        & (tables.jobs.c.result_key == key)
        & (tables.jobs.c.status == JobStatus.SUCCEEDED)
    )
    query = sa.select(*JOB).where(condition).order_by(tables.jobs.c.number.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    return None if row is None else job_of(row)


def _still_succeeded(connection: sa.Connection, job_id: str) -> Job | None:
    condition = (tables.jobs.c.id == job_id) & (tables.jobs.c.status == JobStatus.SUCCEEDED)
    row = connection.execute(sa.select(*JOB).where(condition)).one_or_none()
    return None if row is None else job_of(row)


def _cursor_of(number: int) -> str:
    return base64.urlsafe_b64encode(str(number).encode()).decode().rstrip("=")


def _number_of(cursor: str) -> int:
    try:
        number = int(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError) as problem:
        raise ValueError("The cursor is not one of ours.") from problem
    if not 0 <= number < 2**63:  # what a column holds
        raise ValueError("The cursor is not one of ours.")
    return number
