"""A real ``zsq serve`` for tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.service.harness import ROOT

__all__ = ["READY_WITHIN", "children", "serving", "until"]

READY_WITHIN = 60.0  # generous: nothing here is a timing


@contextmanager
def serving(folder: Path, *arguments: str, cwd: Path = ROOT) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server with its workers, and its address; all of it is gone afterwards."""
    command = [sys.executable, "-P", "-m", "service", "serve", "--port", "0", "--data-dir", str(folder), *arguments]
    with open(folder / "log", "w") as log:
        variables = os.environ | {"CI": "", "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=variables, cwd=cwd)
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+", process.stdout.readline())
            assert found is not None, (folder / "log").read_text()
            yield process, found[0]
        finally:
            workers = children(process)
            process.kill()
            process.communicate()
            for worker in workers:
                if worker.is_running():
                    worker.kill()


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
