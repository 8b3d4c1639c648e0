"""What every request may need, made once for each application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ParamSpec, Self, TypeVar

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from service.auth import Keys
from service.jobs import Jobs
from service.metrics import Metrics
from service.observation import LEAVING
from service.quotas import Crowd, RateLimits
from service.settings import Settings

__all__ = ["Context", "FromContext", "context_of"]


P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """The open parts of the service."""

    settings: Settings
    jobs: Jobs
    keys: Keys
    rates: RateLimits
    metrics: Metrics
    crowd: Crowd = field(default_factory=Crowd)

    @classmethod
    def open(cls, settings: Settings, metrics: Metrics) -> Self:
        """Database and store are open, their tables and folders exist."""
        jobs = Jobs.open(settings)
        return cls(settings, jobs, Keys(jobs.database), RateLimits(), metrics)

    async def look(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What ``work`` finds in a few rows.

        SQLite has them in memory: handing that to another thread, which then fights this one for the interpreter,
        takes twice the time of doing it. A server may let us wait.
        """
        if self.jobs.database.is_sqlite:
            return work(*args, **kwargs)
        return await run_in_threadpool(work, *args, **kwargs)

    def enter(self, request: Request, name: str, most: int) -> None:
        """The request counts under this name until its answer has been sent; raises TooManyRequests."""
        self.crowd.enter(name, most)
        request.scope[LEAVING].append(partial(self.crowd.leave, name))

    def close(self) -> None:
        self.jobs.close()


def context_of(request: Request) -> Context:
    context = request.app.state.context
    assert isinstance(context, Context)
    return context


async def _context(request: Request) -> Context:
    return context_of(request)  # not itself the dependency: the framework would call it on another thread


FromContext = Annotated[Context, Depends(_context)]
