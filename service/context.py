"""What every request may need, made once for each application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from fastapi import Depends, Request

from service.auth import Keys
from service.jobs import Jobs
from service.metrics import Metrics
from service.quotas import RateLimits
from service.settings import Settings

__all__ = ["Context", "FromContext", "context_of"]


@dataclass(frozen=True)
class Context:
    """The open parts of the service."""

    settings: Settings
    jobs: Jobs
    keys: Keys
    rates: RateLimits
    metrics: Metrics

    @classmethod
    def open(cls, settings: Settings, metrics: Metrics) -> Self:
        """Database and store are open, their tables and folders exist."""
        jobs = Jobs.open(settings)
        return cls(settings, jobs, Keys(jobs.database), RateLimits(), metrics)

    def close(self) -> None:
        self.jobs.close()


def context_of(request: Request) -> Context:
    context = request.app.state.context
    assert isinstance(context, Context)
    return context


async def _context(request: Request) -> Context:
    return context_of(request)  # not itself the dependency: the framework would call it on another thread


FromContext = Annotated[Context, Depends(_context)]
