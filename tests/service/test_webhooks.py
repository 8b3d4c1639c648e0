"""Webhooks as a receiver sees them, and where they are never sent."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from standardwebhooks.webhooks import Webhook

from service import database as tables
from service.engine import TaskState
from service.jobs import Jobs
from service.records import NewJob
from service.settings import Settings
from service.webhooks import PAUSES, Deliveries, PinnedTransport, Refused, check_url, signing_secret
from tests.service.conftest import Starter
from tests.service.harness import Service, wait_until


class Receiver(HTTPServer):
    """Answers with the given statuses in turn, the last one for ever, and keeps what it was sent."""

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses = list(statuses)
        self.received: list[tuple[dict[str, str], bytes]] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
        statuses = self.server.statuses
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        self.send_response(status)
        if status == 302:
            self.send_header("location", self.server.url)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        return


@pytest.fixture
def receivers() -> Iterator[list[Receiver]]:
    made: list[Receiver] = []
    yield made
    for receiver in made:
        receiver.shutdown()
        receiver.server_close()


ALLOWED = {"webhook_allow_http": True, "webhook_allow_private": True}


def with_webhook(jobs: Jobs, url: str) -> str:
    """The id of the delivery of a job that was cancelled."""
    import io

    stored = jobs.artefacts.put_open(io.BytesIO(b"m"))
    job = jobs.submit(NewJob(owner="ann", model=stored, model_name="m.onnx", webhook=url, fresh=True))
    jobs.cancel(job.id, "ann")
    (delivery,) = jobs.deliveries(job.id, "ann")
    return delivery.id


def row(jobs: Jobs, delivery_id: str) -> sa.Row[Any]:
    with jobs.database.reading() as connection:
        return connection.execute(sa.select(tables.deliveries).where(tables.deliveries.c.id == delivery_id)).one()


def test_a_message_can_be_verified(start: Starter, receivers: list[Receiver]) -> None:
    service = start(**ALLOWED)
    receivers.append(Receiver(204))
    service.worker()
    delivery = with_webhook(service.jobs, receivers[0].url)
    wait_until(lambda: row(service.jobs, delivery).status == "delivered", 20, "the delivery")
    ((headers, body),) = receivers[0].received
    secret = signing_secret(service.jobs.database, service.settings)
    content = Webhook(secret).verify(body, headers)
    assert content["type"] == "conversion.cancelled"
    assert headers["webhook-id"] == delivery
    assert set(content["data"]) == {"id", "status"}


def test_failures_are_retried_under_the_same_id_and_then_dead(start: Starter, receivers: list[Receiver]) -> None:
    service = start(**ALLOWED)
    receivers.append(Receiver(500))
    delivery = with_webhook(service.jobs, receivers[0].url)
    deliveries = Deliveries(service.jobs.database, service.jobs.engine, service.settings)
    for tried in range(1, len(PAUSES) + 2):
        deliveries(delivery)
        found = row(service.jobs, delivery)
        assert found.attempts == tried
        assert found.last_error == "The receiver answered 500."
        if tried <= len(PAUSES):
            again = f"{delivery}.{tried + 1}"
            assert service.jobs.engine.states([again])[again] is TaskState.QUEUED
    assert found.status == "dead"
    assert service.jobs.statistics().dead_deliveries == 1
    assert len({headers["webhook-id"] for headers, _ in receivers[0].received}) == 1
    deliveries(delivery)
    assert len(receivers[0].received) == len(PAUSES) + 1, "a dead letter is not sent again"
    assert 23 * 3600 < sum(PAUSES) < 26 * 3600


def test_a_message_the_engine_lost_is_queued_again(start: Starter) -> None:
    service = start()
    delivery = with_webhook(service.jobs, "https://example.org/")
    deliveries = Deliveries(service.jobs.database, service.jobs.engine, service.settings)
    assert deliveries.reconcile() == 0
    service.jobs.engine.forget([f"{delivery}.1"])
    assert deliveries.reconcile() == 1
    assert deliveries.reconcile() == 0


def test_redirects_are_not_followed(start: Starter, receivers: list[Receiver]) -> None:
    service = start(**ALLOWED)
    receivers.append(Receiver(302))
    delivery = with_webhook(service.jobs, receivers[0].url)
    Deliveries(service.jobs.database, service.jobs.engine, service.settings)(delivery)
    assert row(service.jobs, delivery).last_error == "The receiver answered 302."
    assert len(receivers[0].received) == 1


def test_by_default_nothing_is_sent_to_this_machine(start: Starter, receivers: list[Receiver]) -> None:
    service = start(webhook_allow_http=True)
    receivers.append(Receiver(204))
    for url in (receivers[0].url, receivers[0].url.replace("127.0.0.1", "localhost")):
        delivery = with_webhook(service.jobs, url)
        Deliveries(service.jobs.database, service.jobs.engine, service.settings)(delivery)
        assert "not public" in row(service.jobs, delivery).last_error
    assert receivers[0].received == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "ftp://example.org/",
        "https://",
        "https://user:password@example.org/",
        "https://example.org:99999/",
        "https://127.0.0.1/",
        "https://10.1.2.3/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[2002:7f00:1::]/",
        "https://[fd00::1]/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://100.64.0.1/",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(Refused):
        check_url(url, Settings())


def test_urls_that_are_taken() -> None:
    check_url("https://example.org/hook?x=1", Settings())
    check_url("https://93.184.216.34:8443/", Settings())
    check_url("http://127.0.0.1:9/", Settings(webhook_allow_http=True, webhook_allow_private=True))


def test_a_name_is_resolved_once_and_the_checked_address_used(
    monkeypatch: pytest.MonkeyPatch, receivers: list[Receiver]
) -> None:
    receivers.append(Receiver(204))
    port = receivers[0].server_address[1]
    answers = [[(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]]
    real = socket.getaddrinfo

    def resolve(host: str, *given: Any, **named: Any) -> Any:
        return answers.pop(0) if host == "rebinding.test" else real(host, *given, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with PinnedTransport(allow_private=True) as transport, httpx2.Client(transport=transport) as client:
        answer = client.post(f"http://rebinding.test:{port}/hook", content=b"x")
    assert answer.status_code == 204
    assert answers == []
    assert receivers[0].received[0][0]["host"] == f"rebinding.test:{port}"


def test_one_private_address_among_public_ones_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in ("93.184.216.34", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    with (
        PinnedTransport() as transport,
        httpx2.Client(transport=transport) as client,
        pytest.raises(Refused, match="public"),
    ):
        client.post("https://mixed.test/", content=b"x")


def test_the_secret_is_made_once(service: Service) -> None:
    first = signing_secret(service.jobs.database, service.settings)
    assert first.startswith("whsec_")
    assert signing_secret(service.jobs.database, service.settings) == first
    chosen = service.settings.model_copy(update={"webhook_secret": "whsec_abcd"})
    assert signing_secret(service.jobs.database, chosen) == "whsec_abcd"
    assert json.dumps(first)
