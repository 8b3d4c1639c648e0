"""The engine port on DBOS: its tables live in our database, so that job row and task are one transaction."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import datetime

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions, WorkflowSerializationFormat

from service.database import Database
from service.engine import Handler, Kind, Running, Task, TaskState

__all__ = ["PROTOCOL", "DbosEngine", "DbosWorker"]

PROTOCOL = "zsq-jobs-1"
"""The application version of DBOS: raised when a worker cannot run what an older API enqueued, not at each deploy."""

APPLICATION = "zsq"
POLL_SECONDS = 0.5
CONCURRENCY = {Kind.CONVERSION: 1, Kind.INSPECTION: 1, Kind.DELIVERY: 4, Kind.REGISTRATION: 1}
"""Per worker process. DBOS keeps these with the queue, for all workers alike: more conversions are more processes."""

_STATES = {
    "ENQUEUED": TaskState.QUEUED,
    "DELAYED": TaskState.QUEUED,
    "PENDING": TaskState.RUNNING,
}
_ENDED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]


def _queue(kind: Kind) -> str:
    return f"zsq-{kind}"


def _workflow(kind: Kind) -> str:
    return f"zsq.{kind}"


class DbosEngine:
    """The engine seen from API and sweeper, through DBOS's public client only."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._client = DBOSClient(
            system_database_engine=database.engine,
            application_name=APPLICATION,
            lazy=True,
            retry_connection_errors=False,  # an unreachable database is an answer to a request, not a wait
        )

    def migrate(self) -> None:
        logging.getLogger("dbos").setLevel(logging.WARNING)
        DBOS.migrate(self._database.url)
        for kind in Kind:
            self._client.register_queue(
                _queue(kind), worker_concurrency=CONCURRENCY[kind], polling_interval_sec=POLL_SECONDS
            )

    def enqueue(self, connection: sa.Connection, task: Task) -> None:
        options: EnqueueOptions = {
            "workflow_name": _workflow(task.kind),
            "queue_name": _queue(task.kind),
            "workflow_id": task.id,
            "app_version": PROTOCOL,
            "priority": task.priority,
            "serialization_type": WorkflowSerializationFormat.PORTABLE,  # JSON: nothing is ever unpickled
        }
        if task.delay > 0:
            options["delay_seconds"] = task.delay
        self._client.enqueue_in_transaction(connection, options, task.subject)

    def cancel(self, task_id: str) -> None:
        self._client.cancel_workflow(task_id)

    def states(self, task_ids: Sequence[str]) -> dict[str, TaskState]:
        if not task_ids:
            return {}
        found = self._client.list_workflows(workflow_ids=list(task_ids), load_input=False, load_output=False)
        known = {each.workflow_id: _STATES.get(each.status, TaskState.ENDED) for each in found}
        return {task_id: known.get(task_id, TaskState.UNKNOWN) for task_id in task_ids}

    def running(self) -> list[Running]:
        names = {_workflow(kind): kind for kind in Kind}
        pending = self._client.list_workflows(
            name=list(names), status="PENDING", app_version=PROTOCOL, load_input=False, load_output=False
        )
        return [Running(each.workflow_id, names[each.name], each.executor_id or "") for each in pending]

    def requeue(self, task_id: str, kind: Kind) -> None:
        self._client.resume_workflow(task_id, queue_name=_queue(kind))

    def forget(self, task_ids: Sequence[str]) -> None:
        # a workflow that is deleted under its worker's hands ends there with a traceback
        idle = [task_id for task_id, state in self.states(task_ids).items() if state is not TaskState.RUNNING]
        if idle:
            self._client.delete_workflows(idle)

    def forget_ended(self, before: datetime) -> int:
        ended = self._client.list_workflows(
            status=_ENDED, completed_before=before.isoformat(), limit=1000, load_input=False, load_output=False
        )
        if ended:
            self.forget([each.workflow_id for each in ended])
        return len(ended)

    def close(self) -> None:
        self._client.destroy()


class DbosWorker:
    """The engine inside one worker process; DBOS allows one of them per process."""

    def __init__(self, database: Database, worker_id: str) -> None:
        logging.getLogger("dbos").setLevel(logging.WARNING)
        config: DBOSConfig = {
            "name": APPLICATION,
            "system_database_url": database.url,
            "system_database_engine": database.engine,
            "application_version": PROTOCOL,
            "executor_id": worker_id,
            "log_level": "WARNING",
            "use_listen_notify": False,
            "run_migrations": False,
        }
        DBOS(config=config)

    def start(self, handlers: Mapping[Kind, Handler]) -> None:
        for kind, handler in handlers.items():
            # an attempt that takes its worker with it is counted by the job's own strikes, not by DBOS
            DBOS.workflow(name=_workflow(kind), max_recovery_attempts=1_000_000)(_named(handler, kind))
        DBOS.listen_queues([_queue(kind) for kind in handlers])
        DBOS.launch()

    def stop(self, grace: float) -> None:
        DBOS.destroy(workflow_completion_timeout_sec=math.ceil(grace))


def _named(handler: Handler, kind: Kind) -> Handler:
    def run(subject: str) -> None:
        handler(subject)

    run.__qualname__ = run.__name__ = _workflow(kind)
    return run
