"""Databases and services for the tests: every one real, in a folder of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.harness import Cluster, Service

NAMES = itertools.count()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("there is no PostgreSQL server to start")
    server = Cluster()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """None for SQLite in the service's own folder."""
    if request.param == "sqlite":
        return None
    server: Cluster = request.getfixturevalue("cluster")
    return server.create(f"zsq_core_{next(NAMES)}")


Starter = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Starts services with given settings and ends them with the test."""
    started: list[Service] = []

    def starter(database_url: str | None = None, **settings: Any) -> Service:
        service = Service(tmp_path / f"data-{len(started)}", database_url, **settings)
        started.append(service)
        return service

    yield starter
    for service in started:
        service.close()


@pytest.fixture
def service(start: Starter, database_url: str | None) -> Service:
    """The parts of a service on each of the two databases."""
    return start(database_url)
