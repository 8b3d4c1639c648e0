"""The handler of a conversion: from a job's id to its result, through a confined child that nobody trusts."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
import structlog

from converter.findings import Isolation
from service import isolation
from service.attempts import Attempt, Attempts, Superseded
from service.engine import Kind
from service.isolation import Child, Ending, Exit, Level, Limits
from service.outputs import BadOutput, opened, read_facts, read_report
from service.patience import GivenUp, Patience, is_passing
from service.records import plain_name
from service.relay import Relay
from service.settings import Settings
from service.storage import Missing

__all__ = ["COMMAND", "Conversions"]


COMMAND = ("converter", "convert")
EXAMINATION = ("service.examination",)
INSPECTION_SECONDS = 120.0  # somebody waits before a page; the largest model of the zoo takes 5
FACTS = "inspection.json"
PATIENCE = 900.0  # seconds for which a store, database or disk may be away before a job is failed for it
MODEL_LIMIT = 4 << 30
HTML = "report.html"
RETRY_SECONDS = 5.0
LITTLE_SPACE = 32 << 20

SENTENCES = {
    Ending.OUT_OF_TIME: ("OutOfTime", "The conversion was stopped at the limit of {wall:.0f} seconds."),
    Ending.OUT_OF_MEMORY: (
        "OutOfMemory",
        "The conversion was stopped: it needed over {memory:.1f} GiB of memory.",
    ),
    Ending.OUT_OF_DISK: ("OutOfDisk", "The conversion was stopped: it wrote more than {disk:.1f} GiB of files."),
    Ending.TALKED_TOO_MUCH: ("Crashed", "The conversion was stopped: its messages were not what was agreed."),
    Ending.CRASHED: ("Crashed", "The conversion crashed with {signal}; nothing else was harmed."),
}


class Interrupted(Exception):
    """The child ended for a reason outside it; a strike if that may yet be the model's doing."""

    def __init__(self, reason: str, *, is_strike: bool) -> None:
        super().__init__(reason)
        self.is_strike = is_strike


