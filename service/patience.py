"""Waiting for what is away for a while: a database, a store, room on a disk."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import psycopg
import sqlalchemy as sa
import structlog

from service.storage import StoreDown

__all__ = ["NO_SPACE", "GivenUp", "Patience", "is_passing"]

P = ParamSpec("P")
T = TypeVar("T")

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
LONGEST_PAUSE = 5.0


class GivenUp(Exception):
    """The wait was ended from outside."""


def is_passing(problem: Exception) -> bool:
    """Whether the same call may succeed later without anybody changing it."""
    match problem:
        case (
            psycopg.OperationalError()
            | StoreDown()
            | sa.exc.OperationalError()
            | sa.exc.InterfaceError()
            | sa.exc.TimeoutError()
        ):
            return True
        case sa.exc.DBAPIError():
            return problem.connection_invalidated
        case OSError():
            return problem.errno in NO_SPACE
    return False


class Patience:
    """Repeats a call for up to ``seconds`` while its failures are passing ones, or until ``ended`` is set."""

    def __init__(self, seconds: float, ended: threading.Event) -> None:
        self.seconds = seconds
        self._ended = ended

    def __call__(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``work`` returns; raises its last failure, or GivenUp."""
        until = time.monotonic() + self.seconds
        pause = 0.25
        while True:
            try:
                return work(*args, **kwargs)
            except Exception as problem:  # sorted by is_passing, which knows the drivers' many classes
                if not is_passing(problem) or time.monotonic() > until:
                    raise
                structlog.get_logger().warning("waiting", reason=str(problem)[:500])
            self.pause(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def pause(self, seconds: float) -> None:
        if self._ended.wait(seconds):
            raise GivenUp
