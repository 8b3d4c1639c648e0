"""What a worker tells of itself, on a port of its own, and to whom."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx2
import pytest

from service.auth import Keys, Scope
from tests.service.conftest import Starter
from tests.service.harness import wait_until


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def client(port: int) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        yield client


def answers(client: httpx2.Client) -> bool:
    try:
        return client.get("/metrics").status_code in (200, 401)
    except httpx2.TransportError:
        return False


def value(text: str, name: str) -> float:
    [line] = [line for line in text.splitlines() if line.startswith(name)]
    return float(line.rpartition(" ")[2])


def test_a_worker_tells_what_it_does(start: Starter, port: int, client: httpx2.Client) -> None:
    service = start(worker_metrics_port=port)
    service.worker()
    wait_until(lambda: answers(client), 30, "the worker's metrics")
    idle = client.get("/metrics").text
    assert value(idle, "zsq_worker_running ") == 0
    assert value(idle, "zsq_worker_draining ") == 0
    assert value(idle, 'zsq_worker_tasks_total{kind="conversion",outcome="ended"}') == 0
    assert value(idle, "zsq_worker_info{") == 1
    assert value(idle, "zsq_worker_disk_free_bytes ") > 0
    assert value(idle, "process_resident_memory_bytes ") > 0
    job = service.submit(stages=["synthesis"], hold="synthesis")
    service.wait_event(job, "checkpoint")
    busy = client.get("/metrics").text
    assert value(busy, "zsq_worker_running ") == 1
    assert value(busy, "zsq_worker_children_memory_bytes ") > 1 << 20
    service.jobs.cancel(job.id, None)
    ended = 'zsq_worker_tasks_total{kind="conversion",outcome="ended"}'
    wait_until(lambda: value(client.get("/metrics").text, ended) == 1, 30, "the end of the job")
    assert client.get("/anything").status_code == 404


def test_a_worker_that_drains_says_so(start: Starter, port: int, client: httpx2.Client) -> None:
    service = start(worker_metrics_port=port, worker_grace=60)
    worker = service.worker()
    job = service.submit(seconds=600)
    service.wait_running(job)
    worker.terminate()
    wait_until(lambda: value(client.get("/metrics").text, "zsq_worker_draining ") == 1, 30, "the word")
    worker.terminate()
    assert worker.wait(30) == 0


def test_beyond_loopback_a_key_of_the_scope_is_needed(start: Starter, port: int, client: httpx2.Client) -> None:
    service = start(worker_metrics_port=port, worker_metrics_host="0.0.0.0")
    keys = Keys(service.jobs.database)
    scraper, other = keys.create("prometheus", [Scope.METRICS]), keys.create("ann")
    service.worker()
    wait_until(lambda: answers(client), 30, "the worker's metrics")
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"X-API-Key": other.secret}).status_code == 401
    assert client.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.get("/metrics", headers={"Authorization": f"Bearer {scraper.secret}"}).status_code == 200
    keys.revoke(scraper.key.id)
    assert client.get("/metrics", headers={"Authorization": f"Bearer {scraper.secret}"}).status_code == 401


def test_two_conversions_at_once_have_two_ports(start: Starter) -> None:
    first = _two_free()
    service = start(worker_metrics_port=first, worker_concurrency=2)
    service.worker()
    for port in (first, first + 1):
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            wait_until(lambda client=client: answers(client), 60, f"metrics on {port}")  # type: ignore[misc]


def test_a_port_that_is_taken_ends_the_worker_with_a_sentence(start: Starter, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        service = start(worker_metrics_port=port)
        worker = service.worker()
        assert worker.wait(60) != 0
    assert "The worker's metrics cannot be had" in service.logs()


def _two_free() -> int:
    """The first of two ports in a row that are free."""
    for first in range(20_000, 30_000, 2):
        try:
            with socket.create_server(("127.0.0.1", first)), socket.create_server(("127.0.0.1", first + 1)):
                return first
        except OSError:
            continue
    raise RuntimeError("no two ports are free")
