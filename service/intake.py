"""From a request with a model to a job in the queue: one way in for every route that takes models."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError

from converter.errors import InvalidOption
from service.addresses import Refused, check_url
from service.auth import Principal, Scope
from service.context import Context
from service.engine import Kind
from service.options import Choices, canonical, read_options
from service.problems import BadRequest, Forbidden, NoSuchConversion, ResultLost, invalid_fields
from service.records import IdempotencyConflict, Job, NewJob, QueueFull, QuotaExceeded
from service.storage import Stored
from service.uploads import Upload, discard, receive

__all__ = ["BODY", "FORM_OVERHEAD", "PRIORITY", "Again", "Wishes", "take"]

PRIORITY = 100
LARGE = 4 << 20  # a body above this is not read just to be told that the queue is full
FORM_OVERHEAD = 1 << 20
OPTIONS_FIELD = "options"

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": (
            "The .onnx file, or a .zip that holds one .onnx with its external data. "
            "It is only stored here; it is opened in a confined process of its own."
        ),
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["model"],
                    "properties": {
                        "model": {"type": "string", "format": "binary", "description": "The file."},
                        "options": {"$ref": "#/components/schemas/ConversionOptions"},
                    },
                    "additionalProperties": False,
                },
                "encoding": {
                    "model": {"contentType": "application/octet-stream"},
                    "options": {"contentType": "application/json"},
                },
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "application/json": {"schema": {"$ref": "#/components/schemas/Again"}},
        },
    }
}
"""For ``openapi_extra=``: the body is read as it comes, so the framework does not see it."""


class Wishes(Choices):
    """The query of a submission: the options again, for raw bodies, and how the job is to be treated."""

    input: list[Annotated[str, StringConstraints(pattern=r"^[^=]+=[a-z]+=[^=]+")]] = Field(
        default_factory=list,
        max_length=64,
        description="NAME=SPEC: what is known of one input, such as image=range=0:255; repeatable.",
    )
    fresh: bool = Field(default=False, description="Convert again, even if the result of the same is known.")
    name: str | None = Field(default=None, max_length=200, description="The file's name, for a raw body.")
    priority: int = Field(default=PRIORITY, ge=1, le=1000, description="1 goes first.")
    webhook: str | None = Field(
        default=None,
        max_length=2000,
        pattern=r"^https?://[\x21-\x7e]+$",
        description="An https address that is told when the conversion ends.",
    )

    def options(self) -> dict[str, Any]:
        """The options among the wishes, those alone that were given; raises InvalidOption."""
        given = self.model_dump(mode="json", include=set(Choices.model_fields) & self.model_fields_set)
        inputs = {}
        for each in self.input:
            name, _, spec = each.partition("=")
            inputs[name] = spec
        return given | ({"inputs": inputs} if inputs else {})


async def take(
    request: Request,
    context: Context,
    principal: Principal,
    wishes: Wishes,
    idempotency_key: str | None,
    kind: Kind = Kind.CONVERSION,
) -> Job:
    """The job that the request asks for: new, or the one that an equal request got before."""
    _check(context, principal, wishes)
    if request.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
        return await _take_again(request, context, principal, wishes, idempotency_key)
    given = wishes.options()
    canonical(given)  # refused here rather than after an upload
    await _refuse_early(request, context, principal, idempotency_key)
    upload = await receive(request, context.jobs, context.settings.max_upload_bytes, wishes.name)
    context.metrics.uploaded_bytes.inc(upload.model.size)
    try:
        new = replace(_new_job(upload, given, principal, wishes, idempotency_key), kind=str(kind))
        return await run_in_threadpool(context.jobs.submit, new)
    except (InvalidOption, BadRequest, IdempotencyConflict, QuotaExceeded, QueueFull):
        await discard(context.jobs, upload.model)
        raise


class Again(BaseModel):
    """A conversion of a model that is with the service already: of an earlier conversion, or of an inspection."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"model_of": "6f0c1d0a8be94d1c"}]})

    model_of: str = Field(pattern=r"^[0-9A-Za-z_-]{1,64}$", description="The id of a conversion or an inspection.")
    options: dict[str, JsonValue] = Field(default_factory=dict, description="As ConversionOptions.")


async def _take_again(
    request: Request, context: Context, principal: Principal, wishes: Wishes, idempotency_key: str | None
) -> Job:
    try:
        asked = Again.model_validate_json(await request.body())
    except ValidationError as problem:
        first = invalid_fields(problem.errors())[0]
        raise BadRequest(f"The field {first.field} is not usable: {first.rule}.", field=first.field) from problem
    earlier = await context.look(context.jobs.get, asked.model_of, principal.sees)
    if earlier is None:
        raise NoSuchConversion
    model = Stored(earlier.model_key, earlier.model_sha256, earlier.model_bytes)
    if not await run_in_threadpool(context.jobs.artefacts.is_intact, model.key):
        raise ResultLost("The model is no longer in the service's store.", remedy="Send it again.")
    upload = Upload(model, earlier.model_name, earlier.archive, {OPTIONS_FIELD: json.dumps(asked.options)})
    new = _new_job(upload, wishes.options(), principal, wishes, idempotency_key)
    return await run_in_threadpool(context.jobs.submit, new)


def _new_job(
    upload: Upload, given: dict[str, Any], principal: Principal, wishes: Wishes, idempotency_key: str | None
) -> NewJob:
    unknown = set(upload.fields) - {OPTIONS_FIELD}
    if unknown:
        name = min(unknown)
        raise BadRequest(
            f"The form has a field {name!r} that is not known.",
            field=name,
            remedy="Known are model and options; whatever else is wished comes in the query.",
        )
    if upload.fields.get(OPTIONS_FIELD):
        given = given | read_options(upload.fields[OPTIONS_FIELD])
    options = canonical(given)
    facts = [upload.model.sha256, options, wishes.fresh, wishes.priority, wishes.webhook]
    return NewJob(
        owner=principal.owner,
        model=upload.model,
        model_name=upload.name,
        options=options,
        archive=upload.archive,
        priority=wishes.priority,
        webhook=wishes.webhook,
        fresh=wishes.fresh,
        idempotency_key=idempotency_key,
        fingerprint=hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest(),
        quota=principal.allowance.quota,
    )


def _check(context: Context, principal: Principal, wishes: Wishes) -> None:
    if wishes.priority < PRIORITY and not principal.may(Scope.ADMIN):
        raise Forbidden(f"To go before others (a priority below {PRIORITY}) needs the scope admin.")
    if wishes.webhook is not None:
        try:
            check_url(wishes.webhook, context.settings)
        except Refused as problem:
            raise InvalidOption(str(problem), field="webhook") from problem


async def _refuse_early(request: Request, context: Context, principal: Principal, idempotency_key: str | None) -> None:
    """No body is read that the sender's quota has no room for, and no large one while the queue is full."""
    told = request.headers.get("content-length", "")
    length = int(told) if told.isdigit() else 0
    size = max(0, length - FORM_OVERHEAD)  # of the model, at least
    await context.look(context.jobs.check, principal.owner, principal.allowance.quota, size, idempotency_key)
    if not told.isdigit() or length > LARGE:
        waiting = (await run_in_threadpool(context.jobs.statistics)).queued
        if waiting >= context.settings.queue_limit:
            raise QueueFull(retry_after=30)
