"""Every refusal of the service as RFC 9457 ``application/problem+json``, and one table from its kind to its status.

RequestProblem              the request cannot be served as it is
  BadRequest                400  not readable: broken multipart, a cursor that is not ours
  Unauthenticated           401  no key, or one that does not work
  Forbidden                 403  the key lacks the scope, or the request comes from a foreign page
  NoSuchConversion          404  never existed, deleted, or somebody else's
  NotReady                  409  there is no result yet, or there will be none
  ResultLost                410  it was there, and the store has it no more
  UnsupportedMediaType      415
  TooManyRequests           429
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

import sqlalchemy as sa
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from converter.errors import ConversionError
from service.records import IdempotencyConflict, QueueFull, QuotaExceeded
from service.storage import Missing, StoreDown

__all__ = [
    "AWAY",
    "PROBLEM_JSON",
    "BadRequest",
    "Forbidden",
    "InvalidField",
    "NoSuchConversion",
    "NoSuchDelivery",
    "NotReady",
    "Problem",
    "RequestProblem",
    "ResultLost",
    "TooManyRequests",
    "Unauthenticated",
    "UnsupportedMediaType",
    "failure_problem",
    "install",
    "invalid_fields",
    "problem_of",
    "problem_response",
    "responses",
    "too_large",
    "unexpected",
]

PROBLEM_JSON = "application/problem+json"

STATUS: Mapping[str, int] = {
    # the request
    "BadRequest": 400,
    "Unauthenticated": 401,
    "Forbidden": 403,
    "NoSuchConversion": 404,
    "NoSuchDelivery": 404,
    "NotReady": 409,
    "ResultLost": 410,
    "UnsupportedMediaType": 415,
    "TooManyRequests": 429,
    "IdempotencyConflict": 422,
    "QuotaExceeded": 429,
    "QueueFull": 503,
    # the model, as the converter's exceptions and the worker's kinds name it
    "InvalidModel": 422,
    "UnsupportedModel": 422,
    "InvalidOption": 422,
    "TooLarge": 413,
    "OutOfTime": 422,
    "OutOfMemory": 422,
    "OutOfDisk": 422,
    "WorkerLost": 422,
    "Cancelled": 409,
    "ConversionError": 500,
    "Crashed": 500,
    "BadOutput": 500,
    "Bug": 500,
    # what the service stands on
    "ModelLost": 503,
    "DiskFull": 503,
    "ServiceUnavailable": 503,
    "StoreUnavailable": 503,
    "DatabaseUnavailable": 503,
}

PLACES = ("node", "operator", "attribute", "tensor", "field", "remedy")
RETRY_SECONDS = 5  # after a database or store that is away for the moment
AWAY = (StoreDown, Missing, sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)
"""What is raised while the database or the store cannot be used; the same call may work later."""


class RequestProblem(Exception):
    """The request cannot be served as it is: why, and what to do about it."""

    def __init__(
        self,
        message: str,
        *,
        remedy: str | None = None,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
        conversion: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.remedy, self.field = message, remedy, field
        self.headers, self.conversion = headers, conversion


class BadRequest(RequestProblem):
    """The request cannot be read."""


class Unauthenticated(RequestProblem):
    """There is no key, or it does not work."""

    def __init__(self, message: str) -> None:
        remedy = "Send a key as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'; 'zsq keys create' makes one."
        super().__init__(message, remedy=remedy, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(RequestProblem):
    """Whoever asks may not do this."""


class NoSuchConversion(RequestProblem):
    """It never existed, was deleted, or is somebody else's."""

    def __init__(self) -> None:
        super().__init__("There is no such conversion.")


class NoSuchDelivery(RequestProblem):
    """There is no such message, or it waits to be sent anyway."""

    def __init__(self) -> None:
        super().__init__("There is no such webhook message that could be sent again.")


class NotReady(RequestProblem):
    """There is no result yet, or there will be none."""


class ResultLost(RequestProblem):
    """There was a result, and the store has it no more as it was."""


class UnsupportedMediaType(RequestProblem):
    """The body is of a kind that is not taken here."""


