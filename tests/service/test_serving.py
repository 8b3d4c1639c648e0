"""``zsq serve`` as its owner runs it: one command, ended by a signal, nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from service.client import Client
from service.serving import environment
from service.settings import Settings

READY_WITHIN = 60.0  # generous: nothing here is a timing


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server with its workers, and its address; all of it is gone afterwards."""
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--data-dir", str(folder), *arguments]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=os.environ | {"CI": ""})
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_server_and_worker_in_order(tmp_path: Path, number: int) -> None:
    with serving(tmp_path) as (process, url):
        with Client(url, longest_pause=0.2, attempts=50) as client:
            assert client.health()
        until(lambda: children(process))
        workers = children(process)
        process.send_signal(number)
        assert process.wait(READY_WITHIN) == 0
        until(lambda: not any(worker.is_running() for worker in workers))
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_server_without_workers_has_none(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "0") as (process, url), Client(url, longest_pause=0.2, attempts=50) as client:
        assert client.health()
        assert children(process) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death is told by Linux")
def test_workers_do_not_outlive_a_killed_server(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, url):
        with Client(url, longest_pause=0.2, attempts=50) as client:
            assert client.health()
        until(lambda: children(process))
        workers = children(process)
        process.kill()
        until(lambda: not any(worker.is_running() and worker.status() != "zombie" for worker in workers))


def test_another_process_reads_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(data_dir=tmp_path, port=1234, auth=False, keep_days=2.5)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings
