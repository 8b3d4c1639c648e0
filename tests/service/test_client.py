"""The client against a service that drops connections, is busy, and refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
import pytest

from service.client import (
    AsyncClient,
    Busy,
    Client,
    Conversion,
    ConversionFailed,
    NotFound,
    TooLarge,
    Unauthorized,
    Unreachable,
)
from service.exchanges import EventLines

BODY = bytes(range(256)) * 40


class Breaking(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body that ends with a dropped connection."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks
        raise httpx2.ReadError("connection reset")

    async def __aiter__(self):  # type: ignore[no-untyped-def]
        for chunk in self._chunks:
            yield chunk
        raise httpx2.ReadError("connection reset")


class Service:
    """Answers by a script: each request takes the next answer of its path."""

    def __init__(self, **answers: Sequence[httpx2.Response | Exception]) -> None:
        self.answers = {path.replace("__", "/"): list(each) for path, each in answers.items()}
        self.requests: list[httpx2.Request] = []
        self.bodies: list[bytes] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        self.bodies.append(request.read())
        return self._answer(request)

    async def asynchronous(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        self.bodies.append(await request.aread())
        return self._answer(request)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        tail = request.url.path.removeprefix("/v1/conversions").strip("/").partition("/")[2] or request.method.lower()
        answer = self.answers[tail].pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def client(service: Service, attempts: int = 6) -> Client:
    transport = httpx2.MockTransport(service)
    return Client("http://zsq.test", "secret", attempts=attempts, longest_pause=0.0, transport=transport)


def state(status: str, **facts: object) -> httpx2.Response:
    return httpx2.Response(200, json={"id": "c1", "status": status, **facts})


def sse(*events: tuple[int, dict[str, object]]) -> bytes:
    return b"".join(f"id: {i}\nevent: progress\ndata: {json.dumps(data)}\n\n".encode() for i, data in events)


def stream(content: bytes) -> httpx2.Response:
    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=content)


def refusal(status: int, detail: str, **headers: str) -> httpx2.Response:
    document = {"type": "about:blank", "title": "No", "status": status, "detail": detail}
    return httpx2.Response(status, json=document, headers={"content-type": "application/problem+json", **headers})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(BODY)
    return path


def test_a_dropped_upload_is_sent_again_whole_under_the_same_idempotency_key(model: Path) -> None:
    service = Service(post=[httpx2.ReadError("reset"), refusal(503, "full", **{"retry-after": "0"}), state("queued")])
    seen: list[tuple[int, int | None]] = []
    with client(service) as each:
        conversion = each.submit(model, {"seed": 3}, sent=lambda done, total: seen.append((done, total)))
    assert conversion == Conversion("c1", "queued", facts={"id": "c1", "status": "queued"})
    assert len({request.headers["idempotency-key"] for request in service.requests}) == 1
    assert all(BODY in body and b'{"seed": 3}' in body and b'filename="m.onnx"' in body for body in service.bodies)
    assert service.requests[0].headers["authorization"] == "Bearer secret"
    assert seen[-1] == (len(BODY), len(BODY))


def test_events_go_on_after_the_last_one_seen() -> None:
    first = Breaking(sse((1, {"progress": 0.1}), (2, {"progress": 0.2}))[:-4], b"x")
    service = Service(
        get=[state("running"), state("succeeded")],
        events=[
            httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=first),
            stream(sse((2, {"progress": 0.2}), (3, {"status": "succeeded"}))),
        ],
    )
    with client(service) as each:
        events = list(each.events("c1"))
    assert [event.id for event in events] == ["1", "2", "3"]
    assert [request.headers.get("last-event-id") for request in service.requests if "events" in request.url.path] == [
        None,
        "1",
    ]


def test_waiting_tells_each_state_and_returns_the_last(model: Path) -> None:
    service = Service(
        get=[state("queued"), state("succeeded", progress=1.0), state("succeeded", progress=1.0)],
        events=[
            stream(sse((1, {"status": "running", "stage": "synthesis", "progress": 0.4}), (2, {"status": "succeeded"})))
        ],
    )
    told: list[tuple[str, str | None, float]] = []
    with client(service) as each:
        last = each.wait("c1", lambda state: told.append((state.status, state.stage, state.progress)))
    assert last.finished
    assert told == [("queued", None, 0.0), ("running", "synthesis", 0.4), ("succeeded", None, 1.0)]


def test_a_failed_conversion_says_what_the_converter_said() -> None:
    service = Service(
        get=[state("failed", error={"message": "NaN in weight w.", "remedy": "Repair it.", "tensor": "w"})]
    )
    with client(service) as each, pytest.raises(ConversionFailed, match=r"NaN in weight w\. Repair it\.") as caught:
        each.wait("c1")
    assert caught.value.conversion.error == {"message": "NaN in weight w.", "remedy": "Repair it.", "tensor": "w"}


def test_a_download_continues_where_it_broke_off(tmp_path: Path) -> None:
    whole = httpx2.Response(
        200, headers={"etag": '"a"', "content-length": str(len(BODY))}, stream=Breaking(BODY[:3000])
    )
    rest = httpx2.Response(206, headers={"etag": '"a"'}, content=BODY[3000:])
    service = Service(model=[whole, rest])
    with client(service) as each:
        target = each.download("c1", "model", tmp_path / "out.onnx")
    assert target.read_bytes() == BODY
    assert service.requests[1].headers["range"] == "bytes=3000-"
    assert service.requests[1].headers["if-range"] == '"a"'


def test_a_download_begins_again_if_the_service_does(tmp_path: Path) -> None:
    whole = httpx2.Response(200, headers={"content-length": str(len(BODY))}, stream=Breaking(b"old" * 500))
    service = Service(model=[whole, httpx2.Response(200, content=BODY)])
    with client(service) as each:
        assert each.download("c1", "model", tmp_path / "out.onnx").read_bytes() == BODY


def test_a_download_that_never_ends_well_leaves_no_file(tmp_path: Path) -> None:
    broken = [httpx2.Response(200, headers={"content-length": "9"}, stream=Breaking()) for _ in range(3)]
    with client(Service(model=broken), attempts=3) as each, pytest.raises(Unreachable, match="connection reset"):
        each.download("c1", "model", tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "kind"), [(401, Unauthorized), (403, Unauthorized), (404, NotFound), (413, TooLarge)]
)
def test_refusals_are_not_tried_again(status: int, kind: type[Exception]) -> None:
    service = Service(get=[refusal(status, "because of this")])
    with client(service) as each, pytest.raises(kind, match="because of this"):
        each.get("c1")
    assert len(service.requests) == 1


def test_a_busy_service_is_asked_as_often_as_allowed() -> None:
    service = Service(get=[refusal(429, "slow down") for _ in range(4)])
    with client(service, attempts=4) as each, pytest.raises(Busy, match="slow down"):
        each.get("c1")


def test_something_else_at_that_address_is_told() -> None:
    with (
        client(Service(get=[httpx2.Response(200, text="<html>")])) as each,
        pytest.raises(Unreachable, match="not zsq"),
    ):
        each.get("c1")


def test_pages_and_the_end_of_conversions() -> None:
    service = Service(
        get=[httpx2.Response(200, json={"conversions": [{"id": "c1", "status": "failed"}], "next_cursor": "n"})],
        cancel=[state("cancelled")],
        delete=[httpx2.Response(204)],
    )
    with client(service) as each:
        page = each.list(limit=1, status="failed")
        assert (page.conversions[0].id, page.next_cursor) == ("c1", "n")
        assert service.requests[0].url.params["status"] == "failed"
        assert each.cancel("c1").status == "cancelled"
        each.delete("c1")


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_events_may_be_cut_anywhere(size: int) -> None:
    content = b": ping\n\n" + sse((1, {"a": "é"}), (2, {"b": 2})).replace(b"\n", b"\r\n") + b"event: x\n\n"
    lines = EventLines()
    events = [event for i in range(0, len(content), size) for event in lines.feed(content[i : i + size])]
    assert [(event.id, event.kind, event.data) for event in events] == [
        ("1", "progress", {"a": "é"}),
        ("2", "progress", {"b": 2}),
    ]


def test_the_asynchronous_client_does_the_same(model: Path, tmp_path: Path) -> None:
    service = Service(
        post=[httpx2.ConnectError("refused"), state("queued")],
        get=[state("running"), *(state("succeeded") for _ in range(3))],
        events=[stream(sse((1, {"progress": 0.5}))), stream(sse((1, {"progress": 0.5}), (2, {"status": "succeeded"})))],
        model=[httpx2.Response(200, headers={"content-length": "4"}, stream=Breaking(b"ab")), _part(b"cd")],
    )

    async def whole() -> list[str]:
        transport = httpx2.MockTransport(service.asynchronous)
        async with AsyncClient("http://zsq.test", longest_pause=0.0, transport=transport) as each:
            conversion = await each.submit(model)
            await each.wait(conversion.id)
            await each.download(conversion.id, "model", tmp_path / "out.onnx")
            return [event.id async for event in each.events(conversion.id)]

    assert asyncio.run(whole()) == ["1", "2"]
    assert (tmp_path / "out.onnx").read_bytes() == b"abcd"
    assert all(BODY in body for body in service.bodies[:2])


def _part(content: bytes) -> httpx2.Response:
    return httpx2.Response(206, content=content)
