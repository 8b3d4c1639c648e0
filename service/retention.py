"""What the service keeps, and for how long; every call may be repeated, interrupted, and made by many at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path

import sqlalchemy as sa
import structlog

from service import database as tables
from service.database import now
from service.jobs import Jobs
from service.records import ACTIVE
from service.settings import Settings

__all__ = ["Retention", "remove_dead_folders"]

BATCH = 200
ABANDONED = timedelta(days=1)  # uploads and objects that no job claimed
IDEMPOTENCY = timedelta(days=2)
ENDED_TASKS = timedelta(hours=1)


class Retention:
    """Old jobs go with all they own; so does what crashes left behind."""

    def __init__(self, jobs: Jobs, settings: Settings) -> None:
        self._jobs = jobs
        self._settings = settings

    def run(self) -> None:
        removed = self.expire() + self.shrink()
        collected = self._jobs.blobs.collect(self._jobs.blobs.unused())
        with self._jobs.database.writing() as connection:
            connection.execute(tables.idempotency.delete().where(tables.idempotency.c.at < now() - IDEMPOTENCY))
            connection.execute(tables.submissions.delete().where(tables.submissions.c.at < now() - IDEMPOTENCY))
        forgotten = self._jobs.engine.forget_ended(now() - ENDED_TASKS)
        if removed or collected:
            structlog.get_logger().info("retention", jobs=removed, objects=collected, tasks=forgotten)

    def expire(self) -> int:
        """No finished job is older than ``keep_days``; how many were."""
        condition = tables.jobs.c.finished_at < now() - timedelta(days=self._settings.keep_days)
        removed = 0
        while batch := self._finished(condition, BATCH):
            self._jobs.remove(batch)
            removed += len(batch)
        return removed

    def shrink(self) -> int:
        """Stored objects are within ``keep_bytes`` as far as finished jobs can make room.

        They go, the oldest first, from owners who hold more than an equal part of it: nobody's results make way for
        another's while that other holds more.
        """
        removed = 0
        while self._jobs.blobs.total() > self._settings.keep_bytes:
            oldest = self._of_the_heaviest()
            if not oldest:
                break
            self._jobs.remove(oldest)
            removed += 1
        return removed

    def _of_the_heaviest(self) -> list[str]:
        """The oldest finished job of whoever holds most and has one, among those above their part."""
        jobs, uses, blobs = tables.jobs.c, tables.blob_uses.c, tables.blobs.c
        joined = tables.blob_uses.join(tables.jobs, uses.job_id == jobs.id).join(tables.blobs, uses.key == blobs.key)
        held = sa.select(jobs.owner, blobs.key, blobs.size).select_from(joined).distinct().subquery()
        query = sa.select(held.c.owner, sa.func.sum(held.c.size).label("size")).group_by(held.c.owner)
        with self._jobs.database.reading() as connection:
            owners = connection.execute(query.order_by(sa.desc("size"))).all()
        for owner, size in owners:
            if size * len(owners) <= self._settings.keep_bytes:
                break
            if oldest := self._finished(jobs.owner == owner, 1):
                return oldest
        return []

    def sweep_store(self) -> int:
        """Objects that no table knows are gone; slow, for once a day. How many there were."""
        artefacts, before = self._jobs.artefacts, now() - ABANDONED
        removed = artefacts.sweep_staging(before)
        removed += self._sweep("sha256", lambda key: sa.select(tables.blobs.c.key).where(tables.blobs.c.key == key))
        removed += self._sweep(
            "checkpoints",
            lambda key: sa.select(tables.jobs.c.id).where(
                (tables.jobs.c.id == key.split("/")[1]) & tables.jobs.c.status.in_(ACTIVE)
            ),
        )
        return removed

    def _sweep(self, prefix: str, claim: Callable[[str], sa.Select[tuple[str]]]) -> int:
        removed = 0
        for entry in self._jobs.artefacts.list(prefix):
            if entry.modified < now() - ABANDONED:
                with self._jobs.database.reading() as connection:
                    claimed = connection.execute(claim(entry.key)).first()
                if claimed is None:
                    self._jobs.artefacts.delete_now(entry.key)
                    removed += 1
        return removed

    def _finished(self, condition: sa.ColumnElement[bool], limit: int) -> list[str]:
        query = (
            sa.select(tables.jobs.c.id)
            .where(condition & tables.jobs.c.status.not_in(ACTIVE))
            .order_by(tables.jobs.c.finished_at)
            .limit(limit)
        )
        with self._jobs.database.reading() as connection:
            return list(connection.execute(query).scalars())


def remove_dead_folders(folder: Path, own: str, if_dead: Callable[[str], AbstractContextManager[bool]]) -> None:
    """Below ``folder`` only workers that may live have a folder of their name."""
    for each in folder.iterdir() if folder.is_dir() else ():
        if each.name != own:
            with if_dead(each.name) as dead:
                if dead:
                    shutil.rmtree(each, ignore_errors=True)
