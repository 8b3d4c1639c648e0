"""Who else is told that a job has ended: its webhook, and MLflow."""

from __future__ import annotations

import json
import secrets

import sqlalchemy as sa

from service.database import now
from service.engine import JobEngine, Kind
from service.outbox import REGISTRATIONS, WEBHOOKS, post
from service.records import Job, JobStatus, plain_name
from service.settings import Settings

__all__ = ["announce"]


def announce(connection: sa.Connection, engine: JobEngine, settings: Settings, job: Job) -> None:
    """Whatever is to be told of this job, which has ended, is in tables and queue once this transaction commits."""
    if job.webhook is not None:
        message = {
            "type": f"conversion.{job.status}",
            "timestamp": now().isoformat(),
            "data": {"id": job.id, "status": str(job.status)},
        }
        told = {"job_id": job.id, "owner": job.owner, "url": job.webhook, "body": json.dumps(message)}
        post(connection, engine, WEBHOOKS, f"msg_{secrets.token_hex(16)}", **told)
    if settings.mlflow_uri is not None and job.status is JobStatus.SUCCEEDED and job.kind == Kind.CONVERSION:
        name = settings.mlflow_name.replace("{name}", plain_name(job.model_name))
        registration = {"job_id": job.id, "owner": job.owner, "name": name}
        post(connection, engine, REGISTRATIONS, f"reg_{secrets.token_hex(16)}", **registration)