class TooManyRequests(RequestProblem):
    """More requests in a minute than the key may send."""

    def __init__(self, retry_after: int) -> None:
        super().__init__("Too many requests in a short time.", headers={"Retry-After": str(retry_after)})


class InvalidField(BaseModel):
    """One part of the request that breaks a rule."""

    field: str = Field(description="Where it is, such as options.samples.")
    rule: str = Field(description="What it breaks.")


class Problem(BaseModel):
    """Why a request was refused (RFC 9457), with the place in the model and the remedy where they are known."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:zsq:problem:unsupported-model",
                    "title": "Unsupported model",
                    "status": 422,
                    "detail": "The operator NonMaxSuppression has no float weights to quantize.",
                    "kind": "UnsupportedModel",
                    "node": "detect/nms",
                    "operator": "NonMaxSuppression",
                    "remedy": "Cut the model before this node.",
                }
            ]
        }
    )

    type: str = Field(description="A URI that names the kind of problem and never changes.")
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(ge=400, le=599, description="The HTTP status, repeated.")
    detail: str = Field(description="What went wrong this time, in one sentence.")
    kind: str = Field(description="The name of the error's class, for programs.")
    instance: str | None = Field(default=None, description="The path that was asked for.")
    node: str | None = Field(default=None, description="The node of the model that is at fault.")
    operator: str | None = Field(default=None, description="Its operator.")
    attribute: str | None = Field(default=None, description="The attribute of the node.")
    tensor: str | None = Field(default=None, description="The tensor that is at fault.")
    field: str | None = Field(default=None, description="The option, parameter or file field that is at fault.")
    remedy: str | None = Field(default=None, description="What can be done about it.")
    conversion: str | None = Field(default=None, description="The conversion that this is about.")
    errors: list[InvalidField] | None = Field(default=None, description="Each invalid part of the request.")


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For ``responses=`` of a route: these statuses come as problems."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {PROBLEM_JSON: schema}} for status in statuses
    }


def problem_of(kind: str, detail: str, status: int | None = None, **more: Any) -> Problem:
    """A problem whose names and status follow from its kind."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind).lower()
    return Problem(
        type=f"urn:zsq:problem:{words.replace(' ', '-')}",
        title=words.capitalize(),
        status=status if status is not None else STATUS.get(kind, 500),
        detail=detail,
        kind=kind,
        **more,
    )


def failure_problem(error: Mapping[str, Any], conversion: str) -> Problem:
    """The problem that a failed conversion is to whoever waited for it."""
    facts = {name: str(value) for name, value in error.items() if value is not None}
    kind, message = facts.pop("kind", "Bug"), facts.pop("message", "The conversion failed.")
    places: dict[str, Any] = {name: value for name, value in facts.items() if name in PLACES}
    return problem_of(kind, message, conversion=conversion, **places)


def problem_response(problem: Problem, request: Request, headers: Mapping[str, str] | None = None) -> JSONResponse:
    body = problem.model_copy(update={"instance": request.url.path}).model_dump(mode="json", exclude_none=True)
    given = {"Cache-Control": "no-store"} | dict(headers or {})
    return JSONResponse(body, problem.status, given, media_type=PROBLEM_JSON)


def _kind_of(problem: Exception) -> str:
    """The first class of the exception's ancestry that the table knows, itself first."""
    return next((each.__name__ for each in type(problem).__mro__ if each.__name__ in STATUS), "Bug")


async def _request_problem(request: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, RequestProblem)
    more: dict[str, Any] = {"remedy": problem.remedy, "field": problem.field, "conversion": problem.conversion}
    return problem_response(problem_of(_kind_of(problem), problem.message, **more), request, problem.headers)


async def _conversion_error(request: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, ConversionError)
    facts: dict[str, Any] = dict(problem.facts())
    kind, message = facts.pop("kind"), facts.pop("message")
    known = _kind_of(problem)
    return problem_response(problem_of(kind, message, STATUS[known], **facts), request)


