"""``/v1/webhooks``: the secret that messages are signed with, the messages, and those given up sent again."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Path, Query
from fastapi.concurrency import run_in_threadpool

from service.access import Converter, Reader
from service.context import FromContext
from service.outbox import WEBHOOKS, resend
from service.problems import NoSuchDelivery, responses
from service.schemas import Delivery, DeliveryList, WebhookSecret
from service.signing import Secrets

__all__ = ["router"]

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], responses=responses(401, 403, 422, 429, 503))


class DeliveryStatus(StrEnum):
    """Where a message stands."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


@router.post("/secret", operation_id="makeWebhookSecret", summary="Make a new signing secret")
async def make_secret(context: FromContext, principal: Converter) -> WebhookSecret:
    """The secret of this key's messages, shown this once. For a day they carry a signature by the former one too."""
    secrets = Secrets(context.jobs.database, context.settings)
    return WebhookSecret(secret=await run_in_threadpool(secrets.make, principal.owner))


@router.get("/deliveries", operation_id="listAllDeliveries", summary="List all webhook messages")
async def deliveries(
    context: FromContext,
    principal: Reader,
    status: Annotated[DeliveryStatus | None, Query(description="Only those of this status.")] = None,
    limit: Annotated[int, Query(ge=1, le=500, description="How many at most.")] = 100,
) -> DeliveryList:
    """One's own messages, the newest first; `status=dead` are those that were given up after a day."""
    found = await run_in_threadpool(context.jobs.all_deliveries, principal.sees, status, limit)
    return DeliveryList(deliveries=[Delivery.of(each) for each in found])


@router.post(
    "/deliveries/{delivery}/resend",
    status_code=202,
    operation_id="resendDelivery",
    summary="Send a webhook message again",
    responses=responses(404),
)
async def send_again(
    delivery: Annotated[str, Path(description="Its id.", pattern=r"^[0-9A-Za-z_-]{1,64}$")],
    context: FromContext,
    principal: Converter,
) -> None:
    """One more try, soon, under the same id. Of one that waits for its next try anyway, nothing changes: 404."""
    if not await run_in_threadpool(
        resend, context.jobs.database, context.jobs.engine, WEBHOOKS, delivery, principal.sees
    ):
        raise NoSuchDelivery
