"""What a worker may write about a job: only as its newest attempt, and only while the job is still wanted.

The attempt's number is the fencing token. A worker that was cut off, declared dead and replaced finds that nothing it
says is taken any more, its result included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from service import database as tables
from service import tally
from service.announcements import announce
from service.database import now
from service.engine import Kind, Task, TaskState
from service.jobs import Jobs, add_event
from service.records import ACTIVE, JOB, Job, JobStatus, job_of
from service.storage import Stored

__all__ = ["Attempt", "Attempts", "Superseded"]


class Superseded(Exception):
    """The job was cancelled, deleted or taken over; this attempt has nothing more to say."""


@dataclass(frozen=True)
class Attempt:
    """One run of one job by one worker; ``checkpoints`` are store keys by stage and file name."""

    job: Job
    number: int
    checkpoints: Mapping[str, Mapping[str, str]]


class Attempts:
    """The jobs of one worker."""

    def __init__(self, jobs: Jobs, worker_id: str, max_attempts: int) -> None:
        self.jobs = jobs
        self.worker_id = worker_id
        self.max_attempts = max_attempts

    def begin(self, job_id: str) -> Attempt | None:
        """The job runs here under a new number; None if it is not wanted any more or has killed too many workers."""
        with self.jobs.database.writing() as connection:
            query = sa.select(tables.jobs).where(tables.jobs.c.id == job_id).with_for_update()
            row = connection.execute(query).one_or_none()
            if row is None or row.status not in ACTIVE:
                return None
            if row.strikes >= self.max_attempts:
                error = {
                    "kind": "WorkerLost",
                    "message": f"The conversion ended abruptly {row.strikes} times, on its own or with its worker.",
                }
                self._finish(connection, row.id, row.attempt, JobStatus.FAILED, {"error": error})
                return None
            number = row.attempt + 1
            values = {"status": JobStatus.RUNNING, "attempt": number, "strikes": row.strikes + 1}
            values |= {"worker": self.worker_id, "started_at": row.started_at or now(), "seconds_left": None}
            self._update(connection, row.id, row.attempt, values)
            tally.add(connection, {("attempts", ""): 1})
            add_event(connection, job_id, "started", {"attempt": number, "resumed": sorted(row.checkpoints)})
            query = sa.select(*JOB, tables.jobs.c.checkpoints).where(tables.jobs.c.id == job_id)
            current = connection.execute(query).one()
            return Attempt(job_of(current), number, current.checkpoints)

    def is_current(self, attempt: Attempt) -> bool:
        with self.jobs.database.reading() as connection:
            return connection.execute(sa.select(tables.jobs.c.id).where(_current(attempt))).scalar() is not None

    def confined(self, attempt: Attempt, isolation: Mapping[str, Any]) -> None:
        """The job says under which isolation it runs."""
        with self.jobs.database.writing() as connection:
            self._update(connection, attempt.job.id, attempt.number, {"isolation": dict(isolation)})

    def progress(self, attempt: Attempt, values: Mapping[str, Any], event: Mapping[str, Any]) -> None:
        with self.jobs.database.writing() as connection:
            self._update(connection, attempt.job.id, attempt.number, values)
            add_event(connection, attempt.job.id, "progress", event)

    def checkpoint(self, attempt: Attempt, stage: str, files: Mapping[str, str]) -> None:
        """A later attempt begins after this stage."""
        with self.jobs.database.writing() as connection:
            query = sa.select(tables.jobs.c.checkpoints).where(_current(attempt)).with_for_update()
            known = connection.execute(query).scalar()
            if known is None:
                raise Superseded
            self._update(connection, attempt.job.id, attempt.number, {"checkpoints": known | {stage: dict(files)}})
            add_event(connection, attempt.job.id, "checkpoint", {"stage": stage, "attempt": attempt.number})

    def succeed(self, attempt: Attempt, results: Mapping[str, Stored]) -> None:
        """The results are the job's, once and for all."""
        job_id = attempt.job.id
        with self.jobs.database.writing() as connection:
            values = {
                "artefacts": {name: stored.key for name, stored in results.items()},
                "sizes": {name: stored.size for name, stored in results.items()},
                "progress": 1.0,
                "stage_progress": 1.0,
                "seconds_left": 0.0,
            }
            self._finish(connection, job_id, attempt.number, JobStatus.SUCCEEDED, values)
            for stored in results.values():
                self.jobs.blobs.use(connection, job_id, stored.key, stored.size)

    def fail(self, attempt: Attempt, error: Mapping[str, Any]) -> None:
        with self.jobs.database.writing() as connection:
            self._finish(connection, attempt.job.id, attempt.number, JobStatus.FAILED, {"error": dict(error)})

    def interrupt(self, attempt: Attempt, reason: str) -> None:
        """The job waits again, and what happened is not held against it."""
        with self.jobs.database.writing() as connection:
            values = {"status": JobStatus.QUEUED, "strikes": tables.jobs.c.strikes - 1, "worker": None}
            self._update(connection, attempt.job.id, attempt.number, values)
            add_event(connection, attempt.job.id, "interrupted", {"attempt": attempt.number, "reason": reason})

    def forgive(self, job_id: str) -> None:
        """The start of the latest attempt is not held against the job: its worker, not the model, had a problem."""
        with self.jobs.database.writing() as connection:
            condition = (tables.jobs.c.id == job_id) & (tables.jobs.c.strikes > 0)
            connection.execute(sa.update(tables.jobs).where(condition).values(strikes=tables.jobs.c.strikes - 1))

    def worker_died(self, job_id: str, worker_id: str) -> None:
        """Of a job that was running on a dead worker: it waits again, with the strike that its start gave it."""
        with self.jobs.database.writing() as connection:
            condition = (
                (tables.jobs.c.id == job_id)
                & (tables.jobs.c.status == JobStatus.RUNNING)
                & (tables.jobs.c.worker == worker_id)
            )
            values = {"status": JobStatus.QUEUED, "worker": None, "revision": tables.jobs.c.revision + 1}
            if connection.execute(sa.update(tables.jobs).where(condition).values(**values)).rowcount:
                add_event(connection, job_id, "interrupted", {"reason": "the worker was lost"})
                tally.add(connection, {("takeovers", ""): 1})

    def reconcile(self) -> int:
        """Every job that should run is known to the engine; how many were not and have been enqueued again."""
        with self.jobs.database.reading() as connection:
            active = list(
                connection.execute(sa.select(tables.jobs.c.id).where(tables.jobs.c.status.in_(ACTIVE))).scalars()
            )
        engine, lost = self.jobs.engine, 0
        for start in range(0, len(active), 500):
            for job_id, state in engine.states(active[start : start + 500]).items():
                if state in (TaskState.QUEUED, TaskState.RUNNING):
                    continue
                with self.jobs.database.writing() as connection:
                    condition = (tables.jobs.c.id == job_id) & tables.jobs.c.status.in_(ACTIVE)
                    row = connection.execute(sa.select(tables.jobs).where(condition)).one_or_none()
                if row is None:  # it ended between the two looks
                    continue
                engine.forget([job_id])
                with self.jobs.database.writing() as connection:
                    engine.enqueue(connection, Task(job_id, Kind(row.kind), job_id, row.priority))
                lost += 1
        return lost

    def _finish(
        self, connection: sa.Connection, job_id: str, number: int, status: JobStatus, values: Mapping[str, Any]
    ) -> None:
        self._update(connection, job_id, number, {**values, "status": status, "finished_at": now(), "worker": None})
        row = connection.execute(sa.select(tables.jobs).where(tables.jobs.c.id == job_id)).one()
        add_event(connection, job_id, status, {"error": row.error} if row.error else {})
        tally.add(connection, tally.of_ended(connection, row))
        job = job_of(connection.execute(sa.select(*JOB).where(tables.jobs.c.id == job_id)).one())
        announce(connection, self.jobs.engine, self.jobs.settings, job)

    def _update(self, connection: sa.Connection, job_id: str, number: int, values: Mapping[str, Any]) -> None:
        condition = (tables.jobs.c.id == job_id) & (tables.jobs.c.attempt == number) & tables.jobs.c.status.in_(ACTIVE)
        changes = {**values, "revision": tables.jobs.c.revision + 1}
        if connection.execute(sa.update(tables.jobs).where(condition).values(**changes)).rowcount == 0:
            raise Superseded


def _current(attempt: Attempt) -> sa.ColumnElement[bool]:
    same = (tables.jobs.c.id == attempt.job.id) & (tables.jobs.c.attempt == attempt.number)
    return same & (tables.jobs.c.status == JobStatus.RUNNING)
