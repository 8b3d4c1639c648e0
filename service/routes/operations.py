"""For operators: is it alive, can it work, and how much does it do."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from service.access import Scraper, local_name
from service.context import FromContext
from service.problems import responses
from service.readiness import Readiness
from service.schemas import Health

__all__ = ["router"]

VERSION = version("zsq")

router = APIRouter(tags=["operations"])


@router.get("/healthz", operation_id="getHealth", summary="The process answers")
async def health() -> Health:
    """Nothing else is looked at: for restarting a process that hangs."""
    return Health(status="ok", version=VERSION)


@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="The service can do its work",
    dependencies=[Depends(local_name)],
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "It cannot, and why."}},
)
async def readiness(request: Request) -> Response:
    """The database is asked, the store is written to, a worker must have been heard of; and how it is confined."""
    found: Readiness = await request.app.state.prober()
    if request.app.state.draining:
        found = found.model_copy(update={"status": "draining", "message": "This process was told to end."})
    status = 200 if found.status == "ready" else 503
    return JSONResponse(found.model_dump(mode="json"), status, {"Cache-Control": "no-store"})


@router.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    responses=responses(401, 403, 429, 503),
)
async def metrics(context: FromContext, _: Scraper) -> Response:
    """Queue, workers, conversions by outcome, stages, memory and bytes; requests of this process."""
    return Response(await run_in_threadpool(context.metrics.render), media_type=CONTENT_TYPE_LATEST)
