"""What the API refuses, and how: always a problem document, never a traceback, never a half-taken upload."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

import service.jobs
from service.settings import Settings
from tests.service.harness import wait_until
from tests.service.web import PROBLEM, Api, served

OCTETS = {"Content-Type": "application/octet-stream"}
LIMIT = 1 << 20


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(data_dir=tmp_path_factory.mktemp("refusals"), max_upload_bytes=LIMIT)


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[Api]:
    with served(settings) as api:
        yield api


def objects(settings: Settings) -> list[Path]:
    folder = settings.data_dir / "artefacts"
    return [path for path in folder.rglob("*") if path.is_file()]


def assert_problem(answer: httpx2.Response, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    problem: dict[str, Any] = answer.json()
    assert problem["kind"] == kind
    assert problem["status"] == status
    assert problem["type"].startswith("urn:zsq:problem:")
    assert problem["detail"].endswith(".")
    assert "Traceback" not in answer.text
    return problem


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"samples": 4}, "samples"),
        ({"samples": "64"}, "samples"),
        ({"samples": 64.5}, "samples"),
        ({"samples": True}, "samples"),
        ({"method": "magic"}, "method"),
        ({"skip": ["rounding", "nothing"]}, "skip.1"),
        ({"skip": "rounding"}, "skip"),
        ({"time_budget": 0}, "time_budget"),
        ({"min_agreement": 1.5}, "min_agreement"),
        ({"size_budget": "half"}, "size_budget"),
        ({"size_budget": 0}, "size_budget"),
        ({"inputs": {"x": "range=5:1"}}, "input"),
        ({"inputs": {"x\0": "range=0:1"}}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"sample": 64}, "sample"),
        ({"validation": "/etc/passwd"}, "validation"),
        ({"threads": 64}, "threads"),
        ([], "options"),
        ("auto", "options"),
    ],
)
def test_an_unusable_option_is_named(api: Api, settings: Settings, options: Any, field: str) -> None:
    answer = api.submit(b"a model", options)
    problem = assert_problem(answer, 422, "InvalidOption")
    assert problem["field"] == field
    assert objects(settings) == []


@pytest.mark.parametrize("text", ["{", "\\", '{"seed": NaN}', "1" * 5000, "[" * 100_000, '{"time_budget": Infinity}'])
def test_options_that_are_not_json(api: Api, settings: Settings, text: str) -> None:
    files: Any = {"model": ("n.onnx", b"x"), "options": (None, text)}
    assert_problem(api.post("/v1/conversions", files=files), 422, "InvalidOption")
    assert objects(settings) == []


@pytest.mark.parametrize(
    "query",
    [
        {"seed": "x"},
        {"unknown": 1},
        {"fresh": "perhaps"},
        {"priority": 0},
        {"skip": "nothing"},
        {"name": "a" * 201},
        {"webhook": "x"},
    ],
)
def test_an_unusable_query_is_named(api: Api, query: dict[str, Any]) -> None:
    answer = api.post("/v1/conversions", content=b"x", params=query, headers=OCTETS)
    problem = assert_problem(answer, 422, "InvalidRequest")
    assert problem["field"].split(".")[0] == next(iter(query))
    assert problem["errors"]


def test_an_empty_model(api: Api, settings: Settings) -> None:
    assert_problem(api.submit(b""), 422, "InvalidModel")
    assert_problem(api.post("/v1/conversions", content=b"", headers=OCTETS), 422, "InvalidModel")
    assert objects(settings) == []


def test_a_form_without_model_twice_a_model_and_unknown_fields(api: Api, settings: Settings) -> None:
    def post(files: Any) -> httpx2.Response:
        return api.post("/v1/conversions", files=files)

    assert assert_problem(post({"file": ("n", b"x")}), 400, "BadRequest")["field"] == "model"
    assert_problem(post([("model", ("n", b"x")), ("model", ("n", b"y"))]), 400, "BadRequest")
    assert assert_problem(post({"model": ("n", b"x"), "other": (None, "1")}), 400, "BadRequest")["field"] == "other"
    assert_problem(post({"model": ("n", b"x"), "options": (None, "x" * (300 << 10))}), 400, "BadRequest")
    assert_problem(post([*((f"f{n}", (None, "x")) for n in range(30)), ("model", ("n", b"x"))]), 400, "BadRequest")


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"no boundary at all"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nabc'),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Type: text/plain\r\n\r\nabc\r\n--x--\r\n"),
        ("multipart/form-data; boundary=" + "y" * 300, b"--x\r\n"),
    ],
)
def test_broken_forms(api: Api, kind: str, body: bytes) -> None:
    answer = api.post("/v1/conversions", content=body, headers={"Content-Type": kind})
    assert_problem(answer, 400, "BadRequest")


def test_other_media_types(api: Api) -> None:
    answer = api.post("/v1/conversions", content=b"<model/>", headers={"Content-Type": "application/xml"})
    assert "multipart/form-data" in assert_problem(answer, 415, "UnsupportedMediaType")["detail"]


def test_a_body_that_is_too_large_is_refused_before_it_is_read(api: Api, settings: Settings) -> None:
    connection = http.client.HTTPConnection(api.base_url.host, api.base_url.port, timeout=10)
    connection.putrequest("POST", "/v1/conversions")
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    answer = connection.getresponse()  # not a byte of the body was sent
    assert answer.status == 413
    assert json.loads(answer.read())["kind"] == "TooLarge"
    connection.close()


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(api: Api, settings: Settings) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(64):
            yield b"x" * (64 << 10)

    answer = api.post("/v1/conversions", content=endless(), headers=OCTETS)
    assert_problem(answer, 413, "TooLarge")
    just_over = api.submit(b"x" * (LIMIT + 1))  # within the allowance for the form around it
    assert_problem(just_over, 413, "TooLarge")
    assert objects(settings) == []


def test_other_bodies_are_kept_small(api: Api) -> None:
    assert_problem(api.post("/session", data={"key": "x" * (100 << 10)}), 413, "TooLarge")


def test_an_upload_that_breaks_off_leaves_nothing(api: Api, settings: Settings) -> None:
    with socket.create_connection((api.base_url.host, api.base_url.port)) as connection:
        head = "POST /v1/conversions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
        connection.sendall(f"{head}Content-Length: 1000\r\n\r\nabc".encode())
    wait_until(lambda: objects(settings) == [], 20, "the upload to be given up")
    assert api.get("/v1/conversions").json()["conversions"] == []


def test_paths_and_methods_that_are_not_there(api: Api) -> None:
    assert_problem(api.get("/v1/nothing"), 404, "NotFound")
    assert_problem(api.get("/static/../app.py"), 404, "NotFound")
    assert_problem(api.get("/static/page.html"), 404, "NoSuchConversion")
    answer = api.put("/v1/conversions")
    assert_problem(answer, 405, "MethodNotAllowed")
    assert answer.headers["allow"] == "GET, POST"
    for method, path in (("GET", ""), ("GET", "/events"), ("GET", "/model"), ("POST", "/cancel"), ("DELETE", "")):
        assert_problem(api.request(method, f"/v1/conversions/0123abcd{path}"), 404, "NoSuchConversion")
        assert_problem(api.request(method, f"/v1/conversions/a%00b{path}"), 422, "InvalidRequest")


def test_a_bug_of_ours_is_a_problem_without_its_traceback(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("the secret of the house")

    monkeypatch.setattr(service.jobs.Jobs, "list", broken)
    with served(settings) as api:
        answer = api.get("/v1/conversions")
    assert_problem(answer, 500, "Bug")
    assert "secret" not in answer.text
    assert "the secret of the house" in capfd.readouterr().err


def test_a_store_that_is_full_or_away_is_said_so(tmp_path: Path) -> None:
    with served(Settings(data_dir=tmp_path)) as api:
        (tmp_path / "artefacts").rename(tmp_path / "elsewhere")
        (tmp_path / "artefacts").write_text("not a folder")
        answer = api.submit(b"x")
        assert_problem(answer, 503, "StoreUnavailable")
        assert int(answer.headers["retry-after"]) > 0
        assert str(tmp_path) not in answer.text
        ready = api.get("/readyz")
        assert ready.status_code == 503
        assert not ready.json()["checks"]["store"]["ok"]


def test_pages_of_other_sites_can_do_nothing(api: Api) -> None:
    files = {"model": ("n.onnx", b"x")}
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        assert_problem(api.post("/v1/conversions", files=files, headers=headers), 403, "Forbidden")
    own = str(api.base_url).rstrip("/")
    assert api.post("/v1/conversions/x/cancel", headers={"Origin": own}).status_code == 404
    for name in ("evil.example", "127.0.0.1.evil.example:80"):
        assert_problem(api.get("/v1/conversions", headers={"Host": name}), 403, "Forbidden")
    for name in ("localhost", "127.0.0.1:1234", "[::1]:80", "zsq"):
        assert api.get("/v1/conversions", headers={"Host": name}).status_code == 200


def test_every_answer_forbids_sniffing_and_framing(api: Api) -> None:
    for path in ("/", "/docs", "/healthz", "/v1/conversions", "/v1/nothing", "/static/app.js"):
        headers = api.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
