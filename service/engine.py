"""What the service asks of a job engine: durable tasks, each run at least once by one of many workers.

The service keeps its own truth in its own tables; an engine only remembers which task is to be run and who runs it.
Everything specific to one engine is in the module that implements this port (``engine_dbos``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

import sqlalchemy as sa

__all__ = ["Handler", "JobEngine", "Kind", "Running", "Task", "TaskState", "WorkerEngine"]


class Kind(StrEnum):
    """The kinds of task; a worker has one handler for each."""

    CONVERSION = "conversion"
    INSPECTION = "inspection"
    DELIVERY = "delivery"
    REGISTRATION = "registration"


class TaskState(StrEnum):
    """Where a task stands."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Task:
    """One thing to do: ``subject`` is handed to the handler of ``kind``, not before ``delay`` seconds have passed.

    ``id`` is chosen by the caller and never used twice; ``priority`` 1 goes first.
    """

    id: str
    kind: Kind
    subject: str
    priority: int = 100
    delay: float = 0.0


@dataclass(frozen=True)
class Running:
    """A task and the worker that took it, which may be dead."""

    id: str
    kind: Kind
    worker: str


Handler = Callable[[str], None]
"""Takes a task's subject; returning ends the task. It may be called again for the same task, also elsewhere."""


class JobEngine(Protocol):
    """The side of API and sweeper: any process with the database may hold one, without a worker."""

    def migrate(self) -> None:
        """The engine's own tables and queues are there."""

    def enqueue(self, connection: sa.Connection, task: Task) -> None:
        """The task will run if, and only if, the caller's transaction commits."""

    def cancel(self, task_id: str) -> None:
        """A queued task will not run; a running one is not stopped by this, its handler must notice by itself."""

    def states(self, task_ids: Sequence[str]) -> dict[str, TaskState]: ...

    def running(self) -> list[Running]:
        """Every task that some worker took and has not ended."""

    def requeue(self, task_id: str, kind: Kind) -> None:
        """The task is queued again, whoever ran it; call it only when that worker is known to be gone."""

    def forget(self, task_ids: Sequence[str]) -> None:
        """Nothing of these tasks remains; one that is still running ends first, and goes with ``forget_ended``."""

    def forget_ended(self, before: datetime) -> int:
        """Nothing remains of tasks that ended before then; how many there were, at most 1000."""

    def close(self) -> None: ...


class WorkerEngine(Protocol):
    """The side of one worker process."""

    def start(self, handlers: Mapping[Kind, Handler]) -> None:
        """Tasks are taken from the queues and handed to their handlers, on threads: one conversion at a time."""

    def stop(self, grace: float) -> None:
        """No further task is taken from now on; returns when the running handlers have, or after ``grace`` seconds."""
