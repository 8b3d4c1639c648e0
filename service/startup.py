"""What must be there before anything is served: a folder to write to and a database that answers."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TypeVar

import psycopg
import sqlalchemy as sa
import structlog

from service.database import SchemaMismatch
from service.patience import is_passing
from service.settings import Settings
from service.storage import StoreDown

__all__ = ["CannotStart", "await_database", "check_client", "check_folder", "opened", "raise_descriptors"]

T = TypeVar("T")
PAUSE = 2.0
CONNECT_SECONDS = 5
MOST_DESCRIPTORS = 65_536  # a connection is some KiB of ours; more of them than this is work for another machine


class CannotStart(Exception):
    """The service cannot begin; the message is a sentence for its operator."""


def check_folder(settings: Settings) -> None:
    """The data folder is there and takes files; raises CannotStart."""
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=settings.data_dir):
            pass
    except OSError as problem:
        raise CannotStart(
            f"The data folder {settings.data_dir} cannot be written: {problem.strerror}. "
            "Give another one with --data-dir or ZSQ_DATA_DIR, or write access to this user."
        ) from problem


def check_client(settings: Settings) -> None:
    """MLflow's client is there if conversions are to be registered; raises CannotStart."""
    if settings.mlflow_uri is not None and find_spec("mlflow") is None:
        raise CannotStart("ZSQ_MLFLOW_URI is set, and MLflow's client is not installed: pip install 'zsq[mlflow]'.")


def await_database(settings: Settings) -> None:
    """A PostgreSQL server answered, within ``startup_wait`` seconds, each failure told; raises CannotStart."""
    if settings.is_sqlite:
        return
    url = settings.database_url.replace("postgresql+psycopg://", "postgresql://", 1)
    until = time.monotonic() + settings.startup_wait
    while True:
        try:
            psycopg.connect(url, connect_timeout=CONNECT_SECONDS).close()
        except psycopg.Error as problem:
            reason = " ".join(str(problem).split())[:300]
            left = until - time.monotonic()
            if left <= 0:
                raise CannotStart(
                    f"The database at {_shown(url)} did not answer within {settings.startup_wait:.0f} s: {reason}. "
                    "Check --database-url (ZSQ_DATABASE_URL) and that the server runs."
                ) from problem
            structlog.get_logger().warning("waiting for the database", reason=reason, seconds_left=round(left))
            time.sleep(min(PAUSE, left))
        else:
            return


def opened(work: Callable[[], T]) -> T:
    """What ``work`` opens; raises CannotStart with a sentence for what an operator can mend."""
    try:
        return work()
    except SchemaMismatch as problem:
        raise CannotStart(str(problem)) from problem
    except sa.exc.DatabaseError as problem:
        raise CannotStart(f"The database cannot be used: {_first_line(problem.orig or problem)}.") from problem
    except StoreDown as problem:
        raise CannotStart(f"The store cannot be used: {_first_line(problem)}.") from problem
    except OSError as problem:
        where = f"{problem.filename}: " if problem.filename else ""
        raise CannotStart(f"{where}{problem.strerror or problem}.") from problem
    except Exception as problem:
        if is_passing(problem):
            raise CannotStart(f"The database went away: {_first_line(problem)}.") from problem
        raise


def _first_line(problem: object) -> str:
    return " ".join(str(problem).split())[:300].rstrip(".")


def _shown(url: str) -> str:
    """The address without what may be a password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def raise_descriptors() -> int:
    """This process may open as many files as its hard limit says; how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
