"""What a job goes through when the database, the store or the disk is away for a while, and that it ends well.

    python -m tests.chaos.outages [database|store|disk ...] [--results FILE]

``store`` needs moto[server], ``disk`` needs root for a tmpfs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from service.records import Job, JobStatus
from service.storage import StoreDown
from tests.chaos.results import Results
from tests.service.harness import Cluster, Service

STAGES = ["synthesis", "optimization", "quantization"]
AWAY = 15.0


def check(service: Service, job: Job) -> str:
    """How a job ended that had to succeed once, with no finished stage repeated."""
    final = service.wait_final(job, 180)
    kinds = [event.kind for event in service.events(job)]
    stages = [event.data["stage"] for event in service.events(job, "checkpoint")]
    assert final.status is JobStatus.SUCCEEDED, (final, service.logs()[-3000:])
    assert kinds.count("succeeded") == 1, kinds
    assert len(set(stages)) == len(stages), stages
    reasons = {event.data["reason"] for event in service.events(job, "interrupted")}
    return f"succeeded once, attempts {final.attempt}" + (f" ({', '.join(sorted(reasons))})" if reasons else "")


def database(results: Results) -> None:
    """The server is stopped at once and started 15 s later, with one and with two workers."""
    cluster = Cluster()
    try:
        for workers in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                service = Service(Path(folder) / "data", cluster.create(f"away_{workers}"), sweep_every=3.0)
                try:
                    for _ in range(workers):
                        service.worker()
                    job = service.submit(stages=STAGES, seconds=6.0)
                    service.wait_event(job, "checkpoint")
                    cluster.stop()
                    time.sleep(AWAY)
                    cluster.start()
                    back = time.monotonic()
                    outcome = check(service, job)
                    seconds = f"{time.monotonic() - back:.1f} s"
                    results.add(f"PostgreSQL down {AWAY:.0f} s in mid-job, {workers} worker(s)", outcome, seconds)
                finally:
                    service.close()
    finally:
        cluster.remove()


class Relay:
    """A TCP relay that can be cut, so that a store is away without losing what is in it."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target, self.up = target, True
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if not self.up:
                client.close()
                continue
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self.up = False
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._sockets.clear()


@contextmanager
def s3_behind_relay() -> Iterator[Relay]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    relay = Relay(server.get_host_and_port())
    endpoint = f"http://127.0.0.1:{relay.port}"
    os.environ |= {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1",
    }  # fmt: skip
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT")).close()
    yield relay
    server.stop()


def store(results: Results) -> None:
    """S3 is away for 15 s: when the job begins, in the middle, and when its results are to be stored."""
    for moment, finished in {"before the model is fetched": 0, "in mid-job": 1, "at the end": 3}.items():
        with s3_behind_relay() as relay, tempfile.TemporaryDirectory() as folder:
            service = Service(Path(folder) / "data", store_url="s3://bucket/p", sweep_every=3.0)
            try:
                last = finished == len(STAGES)
                job = service.submit(stages=STAGES, seconds=1.0 if last else 3.0, after_checkpoint=1.0 if last else 0)
                if finished:
                    service.worker()
                    service.wait_event(job, "checkpoint", count=finished)
                relay.cut()
                if not finished:
                    service.worker()
                time.sleep(AWAY)
                assert not service.job(job).status.is_final
                relay.up = True
                back = time.monotonic()
                outcome = check(service, job)
                results.add(f"S3 down {AWAY:.0f} s {moment}", outcome, f"{time.monotonic() - back:.1f} s")
            finally:
                relay.up = True
                service.close()


@contextmanager
def tmpfs(folder: Path, mebibytes: int) -> Iterator[Callable[[int], None]]:
    """A small disk at ``folder``; the value gives it another size."""

    def resize(size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}m", str(folder)], check=True)

    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=700", "tmpfs", str(folder)], check=True)
    try:
        yield resize
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def disk(results: Results) -> None:
    """No room while a stage writes, and no room for an upload; then there is room."""
    with tempfile.TemporaryDirectory() as folder, tmpfs(Path(folder) / "data" / "attempts", 48) as resize:
        service = Service(Path(folder) / "data", sweep_every=3.0)
        try:
            service.worker()
            job = service.submit(stages=STAGES, seconds=0.2, fills=64 << 20)
            service.wait_event(job, "interrupted", count=2)
            assert not service.job(job).status.is_final
            resize(300)
            back = time.monotonic()
            results.add("disk full during a stage", check(service, job), f"{time.monotonic() - back:.1f} s")
        finally:
            service.close()

    async def upload(size: int) -> AsyncIterator[bytes]:
        for _ in range(size >> 20):
            yield bytes(1 << 20)

    with tempfile.TemporaryDirectory() as folder, tmpfs(Path(folder) / "data", 40) as resize:
        service = Service(Path(folder) / "data", sweep_every=3.0)
        try:
            service.worker()
            try:
                asyncio.run(service.jobs.artefacts.put(upload(64 << 20)))
                raise AssertionError("64 MiB fitted on 40")
            except StoreDown as problem:
                said = str(problem)
            assert "No space left" in said, said
            left = list(service.jobs.artefacts.list("tmp")), list((service.folder / "artefacts").rglob("*#*"))
            assert left == ([], []), left
            outcome = check(service, service.submit(stages=STAGES))
            resize(200)
            stored = asyncio.run(service.jobs.artefacts.put(upload(64 << 20)))
            assert stored.size == 64 << 20
            results.add("disk full during an upload", f"refused, nothing left behind; next job {outcome}", "at once")
        finally:
            service.close()


EXPERIMENTS = {"database": database, "store": store, "disk": disk}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help=", ".join(EXPERIMENTS))
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    results = Results("Database, store and disk away", ("what", "the job", "done after it was back"))
    for name in given.experiments or EXPERIMENTS:
        EXPERIMENTS[name](results)
    results.write(given.results)


if __name__ == "__main__":
    main()
