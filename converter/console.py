"""The edge between the converter and a terminal: exit codes, the one line of an error, progress as people see it."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, TextIO

import typer

from converter.errors import Cancelled, ConversionError, OutOfMemory, Refusal, Stopped, allocation_failed
from converter.progress import Listener, Progress, Stage

__all__ = ["BUG", "DISAPPOINTED", "DONE", "REFUSED", "STOPPED", "emit", "one_line", "run", "showing_progress"]

DONE, BUG, REFUSED, DISAPPOINTED, STOPPED = 0, 1, 2, 3, 4
TYPER_INTERRUPTED = 130  # what typer makes of KeyboardInterrupt

CIRCUMSTANCES = {  # what the file system may answer to a command that is otherwise right
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOENT, errno.EISDIR, errno.ENOTDIR,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ECONNREFUSED,
}  # fmt: skip


def run(app: typer.Typer, arguments: Sequence[str], name: str = "zsq") -> int:
    """The command ran; returns the contract's exit code after at most one line on stderr, and never a traceback.

    With ZSQ_DEBUG=1 the traceback of a bug is printed as well.
    """
    as_json = "--json" in arguments
    try:
        with _signals_as_interrupts() as interrupted, _quiet_libraries():
            outcome = app(args=list(arguments), prog_name=name, standalone_mode=False)
            if outcome == TYPER_INTERRUPTED and interrupted():
                raise Cancelled("Interrupted before the end; nothing was written.")
    except Exception as problem:  # the documented boundary: whatever happens becomes an exit code and a sentence
        if isinstance(problem, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return DONE
        if os.environ.get("ZSQ_DEBUG"):
            traceback.print_exc()
        code, facts = _judge(
            Cancelled("Interrupted before the end; nothing was written.") if interrupted() else problem
        )
        if as_json:
            emit({"event": "error", **facts})
        print(f"{name.split()[0]}: {one_line(facts)}", file=sys.stderr)
        return code
    return outcome if isinstance(outcome, int) else DONE


def one_line(facts: Mapping[str, str]) -> str:
    """The sentence, the places it does not name itself, and the remedy, without line ends or control characters."""
    message = facts["message"]
    places = [f"{place} {facts[place]!r}" for place in PLACES if place in facts and facts[place] not in message]
    parts = [message, f"({', '.join(places)})" if places else "", facts.get("remedy", "")]
    text = " ".join(" ".join(part.split()) for part in parts if part)
    return "".join(character if character.isprintable() else "?" for character in text)


PLACES = ("node", "operator", "attribute", "tensor", "field")


def emit(event: Mapping[str, Any], stream: TextIO | None = None) -> None:
    """The event is one line of JSON on stdout, or on the given stream."""
    print(json.dumps(event, allow_nan=False, default=str), file=stream or sys.stdout, flush=True)


def _judge(problem: Exception) -> tuple[int, dict[str, str]]:
    match problem:
        case Refusal():
            return REFUSED, problem.facts()
        case Stopped():
            return STOPPED, problem.facts()
        case ConversionError():
            remedy = problem.remedy or ""
            return BUG, problem.facts() | {"remedy": remedy if REPORT_IT in remedy else f"{remedy} {REPORT_IT}".strip()}
        case typer.TyperException():
            said = problem.format_message().replace("Value error, ", "").rstrip(".")
            message = f"{said or 'Missing command'}."
            return REFUSED, {"kind": "Misuse", "message": message, "remedy": "See --help."}
        case typer.Abort():
            return STOPPED, Cancelled("Given up before the end; nothing was written.").facts()
        case MemoryError():
            return STOPPED, _out_of_memory().facts()
        case OSError() if problem.errno in CIRCUMSTANCES:
            where = f"{problem.filename}: " if problem.filename else ""
            return REFUSED, {"kind": "OutputNotWritable", "message": f"{where}{problem.strerror or problem}."}
        case RuntimeError() if allocation_failed(problem):
            return STOPPED, _out_of_memory().facts()
    frames = traceback.extract_tb(problem.__traceback__)
    where = f" at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    message = f"A bug of zsq: {type(problem).__name__}{where}: {problem}"
    return BUG, {"kind": "Bug", "message": message.rstrip(".") + ".", "remedy": REPORT_IT}


REPORT_IT = "Please report it with the traceback that ZSQ_DEBUG=1 prints and, if you may, the model."


def _out_of_memory() -> OutOfMemory:
    return OutOfMemory("There is not enough memory for this model.", remedy="Give more memory, or fewer --samples.")


@contextlib.contextmanager
def _signals_as_interrupts() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM raise KeyboardInterrupt; the value tells whether one came, even if a library swallowed it."""
    seen: list[int] = []

    def interrupt(number: int, _: FrameType | None) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    try:
        before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # only the main thread may
        before = {}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Warnings and log lines of libraries do not reach the owner of the model, unless ZSQ_DEBUG is set."""
    if os.environ.get("ZSQ_DEBUG"):
        yield
        return
    silence = logging.NullHandler()
    logging.getLogger().addHandler(silence)  # without any handler, logging writes warnings to stderr
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().removeHandler(silence)


# ---------------------------------------------------------------------------------------------------------- progress


@contextlib.contextmanager
def showing_progress(as_json: bool, stream: TextIO | None = None) -> Iterator[Listener]:
    """Yields a listener: JSON lines on stdout, a bar on a terminal, or a plain line now and then in a log."""
    stream = stream or sys.stderr
    if as_json:
        machine = sys.stdout
        with contextlib.redirect_stdout(stream):  # a library that prints must not spoil the JSON lines
            yield lambda moment: emit(moment.facts(), machine)
    elif stream.isatty():
        with _bar(stream) as listener:
            yield listener
    else:
        yield _log(stream)


@contextlib.contextmanager
def _bar(stream: TextIO) -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.fields[stage]:<14}"),
        BarColumn(bar_width=28),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]:>11}"),
        TextColumn("[dim]{task.fields[message]}"),
    )
    with Bar(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task("", total=1.0, stage="starting", left="", message="")

        def show(moment: Progress) -> None:
            left = "" if moment.seconds_left is None else f"{_duration(moment.seconds_left)} left"
            bar.update(task, completed=moment.progress, stage=str(moment.stage), left=left, message=moment.message)

        yield show


def _log(stream: TextIO, every: float = 10.0) -> Listener:
    """A line at each new stage, and every ten seconds within one."""
    last: tuple[Stage | None, float] = (None, 0.0)

    def show(moment: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if moment.stage is not last[0] or now - last[1] >= every:
            last = (moment.stage, now)
            print(moment, file=stream, flush=True)

    return show


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
