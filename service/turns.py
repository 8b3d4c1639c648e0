"""Writers of one SQLite file take turns, whichever thread or process they are in.

SQLite lets one writer in; the others sleep and look again, up to 100 ms each time and in no order, so that under load
some of them wait for seconds. Here they wait in the kernel and are woken.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from typing import Any

import sqlalchemy as sa

__all__ = ["take_turns"]

WRITES = ("BEGIN IMMEDIATE", "INSERT", "UPDATE", "DELETE", "REPLACE", "PRAGMA JOURNAL_MODE")
"""sqlite3 begins a transaction before most of them; the last is refused at once while another process does it."""

HELD = "zsq-turn"


def take_turns(engine: sa.Engine, path: Path, seconds: float) -> None:
    """Every connection of the engine, in whosever hands, waits for its turn to write and has it until it is returned.

    Raises sqlalchemy's TimeoutError out of a statement that waited so long for another thread.
    """
    turn = Turn(path, seconds)

    @sa.event.listens_for(engine, "before_cursor_execute")
    def begin(connection: sa.Connection, cursor: Any, statement: str, *_: Any) -> None:
        if not connection.info.get(HELD) and statement.lstrip()[:20].upper().startswith(WRITES):
            turn.take()
            connection.info[HELD] = True

    def end(_: Any, record: sa.pool.ConnectionPoolEntry, *__: Any) -> None:
        if record.info.pop(HELD, False):
            turn.give_back()

    for moment in ("checkin", "invalidate"):
        sa.event.listen(engine, moment, end)


class Turn:
    """A lock between threads, and one on a file between their processes: a thread alone waits for the latter."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._threads = threading.Lock()
        self._seconds = seconds
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def take(self) -> None:
        if not self._threads.acquire(timeout=self._seconds):
            raise sa.exc.TimeoutError(f"Another thread has been writing for {self._seconds:.0f} seconds.")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError:
            self._threads.release()
            raise

    def give_back(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_UN)
        self._threads.release()
