"""Results on their way out: whole or in part, as the store gives them, never whole in memory."""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote

import structlog
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from service.context import Context
from service.problems import NotReady, ResultLost, problem_of, problem_response
from service.records import Job, JobStatus
from service.storage import Missing

__all__ = ["attachment", "require_intact", "require_success", "send"]

REDIRECT_SECONDS = 300.0
TEXTS = ("report", "html")  # a tenth of their length when packed; a model is its weights, which do not pack
PACKED_LIMIT = 16 << 20  # packed in memory, so that its length can be told


def require_success(job: Job) -> None:
    """Raises NotReady unless there is a result."""
    if job.status is JobStatus.SUCCEEDED:
        return
    if not job.status.is_final:
        message, remedy = f"The conversion is {job.status}; there is no result yet.", "Wait, and watch its events."
    elif job.status is JobStatus.FAILED:
        why = (job.error or {}).get("message", "")
        message, remedy = f"The conversion failed and has no result. {why}".strip(), None
    else:
        message, remedy = "The conversion was cancelled and has no result.", None
    raise NotReady(message, remedy=remedy, conversion=job.id)


async def require_intact(context: Context, job: Job, *artefacts: str) -> None:
    """Raises ResultLost unless the store has these files with the bytes that they had."""
    for artefact in artefacts:
        if not await run_in_threadpool(context.jobs.artefacts.is_intact, job.artefacts[artefact]):
            structlog.get_logger().error("a result is lost or damaged", job=job.id, artefact=artefact)
            raise ResultLost(
                "This result is no longer in the service's store as it was made.",
                remedy="Submit the same model with the same options: it is converted anew.",
                conversion=job.id,
            )


async def send(
    request: Request,
    context: Context,
    job: Job,
    artefact: str,
    media_type: str,
    headers: Mapping[str, str],
    redirect: bool = False,
) -> Response:
    """The artefact of a succeeded job, or the byte range asked for, or where the store itself gives it out."""
    require_success(job)
    key, size = job.artefacts[artefact], job.sizes[artefact]
    await require_intact(context, job, artefact)
    if redirect and (url := context.jobs.artefacts.presign(key, REDIRECT_SECONDS)) is not None:
        return RedirectResponse(url, 307, {"Cache-Control": "no-store"})
    packed = artefact in TEXTS and size <= PACKED_LIMIT and _takes_gzip(request) and "range" not in request.headers
    tag = f'"{key.rsplit("/", 1)[-1][:32]}{"-gzip" if packed else ""}"'
    given = {"ETag": tag, "Accept-Ranges": "bytes", "Cache-Control": "private, no-cache", **headers}
    asked = request.headers.get("if-none-match", "")
    if tag in (each.strip().removeprefix("W/") for each in asked.split(",")):
        return Response(status_code=304, headers=given)
    if artefact in TEXTS:
        given["Vary"] = "Accept-Encoding"
    if packed:
        given["Content-Encoding"] = "gzip"
        whole = b"".join([chunk async for chunk in context.jobs.artefacts.read(key)])
        body = await run_in_threadpool(gzip.compress, whole, 6, mtime=0)
        context.metrics.downloaded_bytes.inc(len(body))
        return Response(body, 200, given, media_type)
    begin, end, status = 0, size, 200
    wanted = request.headers.get("range")
    if wanted is not None and request.headers.get("if-range", tag) == tag:
        found = _range(wanted, size)
        if found is not None:
            begin, end = found
            if begin >= end:
                made = problem_of("RangeNotSatisfiable", f"The file has {size} bytes.", 416)
                return problem_response(made, request, {"Content-Range": f"bytes */{size}"})
            status = 206
            given["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
    chunks = context.jobs.artefacts.read(key, None if status == 200 else (begin, end))
    first = await anext(chunks, b"")  # an object that is lost is found out before the answer begins
    if not first and size:
        raise Missing(f"The object {key!r} is empty.")
    return StreamingResponse(
        _counted(context, first, chunks), status, {**given, "Content-Length": str(end - begin)}, media_type
    )


def _takes_gzip(request: Request) -> bool:
    for each in request.headers.get("accept-encoding", "").lower().split(","):
        coding, _, weight = each.partition(";")
        if coding.strip() in ("gzip", "*"):
            return weight.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


async def _counted(context: Context, first: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    context.metrics.downloaded_bytes.inc(len(first))
    yield first
    async for chunk in chunks:
        context.metrics.downloaded_bytes.inc(len(chunk))
        yield chunk


def _range(text: str, size: int) -> tuple[int, int] | None:
    """The half-open range of one ``bytes=`` specification; None for anything else, which is then ignored."""
    match = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", text.strip())
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size


def attachment(name: str, ending: str) -> str:
    """Content-Disposition for a file named after the model."""
    stem = re.sub(r"\.(onnx|zip)$", "", name, flags=re.IGNORECASE) or "model"
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", stem)
    return f"attachment; filename=\"{plain}{ending}\"; filename*=UTF-8''{quote(stem + ending, safe='')}"
