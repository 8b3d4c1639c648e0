"""``/v1/conversions``: submit, list, look, watch, cancel, delete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from service.access import Converter, Reader
from service.context import Context, FromContext
from service.engine import Kind
from service.intake import BODY, Wishes, take
from service.problems import AWAY, BadRequest, NoSuchConversion, responses
from service.records import Job, JobEvent, JobStatus
from service.schemas import Conversion, ConversionEvent, ConversionList, Delivery, DeliveryList

__all__ = ["ConversionId", "VisibleJob", "router", "upload_router"]

EVENTS_PERIOD = 0.5  # seconds between two looks at a job's events
EVENTS_BATCH = 500

router = APIRouter(prefix="/v1/conversions", tags=["conversions"], responses=responses(401, 403, 422, 429, 503))
upload_router = APIRouter(
    prefix="/v1", tags=["conversions"], responses=responses(400, 401, 403, 404, 410, 413, 415, 422, 429, 503)
)

ConversionId = Annotated[
    str,
    Path(
        description="As given when it was submitted.", pattern=r"^[0-9A-Za-z_-]{1,64}$", examples=["6f0c1d0a8be94d1c"]
    ),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="The same request under the same key makes no second conversion; another request is refused.",
    ),
]

LINKS = {
    name: {"operationId": name, "parameters": {"conversion": "$response.body#/id"}}
    for name in ("getConversion", "watchConversion", "cancelConversion", "deleteConversion", "getModel", "getReport")
}


async def visible_job(conversion: ConversionId, context: FromContext, principal: Reader) -> Job:
    """The job, if whoever asks may see it."""
    return await job_of(context, conversion, principal.sees)


async def job_of(context: Context, job_id: str, owner: str | None) -> Job:
    job = await context.look(context.jobs.get, job_id, owner)
    if job is None or job.kind != Kind.CONVERSION:
        raise NoSuchConversion
    return job


async def one_stream(request: Request, context: FromContext, principal: Reader) -> None:
    """One more event stream of this sender; raises TooManyRequests, which a stream that has begun could not."""
    context.enter(request, f"streams of {principal.owner}", context.settings.streams_per_key)


VisibleJob = Annotated[Job, Depends(visible_job)]


@upload_router.post(
    "/conversions",
    status_code=202,
    operation_id="submitConversion",
    summary="Submit a model",
    response_description="The conversion waits, runs, or is finished at once because its result was known.",
    responses={202: {"links": LINKS}},
    openapi_extra=BODY,
)
async def submit(
    request: Request,
    response: Response,
    context: FromContext,
    principal: Converter,
    wishes: Annotated[Wishes, Query()],
    idempotency_key: IdempotencyKey = None,
) -> Conversion:
    """The model is stored and its conversion queued.

    Send a form (`curl -F model=@model.onnx -F options='{"seed": 1}'`), or the bytes alone with the options in the
    query; or JSON with `model_of` to convert the model of an inspection or another conversion, which is not sent again.
    The same file with the same options and version gives the finished result at once, unless `fresh=true`.
    """
    conversion = Conversion.of(await take(request, context, principal, wishes, idempotency_key))
    response.headers["Location"] = conversion.links.self
    return conversion


@router.get(
    "",
    operation_id="listConversions",
    summary="List conversions",
    response_model=ConversionList,
    responses=responses(400),
)
async def list_conversions(
    context: FromContext,
    principal: Reader,
    cursor: Annotated[
        str | None, Query(pattern=r"^[A-Za-z0-9_-]{1,40}$", description="`next_cursor` of the page before.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="How many at most.")] = 50,
    status: Annotated[JobStatus | None, Query(description="Only those of this status.")] = None,
) -> Response:
    """One's own conversions, newest first."""
    try:
        if status is None:
            page = await context.look(context.jobs.list, principal.sees, cursor, limit)
        else:  # the few of a rare status may be found only after looking through all jobs
            page = await run_in_threadpool(context.jobs.list, principal.sees, cursor, limit, status)
    except ValueError as problem:
        raise BadRequest(str(problem), field="cursor") from problem
    found = ConversionList(conversions=[Conversion.of(job) for job in page.jobs], next_cursor=page.next_cursor)
    return Response(found.model_dump_json(), media_type="application/json")


