"""One child process for one attempt: confined, watched, and ended with all its descendants whatever it does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

import psutil

from service import memory
from service.interpreter import code_paths, python

__all__ = ["Child", "Ending", "Exit", "Level", "Limits", "achievable_level", "run"]

LINE_LIMIT = 64 << 10
OUTPUT_LIMIT = 64 << 20  # bytes in all; an hour of progress is a fifth of it
ERROR_TAIL = 200  # lines of standard error that are kept for the log
WATCH_SECONDS = 0.2
DISK_SECONDS = 1.0


@dataclass(frozen=True)
class Limits:
    """What one child may use; sizes in bytes, times in seconds."""

    wall: float
    memory: int
    disk: int
    threads: int = 1
    device: str = "cpu"

    def resources(self) -> dict[str, tuple[int, int]]:
        """Soft and hard limits by the names of the ``resource`` module, soft first so that SIGXCPU comes first."""
        seconds = int(self.wall * (self.threads + 1)) + 1
        limits = {
            "CPU": (seconds, seconds + 5),
            "FSIZE": (self.disk, self.disk),
            "NOFILE": (1024, 1024),
            "CORE": (0, 0),
            "NPROC": (NPROC, NPROC),
        }
        if self.device == "cpu":  # CUDA reserves far more addresses than it uses
            limits["AS"] = (self.memory + ADDRESS_SLACK, self.memory + ADDRESS_SLACK)
        return limits


FULL_LANDLOCK = 3  # before it, whoever may not write a file may still cut it short
FILES = 10_000  # a conversion makes some dozens; each costs the disk an inode, however empty it is
NPROC = 4096  # counts all of the user's threads, so it only stops a bomb where there is no system-call filter
ADDRESS_SLACK = 4 << 30  # libraries of torch and thread stacks are mapped but never touched


@dataclass(frozen=True)
class Level:
    """How far a child is confined on this machine; 0 or False is what could not be had."""

    landlock: int = 0
    seccomp: bool = False
    network: str = "open"

    @property
    def name(self) -> str:
        """``full``: files, network and system calls; ``partial``: some of them; ``limits``: resource limits only."""
        if self.landlock >= FULL_LANDLOCK and self.seccomp and self.network == "none":
            return "full"
        return "partial" if self.landlock or self.seccomp or self.network != "open" else "limits"

    def facts(self) -> dict[str, Any]:
        return {"level": self.name, **asdict(self)}


class Ending(StrEnum):
    """Why a child is no more."""

    EXITED = "exited"
    CRASHED = "crashed"  # by a signal that we did not send
    OUT_OF_TIME = "out of time"
    OUT_OF_MEMORY = "out of memory"
    OUT_OF_DISK = "out of disk"
    TALKED_TOO_MUCH = "talked too much"
    STOPPED = "stopped"  # because the caller wanted it


@dataclass(frozen=True)
class Exit:
    """What is known after a child."""

    ending: Ending
    code: int  # as subprocess gives it: negative for a signal
    seconds: float
    peak_memory: int
    level: Level
    errors: str  # the end of what it wrote to standard error: for the log, never for its owner


@dataclass
class Child:
    """What to run: a module or .py file with its arguments, in ``folder``, the only place it may write."""

    command: Sequence[str]
    folder: Path
    limits: Limits
    readable: Sequence[Path] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


def run(child: Child, heard: Callable[[dict[str, Any]], None], wanted: Callable[[], bool]) -> Exit:
    """The child has ended, and nothing it started lives on; ``heard`` was called with every JSON line it printed.

    ``wanted`` is asked a few times a second and ends the child by answering False. The child dies with the calling
    thread. What ``heard`` raises ends the child and is raised here.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        python("-s", "-B", "-m", "service.sandbox", json.dumps(_specification(child)), *child.command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=child.folder,
        env=_environment(child),
        start_new_session=True,
        close_fds=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    lines = _Lines(process.stdout)
    errors = _Tail(process.stderr)
    watch = _Watch(child, process.pid, started)
    ending: Ending | None = None
    try:
        while True:
            for line in lines.take():
                heard(line)
            if ending is None:
                ending = watch.look() or (None if wanted() else Ending.STOPPED)
                ending = Ending.TALKED_TOO_MUCH if lines.overflowed else ending
                if ending is not None:
                    _kill(process.pid)
            if _ended_within(process.pid, WATCH_SECONDS):
                break
    finally:
        _kill(process.pid)  # before it is reaped: its number, and its group's, cannot be another's yet
        process.wait()
        lines.finish()
        errors.finish()
    if ending is None:
        for line in lines.take():
            heard(line)
        ending = Ending.TALKED_TOO_MUCH if lines.overflowed else _ending_of(process.returncode, watch)
    seconds = time.monotonic() - started
    return Exit(ending, process.returncode, seconds, watch.peak, lines.level, errors.text())


def achievable_level(folder: Path) -> Level:
    """The level that a child really reached here just now; raises RuntimeError if children cannot run here at all."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        limits = Limits(wall=30, memory=1 << 30, disk=1 << 20)
        ended = run(Child(["this"], Path(scratch), limits), lambda line: None, lambda: True)  # a module without effect
    if ended.ending is not Ending.EXITED or ended.code != 0:
        raise RuntimeError(f"A confined child does not run here ({ended.ending}, {ended.code}): {ended.errors[-2000:]}")
    return ended.level


def _specification(child: Child) -> dict[str, Any]:
    specification: dict[str, Any] = {
        "parent": os.getpid(),
        "device": child.limits.device,
        "limits": child.limits.resources(),
        "readable": [str(path) for path in child.readable],
        "writable": [str(child.folder)],
    }
    if child.command[0].endswith(".py"):
        specification["readable"].append(str(Path(child.command[0]).parent))
    return specification


def _environment(child: Child) -> dict[str, str]:
    threads = str(child.limits.threads)
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(child.folder),
        "TMPDIR": str(child.folder),
        "USER": "zsq",  # torch asks for it, and the list of users is out of reach
        "LANG": "C.UTF-8",
        "ORT_DISABLE_TELEMETRY": "1",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        **code_paths({}),
        **child.environment,
    }


def _ending_of(code: int, watch: _Watch) -> Ending:
    if code >= 0:
        return Ending.EXITED
    if -code == signal.SIGXCPU:
        return Ending.OUT_OF_TIME
    if -code == signal.SIGXFSZ:
        return Ending.OUT_OF_DISK
    # the kernel kills without a word; near the limit, or if it says that memory ran out, the reason is not in doubt
    near = watch.peak > 0.8 * watch.limits.memory
    if -code == signal.SIGKILL and (near or memory.kills() > watch.kills_before):
        return Ending.OUT_OF_MEMORY
    return Ending.CRASHED


def _ended_within(child: int, seconds: float) -> bool:
    """Whether the child has ended, looked at for so long; it is not reaped by this."""
    until = time.monotonic() + seconds
    while os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _kill(leader: int) -> None:
    """The process group of the child and every descendant outside it have been sent SIGKILL."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for descendant in psutil.Process(leader).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                descendant.kill()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


class _Watch:
    """Memory of the whole tree, files written and time, against the limits."""

    def __init__(self, child: Child, leader: int, started: float) -> None:
        self.limits, self.folder = child.limits, child.folder
        self.leader, self.started = leader, started
        self.peak = 0
        self.kills_before = memory.kills()
        self._disk_looked = started
        self._in_memory = _is_in_memory(child.folder)
        self._held_as_files = 0

    def look(self) -> Ending | None:
        now = time.monotonic()
        if now - self.started > self.limits.wall:
            return Ending.OUT_OF_TIME
        used = self._memory() + self._held_as_files
        self.peak = max(self.peak, used)
        if used > self.limits.memory:
            return Ending.OUT_OF_MEMORY
        if now - self._disk_looked > DISK_SECONDS:
            self._disk_looked = now
            size, files = folder_use(self.folder, FILES)
            self._held_as_files = size if self._in_memory else 0
            if size > self.limits.disk or files > FILES:
                return Ending.OUT_OF_DISK
        return None

    def _memory(self) -> int:
        try:
            leader = psutil.Process(self.leader)
            tree = [leader, *leader.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0
        total = 0
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total


def _is_in_memory(folder: Path) -> bool:
    """Whether files there are memory: on tmpfs they count against the container's limit."""
    best, kind = "", ""
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, place, found, *_ = line.split()
            inside = place == "/" or str(folder) == place or str(folder).startswith(f"{place}/")
            if inside and len(place) >= len(best):
                best, kind = place, found
    return kind in ("tmpfs", "ramfs")


def folder_use(folder: Path, most: int) -> tuple[int, int]:
    """Bytes really occupied by what lies below, links not followed, and the number of entries, up to about ``most``."""
    total = entries = 0
    for parent, folders, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
        entries += len(folders) + len(names)
        if entries > most:
            break
    return total, entries


class _Lines:
    """Standard output as JSON objects: bounded lines, bounded in all, anything else dropped.

    The first line is the sandbox's own, written before it ran anything foreign; a later one like it is not believed.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self.level = Level()
        self.overflowed = False
        self._taken: deque[dict[str, Any]] = deque()
        self._thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def _read(self, pipe: IO[bytes]) -> None:
        total = 0
        with pipe:
            while line := pipe.readline(LINE_LIMIT):
                first = total == 0
                total += len(line)
                if total > OUTPUT_LIMIT or (len(line) == LINE_LIMIT and not line.endswith(b"\n")):
                    self.overflowed = True
                    return
                with contextlib.suppress(ValueError, RecursionError):
                    parsed = json.loads(line)
                    if first:
                        self.level = Level(parsed["landlock"], parsed["seccomp"], parsed["network"])
                    elif isinstance(parsed, dict):
                        self._taken.append(parsed)

    def take(self) -> list[dict[str, Any]]:
        return [self._taken.popleft() for _ in range(len(self._taken))]

    def finish(self) -> None:
        self._thread.join(5)


class _Tail:
    """The last lines of standard error."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._lines: deque[bytes] = deque(maxlen=ERROR_TAIL)
        self._thread = threading.Thread(target=self._read, args=(pipe,), daemon=True)
        self._thread.start()

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            while line := pipe.readline(1024):
                self._lines.append(line)

    def text(self) -> str:
        return b"".join(self._lines).decode(errors="replace")

    def finish(self) -> None:
        self._thread.join(5)
