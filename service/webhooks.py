"""Messages to the owner's own server when a job ends: Standard Webhooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx2
import sqlalchemy as sa
import structlog
from standardwebhooks.webhooks import Webhook

from service.addresses import PinnedTransport, Refused, check_url
from service.database import Database, now
from service.engine import JobEngine
from service.outbox import WEBHOOKS, NotSent, Outbox
from service.settings import Settings
from service.signing import Secrets

__all__ = ["Deliveries"]

TIMEOUT = 15.0


class Deliveries(Outbox):
    """The handler of deliveries."""

    def __init__(self, database: Database, engine: JobEngine, settings: Settings) -> None:
        super().__init__(WEBHOOKS, database, engine, self._deliver)
        self._settings = settings
        self._secrets = Secrets(database, settings)

    def _deliver(self, row: sa.Row[Any], /) -> Mapping[str, Any]:
        """The receiver took the message; else NotSent says why, without anything of its answer."""
        try:
            check_url(row.url, self._settings)
            with (
                PinnedTransport(self._settings.webhook_allow_private) as transport,
                httpx2.Client(transport=transport, timeout=TIMEOUT, follow_redirects=False) as client,
                client.stream("POST", row.url, content=row.body.encode(), headers=self._headers(row)) as answer,
            ):
                if answer.is_success:
                    return {}
                reason = f"The receiver answered {answer.status_code}."
        except Refused as problem:
            reason = str(problem)
        except httpx2.TransportError as problem:
            reason = f"The receiver cannot be reached: {_words(problem)}."
        except Exception:  # a message that cannot be sent is a failed try like others, not one without end
            structlog.get_logger().exception("a message could not be sent", delivery=row.id)
            reason = "The service failed at this message; its log says why."
        raise NotSent(reason)

    def _headers(self, row: sa.Row[Any]) -> Mapping[str, str]:
        at = now()
        signatures = [Webhook(secret).sign(row.id, at, row.body) for secret in self._secrets.of(row.owner)]
        return {
            "content-type": "application/json",
            "user-agent": "zsq",
            "webhook-id": row.id,  # the same at every try, so that a receiver can tell a repetition
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(signatures),  # by the old secret too for a day after a change
        }


def _words(problem: Exception) -> str:
    """A library's name for what went wrong, as words: connect timeout."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(problem).__name__).strip()
