"""The contract of the engine port, whatever implements it: what the service relies on and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from service.database import Database, now
from service.engine import JobEngine, Kind, Task, TaskState
from service.engine_dbos import DbosEngine
from service.settings import Settings
from tests.service.harness import Service, wait_until

WORKER = """
import sys, threading, time
from pathlib import Path
from service.database import Database
from service.engine import Kind
from service.engine_dbos import DbosWorker
from service.settings import Settings

name, notes = sys.argv[1], Path(sys.argv[2])

def handle(subject):
    with notes.open("a") as file:
        file.write(f"{name} {subject}\\n")
    if subject.startswith("raise"):
        raise ValueError("a bug")
    if subject.startswith("long"):
        time.sleep(60)

worker = DbosWorker(Database(Settings()), name)
worker.start({Kind.CONVERSION: handle, Kind.DELIVERY: handle})
print("ready", flush=True)
sys.stdin.readline()
worker.stop(5)
"""


class Bench:
    """An engine, its database, and workers that note what they were given."""

    def __init__(self, settings: Settings, environment: dict[str, str], notes: Path) -> None:
        self.database = Database(settings)
        self.database.migrate()
        self.engine: JobEngine = DbosEngine(self.database)
        self.engine.migrate()
        self.environment, self.notes = environment, notes
        self.workers: list[subprocess.Popen[bytes]] = []

    def add(self, *tasks: Task) -> None:
        with self.database.writing() as connection:
            for task in tasks:
                self.engine.enqueue(connection, task)

    def worker(self, name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WORKER, name, str(self.notes)]
        process = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        self.workers.append(process)
        return process

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def wait_noted(self, *lines: str) -> None:
        wait_until(lambda: self.noted() == list(lines), 15, f"{lines}")

    def wait_state(self, task_id: str, state: TaskState) -> None:
        wait_until(lambda: self.engine.states([task_id])[task_id] is state, 15, f"{task_id} {state}")

    def close(self) -> None:
        for process in self.workers:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self.engine.close()
        self.database.dispose()


@pytest.fixture
def bench(service: Service, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(service.settings, service.environment(), tmp_path / "notes")
    yield made
    made.close()


def task(name: str, **given: object) -> Task:
    return Task(name, Kind.CONVERSION, name, **given)  # type: ignore[arg-type]


def test_a_task_runs_once_and_ends(bench: Bench) -> None:
    bench.add(task("a"), Task("b", Kind.DELIVERY, "subject of b"))
    assert bench.engine.states(["a", "x"]) == {"a": TaskState.QUEUED, "x": TaskState.UNKNOWN}
    bench.worker("w")
    bench.wait_state("a", TaskState.ENDED)
    bench.wait_state("b", TaskState.ENDED)
    assert sorted(bench.noted()) == ["w a", "w subject of b"]


def test_a_transaction_that_fails_enqueues_nothing(bench: Bench) -> None:
    def enqueue_and_fail() -> None:
        with bench.database.writing() as connection:
            bench.engine.enqueue(connection, task("a"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        enqueue_and_fail()
    assert bench.engine.states(["a"]) == {"a": TaskState.UNKNOWN}


def test_a_low_number_goes_first_and_a_cancelled_task_never(bench: Bench) -> None:
    bench.add(task("late", priority=200), task("never", priority=150), task("early", priority=100))
    bench.engine.cancel("never")
    bench.worker("w")
    bench.wait_noted("w early", "w late")
    assert bench.engine.states(["never"]) == {"never": TaskState.ENDED}


def test_one_conversion_at_a_time_in_each_worker(bench: Bench) -> None:
    bench.add(task("long1"), task("long2"), task("long3"))
    bench.worker("w")
    bench.wait_noted("w long1")
    bench.worker("v")
    bench.wait_noted("w long1", "v long2")
    assert {(each.id, each.worker) for each in bench.engine.running()} == {("long1", "w"), ("long2", "v")}


def test_a_task_of_a_dead_worker_waits_until_it_is_queued_again(bench: Bench) -> None:
    bench.add(task("long"))
    first = bench.worker("w")
    bench.wait_noted("w long")
    first.kill()
    first.wait()
    bench.worker("v")
    assert [(each.id, each.worker) for each in bench.engine.running()] == [("long", "w")]
    bench.engine.requeue("long", Kind.CONVERSION)
    bench.wait_noted("w long", "v long")


def test_a_handler_that_raises_ends_its_task_and_not_its_worker(bench: Bench) -> None:
    bench.add(task("raise"))
    bench.worker("w")
    bench.wait_state("raise", TaskState.ENDED)
    bench.add(task("next"))
    bench.wait_noted("w raise", "w next")


def test_a_delayed_task_waits(bench: Bench) -> None:
    bench.add(task("later", delay=2.0), task("now"))
    bench.worker("w")
    bench.wait_noted("w now")
    assert bench.engine.states(["later"]) == {"later": TaskState.QUEUED}
    bench.wait_noted("w now", "w later")


def test_what_is_forgotten_is_unknown_and_may_come_again(bench: Bench) -> None:
    bench.add(task("a"))
    worker = bench.worker("w")
    bench.wait_state("a", TaskState.ENDED)
    bench.engine.forget_ended(now() - timedelta(hours=1))
    assert bench.engine.states(["a"]) == {"a": TaskState.ENDED}
    assert bench.engine.forget_ended(now() + timedelta(seconds=5)) == 1
    assert bench.engine.states(["a"]) == {"a": TaskState.UNKNOWN}
    bench.add(task("a"))
    bench.wait_noted("w a", "w a")
    bench.engine.forget(["unknown"])
    assert worker.stdin is not None
    worker.stdin.write(b"\n")
    worker.stdin.flush()
    assert worker.wait(20) == 0
