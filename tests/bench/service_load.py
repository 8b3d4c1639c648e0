"""Latency of the API under load: a thousand queued jobs, fifty clients polling, ten event streams, one conversion.

python -m tests.bench.service_load MODEL.onnx [--queued 1000] [--clients 50] [--streams 10] [--seconds 30] [--bursts 5]

Clients that poll know nothing of each other: each begins at a random moment of its interval. How it is when all of
them, and all streams, connect in the same instant is measured afterwards and told in a row of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from tests.bench.connection import Connection
from tests.chaos.kill import Serve
from tests.chaos.results import Results
from tests.service.harness import Cluster

SUBMITTERS = 8
INTERVAL = (0.5, 1.5)  # seconds between an answer and the same client's next question
BETWEEN_BURSTS = 2.0
TICK = 0.02


class Load:
    """Clients of one service that note every answer and how long it took."""

    def __init__(self, port: int, model: bytes, streams: int) -> None:
        self.port, self.model, self.streams = port, model, streams
        self.posts: list[float] = []
        self.gets: list[float] = []
        self.burst: list[float] = []
        self.late: list[float] = []
        self.events = 0
        self.errors: list[str] = []
        self.ids: list[str] = []

    async def ask(self, client: Connection, method: str, target: str, body: bytes, times: list[float]) -> bytes:
        """The body of the answer, empty after an error."""
        began = time.perf_counter()
        try:
            status, answer = await client.ask(method, target, body)
        except (OSError, EOFError, ValueError, KeyError) as problem:
            client.close()
            status, answer = 0, repr(problem).encode()
        times.append(time.perf_counter() - began)
        if status == {"POST": 202, "GET": 200}[method]:
            return answer
        self.errors.append(f"{method} {target} {status} {answer[:200]!r}")
        return b""

    async def submitter(self, seeds: list[int]) -> None:
        client = Connection(self.port)
        for seed in seeds:
            target = f"/v1/conversions?fresh=true&seed={seed}"
            if answer := await self.ask(client, "POST", target, self.model, self.posts):
                self.ids.append(json.loads(answer)["id"])
        client.close()

    def question(self) -> str:
        return random.choice([f"/v1/conversions/{random.choice(self.ids)}", "/v1/conversions?limit=20"])

    async def poller(self, until: float) -> None:
        client = Connection(self.port)
        await asyncio.sleep(random.uniform(0, INTERVAL[1]))
        while time.monotonic() < until:
            await self.ask(client, "GET", self.question(), b"", self.gets)
            await asyncio.sleep(random.uniform(*INTERVAL))
        client.close()

    async def burster(self) -> None:
        client = Connection(self.port)
        await self.ask(client, "GET", self.question(), b"", self.burst)
        client.close()

    async def listener(self, job_id: str) -> None:
        """Hears of a job, and when that has ended of the one that runs then."""
        client = Connection(self.port)
        try:
            while True:
                async for line in client.lines(f"/v1/conversions/{job_id}/events"):
                    self.events += line.startswith(b"id:")
                answer = await self.ask(client, "GET", "/v1/conversions?status=running&limit=1", b"", [])
                running = json.loads(answer)["conversions"] if answer else []
                job_id = running[0]["id"] if running else random.choice(self.ids)
        except (OSError, EOFError, ValueError, KeyError) as problem:
            self.errors.append(f"events {problem!r}")
        finally:
            client.close()

    async def clock(self) -> None:
        """How late this process itself is: no answer can be noted sooner."""
        while True:
            began = time.perf_counter()
            await asyncio.sleep(TICK)
            self.late.append(time.perf_counter() - began - TICK)

    @asynccontextmanager
    async def listeners(self, job_id: str) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.listener(job_id)) for _ in range(self.streams)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def running(self) -> str:
        """The job that runs now; waits for one."""
        client = Connection(self.port)
        while True:
            answer = await self.ask(client, "GET", "/v1/conversions?status=running&limit=1", b"", [])
            if answer and (found := json.loads(answer)["conversions"]):
                client.close()
                return str(found[0]["id"])
            await asyncio.sleep(0.05)


async def run(load: Load, given: argparse.Namespace) -> None:
    await load.submitter([0])
    await asyncio.gather(
        *(load.submitter(list(range(start, given.queued, SUBMITTERS))) for start in range(1, SUBMITTERS + 1))
    )
    clock = asyncio.create_task(load.clock())
    async with load.listeners(await load.running()):
        until = time.monotonic() + given.seconds
        await asyncio.gather(*(load.poller(until) for _ in range(given.clients)))
    clock.cancel()
    for _ in range(given.bursts):
        await asyncio.sleep(BETWEEN_BURSTS)
        async with load.listeners(await load.running()):
            await asyncio.gather(*(load.burster() for _ in range(given.clients)))
    with contextlib.suppress(asyncio.CancelledError):
        await clock


def percentiles(values: list[float]) -> str:
    cuts = statistics.quantiles(values, n=100)
    return f"p50 {cuts[49] * 1000:.0f} ms, p99 {cuts[98] * 1000:.0f} ms, most {max(values) * 1000:.0f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--queued", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--streams", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--bursts", type=int, default=5)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    cluster = Cluster() if given.database == "postgresql" else None
    results = Results(
        f"API under load ({given.queued} queued, {given.clients} clients, {given.streams} streams, {given.database})",
        ("what", "measured"),
    )
    before, stolen = os.getloadavg()[0], psutil.cpu_times().steal
    with tempfile.TemporaryDirectory() as folder:
        serve = Serve(Path(folder), cluster.create("load") if cluster else None, workers=1)
        try:
            load = Load(serve.port, given.model.read_bytes(), given.streams)
            asyncio.run(run(load, given))
            resident = psutil.Process(serve.process.pid).memory_info().rss / (1 << 20)
        finally:
            serve.close()
            if cluster is not None:
                cluster.remove()
    results.add("POST of a small model", f"{percentiles(load.posts)} (n={len(load.posts)})")
    results.add("GET of a job or a page of jobs", f"{percentiles(load.gets)} (n={len(load.gets)})")
    if load.burst:
        told = f"{percentiles(load.burst)} (n={len(load.burst)})"
        results.add(f"the same, all clients and streams connecting at once, {given.bursts} times", told)
    results.add("events received", load.events)
    results.add("errors", "; ".join(load.errors[:5]) if load.errors else 0)
    results.add("the load's own process, late by", percentiles(load.late))
    results.add("taken by the hypervisor", f"{psutil.cpu_times().steal - stolen:.1f} s of CPU")
    results.add("API process", f"{resident:.0f} MiB resident")
    results.add("load average before, after", f"{before:.1f}, {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    results.write(given.results)


if __name__ == "__main__":
    main()