@router.get(
    "/{conversion}",
    operation_id="getConversion",
    summary="Look at a conversion",
    response_model=Conversion,
    responses={304: {"description": "Nothing has changed since the answer with this ETag."}, **responses(404)},
)
async def get_conversion(
    job: VisibleJob,
    if_none_match: Annotated[str | None, Header(max_length=1000, description="The last ETag, to be spared.")] = None,
) -> Response:
    """Its state at this moment. Cheap to poll: send the last `ETag` as `If-None-Match`."""
    tag = f'"{job.id[:8]}-{job.revision}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if if_none_match is not None and tag in (each.strip().removeprefix("W/") for each in if_none_match.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(Conversion.of(job).model_dump_json(), media_type="application/json", headers=headers)


@router.get(
    "/{conversion}/events",
    operation_id="watchConversion",
    summary="Watch a conversion",
    response_class=EventSourceResponse,
    responses={
        200: {"description": "One event for each thing that happens; its data is a ConversionEvent."},
        **responses(404),
    },
)
async def watch(
    job: VisibleJob,
    context: FromContext,
    _: Annotated[None, Depends(one_stream)],
    last_event_id: Annotated[
        str | None, Header(max_length=40, description="The id of the last event seen; only later ones are sent.")
    ] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events until the conversion has ended.

    Without `Last-Event-ID` the past is told in short: of a run of progress events only the newest.
    """
    resumed = last_event_id is not None and last_event_id.isascii() and last_event_id.isdigit()
    after = min(int(last_event_id or 0), 2**63 - 1) if resumed else 0
    brief = not resumed
    while True:
        try:
            ended, found = await context.look(context.jobs.news, job.id, after, EVENTS_BATCH)
        except AWAY:
            return  # the client comes back, with the last id that it saw
        for event in _in_short(found) if brief else found:
            data = ConversionEvent.of(event)
            facts = data.model_dump(mode="json", exclude_none=True)
            yield ServerSentEvent(data=facts, event=event.kind, id=str(event.id))
            if data.status.is_final:
                return
        after = found[-1].id if found else after
        if len(found) < EVENTS_BATCH:
            if ended:
                return  # before the last event that the client has seen, or by being deleted
            brief = False
            await asyncio.sleep(EVENTS_PERIOD)


def _in_short(events: Sequence[JobEvent]) -> list[JobEvent]:
    """Without progress that was overtaken by the next word on the same stage."""
    following = [*events[1:], None]
    return [
        event
        for event, later in zip(events, following, strict=True)
        if event.kind != "progress"
        or later is None
        or later.kind != "progress"
        or later.data.get("stage") != event.data.get("stage")
    ]


@router.post(
    "/{conversion}/cancel", operation_id="cancelConversion", summary="Cancel a conversion", responses=responses(404)
)
async def cancel(conversion: ConversionId, context: FromContext, principal: Converter) -> Conversion:
    """It does not run on: a running one is killed within two seconds. One that has ended stays as it is."""
    job = await run_in_threadpool(context.jobs.cancel, conversion, principal.sees)
    if job is None:
        raise NoSuchConversion
    return Conversion.of(job)


@router.delete(
    "/{conversion}",
    status_code=204,
    operation_id="deleteConversion",
    summary="Delete a conversion",
    responses=responses(404),
)
async def delete(conversion: ConversionId, context: FromContext, principal: Converter) -> None:
    """Nothing of it remains: model, results, events. A running one is killed."""
    if not await run_in_threadpool(context.jobs.delete, conversion, principal.sees):
        raise NoSuchConversion


@router.get(
    "/{conversion}/deliveries",
    operation_id="listDeliveries",
    summary="List webhook messages",
    responses=responses(404),
)
async def deliveries(job: VisibleJob, context: FromContext) -> DeliveryList:
    """The webhook messages of a conversion, those that were given up among them."""
    found = await context.look(context.jobs.deliveries, job.id, None)
    return DeliveryList(deliveries=[Delivery.of(each) for each in found])
