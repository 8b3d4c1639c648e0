"""Who is alive: each worker holds a lock for as long as it lives, and a lock that can be had belongs to a dead one.

No clock is compared between machines and no heartbeat can be late: the operating system or the database server lets go
of the lock when its holder dies, and nobody else does.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import psycopg
import sqlalchemy as sa

from service.settings import Settings

__all__ = ["FileLiveness", "Liveness", "PostgresLiveness", "liveness_for", "living"]

CHECK_SECONDS = 1.0
HELD = sa.text(
    "SELECT classid::bigint, objid::bigint FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
"""The two halves of each single key that is locked in this database."""


class Liveness(Protocol):
    """One worker's own lock, and a look at those of others."""

    def lost_for(self) -> float:
        """For how many seconds this worker could not be sure of its own lock; 0 while it is."""

    @contextmanager
    def if_dead(self, worker_id: str) -> Iterator[bool]:
        """True if that worker is dead, and until the end of the block nobody else is told so."""

    def release(self) -> None:
        """This worker counts as dead from now on."""


def liveness_for(settings: Settings, worker_id: str) -> Liveness:
    """The lock of ``worker_id`` is held: in the database where many machines share it, else in a file."""
    if settings.is_sqlite:
        return FileLiveness(_folder(settings), worker_id)
    return PostgresLiveness(settings.database_url, worker_id)


def living(settings: Settings, connection: sa.Connection, worker_ids: Iterable[str]) -> set[str]:
    """Those whose lock is held at this moment; in a file, a free one is held for the look, which is short."""
    if settings.is_sqlite:
        return {each for each in worker_ids if _is_held(_path_of(_folder(settings), each))}
    held = {high << 32 | low for high, low in connection.execute(HELD)}
    return {each for each in worker_ids if _lock_key(each) % 2**64 in held}


class FileLiveness:
    """flock on one file for each worker; for one machine. Children do not inherit it, being started by exec."""

    def __init__(self, folder: Path, worker_id: str) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._path = _path_of(folder, worker_id)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def lost_for(self) -> float:
        return 0.0

    @contextmanager
    def if_dead(self, worker_id: str) -> Iterator[bool]:
        path = _path_of(self._folder, worker_id)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
            path.unlink(missing_ok=True)  # an id is never used again
        finally:
            os.close(descriptor)

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)


class PostgresLiveness:
    """A session advisory lock on a connection of its own, checked every second from a thread of its own.

    The connection must reach the server itself or a pooler in session mode. A cut line is noticed by the server within
    about ten seconds, by the keepalives asked for here.
    """

    def __init__(self, url: str, worker_id: str) -> None:
        self._dsn = url.replace("postgresql+psycopg://", "postgresql://", 1)
        self._key = _lock_key(worker_id)
        self._sure = time.monotonic()
        self._ended = threading.Event()
        self._connection: psycopg.Connection | None = None
        self._hold()
        self._thread = threading.Thread(target=self._keep, name="liveness", daemon=True)
        self._thread.start()

    def _connect(self) -> psycopg.Connection:
        return psycopg.connect(
            self._dsn,
            autocommit=True,
            connect_timeout=4,
            application_name="zsq-liveness",
            keepalives_idle=3,
            keepalives_interval=2,
            keepalives_count=2,
            tcp_user_timeout=6000,
            options="-c tcp_keepalives_idle=4 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=2",
        )

    def _hold(self) -> None:
        """The lock is held on a fresh connection; raises psycopg.Error, or TimeoutError while it is taken."""
        asked = time.monotonic()
        connection = self._connect()
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", [self._key]).fetchone()
        if row is None or not row[0]:
            connection.close()
            raise TimeoutError("The lock is still held: by our former session, or by one that declares us dead.")
        self._connection = connection
        self._sure = asked

    def _keep(self) -> None:
        while not self._ended.wait(CHECK_SECONDS):
            try:
                if self._connection is None:
                    self._hold()
                else:
                    asked = time.monotonic()
                    self._connection.execute("SELECT 1")
                    self._sure = asked  # when the question left: that is when we surely still held it
            except (psycopg.Error, TimeoutError, OSError):
                if self._connection is not None:
                    with contextlib.suppress(psycopg.Error, OSError):
                        self._connection.close()
                self._connection = None

    def lost_for(self) -> float:
        passed = time.monotonic() - self._sure
        return passed if passed > 2 * CHECK_SECONDS else 0.0

    @contextmanager
    def if_dead(self, worker_id: str) -> Iterator[bool]:
        with self._connect() as connection:
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", [_lock_key(worker_id)]).fetchone()
            yield bool(row and row[0])  # the lock goes with the connection

    def release(self) -> None:
        self._ended.set()
        self._thread.join(10)
        if self._connection is not None:
            self._connection.close()


def _folder(settings: Settings) -> Path:
    return settings.data_dir / "workers"


def _path_of(folder: Path, worker_id: str) -> Path:
    return folder / f"{hashlib.sha256(worker_id.encode()).hexdigest()[:32]}.lock"


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _lock_key(worker_id: str) -> int:
    return int.from_bytes(hashlib.sha256(b"zsq-worker:" + worker_id.encode()).digest()[:8], "big", signed=True)
