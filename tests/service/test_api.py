"""Conversions over HTTP, from the upload to the result, through the real application, queue and worker."""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.service.conftest import Starter
from tests.service.harness import Service
from tests.service.web import PROBLEM, Api, served, told


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A database and a store with a worker that does as it is told by the models; tests use models of their own."""
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("cluster").create("zsq_api")
    service = Service(tmp_path_factory.mktemp("api"), url, max_upload_bytes=1 << 20)
    service.worker()
    yield service
    service.close()


@pytest.fixture(scope="module")
def api(service: Service) -> Iterator[Api]:
    with served(service.settings) as api:
        yield api


@pytest.fixture
def quiet(start: Starter) -> Iterator[Api]:
    """A service on SQLite without a worker: what is submitted stays queued."""
    with served(start(max_upload_bytes=1 << 20, queue_limit=20).settings) as api:
        yield api


def test_head_answers_as_get_does_without_a_body(api: Api) -> None:
    done = api.wait_final(api.submit(told(seconds=0.1)).json()["id"])
    own = f"/v1/conversions/{done['id']}"
    for path in ("/", "/docs", "/healthz", "/readyz", "/v1/conversions", own, f"{own}/report", f"{own}/report.html"):
        head, full = (ask(path, headers={"Accept-Encoding": "identity"}) for ask in (api.head, api.get))
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["content-type"] == full.headers["content-type"]
        assert int(head.headers["content-length"]) == len(full.content), path
    assert api.head(f"{own}/model").headers["content-length"] == str(done["sizes"]["model"])
    for path, status in (("/v1/conversions/none", 404), ("/nowhere", 404), (f"{own}/cancel", 405)):
        missing = api.head(path)
        assert (missing.status_code, missing.content) == (status, b"")
        assert missing.headers["content-type"] == PROBLEM
    assert 'method="HEAD",route="/v1/conversions/{conversion}/model",status="200"' in api.get("/metrics").text


def test_head_of_an_event_stream_does_not_wait_for_events(quiet: Api) -> None:
    queued = quiet.submit(told()).json()["id"]
    head = quiet.head(f"/v1/conversions/{queued}/events")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")
    assert quiet.get("/healthz").status_code == 200


def events_of(text: str) -> list[tuple[int, str, dict[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return found


def test_from_upload_to_result(api: Api) -> None:
    answer = api.submit(told(seconds=0.3), {"seed": 3})
    assert answer.status_code == 202
    body = answer.json()
    assert answer.headers["location"] == f"/v1/conversions/{body['id']}" == body["links"]["self"]
    assert body["status"] == "queued"
    assert body["options"] | {"seed": 3, "method": "auto"} == body["options"]

    early = api.get(f"/v1/conversions/{body['id']}/model")
    assert early.status_code == 409
    assert early.json()["conversion"] == body["id"]

    with api.stream("GET", f"/v1/conversions/{body['id']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        told_events = events_of(stream.read().decode())
    assert [kind for _, kind, _ in told_events][:1] == ["queued"]
    assert told_events[-1][1] == "succeeded"
    assert [number for number, _, _ in told_events] == sorted({number for number, _, _ in told_events})
    stages = [data["stage"] for _, kind, data in told_events if kind == "progress"]
    assert stages == sorted(stages, key=["synthesis", "optimization", "quantization"].index)

    done = api.wait_final(body["id"])
    assert done["status"] == "succeeded"
    assert done["progress"] == 1.0
    model = api.get(done["links"]["model"])
    assert model.content == b"int8 of " + told(seconds=0.3) + b"3"
    assert model.headers["content-length"] == str(len(model.content)) == str(done["sizes"]["model"])
    assert 'filename="net.int8.onnx"' in model.headers["content-disposition"]
    assert api.get(done["links"]["report"]).json()["schema_version"]
    page = api.get(done["links"]["report_html"])
    assert "alert(1)" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_events_resume_after_the_last_one_seen(api: Api) -> None:
    conversion = api.submit(told(), fresh=True).json()["id"]
    api.wait_final(conversion)
    every = events_of(api.get(f"/v1/conversions/{conversion}/events").text)
    seen = every[1][0]
    rest = events_of(api.get(f"/v1/conversions/{conversion}/events", headers={"Last-Event-ID": str(seen)}).text)
    assert rest[0][0] > seen
    assert rest[-1] == every[-1]
    after_the_end = api.get(f"/v1/conversions/{conversion}/events", headers={"Last-Event-ID": str(every[-1][0])})
    assert events_of(after_the_end.text) == []


def test_known_results_come_at_once_and_fresh_ones_when_asked(api: Api) -> None:
    model = told(test="known")
    first = api.wait_final(api.submit(model, {"seed": 1}).json()["id"])
    again = api.submit(model, {"seed": 1, "method": "auto"}).json()
    assert again["status"] == "succeeded"
    assert again["reused_from"] == first["id"]
    assert api.get(again["links"]["model"]).content == api.get(first["links"]["model"]).content
    assert api.submit(model, {"seed": 2}).json()["status"] == "queued"
    assert api.submit(model, {"seed": 1}, fresh=True).json()["status"] == "queued"


def test_convert_waits_and_answers_a_zip(api: Api) -> None:
    answer = api.post("/v1/convert", files={"model": ("net.onnx", told())})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["model.int8.onnx", "report.json", "report.html"]
        assert archive.read("model.int8.onnx").startswith(b"int8 of ")
    assert api.get(answer.headers["content-location"]).json()["status"] == "succeeded"


def test_a_refusal_names_the_place_in_the_model(api: Api) -> None:
    answer = api.post("/v1/convert", files={"model": ("net.onnx", told(then="refuse"))})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == PROBLEM
    problem = answer.json()
    assert problem["type"] == "urn:zsq:problem:unsupported-model"
    assert (problem["node"], problem["operator"], problem["detail"]) == ("n1", "Foo", "No such operator.")
    failed = api.get(f"/v1/conversions/{problem['conversion']}").json()
    assert failed["error"]["kind"] == "UnsupportedModel"
    assert api.get(f"/v1/conversions/{failed['id']}/model").status_code == 409


def test_cancel_and_delete(api: Api) -> None:
    conversion = api.submit(told(seconds=60)).json()["id"]
    while api.get(f"/v1/conversions/{conversion}").json()["status"] != "running":
        time.sleep(0.05)
    assert api.post(f"/v1/conversions/{conversion}/cancel").json()["status"] == "cancelled"
    assert api.post(f"/v1/conversions/{conversion}/cancel").json()["status"] == "cancelled"
    assert api.delete(f"/v1/conversions/{conversion}").status_code == 204
    assert api.delete(f"/v1/conversions/{conversion}").status_code == 404
    assert api.get(f"/v1/conversions/{conversion}").json()["kind"] == "NoSuchConversion"


def test_deleting_ends_the_stream_of_whoever_watches(quiet: Api) -> None:
    conversion = quiet.submit(b"x").json()["id"]
    with quiet.stream("GET", f"/v1/conversions/{conversion}/events") as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("event: queued")
        threading.Timer(0.2, lambda: quiet.delete(f"/v1/conversions/{conversion}")).start()
        list(lines)


def test_lists_in_pages(quiet: Api) -> None:
    made = [quiet.submit(b"x", {"seed": seed}).json()["id"] for seed in range(5)]
    quiet.post(f"/v1/conversions/{made[0]}/cancel")
    seen: list[str] = []
    cursor = None
    for length in (2, 2, 1):
        page = quiet.get("/v1/conversions", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        assert len(page["conversions"]) == length
        seen += [each["id"] for each in page["conversions"]]
        cursor = page["next_cursor"]
    assert seen == made[::-1]
    assert cursor is None
    only = quiet.get("/v1/conversions", params={"status": "cancelled"}).json()["conversions"]
    assert [each["id"] for each in only] == made[:1]
    assert quiet.get("/v1/conversions", params={"cursor": "Zm9v"}).status_code == 400


def test_polling_with_an_etag_costs_nothing_while_nothing_changes(quiet: Api) -> None:
    path = quiet.submit(b"x").headers["location"]
    tag = quiet.get(path).headers["etag"]
    same = quiet.get(path, headers={"If-None-Match": f'"other", W/{tag}'})
    assert same.status_code == 304
    assert same.content == b""
    quiet.post(f"{path}/cancel")
    assert quiet.get(path, headers={"If-None-Match": tag}).status_code == 200


def test_raw_bodies_take_their_options_from_the_query(quiet: Api) -> None:
    query: dict[str, Any] = {"seed": 7, "skip": ["rounding", "migration"], "name": "a/b/söme.onnx"}
    query |= {"input": "x=range=0:255", "size_budget": "1.5MiB"}
    answer = quiet.post(
        "/v1/conversions", content=b"bytes", params=query, headers={"Content-Type": "application/octet-stream"}
    )
    assert answer.status_code == 202
    body = answer.json()
    assert body["model"]["name"] == "söme.onnx"
    assert body["model"]["bytes"] == 5
    assert body["options"]["skip"] == ["migration", "rounding"]
    assert body["options"]["inputs"] == {"x": "range=0:255"}
    assert body["options"]["seed"] == 7
    assert body["options"]["size_budget"] == 1.5 * 2**20


def test_archives_are_known_by_their_bytes(service: Service, api: Api) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("net.onnx", "x")
    conversion = api.submit(buffer.getvalue()).json()["id"]
    found = service.jobs.get(conversion, None)
    assert found is not None
    assert found.archive


def test_an_idempotency_key_makes_one_conversion(quiet: Api) -> None:
    def send(seed: int) -> Any:
        files: Any = {"model": ("n.onnx", b"x"), "options": (None, json.dumps({"seed": seed}))}
        return quiet.post("/v1/conversions", files=files, headers={"Idempotency-Key": "k-1"})

    first, second = send(1), send(1)
    assert first.json()["id"] == second.json()["id"]
    other = send(2)
    assert other.status_code == 422
    assert other.json()["kind"] == "IdempotencyConflict"
    assert len(quiet.get("/v1/conversions").json()["conversions"]) == 1


def test_a_full_queue_pushes_back(quiet: Api) -> None:
    for seed in range(20):
        assert quiet.submit(b"x", {"seed": seed}).status_code == 202
    full = quiet.submit(b"y")
    assert full.status_code == 503
    assert full.json()["kind"] == "QueueFull"
    assert int(full.headers["retry-after"]) > 0


def test_byte_ranges_resume_downloads(api: Api) -> None:
    done = api.wait_final(api.submit(told(), fresh=True).json()["id"])
    path = done["links"]["model"]
    whole = api.get(path)
    size, tag = len(whole.content), whole.headers["etag"]

    def part(ranges: str, **headers: str) -> Any:
        return api.get(path, headers={"Range": ranges, **headers})

    assert part("bytes=3-").content == whole.content[3:]
    assert part("bytes=3-5").content == whole.content[3:6]
    assert part("bytes=3-5").headers["content-range"] == f"bytes 3-5/{size}"
    assert part("bytes=-4").content == whole.content[-4:]
    assert part(f"bytes=0-{10 * size}").content == whole.content
    assert part("bytes=3-", **{"If-Range": tag}).status_code == 206
    assert part("bytes=3-", **{"If-Range": '"other"'}).status_code == 200
    for ignored in ("bytes=5-3", "bytes=0-1,3-4", "lines=1-2", "bytes=-"):
        assert part(ignored).status_code == 200
    beyond = part(f"bytes={size}-")
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{size}"
    assert api.get(path, headers={"If-None-Match": tag}).status_code == 304


def test_webhooks_and_their_dead_letters_are_visible(api: Api) -> None:
    refused = api.submit(b"x", webhook="http://127.0.0.1/hook")
    assert refused.status_code == 422
    assert refused.json()["field"] == "webhook"
    path = api.submit(b"x", webhook="https://example.com/hook").headers["location"]
    assert api.get(path).json()["webhook"] == "https://example.com/hook"
    api.post(f"{path}/cancel")
    [delivery] = api.get(f"{path}/deliveries").json()["deliveries"]
    assert (delivery["url"], delivery["status"]) == ("https://example.com/hook", "pending")
