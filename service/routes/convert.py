"""``POST /v1/convert``: one call for curl, through the same durable job as everything else."""

from __future__ import annotations

import asyncio
import io
import re
import time
import zipfile
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse

from service.access import Converter
from service.context import Context, FromContext
from service.downloads import attachment, require_intact, require_success
from service.intake import BODY, Wishes, take
from service.layouts import Layout, members
from service.problems import AWAY, failure_problem, problem_response, responses
from service.records import Job, JobStatus
from service.routes.conversions import IdempotencyKey, VisibleJob, job_of

__all__ = ["bundle_router", "router"]

PATIENCE = (0.1, 0.1, 0.2, 0.3, 0.5)  # seconds between looks at the job, the last one for ever
AWAY_SECONDS = 60.0

bundle_router = APIRouter(
    prefix="/v1/conversions", tags=["results"], responses=responses(401, 403, 404, 409, 410, 422, 429, 503)
)
router = APIRouter(
    prefix="/v1", tags=["conversions"], responses=responses(400, 401, 403, 404, 409, 410, 413, 415, 422, 429, 500, 503)
)


@router.post(
    "/convert",
    operation_id="convert",
    summary="Convert and wait",
    response_class=Response,
    responses={
        200: {
            "description": "model.int8.onnx, report.json and report.html.",
            "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
    openapi_extra=BODY,
)
async def convert(
    request: Request,
    context: FromContext,
    principal: Converter,
    wishes: Annotated[Wishes, Query()],
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """A zip of the INT8 model and both reports, once they are there.

    `curl -F model=@model.onnx http://127.0.0.1:8000/v1/convert -o result.zip`. Whoever hangs up loses nothing: the
    conversion goes on, and the same request later gets its result.
    """
    job = await take(request, context, principal, wishes, idempotency_key)
    job = await _ended(context, job)
    if job.status is JobStatus.FAILED:
        return problem_response(failure_problem(job.error or {}, job.id), request)
    require_success(job)
    answer = await bundled(context, job, Layout.PLAIN)
    answer.headers["Content-Location"] = f"/v1/conversions/{job.id}"
    return answer


async def bundled(context: Context, job: Job, layout: Layout) -> StreamingResponse:
    """The files of a succeeded job as a zip in this layout."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", re.sub(r"\.(onnx|zip)$", "", job.model_name, flags=re.IGNORECASE)) or "model"
    found = members(layout, name.lstrip("."), job.options)
    await require_intact(context, job, *(each for _, each in found if isinstance(each, str)))
    headers = {"Content-Disposition": attachment(job.model_name, ".int8.zip")}
    return StreamingResponse(_zipped(context, job, found), headers=headers, media_type="application/zip")


@bundle_router.get(
    "/{conversion}/bundle",
    operation_id="getBundle",
    summary="All files in one",
    response_class=Response,
    responses={
        200: {
            "description": "A zip of the model and its report.",
            "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def bundle(
    job: VisibleJob,
    context: FromContext,
    layout: Annotated[Layout, Query(description="Whose names the files have.")] = Layout.PLAIN,
) -> Response:
    """Model and report in one zip, laid out for Triton, KServe or Hugging Face if asked; 409 until it has succeeded."""
    require_success(job)
    return await bundled(context, job, layout)


async def _ended(context: Context, job: Job) -> Job:
    """The job at its end; a database that is away for a while is waited for too."""
    looks, lost = 0, None
    while not job.status.is_final:
        await asyncio.sleep(PATIENCE[min(looks, len(PATIENCE) - 1)])
        looks += 1
        try:
            job, lost = await job_of(context, job.id, job.owner), None
        except AWAY:
            lost = lost or time.monotonic()
            if time.monotonic() - lost > AWAY_SECONDS:
                raise
    return job


class Outflow(io.RawIOBase):
    """Takes what zipfile writes until somebody carries it away."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        before = len(self._bytes)
        self._bytes += memoryview(data)  # type: ignore[arg-type]  # whatever RawIOBase promises to take
        return len(self._bytes) - before

    def carry(self) -> bytes:
        taken = bytes(self._bytes)
        self._bytes.clear()
        return taken


async def _zipped(context: Context, job: Job, found: Sequence[tuple[str, str | bytes]]) -> AsyncIterator[bytes]:
    outflow = Outflow()
    with zipfile.ZipFile(outflow, "w") as archive:  # it cannot seek, which zipfile notices
        for name, content in found:
            member = zipfile.ZipInfo(name, job.created_at.timetuple()[:6])
            member.compress_type = zipfile.ZIP_STORED if content == "model" else zipfile.ZIP_DEFLATED
            if isinstance(content, bytes):
                archive.writestr(member, content)
                continue
            member.file_size = job.sizes[content]
            with archive.open(member, "w") as stream:
                async for chunk in context.jobs.artefacts.read(job.artefacts[content]):
                    stream.write(chunk)
                    if sent := outflow.carry():
                        context.metrics.downloaded_bytes.inc(len(sent))
                        yield sent
    yield outflow.carry()
