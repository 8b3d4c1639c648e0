"""The API in this process with its workers beside it, for ``zsq serve``."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import structlog

from service import logs
from service.interpreter import code_paths, python
from service.settings import Settings
from service.startup import CannotStart, await_database, check_client, check_folder, opened

__all__ = ["die_with_parent", "environment", "listening", "pause_after", "serve", "workers"]

PR_SET_PDEATHSIG = 1
STILLBORN = 10.0  # seconds: a worker that dies within them may never get anywhere
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


def serve(settings: Settings, count: int) -> None:
    """Serves until SIGINT or SIGTERM; then ends open requests, then its workers, which finish or hand back jobs.

    Raises CannotStart before anything is announced.
    """
    logs.configure(settings)
    check_folder(settings)
    if count:
        check_client(settings)
    with listening(settings.host, settings.port) as listener:
        await_database(settings)
        with workers(settings, count) as ending:
            _serve(settings, listener, ending)


def _serve(settings: Settings, listener: socket.socket, ending: threading.Event) -> None:
    # imported here: the workers start on other cores meanwhile
    from service.app import create_app
    from service.context import Context
    from service.metrics import Metrics
    from service.server import Server

    host = f"[{settings.host}]" if ":" in settings.host else settings.host

    def announce() -> None:
        print(f"zsq serves at http://{host}:{listener.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)

    context = opened(lambda: Context.open(settings, Metrics()))
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it has ended in order
        Server(settings, create_app(settings, context), announce, ending.set).run(sockets=[listener])


def environment(settings: Settings) -> dict[str, str]:
    """Variables from which another process reads the same settings."""
    given = settings.model_dump(mode="json", exclude_none=True)
    return {f"ZSQ_{name.upper()}": _text(value) for name, value in given.items()}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def die_with_parent(parent: int) -> None:
    """When the given parent is gone, this process is asked to end (Linux only; elsewhere nothing changes)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise SystemExit(0)


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket: an address in use is found before anything is started."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # the protocol is named because asyncio turns Nagle's algorithm off only on sockets that say TCP: 40 ms an answer
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(2048)  # who connects before the application has started waits instead of being refused
        except (socket.gaierror, UnicodeError) as problem:
            raise CannotStart(f"The host {host!r} is no address of this machine: {problem}. Check --host.") from problem
        except OSError as problem:
            raise OSError(problem.errno, problem.strerror, f"{host}:{port}") from problem
        yield listener


@contextlib.contextmanager
def workers(settings: Settings, count: int) -> Iterator[threading.Event]:
    """That many workers run beside this process and are started again if they die; none is left afterwards.

    Setting the event ends them before: they finish or hand back their jobs meanwhile.
    """
    ending = threading.Event()
    keepers = [
        threading.Thread(target=_keep, args=(_apart(settings, n), ending), name=f"worker-{n}") for n in range(count)
    ]
    for keeper in keepers:
        keeper.start()
    try:
        yield ending
    finally:
        ending.set()
        for keeper in keepers:
            keeper.join()


def _apart(settings: Settings, number: int) -> Settings:
    """The settings of one of several workers: each has a port of its own."""
    first, step = settings.worker_metrics_port, settings.worker_concurrency
    return settings if first is None else settings.model_copy(update={"worker_metrics_port": first + number * step})


def _keep(settings: Settings, ending: threading.Event) -> None:
    """A worker runs until the end.

    The thread that starts it must live as long: to the kernel, the end of that thread is the death of the parent.
    """
    pause = 0.0
    while not ending.is_set():
        started = time.monotonic()
        command = python("-m", "service", "worker", "--parent", str(os.getpid()))
        variables = os.environ | environment(settings) | code_paths()
        worker = subprocess.Popen(command, env=variables, start_new_session=True)
        while worker.poll() is None and not ending.wait(0.2):
            pass
        if worker.poll() is None:
            worker.terminate()
            try:
                worker.wait(settings.worker_grace + 10)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        else:
            pause = pause_after(time.monotonic() - started, pause)
            structlog.get_logger().error("a worker ended", code=worker.returncode, next_in_seconds=round(pause, 1))
            ending.wait(pause)


def pause_after(lived: float, before: float) -> float:
    """How long to wait after a worker's death: briefly, but each time longer while they die as soon as they start."""
    return FIRST_PAUSE if lived > STILLBORN else min(max(2 * before, FIRST_PAUSE), LONGEST_PAUSE)