async def _not_taken(request: Request, problem: Exception) -> JSONResponse:
    """The queue or the owner's quota is full, or an idempotency key was used for something else."""
    retry = getattr(problem, "retry_after", None)
    remedy, field = None, None
    if isinstance(problem, QuotaExceeded):
        field = problem.name
        remedy = "Delete old conversions." if retry is None else "Wait, or ask the operator for a larger quota."
    elif isinstance(problem, IdempotencyConflict):
        field, remedy = "Idempotency-Key", "Use a new key for another request."
    headers = {} if retry is None else {"Retry-After": str(retry)}
    made = problem_of(_kind_of(problem), str(problem), field=field, remedy=remedy)
    return problem_response(made, request, headers)


async def _away(request: Request, problem: Exception) -> JSONResponse:
    """Database or store are away; what they said is for the log, not for strangers."""
    structlog.get_logger().error("cannot serve for now", reason=str(problem)[:500], path=request.url.path)
    what = "store" if isinstance(problem, StoreDown | Missing) else "database"
    made = problem_of(f"{what.capitalize()}Unavailable", f"The {what} of the service cannot be used right now.")
    return problem_response(made, request, {"Retry-After": str(RETRY_SECONDS)})


async def _http_exception(request: Request, problem: Exception) -> JSONResponse:
    """What the framework refuses by itself: unknown paths, wrong methods, bodies that are too large."""
    assert isinstance(problem, HTTPException)
    status = problem.status_code
    phrase = HTTPStatus(status).phrase
    details = {
        404: "There is nothing at this path.",
        405: f"{request.method} is not possible here.",
    }
    if status == 413:
        return too_large(request)
    kind = "".join(part.capitalize() for part in phrase.split())
    detail = details.get(status, str(problem.detail) if status < 500 else phrase)
    headers = dict(problem.headers or {})
    if status == 405:  # the framework names the methods of one route, and there are several at a path
        known = request.app.openapi()["paths"].get(getattr(request.scope.get("route"), "path", None), {})
        headers |= {"Allow": ", ".join(sorted(map(str.upper, known)))} if known else {}
    return problem_response(problem_of(kind, detail, status), request, headers)


async def _validation_error(request: Request, problem: Exception) -> JSONResponse:
    assert isinstance(problem, RequestValidationError)
    invalid = invalid_fields(problem.errors())
    first = invalid[0]
    made = problem_of("InvalidRequest", f"{first.field}: {first.rule}.", 422, field=first.field, errors=invalid)
    return problem_response(made, request)


def invalid_fields(errors: Iterable[Mapping[str, Any]], place: str | None = None) -> list[InvalidField]:
    """pydantic's findings as where and what, without the input itself."""
    found = []
    for each in errors:
        path = ".".join(str(part) for part in each["loc"] if part not in ("query", "path", "header", "body"))
        found.append(InvalidField(field=".".join(filter(None, (place, path))) or "body", rule=_words(str(each["msg"]))))
    return found


def _words(message: str) -> str:
    """The message of a rule of ours, without the library's name for it."""
    return re.sub(r"^(Value|Assertion) error, ", "", message).rstrip(".")


async def _disconnected(request: Request, problem: Exception) -> JSONResponse:
    return problem_response(problem_of("BadRequest", "The upload broke off."), request)


def unexpected(request: Request, problem: Exception) -> JSONResponse:
    """A bug of ours, whole in the log and without a word of it in the answer."""
    structlog.get_logger().exception("a bug of the service", path=request.url.path, exc_info=problem)
    return problem_response(problem_of("Bug", "The service failed; its log says why."), request)


def too_large(request: Request) -> JSONResponse:
    return problem_response(problem_of("TooLarge", "The body is larger than the service takes."), request)


def install(app: FastAPI) -> None:
    """Whatever is raised in ``app`` is answered as a problem."""
    handlers = {
        RequestProblem: _request_problem,
        ConversionError: _conversion_error,
        IdempotencyConflict: _not_taken,
        QuotaExceeded: _not_taken,
        QueueFull: _not_taken,
        HTTPException: _http_exception,
        RequestValidationError: _validation_error,
        ClientDisconnect: _disconnected,
        **dict.fromkeys(AWAY, _away),
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)
