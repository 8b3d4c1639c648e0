"""Webhooks as a receiver sees them, and where they are never sent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from service import database as tables
from service.addresses import PinnedTransport, Refused, check_url
from service.engine import TaskState
from service.jobs import Jobs
from service.outbox import PAUSES, WEBHOOKS, resend
from service.records import NewJob
from service.settings import Settings
from service.signing import Secrets
from service.webhooks import Deliveries
from tests.service.conftest import Starter
from tests.service.harness import Service, wait_until
from tests.service.web import served


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
    [secret] = Secrets(service.jobs.database, service.settings).of("ann")
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
        "https://[64:ff9b::10.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[64:ff9b:1::1]/",
        "https://[64:ff9b:1:fffe::808:808]/",
        "https://[fec0::1]/",
        "https://[::10.0.0.1]/",
        "https://[::8.8.8.8]/",
        "https://[fe80::1]/",
        "https://[2001::1]/",
        "https://[2001:db8::1]/",
        "https://[3fff::1]/",
        "https://[5f00::1]/",
        "https://[100::1]/",
        "https://[ff02::1]/",
        "https://[::]/",
        "https://192.0.0.8/",
        "https://198.18.0.1/",
        "https://240.0.0.1/",
        "https://255.255.255.255/",
        f"https://{'x' * 70}.org/",
        "https://exa%20mple.org/",
        "https://[not-an-address]/",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(Refused):
        check_url(url, Settings())


def test_urls_that_are_taken() -> None:
    check_url("https://example.org/hook?x=1", Settings())
    check_url("https://93.184.216.34:8443/", Settings())
    check_url("https://[2606:2800:220:1:248:1893:25c8:1946]/", Settings())
    check_url("https://[64:ff9b::93.184.216.34]/", Settings())
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


def test_the_secret_of_who_asked_for_none_is_made_once(service: Service) -> None:
    secrets = Secrets(service.jobs.database, service.settings)
    [first] = secrets.of("ann")
    assert first.startswith("whsec_")
    assert Secrets(service.jobs.database, service.settings).of("ann") == [first]
    chosen = service.settings.model_copy(update={"webhook_secret": "whsec_abcd"})
    assert Secrets(service.jobs.database, chosen).of("ann") == ["whsec_abcd"]
    made = secrets.make("ann")
    assert Secrets(service.jobs.database, chosen).of("ann") == [made]


def test_each_key_has_a_secret_of_its_own_that_changes_without_a_gap(start: Starter, receivers: list[Receiver]) -> None:
    service = start(**ALLOWED)
    receivers.append(Receiver(204))
    secrets = Secrets(service.jobs.database, service.settings)
    assert secrets.of("ann") == secrets.of("bob")
    first, of_bob = secrets.make("ann"), secrets.make("bob")
    assert secrets.of("ann") == [first]
    second = secrets.make("ann")
    assert len({first, second, of_bob}) == 3
    Deliveries(service.jobs.database, service.jobs.engine, service.settings)(
        with_webhook(service.jobs, receivers[0].url)
    )
    ((headers, body),) = receivers[0].received
    for secret in (first, second):
        assert Webhook(secret).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(of_bob).verify(body, headers)


def test_a_secret_made_over_http_is_shown_and_signs(start: Starter) -> None:
    service = start()
    with served(service.settings) as api:
        made = api.post("/v1/webhooks/secret").json()["secret"]
    assert Secrets(service.jobs.database, service.settings).of("local") == [made]


def test_a_message_that_cannot_even_be_tried_ends_as_others_do(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    service = start()
    delivery = with_webhook(service.jobs, "https://\u2603.example.org:99999/")  # as an earlier version took it
    deliveries = Deliveries(service.jobs.database, service.jobs.engine, service.settings)
    deliveries(delivery)
    found = row(service.jobs, delivery)
    assert found.attempts == 1
    assert "not a URL" in found.last_error
    assert deliveries.reconcile() == 0


def test_dead_letters_are_listed_and_sent_again(start: Starter, receivers: list[Receiver]) -> None:
    service = start(**ALLOWED)
    receivers.append(Receiver(500))
    delivery = with_webhook(service.jobs, receivers[0].url)
    deliveries = Deliveries(service.jobs.database, service.jobs.engine, service.settings)
    for _ in range(len(PAUSES) + 1):
        deliveries(delivery)
    receivers[0].statuses = [204]
    with served(service.settings) as api:
        [dead] = api.get("/v1/webhooks/deliveries", params={"status": "dead"}).json()["deliveries"]
        assert dead["id"] == delivery
        assert dead["last_error"] == "The receiver answered 500."
        assert api.post(f"/v1/webhooks/deliveries/{delivery}/resend").status_code == 202
        assert api.post(f"/v1/webhooks/deliveries/{delivery}/resend").status_code == 404, "it waits already"
    assert not resend(service.jobs.database, service.jobs.engine, WEBHOOKS, delivery, "bob"), "ann's"
    service.worker()
    wait_until(lambda: row(service.jobs, delivery).status == "delivered", 30, "the delivery")