class Conversions:
    """Called with a job's id on a thread of the engine; returns when the job is final or somebody else's."""

    def __init__(self, settings: Settings, attempts: Attempts, folder: Path, command: Sequence[str] = COMMAND) -> None:
        self._settings = settings
        self._attempts = attempts
        self._artefacts = attempts.jobs.artefacts
        self._folder = folder
        self._command = command
        self._active: set[str] = set()
        self._lock = threading.Lock()
        self._interrupted: dict[str, float] = {}
        self.handing_back = threading.Event()
        self._patience = Patience(PATIENCE, self.handing_back)
        self._limits = Limits(
            wall=settings.job_time_limit,
            memory=settings.job_memory_limit,
            disk=settings.job_disk_limit,
            threads=settings.job_threads,
            device=settings.job_device,
        )

    @property
    def active(self) -> frozenset[str]:
        """Jobs whose handler has not returned."""
        with self._lock:
            return frozenset(self._active)

    def __call__(self, kind: Kind, job_id: str) -> None:
        log = structlog.get_logger().bind(job=job_id)
        with self._lock:
            self._active.add(job_id)
        try:
            while not self._attempt(job_id, log):
                self._patience.pause(RETRY_SECONDS)
        except Superseded:
            log.info("job is not ours any more")
            with contextlib.suppress(GivenUp):  # what is left is swept once a day
                self._patience(self._let_go, job_id)
        except GivenUp:
            with contextlib.suppress(sa.exc.SQLAlchemyError):  # without a database others will find our lock free
                self._attempts.jobs.engine.requeue(job_id, kind)
                log.info("job handed back")
            with self._lock:
                self._active.discard(job_id)
            threading.Event().wait()  # to return would tell the engine that the task is done; the process ends soon
        finally:
            self._interrupted.pop(job_id, None)
            with self._lock:
                self._active.discard(job_id)

    def _attempt(self, job_id: str, log: structlog.typing.FilteringBoundLogger) -> bool:
        """Whether the job is final; False asks for another attempt."""
        attempt = self._patience(self._attempts.begin, job_id)
        if attempt is None:
            log.info("nothing to do")
            return True
        log = log.bind(attempt=attempt.number)
        folder = self._folder / f"{job_id}.{attempt.number}"
        try:
            folder.mkdir(parents=True, mode=0o700)
            error = self._convert(attempt, folder, log)
        except Superseded:
            raise
        except GivenUp:
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                self._attempts.interrupt(attempt, "the worker is shutting down")
            raise
        except Interrupted as problem:
            log.warning("interrupted", reason=str(problem))
            if not problem.is_strike and self._within_patience(job_id):
                self._patience(self._attempts.interrupt, attempt, str(problem))
                return False
            if problem.is_strike:
                return False
            error = {"kind": "DiskFull", "message": "The service has no disk space left for this conversion."}
        except Exception as problem:  # the boundary of one job: a bug of ours fails this job and no other
            log.exception("the service failed")
            error = {"kind": "Bug", "message": "The service failed at this conversion; its log says why."}
            if is_passing(problem):
                error = {"kind": "ServiceUnavailable", "message": "The service's own store was away for too long."}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if error is not None:
            log.info("conversion failed", **error)
            self._patience(self._attempts.fail, attempt, error)
        self._patience(self._drop_checkpoints, job_id)
        return True

    def _within_patience(self, job_id: str) -> bool:
        """Whether this job may be interrupted once more; counted from its first interruption here."""
        first = self._interrupted.setdefault(job_id, time.monotonic())
        return time.monotonic() - first < PATIENCE

    def _convert(
        self, attempt: Attempt, folder: Path, log: structlog.typing.FilteringBoundLogger
    ) -> dict[str, str] | None:
        """The job has its result, or the error is returned."""
        try:
            child = self._prepare(attempt, folder)
        except Missing:
            return {"kind": "ModelLost", "message": "The model is no longer in the store; send it again."}
        relay = Relay(self._attempts, attempt, child.folder / "checkpoints", self._limits.disk)
        log.info("conversion begins", resumed=sorted(attempt.checkpoints))
        with relay:
            ended = isolation.run(child, relay.hear, lambda: not (relay.superseded or self.handing_back.is_set()))
        facts = ended.level.facts() | {"peak_memory": ended.peak_memory, "seconds": round(ended.seconds, 2)}
        log.info("child ended", ending=ended.ending, code=ended.code, **facts)
        if relay.superseded:
            raise Superseded
        if ended.ending is Ending.STOPPED:
            raise GivenUp
        self._patience(self._attempts.confined, attempt, facts)
        if ended.ending is Ending.EXITED and ended.code in (0, 3) and relay.result is not None:
            return self._publish(attempt, child, ended.level, log)
        if ended.errors:
            log.warning("standard error of the child", text=ended.errors[-4000:])
        if ended.ending is Ending.CRASHED and ended.code == -signal.SIGKILL:
            raise Interrupted("the child was killed from outside", is_strike=True)
        if ended.ending is not Ending.OUT_OF_DISK and _is_full(child.folder, relay.error):
            raise Interrupted("the disk is full", is_strike=False)
        return self._error(ended, relay)

    def _prepare(self, attempt: Attempt, folder: Path) -> Child:
        """The model, earlier stages and options lie where the child will look for them."""
        job = attempt.job
        inputs, work = folder / "in", folder / "work"
        checkpoints = work / "checkpoints"
        for place in (inputs, work, checkpoints):
            place.mkdir()
        model = inputs / f"{plain_name(job.model_name)}.{'zip' if job.archive else 'onnx'}"
        self._patience(self._fetch, job.model_key, model)
        for files in attempt.checkpoints.values():
            with contextlib.suppress(Missing):  # then the child does that stage again
                for file_name, key in files.items():
                    self._patience(self._fetch, key, checkpoints / file_name)
        options = {**job.options, "threads": self._settings.job_threads}
        options.pop("validation", None)  # a path, and the paths of this machine are not the owner's to name
        if job.kind == Kind.INSPECTION:
            limits = replace(self._limits, wall=min(self._limits.wall, INSPECTION_SECONDS))
            return Child([*EXAMINATION, str(model), str(work / FACTS)], work, limits, readable=[inputs])
        (inputs / "options.json").write_text(json.dumps(options))
        arguments = [
            str(model), "-o", str(work / "model.int8.onnx"), "--report", str(work / "report.json"),
            "--html", str(work / HTML), "--json", "--options", str(inputs / "options.json"),
            "--checkpoints", str(checkpoints),
        ]  # fmt: skip
        return Child([*self._command, *arguments], work, self._limits, readable=[inputs])

    def _fetch(self, key: str, path: Path) -> None:
        path.unlink(missing_ok=True)  # what an interrupted try left
        self._artefacts.fetch(key, path)

    def _publish(
        self, attempt: Attempt, child: Child, level: Level, log: structlog.typing.FilteringBoundLogger
    ) -> dict[str, str] | None:
        """The child's files are checked, stored and the job's, or the error is returned."""
        put = self._artefacts.put_open
        try:
            if attempt.job.kind == Kind.INSPECTION:
                facts = read_facts(child.folder, FACTS)
                results = {"inspection": self._patience(put, io.BytesIO(facts))}
                self._patience(self._attempts.succeed, attempt, results)
                return None
            # the level is what the sandbox said before the child was let loose, not what the child may claim
            report = read_report(child.folder, "report.json").confined(Isolation(**level.facts()))
            page = report.to_html()  # ours, from checked data; the child's own page is not used
            results = {
                "report": self._patience(put, io.BytesIO(report.to_json().encode())),
                "html": self._patience(put, io.BytesIO(page.encode())),
            }
            with opened(child.folder, "model.int8.onnx", MODEL_LIMIT) as model:
                results["model"] = self._patience(put, model)
        except BadOutput as problem:
            return {"kind": "BadOutput", "message": f"The conversion's result was not usable: {problem}"}
        self._patience(self._attempts.succeed, attempt, results)
        log.info("conversion succeeded", bytes=results["model"].size)
        return None

    def _error(self, ended: Exit, relay: Relay) -> dict[str, str]:
        if ended.ending is Ending.EXITED:
            return relay.error or {"kind": "Bug", "message": "The conversion ended without a result or a reason."}
        kind, sentence = SENTENCES[ended.ending]
        gib = 1 << 30
        name = signal.Signals(-ended.code).name if ended.code < 0 else "no signal"
        limits = self._limits
        message = sentence.format(wall=limits.wall, memory=limits.memory / gib, disk=limits.disk / gib, signal=name)
        return {"kind": kind, "message": message}

    def _let_go(self, job_id: str) -> None:
        """Our attempt at a job that was taken over is no strike, for we are alive; other jobs need no checkpoints."""
        job = self._attempts.jobs.get(job_id, None)
        if job is not None and not job.status.is_final:
            self._attempts.forgive(job_id)
        self._drop_checkpoints(job_id)

    def _drop_checkpoints(self, job_id: str) -> None:
        """A job that is final or gone has no checkpoints; one that another worker took over keeps them."""
        job = self._attempts.jobs.get(job_id, None)
        if job is None or job.status.is_final:
            self._artefacts.delete_now(*[each.key for each in self._artefacts.list(f"checkpoints/{job_id}")])


def _is_full(folder: Path, error: dict[str, str] | None) -> bool:
    facts = os.statvfs(folder)
    said = (error or {}).get("message", "")
    return facts.f_bavail * facts.f_frsize < LITTLE_SPACE or os.strerror(errno.ENOSPC) in said
