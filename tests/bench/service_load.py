"""Latency of the API under load: a thousand queued jobs, fifty clients polling, ten event streams, one conversion.

python -m tests.bench.service_load MODEL.onnx [--queued 1000] [--clients 50] [--streams 10] [--seconds 30]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

import httpx2
import psutil

from tests.chaos.kill import Serve
from tests.chaos.results import Results
from tests.service.harness import Cluster

OCTETS = {"content-type": "application/octet-stream"}
SUBMITTERS = 8


class Load:
    """Clients of one service that note every answer and how long it took."""

    def __init__(self, base_url: str, model: bytes) -> None:
        limits = httpx2.Limits(max_connections=100, max_keepalive_connections=100)
        self.client = httpx2.AsyncClient(base_url=base_url, timeout=30, limits=limits)
        self.model = model
        self.posts: list[float] = []
        self.gets: list[float] = []
        self.events = 0
        self.errors: list[str] = []
        self.ids: list[str] = []

    async def submit(self, seed: int) -> str | None:
        began = time.perf_counter()
        answer = await self.client.post(f"/v1/conversions?fresh=true&seed={seed}", content=self.model, headers=OCTETS)
        self.posts.append(time.perf_counter() - began)
        if answer.status_code != 202:
            self.errors.append(f"POST {answer.status_code} {answer.text[:200]}")
            return None
        return str(answer.json()["id"])

    async def submitter(self, seeds: list[int]) -> None:
        for seed in seeds:
            job_id = await self.submit(seed)
            if job_id is not None:
                self.ids.append(job_id)

    async def poller(self, until: float) -> None:
        while time.monotonic() < until:
            path = random.choice([f"/v1/conversions/{random.choice(self.ids)}", "/v1/conversions?limit=20"])
            began = time.perf_counter()
            answer = await self.client.get(path)
            self.gets.append(time.perf_counter() - began)
            if answer.status_code != 200:
                self.errors.append(f"GET {path} {answer.status_code}")
            await asyncio.sleep(random.uniform(0.5, 1.5))

    async def listener(self, job_id: str, until: float) -> None:
        async with self.client.stream("GET", f"/v1/conversions/{job_id}/events", timeout=60) as answer:
            if answer.status_code != 200:
                self.errors.append(f"events {answer.status_code}")
                return
            async for line in answer.aiter_lines():
                self.events += line.startswith("id:")
                if time.monotonic() > until:
                    return


async def run(serve: Serve, given: argparse.Namespace) -> Load:
    load = Load(f"http://127.0.0.1:{serve.port}", given.model.read_bytes())
    running = await load.submit(0)
    assert running is not None, load.errors
    load.ids.append(running)
    seeds = [list(range(start, given.queued, SUBMITTERS)) for start in range(1, SUBMITTERS + 1)]
    await asyncio.gather(*(load.submitter(part) for part in seeds))
    until = time.monotonic() + given.seconds
    streams = [asyncio.create_task(load.listener(load.ids[number % 2], until)) for number in range(given.streams)]
    await asyncio.gather(*(load.poller(until) for _ in range(given.clients)))
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    await load.client.aclose()
    return load


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
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    cluster = Cluster() if given.database == "postgresql" else None
    results = Results(
        f"API under load ({given.queued} queued, {given.clients} clients, {given.streams} streams, {given.database})",
        ("what", "measured"),
    )
    with tempfile.TemporaryDirectory() as folder:
        serve = Serve(Path(folder), cluster.create("load") if cluster else None, workers=1)
        try:
            load = asyncio.run(run(serve, given))
            resident = psutil.Process(serve.process.pid).memory_info().rss / (1 << 20)
        finally:
            serve.close()
            if cluster is not None:
                cluster.remove()
    results.add("POST of a small model", f"{percentiles(load.posts)} (n={len(load.posts)})")
    results.add("GET of a job or a page of jobs", f"{percentiles(load.gets)} (n={len(load.gets)})")
    results.add("events received", load.events)
    results.add("errors", "; ".join(load.errors[:5]) if load.errors else 0)
    results.add(
        "API process", f"{resident:.0f} MiB resident, load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    results.write(given.results)


if __name__ == "__main__":
    main()
