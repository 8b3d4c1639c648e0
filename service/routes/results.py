"""The results of a conversion: the INT8 model, the report as JSON, the report as a page."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from service.context import FromContext
from service.downloads import attachment, send
from service.problems import responses
from service.routes.conversions import VisibleJob

__all__ = ["REPORT_POLICY", "router"]

REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'; sandbox allow-same-origin"
)
"""Of the report's page: no script runs there, whatever a model's names contain."""

router = APIRouter(
    prefix="/v1/conversions", tags=["results"], responses=responses(401, 403, 404, 409, 410, 416, 422, 429, 503)
)
Redirect = Annotated[
    bool, Query(description="Answer with a short-lived address of the object store, if the store has such.")
]


def files(media_type: str) -> dict[int | str, dict[str, Any]]:
    binary = {"type": "string", "format": "binary"}
    schema = {"$ref": "#/components/schemas/Report"} if "json" in media_type else binary
    content = {media_type: {"schema": schema}}
    return {
        200: {"description": "The file.", "content": content},
        206: {"description": "The bytes that the header Range asked for.", "content": content},
        304: {"description": "The file with this ETag is the one you have."},
        307: {"description": "Where the object store gives it out; only with redirect=true."},
    }


@router.get(
    "/{conversion}/model",
    operation_id="getModel",
    summary="The INT8 model",
    response_class=Response,
    responses=files("application/octet-stream"),
)
async def model(request: Request, job: VisibleJob, context: FromContext, redirect: Redirect = False) -> Response:
    """The converted ONNX file; 409 until the conversion has succeeded. Byte ranges resume a broken download."""
    headers = {"Content-Disposition": attachment(job.model_name, ".int8.onnx")}
    return await send(request, context, job, "model", "application/octet-stream", headers, redirect)


@router.get(
    "/{conversion}/report",
    operation_id="getReport",
    summary="The report as JSON",
    response_class=JSONResponse,
    responses=files("application/json"),
)
async def report(request: Request, job: VisibleJob, context: FromContext, redirect: Redirect = False) -> Response:
    """What the conversion did and what that cost; 409 until the conversion has succeeded.

    `schema_version` tells which edition of the schema it follows: `zsq schema` prints this one.
    """
    return await send(request, context, job, "report", "application/json", {}, redirect)


@router.get(
    "/{conversion}/report.html",
    operation_id="getReportPage",
    summary="The report as a page",
    response_class=HTMLResponse,
    responses=files("text/html"),
)
async def report_page(
    request: Request,
    job: VisibleJob,
    context: FromContext,
    download: Annotated[bool, Query(description="As a file to keep.")] = False,
) -> Response:
    """The report for people, self-contained; 409 until the conversion has succeeded."""
    headers = {"Content-Security-Policy": REPORT_POLICY}
    if download:
        headers["Content-Disposition"] = attachment(job.model_name, ".int8.report.html")
    return await send(request, context, job, "html", "text/html; charset=utf-8", headers)
