"""What the API answers, as its OpenAPI document shows it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from service.records import Delivery as StoredDelivery
from service.records import Job, JobEvent, JobStatus

__all__ = [
    "Conversion",
    "ConversionEvent",
    "ConversionList",
    "Delivery",
    "Failure",
    "Health",
    "Links",
    "UploadedModel",
    "WebhookSecret",
]

STATUS_AFTER = {"started": JobStatus.RUNNING, "progress": JobStatus.RUNNING, "checkpoint": JobStatus.RUNNING}

EXAMPLE: dict[str, Any] = {
    "id": "6f0c1d0a8be94d1c9b8a4e2f7d3c5b10",
    "status": "running",
    "stage": "synthesis",
    "stage_progress": 0.4,
    "progress": 0.24,
    "message": "step 120 of 300",
    "seconds_left": 31.0,
    "model": {"name": "resnet18.onnx", "bytes": 46_800_000, "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b"},
    "options": {"method": "auto", "precision": "int8", "samples": 64, "seed": 0},
    "priority": 100,
    "attempt": 1,
    "created_at": "2026-11-21T09:00:00Z",
    "started_at": "2026-11-21T09:00:01Z",
    "finished_at": None,
    "error": None,
    "reused_from": None,
    "links": {
        "self": "/v1/conversions/6f0c1d0a8be94d1c9b8a4e2f7d3c5b10",
        "events": "/v1/conversions/6f0c1d0a8be94d1c9b8a4e2f7d3c5b10/events",
        "cancel": "/v1/conversions/6f0c1d0a8be94d1c9b8a4e2f7d3c5b10/cancel",
        "model": None,
        "report": None,
        "report_html": None,
    },
}


class UploadedModel(BaseModel):
    """The model as it was sent."""

    name: str = Field(description="The file's name.")
    bytes: int = Field(description="Its length.")
    sha256: str

    @classmethod
    def of(cls, job: Job) -> Self:
        return cls(name=job.model_name, bytes=job.model_bytes, sha256=job.model_sha256)


class Failure(BaseModel):
    """Why a conversion failed: the error's class, one sentence, the place in the model and the remedy."""

    model_config = ConfigDict(extra="ignore")

    kind: str
    message: str
    node: str | None = None
    operator: str | None = None
    attribute: str | None = None
    tensor: str | None = None
    field: str | None = None
    remedy: str | None = None

    @classmethod
    def of(cls, job: Job) -> Self | None:
        return None if job.error is None else cls.model_validate(job.error)


class Links(BaseModel):
    """Paths of this service; those of results are null until there are any."""

    self: str
    events: str
    cancel: str | None
    model: str | None
    report: str | None
    report_html: str | None


class Conversion(BaseModel):
    """One conversion at this moment."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: str
    status: JobStatus
    stage: str | None = Field(
        description="admission, normalization, reconstruction, synthesis, optimization, quantization, fidelity, report"
    )
    stage_progress: float = Field(ge=0, le=1)
    progress: float = Field(ge=0, le=1, description="Of the whole conversion.")
    message: str | None = Field(description="What it does just now.")
    seconds_left: float | None = Field(description="An estimate; null while there is none.")
    model: UploadedModel
    options: dict[str, Any] = Field(description="All options, defaults filled in.")
    priority: int = Field(description="1 goes first.")
    attempt: int = Field(description="How often it was begun; above 1 after a worker was lost.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: Failure | None = Field(description="Only of a failed conversion.")
    reused_from: str | None = Field(description="The earlier conversion whose result this one was given.")
    sizes: dict[str, int] = Field(default_factory=dict, description="Bytes of model, report and html, once there.")
    isolation: dict[str, Any] | None = Field(default=None, description="What the converting process was confined by.")
    webhook: str | None = None
    links: Links

    @classmethod
    def of(cls, job: Job) -> Self:
        path = f"/v1/conversions/{job.id}"
        done = job.status is JobStatus.SUCCEEDED
        return cls(
            id=job.id,
            status=job.status,
            stage=job.stage,
            stage_progress=job.stage_progress,
            progress=job.progress,
            message=job.message,
            seconds_left=job.seconds_left,
            model=UploadedModel.of(job),
            options=job.options,
            priority=job.priority,
            attempt=job.attempt,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            error=Failure.of(job),
            reused_from=job.reused_from,
            sizes=job.sizes,
            isolation=job.isolation,
            webhook=job.webhook,
            links=Links(
                self=path,
                events=f"{path}/events",
                cancel=None if job.status.is_final else f"{path}/cancel",
                model=f"{path}/model" if done else None,
                report=f"{path}/report" if done else None,
                report_html=f"{path}/report.html" if done else None,
            ),
        )


class Inspection(BaseModel):
    """A look into a model."""

    id: str
    status: JobStatus
    model: UploadedModel
    error: Failure | None = Field(description="Only of a failed inspection: what a conversion would be refused for.")
    facts: dict[str, JsonValue] | None = Field(
        description=(
            "Once it has succeeded: model, inputs (what each is taken for, why, and how well each guess fits), notes, "
            "changes, integer and float nodes, refusals."
        )
    )

    @classmethod
    def of(cls, job: Job, facts: dict[str, JsonValue] | None) -> Self:
        return cls(
            id=job.id,
            status=job.status,
            model=UploadedModel.of(job),
            error=Failure.of(job),
            facts=facts,
        )


class ConversionList(BaseModel):
    """Some conversions, newest first."""

    conversions: list[Conversion]
    next_cursor: str | None = Field(description="Where the next page begins; null on the last one.")


class ConversionEvent(BaseModel):
    """The data of one server-sent event; a final status is the last event."""

    model_config = ConfigDict(extra="allow")

    status: JobStatus
    at: datetime
    stage: str | None = None
    stage_progress: float | None = None
    progress: float | None = None
    message: str | None = None
    seconds_left: float | None = None
    error: Failure | None = None

    @classmethod
    def of(cls, event: JobEvent) -> Self:
        known = {status.value for status in JobStatus}
        status = JobStatus(event.kind) if event.kind in known else STATUS_AFTER.get(event.kind, JobStatus.QUEUED)
        return cls.model_validate({**event.data, "status": status, "at": event.at})


class Delivery(BaseModel):
    """One webhook message: pending, delivered, or dead after a day of failures."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    job_id: str = Field(description="The conversion that it tells of.")
    url: str
    status: str
    attempts: int
    last_error: str | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, delivery: StoredDelivery) -> Self:
        return cls.model_validate(delivery)


class WebhookSecret(BaseModel):
    """What receivers check signatures with (Standard Webhooks)."""

    secret: str = Field(examples=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])


class DeliveryList(BaseModel):
    """Webhook messages."""

    deliveries: list[Delivery]


class Health(BaseModel):
    """The process answers."""

    status: str = Field(examples=["ok"])
    version: str
