"""What the tests and the chaos scripts share: a service's parts as real processes, and models that say what to do."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from service.jobs import Jobs
from service.records import Job, JobEvent, JobStatus, NewJob
from service.settings import Settings

CHILD = Path(__file__).with_name("child.py")
ROOT = Path(__file__).parents[2]
WORKER = """
import sys
from service.settings import Settings
from service.worker import run_worker
run_worker(Settings(), *[sys.argv[1:]] if sys.argv[1:] else [])
"""


class Service:
    """A database and a store, workers on them as processes of their own, and jobs submitted from here."""

    def __init__(self, folder: Path, database_url: str | None = None, **settings: Any) -> None:
        given = {"data_dir": folder, "sweep_every": 0.5, "worker_grace": 0.5, **settings}
        if database_url is not None:
            given["database_url"] = database_url
        self.settings = Settings(**given)
        self.folder = folder
        self.jobs = Jobs.open(self.settings)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.prefix: Sequence[str] = ()

    def worker(
        self,
        command: Sequence[str] = (str(CHILD),),
        prefix: Sequence[str] = (),
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> subprocess.Popen[bytes]:
        """A worker process that converts by ``command``; its log is in the folder."""
        log = (self.folder / f"worker-{len(self.processes)}.log").open("wb")
        environment = {**self.environment(), **variables}
        process = subprocess.Popen(
            [*prefix, sys.executable, "-P", "-c", WORKER, *command], env=environment, stderr=log, cwd=ROOT
        )
        log.close()
        self.processes.append(process)
        return process

    def environment(self) -> dict[str, str]:
        given = self.settings.model_dump(mode="json", exclude_none=True)
        texts = {f"ZSQ_{k.upper()}": str(v).lower() if isinstance(v, bool) else str(v) for k, v in given.items()}
        return os.environ | texts

    def submit(self, path: Path | None = None, **told: Any) -> Job:
        """A job whose model is the file, or tells the child what to do."""
        if path is None:
            path = self.folder / "told.json"
            path.write_text(json.dumps(told))
        stored = self.jobs.artefacts.put_file(path)
        return self.jobs.submit(NewJob(owner="local", model=stored, model_name=path.name, fresh=True))

    def job(self, job: Job) -> Job:
        found = self.jobs.get(job.id, None)
        assert found is not None
        return found

    def events(self, job: Job, kind: str | None = None) -> list[JobEvent]:
        return [each for each in self.jobs.events(job.id, limit=100_000) if kind in (None, each.kind)]

    def wait_final(self, job: Job, seconds: float = 60) -> Job:
        wait_until(lambda: self.job(job).status.is_final, seconds, "the job to be final")
        return self.job(job)

    def wait_running(self, job: Job, seconds: float = 30) -> Job:
        wait_until(lambda: self.job(job).status is JobStatus.RUNNING, seconds, "the job to run")
        return self.job(job)

    def wait_event(self, job: Job, kind: str, seconds: float = 30, count: int = 1) -> None:
        wait_until(lambda: len(self.events(job, kind)) >= count, seconds, f"{count} events {kind}")

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("worker-*.log")))

    def close(self) -> None:
        for process in self.processes:
            kill_tree(process.pid)
            process.wait()
        self.jobs.close()


def wait_until(holds: Callable[[], bool], seconds: float, what: str) -> float:
    """How long it took until the condition held; raises TimeoutError."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > seconds:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(0.02)
    return time.monotonic() - started


def kill_tree(pid: int) -> None:
    """The process and all its descendants are sent SIGKILL at once."""
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


class Cluster:
    """A PostgreSQL server of our own in a temporary folder, which may be stopped and started."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="zsq-pg-"))
        self.binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        self.user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        if self.user:
            shutil.chown(self.folder, "postgres")
        self._run("initdb", "-A", "trust", "-U", "postgres", "-D", str(self.folder / "data"))
        self.listen = "127.0.0.1"
        self.start()

    def _run(self, tool: str, *arguments: str) -> None:
        subprocess.run(
            [*self.user, str(self.binaries / tool), *arguments],
            check=True, cwd="/tmp", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self) -> None:
        options = f"-p {self.port} -h {self.listen} -k {self.folder} -c fsync=off -c max_connections=200"
        data = str(self.folder / "data")
        self._run("pg_ctl", "-D", data, "-w", "-o", options, "-l", str(self.folder / "log"), "start")

    def stop(self) -> None:
        """At once, as in a crash."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", "immediate", "stop")

    def open_to(self, network: str, address: str) -> None:
        """It also listens on ``address``, for everybody in ``network``."""
        with (self.folder / "data" / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {network} trust\n")
        self.stop()
        self.listen = f"127.0.0.1,{address}"
        self.start()

    def create(self, name: str) -> str:
        """The URL of a new database."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", name)
        return f"postgresql://postgres@127.0.0.1:{self.port}/{name}"

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def stopped(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """The process does not run inside the block."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)
