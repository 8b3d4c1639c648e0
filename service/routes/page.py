"""The page, the documentation of the API as a page, and the page's own sign-in."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import jinja2
from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import FileResponse, HTMLResponse, Response

from service import options
from service.access import COOKIE, local_name, principal_of_key, refuse_foreign_pages
from service.context import FromContext
from service.documentation import documented
from service.problems import NoSuchConversion

__all__ = ["PAGE_POLICY", "router"]

WEB = Path(__file__).parents[1] / "web"
STATIC = {"app.js": "text/javascript", "app.css": "text/css", "icon.svg": "image/svg+xml"}
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SESSION_SECONDS = 12 * 3600

router = APIRouter(include_in_schema=False, dependencies=[Depends(local_name)])
templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(WEB / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


def rendered(name: str, **values: object) -> HTMLResponse:
    headers = {"Content-Security-Policy": PAGE_POLICY, "Cache-Control": "no-cache"}
    return HTMLResponse(templates.get_template(name).render(version=version("zsq"), **values), headers=headers)


@router.get("/")
async def page(context: FromContext) -> HTMLResponse:
    fields = options.ConversionOptions.model_fields
    return rendered(
        "page.html",
        fields=fields,
        choices=options.CHOICES,
        largest=context.settings.max_upload_bytes,
        keys_asked=context.settings.requires_keys,
    )


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    base = str(request.base_url).rstrip("/")
    return rendered("docs.html", api=documented(request.app.openapi()), base=base)


@router.get("/static/{name}")
async def static(name: str) -> FileResponse:
    if name not in STATIC:
        raise NoSuchConversion
    return FileResponse(WEB / "static" / name, media_type=STATIC[name], headers={"Cache-Control": "no-cache"})


@router.post("/session", status_code=204)
async def sign_in(
    request: Request, context: FromContext, key: Annotated[str, Form(pattern=r"^[\x21-\x7e]{1,200}$")]
) -> Response:
    """The key works, and the browser sends it from now on: pages cannot read it, other sites cannot use it."""
    refuse_foreign_pages(request, context.settings)
    await principal_of_key(context, request, key)
    answer = Response(status_code=204)
    answer.set_cookie(
        COOKIE, key, SESSION_SECONDS, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return answer


@router.delete("/session", status_code=204)
async def sign_out(request: Request, context: FromContext) -> Response:
    refuse_foreign_pages(request, context.settings)
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=request.url.scheme == "https")
    return answer
