"""What a child says while it runs, carried into tables and store from threads that may wait without holding it up."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog

from converter.progress import Stage
from service.attempts import Attempt, Attempts, Superseded
from service.outputs import BadOutput, is_plain_name, opened
from service.storage import Artefacts, StoreDown

__all__ = ["Relay"]

PERIOD = 0.5
STAGES = frozenset(map(str, Stage))
MESSAGE_LIMIT = 300
PASSING = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)


class Relay:
    """For one attempt: progress at most twice a second, checkpoints as they come, and whether the job is still wanted.

    A database or store that is away costs progress messages and checkpoints, never the conversion.
    """

    def __init__(self, attempts: Attempts, attempt: Attempt, checkpoints: Path, limit: int) -> None:
        self._attempts, self._attempt = attempts, attempt
        self._checkpoints, self._limit = checkpoints, limit
        self._artefacts: Artefacts = attempts.jobs.artefacts
        self._latest: tuple[dict[str, Any], dict[str, Any]] | None = None
        self._waiting: queue.Queue[tuple[str, list[str]] | None] = queue.Queue(maxsize=100)
        self._ended = threading.Event()
        self.superseded = False
        self.result: dict[str, Any] | None = None
        self.error: dict[str, str] | None = None
        self._log = structlog.get_logger().bind(job=attempt.job.id, attempt=attempt.number)
        self._threads = [
            threading.Thread(target=self._tell, name="relay-progress", daemon=True),
            threading.Thread(target=self._save, name="relay-checkpoints", daemon=True),
        ]

    def __enter__(self) -> Relay:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        for thread in self._threads:
            thread.join()

    def hear(self, line: Mapping[str, Any]) -> None:
        """One line of the child, believed only as far as it makes sense."""
        match line.get("event"):
            case "progress":
                self._latest = _progress_of(line) or self._latest
            case "checkpoint":
                stage, files = line.get("stage"), line.get("files")
                if stage in STAGES and isinstance(files, list) and len(files) <= 100 and all(map(is_plain_name, files)):
                    with contextlib.suppress(queue.Full):
                        self._waiting.put_nowait((str(stage), list(files)))
            case "result":
                self.result = dict(line)
            case "error":
                self.error = _error_of(line)

    def _tell(self) -> None:
        told = None
        while True:
            ended = self._ended.wait(PERIOD)
            latest = self._latest
            try:
                if latest is not None and latest is not told:
                    self._attempts.progress(self._attempt, *latest)
                    told = latest
                elif not ended and not self._attempts.is_current(self._attempt):
                    self.superseded = True
            except Superseded:
                self.superseded = True
            except PASSING as problem:
                self._log.warning("progress not written", reason=str(problem)[:MESSAGE_LIMIT])
            if ended or self.superseded:
                return

    def _save(self) -> None:
        while (entry := self._waiting.get()) is not None:
            stage, names = entry
            prefix = f"checkpoints/{self._attempt.job.id}/{self._attempt.number}/{stage}"
            files = {}
            try:
                for name in names:
                    with opened(self._checkpoints, name, self._limit) as file:
                        files[name] = self._artefacts.put_open(file, f"{prefix}/{name}").key
                self._attempts.checkpoint(self._attempt, stage, files)
            except Superseded:
                self._artefacts.delete_now(*files.values())
                self.superseded = True
                return
            except (BadOutput, StoreDown, OSError, *PASSING) as problem:
                self._log.warning("checkpoint not stored", stage=stage, reason=str(problem)[:MESSAGE_LIMIT])


def _progress_of(line: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The columns of the job and the data of the event, or None for a line that makes no sense."""
    if line.get("stage") not in STAGES:
        return None
    numbers: dict[str, float | None] = {}
    for name, ceiling in (("stage_progress", 1.0), ("progress", 1.0), ("seconds_left", 1e7)):
        value = line.get(name)
        usable = isinstance(value, int | float) and value == value
        numbers[name] = min(ceiling, max(0.0, float(value or 0.0))) if usable else None
    values = {
        "stage": line["stage"],
        "stage_progress": numbers["stage_progress"] or 0.0,
        "progress": numbers["progress"] or 0.0,
        "seconds_left": numbers["seconds_left"],
        "message": str(line.get("message", ""))[:MESSAGE_LIMIT],
    }
    return values, values


ERROR_FIELDS = ("kind", "message", "node", "operator", "attribute", "tensor", "field", "remedy")


def _error_of(line: Mapping[str, Any]) -> dict[str, str]:
    """The facts of a ConversionError, each a string of bounded length; ``kind`` and ``message`` are always there."""
    facts = {name: str(line[name])[:2000] for name in ERROR_FIELDS if line.get(name) is not None}
    return {"kind": "Bug", "message": "The conversion failed and did not say why."} | facts
