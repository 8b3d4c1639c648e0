"""kill -9 of the worker, the API or everything, or SIGTERM of everything, at random moments of a real conversion.

python -m tests.chaos.kill MODEL.onnx [--database sqlite|postgresql] [--target worker|api|tree|term] [--times 20]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import psutil

from service.settings import Settings
from tests.chaos import databases
from tests.chaos.results import Results
from tests.service.harness import ROOT, kill_tree, wait_until

ORDERLY_WITHIN = 25.0  # what docker/kubernetes gives


class Serve:
    """``zsq serve`` on a port of its own, started again under the same settings as often as it is killed."""

    def __init__(self, folder: Path, database_url: str | None, workers: int = 2) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.workers = folder, workers
        self.settings = Settings(data_dir=folder / "data")
        self.environment = os.environ | {"ZSQ_DATA_DIR": str(folder / "data"), "ZSQ_WORKER_GRACE": "2"}
        if database_url is not None:
            self.settings = Settings(data_dir=folder / "data", database_url=database_url)
            self.environment["ZSQ_DATABASE_URL"] = database_url
        self.client = httpx2.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=20)
        self.start()

    def start(self) -> None:
        with (self.folder / "serve.log").open("ab") as log:
            command = [
                sys.executable,
                "-m",
                "service",
                "serve",
                "--port",
                str(self.port),
                "--workers",
                str(self.workers),
            ]
            self.process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log, cwd=ROOT)
        wait_until(self._answers, 60, "the API to be ready")

    def _answers(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    def submit(self, model: Path, seed: int) -> str:
        body = model.read_bytes()
        url = f"/v1/conversions?fresh=true&seed={seed}"
        answer = self.client.post(url, content=body, headers={"content-type": "application/octet-stream"})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as the API tells it; while the API is away, as if it were queued."""
        try:
            answer = self.client.get(f"/v1/conversions/{job_id}")
        except httpx2.TransportError:
            return {"status": "away"}
        return dict(answer.json()) if answer.status_code == 200 else {"status": "away"}

    def wait_final(self, job_id: str, seconds: float) -> dict[str, Any]:
        wait_until(lambda: self.job(job_id)["status"] in ("succeeded", "failed", "cancelled"), seconds, job_id)
        return self.job(job_id)

    def worker_of(self, job_id: str) -> int | None:
        """The process id of the worker that runs the job."""
        for each in self.process_tree():
            with_folder = [child for child in each.children() if job_id in " ".join(child.cmdline())]
            if with_folder:
                return each.pid
        return None

    def process_tree(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def close(self) -> None:
        kill_tree(self.process.pid)
        self.process.wait()
        self.client.close()


def kill_worker(serve: Serve, job_id: str) -> None:
    try:
        victim = serve.worker_of(job_id)
    except psutil.NoSuchProcess:
        victim = None
    if victim is None:
        victim = random.choice(psutil.Process(serve.process.pid).children()).pid
    os.kill(victim, signal.SIGKILL)


def kill_api(serve: Serve, _: str) -> None:
    serve.process.kill()
    serve.process.wait()
    serve.start()


def kill_everything(serve: Serve, _: str) -> None:
    kill_tree(serve.process.pid)
    serve.process.wait()
    serve.start()


def end_in_order(serve: Serve, _: str) -> None:
    """As an orchestrator ends it: it says first that it is not ready, and is gone within the time it is given."""
    began = time.monotonic()
    serve.process.terminate()
    wait_until(lambda: _says(serve, "draining"), serve.settings.drain_wait, "the API to say that it ends")
    assert serve.process.wait(ORDERLY_WITHIN) == 0
    print(f"ended in {time.monotonic() - began:.1f} s", flush=True)
    serve.start()


def _says(serve: Serve, status: str) -> bool:
    return bool(serve.client.get("/readyz").json()["status"] == status)


TARGETS: dict[str, Callable[[Serve, str], None]] = {
    "worker": kill_worker,
    "api": kill_api,
    "tree": kill_everything,
    "term": end_in_order,
}


def experiment(serve: Serve, target: str, model: Path, times: int, chance: random.Random) -> tuple[int, str]:
    """How many of the conversions ended well, and what is worth saying of them."""
    from service.jobs import Jobs

    started = time.monotonic()
    undisturbed = serve.wait_final(serve.submit(model, seed=0), 600)
    duration = time.monotonic() - started
    assert undisturbed["status"] == "succeeded", undisturbed
    reader = Jobs.open(serve.settings)
    good, repeated, attempts, slowest, resumed = 0, 0, 0, 0.0, 0
    for number in range(1, times + 1):
        began = time.monotonic()
        job_id = serve.submit(model, seed=number)
        time.sleep(chance.uniform(0, duration))
        TARGETS[target](serve, job_id)
        final = serve.wait_final(job_id, 600)
        events = reader.events(job_id, limit=100_000)
        kinds = [event.kind for event in events]
        stages = [event.data["stage"] for event in events if event.kind == "checkpoint"]
        starts = [event.data for event in events if event.kind == "started"]
        well = final["status"] == "succeeded" and kinds.count("succeeded") == 1 and kinds[-1] == "succeeded"
        if not well:
            print(f"round {number}: {final} {kinds}", file=sys.stderr)
        good += well
        repeated += len(stages) - len(set(stages))
        attempts += len(starts) - 1
        resumed += sum(bool(each["resumed"]) for each in starts)
        slowest = max(slowest, time.monotonic() - began)
        print(f"{target} {number}/{times}: {final['status']}, attempts {len(starts)}, "
              f"resumed after {[each['resumed'] for each in starts[1:]]}", flush=True)  # fmt: skip
    reader.close()
    return good, (
        f"undisturbed {duration:.1f} s, slowest {slowest:.1f} s, {attempts} further attempts, "
        f"{resumed} resumed after a finished stage, {repeated} stages repeated"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--database", choices=databases.KINDS, action="append")
    parser.add_argument("--target", choices=list(TARGETS), action="append")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    results = Results(f"kill -9 at random moments of a conversion of {given.model.name}",
                      ("database", "killed", "succeeded with exactly one result", "remarks"))  # fmt: skip
    chance = random.Random(given.seed)
    with databases.opened(given.database) as places:
        for database in places.kinds:
            for target in given.target or TARGETS:
                url = places.create(database, f"kill_{target}")
                with tempfile.TemporaryDirectory() as folder:
                    serve = Serve(Path(folder), url)
                    try:
                        good, remarks = experiment(serve, target, given.model, given.times, chance)
                    finally:
                        serve.close()
                    results.add(database, target, f"{good} of {given.times}", remarks)
    results.write(given.results)


if __name__ == "__main__":
    main()
