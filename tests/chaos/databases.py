"""The databases that an experiment runs on: SQLite, and a PostgreSQL server of its own where that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from tests.service.harness import Cluster

__all__ = ["KINDS", "Databases", "opened"]

KINDS = ("sqlite", "postgresql")


class Databases:
    """Which kinds were asked for, and empty databases of them."""

    def __init__(self, kinds: Sequence[str], cluster: Cluster | None) -> None:
        self.kinds = kinds
        self._cluster = cluster

    def create(self, kind: str, name: str) -> str | None:
        """The address of an empty database; None for SQLite in the service's own folder."""
        return self._cluster.create(name) if kind == "postgresql" and self._cluster else None


@contextmanager
def opened(asked: Sequence[str] | None) -> Iterator[Databases]:
    """The kinds that were asked for, or all; the server is gone afterwards."""
    kinds = asked or KINDS
    with ExitStack() as stack:
        cluster = None
        if "postgresql" in kinds:
            cluster = Cluster()
            stack.callback(cluster.remove)
        yield Databases(kinds, cluster)
