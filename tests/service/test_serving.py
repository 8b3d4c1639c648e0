"""``zsq serve`` as its owner runs it: one command, ended by a signal, nothing left behind."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from pathlib import Path

import pytest

from service.client import Client
from service.serving import environment, listening, pause_after
from service.settings import Settings
from tests.service.running import READY_WITHIN, children, serving, until


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


def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, _):
        until(lambda: children(process))
        first = children(process)[0]
        first.kill()
        until(lambda: any(each.pid != first.pid for each in children(process)))


def test_only_workers_that_die_at_once_are_waited_for_longer_each_time() -> None:
    pauses = [0.0]
    for lived in (1, 1, 1, 60, 1, 60, 60):
        pauses.append(pause_after(lived, pauses[-1]))
    assert pauses == [0.0, 0.5, 1.0, 2.0, 0.5, 1.0, 0.5, 0.5]
    assert pause_after(1, 30.0) == 30.0


def test_another_process_reads_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(data_dir=tmp_path, port=1234, auth=False, keep_days=2.5)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_answers_are_not_held_back_for_acknowledgements() -> None:
    async def accepted(listener: socket.socket) -> int:
        found: asyncio.Queue[int] = asyncio.Queue()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            found.put_nowait(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        async with await asyncio.start_server(connected, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.close()
            return await found.get()

    with listening("127.0.0.1", 0) as listener:
        assert asyncio.run(accepted(listener)) == 1
