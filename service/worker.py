"""One worker process: takes jobs, lives visibly, buries the dead, and leaves without losing anything."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import psutil
import sqlalchemy as sa
import structlog
from sqlalchemy.dialects import postgresql, sqlite

from service import database as tables
from service import isolation, logs
from service.attempts import Attempts
from service.auth import Keys
from service.conversion import COMMAND, Conversions
from service.database import now
from service.engine import Handler, Kind
from service.engine_dbos import DbosWorker
from service.jobs import Jobs
from service.liveness import Liveness, liveness_for
from service.patience import GivenUp, Patience, is_passing
from service.registration import Registrations
from service.retention import Retention, remove_dead_folders
from service.serving import workers
from service.settings import Settings
from service.startup import check_client, check_folder, opened
from service.storage import StoreDown
from service.vitals import Metrics, Vitals
from service.webhooks import Deliveries

__all__ = ["Worker", "run_worker"]

HEARTBEAT_SECONDS = 4.0
HOUSEKEEPING_SECONDS = 60.0
STORE_SWEEP_SECONDS = 24 * 3600.0
ORPHANED_AFTER = 10.0  # a task the engine says we run, and we do not, is queued again after so long
HAND_BACK_SECONDS = 4.0  # with the grace of 20 s before, all is done in the 25 s that orchestrators are told to wait
FENCED = "ZSQ_FENCED_JOBS"
ALIVE = Path(tempfile.gettempdir()) / "zsq-worker-alive"  # of this container: other workers may share the data folder
OF_JOBS = frozenset({Kind.CONVERSION, Kind.INSPECTION})  # the kinds of task that are jobs of the table
VERSION = version("zsq")


def run_worker(settings: Settings, command: Sequence[str] = COMMAND) -> None:
    """Works until SIGTERM or SIGINT; with a concurrency above one, in that many processes of one conversion each."""
    logs.configure(settings)
    check_folder(settings)
    check_client(settings)
    if settings.worker_concurrency > 1:
        _keep_several(settings)
    else:
        Worker(settings, command).run()


class Worker:
    """The parts of one worker and the threads that keep it honest."""

    def __init__(self, settings: Settings, command: Sequence[str] = COMMAND) -> None:
        self.settings = settings
        self.id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._command = command
        self._ending, self._hurry = _signals()
        self._gone = threading.Event()
        self._draining = False
        self._orphans: dict[str, float] = {}  # by task, since when
        self._next_store_sweep = time.monotonic() + HOUSEKEEPING_SECONDS
        self._log = structlog.get_logger().bind(worker=self.id)

    def run(self) -> NoReturn:
        """Works until told to end; the process ends with it."""
        try:
            self._begin()
        except GivenUp:  # told to end while the database was still away
            sys.exit(0)
        self._ending.wait()
        self._leave()

    def _begin(self) -> None:
        patience = Patience(float("inf"), self._ending)
        self._jobs = opened(lambda: patience(Jobs.open, self.settings))
        self._liveness: Liveness = patience(liveness_for, self.settings, self.id)
        self._attempts = Attempts(self._jobs, self.id, self.settings.max_attempts)
        self._folder = self.settings.data_dir / "attempts"
        own_folder = self._folder / self.id
        own_folder.mkdir(parents=True, mode=0o700)
        self._level = isolation.achievable_level(own_folder)
        self._conversions = Conversions(self.settings, self._attempts, own_folder, self._command)
        self._deliveries = Deliveries(self._jobs.database, self._jobs.engine, self.settings)
        self._registrations = Registrations(self._jobs, self.settings, own_folder)
        self._forgive(patience)
        self._say_alive()
        self._engine = DbosWorker(self._jobs.database, self.id)
        of_jobs = {kind: partial(self._conversions, kind) for kind in OF_JOBS}
        handlers: dict[Kind, Handler] = {**of_jobs, Kind.DELIVERY: self._deliveries}
        if self.settings.mlflow_uri is not None:  # others leave registrations to those who know where MLflow is
            handlers[Kind.REGISTRATION] = self._registrations
        self._metrics = Metrics(self.id, self._level.name, self.settings, Keys(self._jobs.database), self._vitals)
        self._metrics.serve()
        self._engine.start({kind: self._metrics.counted(kind, handler) for kind, handler in handlers.items()})
        self._log.info("worker ready", isolation=self._level.name)
        for duty, period in (
            (self._fence, 0.5),
            (self._say_alive, HEARTBEAT_SECONDS),
            (self._bury_the_dead, self.settings.sweep_every),
            (self._keep_house, HOUSEKEEPING_SECONDS),
        ):
            threading.Thread(target=self._every, args=(period, duty), name=duty.__name__, daemon=True).start()

    def _leave(self) -> NoReturn:
        """Running jobs have finished within the grace period, or wait in the queue again for others."""
        self._log.info("worker ends", running=len(self._conversions.active))
        self._draining = True
        with contextlib.suppress(sa.exc.SQLAlchemyError):
            self._say_alive()
        stopping = threading.Thread(target=self._engine.stop, args=(self.settings.worker_grace,), daemon=True)
        stopping.start()
        deadline = time.monotonic() + self.settings.worker_grace
        while self._conversions.active and time.monotonic() < deadline and not self._hurry.is_set():
            self._hurry.wait(0.1)
        self._conversions.handing_back.set()
        deadline = time.monotonic() + HAND_BACK_SECONDS
        while self._conversions.active and time.monotonic() < deadline:
            time.sleep(0.05)
        stopping.join(2.0)
        self._gone.set()
        with contextlib.suppress(sa.exc.SQLAlchemyError), self._jobs.database.writing() as connection:
            connection.execute(tables.workers.delete().where(tables.workers.c.id == self.id))
        self._liveness.release()
        self._log.info("worker ended")
        _kill_children()
        shutil.rmtree(self._folder / self.id, ignore_errors=True)
        os._exit(0)  # threads of handed-back jobs still wait, on purpose

    def _every(self, period: float, duty: Callable[[], None]) -> None:
        while not self._gone.is_set():
            try:
                duty()
            except Exception as problem:  # a duty that fails is done again, whatever it was
                if is_passing(problem):
                    self._log.warning("duty delayed", duty=duty.__name__, reason=str(problem)[:300])
                else:
                    self._log.exception("duty failed", duty=duty.__name__)
                self._metrics.failed(duty.__name__)
            self._gone.wait(period)

    def _vitals(self) -> Vitals:
        return Vitals(len(self._conversions.active), self._draining, self._liveness.lost_for())

    def _fence(self) -> None:
        """A worker that cannot be sure of its lock any more kills its children and starts anew under another name."""
        lost = self._liveness.lost_for()
        if lost < self.settings.fence_after:
            return
        jobs = self._conversions.active
        self._log.error("cut off from the lock; starting anew", seconds=round(lost, 1), jobs=sorted(jobs))
        _kill_children()
        os.environ[FENCED] = ",".join(jobs)
        os.execv(sys.executable, sys.orig_argv)

    def _forgive(self, patience: Patience) -> None:
        """The jobs that the fence interrupted are not blamed for it."""
        for job_id in filter(None, os.environ.pop(FENCED, "").split(",")):
            patience(self._attempts.forgive, job_id)

    def _say_alive(self) -> None:
        ALIVE.touch()  # for probes that ask whether the process works, not the database
        insert = sqlite.insert if self._jobs.database.is_sqlite else postgresql.insert
        row = {
            "id": self.id,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "concurrency": 1,
            "isolation": self._level.facts(),
            "started_at": now(),
            "seen_at": now(),
            "version": VERSION,
            "draining": self._draining,
        }
        statement = insert(tables.workers).values(**row)
        fresh = {name: row[name] for name in ("seen_at", "draining")}
        with self._jobs.database.writing() as connection:
            again = statement.on_conflict_do_update(index_elements=["id"], set_=fresh)
            connection.execute(again)

    def _bury_the_dead(self) -> None:
        """Tasks of workers whose lock is free are queued again, within seconds and by whoever looks first."""
        engine = self._jobs.engine
        for worker_id in {task.worker for task in engine.running()} - {self.id}:
            with self._liveness.if_dead(worker_id) as dead:
                if not dead:
                    continue
                for task in engine.running():  # looked at again: another may have been here before us
                    if task.worker == worker_id:
                        if task.kind in OF_JOBS:
                            self._attempts.worker_died(task.id, worker_id)
                        engine.requeue(task.id, task.kind)
                        self._log.warning("took over from a dead worker", task=task.id, dead=worker_id)
        self._find_orphans()

    def _find_orphans(self) -> None:
        """The engine may believe that we run what we do not, after an error between taking and starting."""
        mine = {
            task.id: task.kind
            for task in self._jobs.engine.running()
            if task.worker == self.id and task.kind in OF_JOBS and task.id not in self._conversions.active
        }
        seen = {task_id: self._orphans.get(task_id, time.monotonic()) for task_id in mine}
        for task_id, since in list(seen.items()):
            if time.monotonic() - since > ORPHANED_AFTER:
                self._log.warning("queued an orphaned task again", task=task_id)
                self._jobs.engine.requeue(task_id, mine[task_id])
                del seen[task_id]
        self._orphans = seen

    def _keep_house(self) -> None:
        lost = self._attempts.reconcile() + self._deliveries.reconcile() + self._registrations.reconcile()
        if lost:
            self._log.warning("queued again what the engine did not know", tasks=lost)
        retention = Retention(self._jobs, self.settings)
        retention.run()
        remove_dead_folders(self._folder, self.id, self._liveness.if_dead)
        self._forget_dead_workers()
        if time.monotonic() > self._next_store_sweep:
            self._next_store_sweep = time.monotonic() + STORE_SWEEP_SECONDS
            with contextlib.suppress(StoreDown):
                retention.sweep_store()

    def _forget_dead_workers(self) -> None:
        with self._jobs.database.reading() as connection:
            query = sa.select(tables.workers.c.id).where(tables.workers.c.id != self.id)
            others = list(connection.execute(query).scalars())
        for worker_id in others:
            with self._liveness.if_dead(worker_id) as dead:
                if dead:
                    with self._jobs.database.writing() as connection:
                        connection.execute(tables.workers.delete().where(tables.workers.c.id == worker_id))


def _kill_children() -> None:
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _keep_several(settings: Settings) -> None:
    """As many processes of one conversion each as the concurrency says, replaced when they die, ended with this one."""
    ending, _ = _signals()
    with workers(settings.model_copy(update={"worker_concurrency": 1}), settings.worker_concurrency):
        ending.wait()


def _signals() -> tuple[threading.Event, threading.Event]:
    """Set by the first and by the second SIGTERM or SIGINT from now on; call it before any thread is started."""
    ending, hurry = threading.Event(), threading.Event()
    awaited = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)  # in every thread, so that they come to the one that waits

    def listen() -> None:
        for event in (ending, hurry):
            signal.sigwait(awaited)
            event.set()

    threading.Thread(target=listen, name="signals", daemon=True).start()
    return ending, hurry
