"""Whether the service can do its work at this moment: each thing it stands on is tried, not assumed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import to_thread
from pydantic import BaseModel, Field

from service.context import Context

__all__ = ["Check", "LiveWorker", "Prober", "Readiness"]

PATIENCE = 5.0
FRESH = {True: 1.0, False: 0.2}  # seconds for which ready and unready are said again: probes write to the store


class Check(BaseModel):
    """One thing that was tried."""

    ok: bool
    required: bool = Field(default=True, description="Whether the service is unready without it.")
    detail: str
    seconds: float


class LiveWorker(BaseModel):
    """A worker that lives, and what the converting processes there are confined by."""

    id: str
    concurrency: int
    isolation: dict[str, Any]
    version: str | None = Field(default=None, description="Of zsq; other than here during an upgrade.")
    draining: bool = Field(default=False, description="Whether it finishes what it has and takes no more.")


class Readiness(BaseModel):
    """``ready`` only if every required check is ok; ``draining`` once the process was told to end."""

    status: str = Field(examples=["ready"])
    message: str | None = Field(description="What keeps the service from its work, in a sentence.")
    checks: dict[str, Check]
    workers: list[LiveWorker]
    queued: int | None
    running: int | None


class Prober:
    """Tries everything at once, and not more than a few times a second however often it is asked."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = asyncio.Lock()
        self._known: Readiness | None = None
        self._until = 0.0

    async def __call__(self) -> Readiness:
        async with self._lock:
            if self._known is None or time.monotonic() > self._until:
                self._known = await self._probe()
                self._until = time.monotonic() + FRESH[self._known.status == "ready"]
            return self._known

    async def _probe(self) -> Readiness:
        jobs = self._context.jobs
        (database, known), (store, _) = await asyncio.gather(
            _tried("answers", lambda: to_thread.run_sync(jobs.statistics, abandon_on_cancel=True)),
            _tried("took, gave back and removed an object", jobs.artefacts.probe),
        )
        workers = [] if known is None else list(known.workers)
        taking = sum(not each.draining for each in workers)
        alive = Check(
            ok=taking > 0,
            required=self._context.settings.worker,
            detail=f"{taking} take jobs" if taking else "no worker that takes jobs was heard of in the last seconds",
            seconds=0.0,
        )
        checks = {"database": database, "store": store, "worker": alive}
        ready = all(check.ok or not check.required for check in checks.values())
        wrong = [f"{name}: {check.detail}" for name, check in checks.items() if not check.ok]
        return Readiness(
            status="ready" if ready else "unready",
            message=f"{'; '.join(wrong)}." if wrong else None,
            checks=checks,
            workers=[
                LiveWorker(
                    id=each.id,
                    concurrency=each.concurrency,
                    isolation=each.isolation,
                    version=each.version,
                    draining=each.draining,
                )
                for each in workers
            ],
            queued=None if known is None else known.queued,
            running=None if known is None else known.running,
        )


async def _tried(success: str, action: Callable[[], Awaitable[Any]]) -> tuple[Check, Any]:
    started = time.monotonic()
    found, detail = None, success
    try:
        found = await asyncio.wait_for(action(), PATIENCE)
    except TimeoutError:
        detail = f"no answer within {PATIENCE:.0f} s"
    except Exception as problem:  # whatever it is, it is the finding
        detail = f"failed: {type(problem).__name__}"
    ok = detail == success
    return Check(ok=ok, detail=detail, seconds=round(time.monotonic() - started, 4)), found
