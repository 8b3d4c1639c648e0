"""A job, its events and what surrounds it, as values; and the reasons why a job is not taken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

import sqlalchemy as sa

from service import database as tables
from service.storage import Stored

__all__ = [
    "ACTIVE",
    "EVENT",
    "JOB",
    "Delivery",
    "IdempotencyConflict",
    "Job",
    "JobEvent",
    "JobStatus",
    "NewJob",
    "Page",
    "QueueFull",
    "Quota",
    "QuotaExceeded",
    "Registration",
    "Statistics",
    "Worker",
    "job_of",
    "plain_name",
]


class JobStatus(StrEnum):
    """Where a job stands; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in ACTIVE


ACTIVE = frozenset({JobStatus.QUEUED, JobStatus.RUNNING})


class QueueFull(Exception):
    """The service has as many waiting jobs as it takes; try again after ``retry_after`` seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("The queue is full.")
        self.retry_after = retry_after


class QuotaExceeded(Exception):
    """The owner's own limit ``name`` of ``limit`` is reached."""

    def __init__(self, name: str, limit: int, retry_after: int | None) -> None:
        super().__init__(f"The quota {name} of {limit} is used up.")
        self.name, self.limit, self.retry_after = name, limit, retry_after


class IdempotencyConflict(Exception):
    """The idempotency key was used before, with another request."""


@dataclass(frozen=True)
class Quota:
    """What one owner may have at once; None is no limit."""

    active: int | None = None  # jobs queued or running
    per_day: int | None = None  # jobs submitted within 24 hours
    stored_bytes: int | None = None  # models and results of all their jobs


@dataclass(frozen=True)
class NewJob:
    """A request for one conversion of a model that is already in the store."""

    owner: str
    model: Stored
    model_name: str
    options: Mapping[str, Any] = field(default_factory=dict)  # keys of converter.options.Options, plain JSON values
    archive: bool = False  # the model is a .zip holding an .onnx with its external data
    priority: int = 100  # 1 goes first
    webhook: str | None = None
    fresh: bool = False  # convert again even if the result is known
    idempotency_key: str | None = None
    fingerprint: str = ""  # of the whole request; equal keys must come with equal fingerprints
    quota: Quota = Quota()
    kind: str = "conversion"


@dataclass(frozen=True)
class Job:
    """One conversion at one moment; ``revision`` rises with every change and so serves as ETag."""

    id: str
    owner: str
    status: JobStatus
    revision: int
    stage: str | None
    stage_progress: float
    progress: float
    message: str | None
    seconds_left: float | None
    options: dict[str, Any]
    model_name: str
    model_key: str
    model_sha256: str
    model_bytes: int
    archive: bool
    result_key: str
    priority: int
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: dict[str, Any] | None  # as ConversionError.facts()
    artefacts: dict[str, str]  # store keys of "model", "report" and "html" once succeeded
    sizes: dict[str, int]  # their lengths in bytes
    isolation: dict[str, Any] | None  # the level that the child really ran under
    webhook: str | None
    reused_from: str | None  # the job whose finished result this one was given
    kind: str  # of its task, as engine.Kind: conversion or inspection


@dataclass(frozen=True)
class JobEvent:
    """Something that happened to a job; ``id`` rises over all jobs and is never used twice."""

    id: int
    job_id: str
    at: datetime
    kind: str  # queued started progress checkpoint interrupted succeeded failed cancelled
    data: dict[str, Any]


@dataclass(frozen=True)
class Page:
    """Some jobs, newest first, and where the next page begins."""

    jobs: tuple[Job, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class Worker:
    """A worker process that lives."""

    id: str
    host: str
    pid: int
    concurrency: int
    isolation: dict[str, Any]
    started_at: datetime
    seen_at: datetime
    version: str | None = None
    draining: bool = False


@dataclass(frozen=True)
class Statistics:
    """The service as a whole, for health checks and metrics."""

    queued: int
    running: int
    oldest_queued_seconds: float
    by_status: dict[JobStatus, int]
    workers: tuple[Worker, ...]
    stored_bytes: int
    dead_deliveries: int
    dead_registrations: int


@dataclass(frozen=True)
class Delivery:
    """One webhook message: pending, delivered, or dead after a day of failures."""

    id: str
    job_id: str
    url: str
    status: str
    attempts: int
    last_error: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Registration:
    """A conversion on its way to MLflow: pending, delivered, or dead after a day of failures."""

    id: str
    job_id: str
    owner: str
    name: str  # of the registered model
    version: str | None  # that it became
    status: str
    attempts: int
    last_error: str | None
    created_at: datetime
    updated_at: datetime


JOB = tuple(tables.jobs.c[each.name] for each in fields(Job))
"""The columns to select for ``job_of``, before any others."""

EVENT = tuple(tables.events.c[each.name] for each in fields(JobEvent))
"""The columns of a JobEvent, in its order."""


def plain_name(name: str) -> str:
    """The owner's name of a model made harmless, without its ending; it appears in the report."""
    stem = PurePosixPath(name.replace("\\", "/")).name
    stem = re.sub(r"\.(onnx|zip)$", "", stem, flags=re.IGNORECASE)
    return re.sub(r"[^A-Za-z0-9._ -]", "_", stem).strip(" .")[:100] or "model"


def job_of(row: sa.Row[Any]) -> Job:
    job_id, owner, status, *others = row[: len(JOB)]
    return Job(job_id, owner, JobStatus(status), *others)
