"""``/v1/inspections``: what is in a model and what its inputs are taken for, before anything is converted."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from service.access import Converter, Reader
from service.context import Context, FromContext
from service.downloads import require_intact
from service.engine import Kind
from service.intake import BODY, Wishes, take
from service.problems import NoSuchConversion, responses
from service.records import Job, JobStatus
from service.routes.conversions import ConversionId
from service.schemas import Inspection

__all__ = ["router", "upload_router"]

MODEL_ONLY = {
    "requestBody": {
        **BODY["requestBody"],
        "content": {
            kind: content for kind, content in BODY["requestBody"]["content"].items() if kind != "application/json"
        },
    }
}

upload_router = APIRouter(
    prefix="/v1", tags=["conversions"], responses=responses(400, 401, 403, 404, 410, 413, 415, 422, 429, 503)
)
router = APIRouter(
    prefix="/v1/inspections", tags=["conversions"], responses=responses(401, 403, 404, 410, 422, 429, 503)
)


@upload_router.post(
    "/inspections",
    status_code=202,
    operation_id="submitInspection",
    summary="Look into a model",
    response_description="The inspection waits or runs; look again in a second.",
    openapi_extra=MODEL_ONLY,
)
async def submit(
    request: Request,
    response: Response,
    context: FromContext,
    principal: Converter,
    wishes: Annotated[Wishes, Query()],
) -> Inspection:
    """What is in the model is found out, not converted; `POST /v1/conversions` with `model_of` does that next."""
    job = await take(request, context, principal, wishes, None, Kind.INSPECTION)
    response.headers["Location"] = f"/v1/inspections/{job.id}"
    return await _shown(context, job)


@router.get("/{conversion}", operation_id="getInspection", summary="Look at an inspection")
async def get_inspection(conversion: ConversionId, context: FromContext, principal: Reader) -> Inspection:
    """Where it stands and, once it has succeeded, what was found: inputs with what overrules them, and refusals."""
    job = await context.look(context.jobs.get, conversion, principal.sees)
    if job is None or job.kind != Kind.INSPECTION:
        raise NoSuchConversion
    return await _shown(context, job)


async def _shown(context: Context, job: Job) -> Inspection:
    facts = None
    if job.status is JobStatus.SUCCEEDED:
        await require_intact(context, job, "inspection")
        facts = json.loads(b"".join([each async for each in context.jobs.artefacts.read(job.artefacts["inspection"])]))
    return Inspection.of(job, facts)
