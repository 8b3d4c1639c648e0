"""Many connections, slow ones and greedy ones: whoever else asks is still answered."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from service import doors
from service.auth import Allowance, Keys
from service.settings import Settings
from tests.service.conftest import Starter
from tests.service.running import serving
from tests.service.web import Api, served, told

HALF = b"GET /v1/conversions HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


def connected(url: str, *, source: str = "") -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=60, source_address=(source, 0))


def status_of(connection: socket.socket) -> int:
    """Of the answer; 0 if the connection ends without one."""
    head = b""
    try:
        while b"\r\n" not in head:
            piece = connection.recv(4096)
            if not piece:
                return 0
            head += piece
    except ConnectionResetError:
        return 0
    return int(head.split(b" ", 2)[1])


@contextmanager
def held(url: str, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    connections: list[socket.socket] = []
    try:
        for _ in range(count):
            connections.append(connected(url))
            connections[-1].sendall(data)
        yield connections
    finally:
        for each in connections:
            each.close()


def test_a_thousand_half_sent_heads_stop_nobody_and_are_gone_by_themselves(tmp_path: Path) -> None:
    with serving(tmp_path, "--workers", "0") as (_, url), held(url, 1100, HALF) as connections:
        for path in ("healthz", "v1/conversions"):
            assert httpx2.get(f"{url}{path}", trust_env=False).status_code == 200
        assert status_of(connections[0]) == 0, "the oldest made way"
        assert status_of(connections[-1]) == 0, "the newest has seconds for its head"
        said = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
        turned = next(line for line in said if line["event"] == "connections turned away")
        assert turned["unfinished head"] > 0


def test_a_body_that_stops_coming_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "BODY_SECONDS", 0.5)
    monkeypatch.setattr(doors, "LOOK_SECONDS", 0.1)
    head = (
        b"POST /v1/conversions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/octet-stream\r\n"
        b"Content-Length: 1000\r\n\r\nsome"
    )
    with served(Settings(data_dir=tmp_path)) as api, held(str(api.base_url), 1, head) as [connection]:
        assert status_of(connection) == 0
        assert api.submit(b"whole").status_code == 202


def test_places_are_kept_for_health_checks(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, max_connections=16, streams_per_key=100)
    with served(settings) as api:
        path = api.submit(b"waits").headers["location"]
        stream = f"GET {path}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        url = str(api.base_url)
        api.close()
        with held(url, 16, stream) as connections:
            assert [status_of(each) for each in connections] == [200] * 16
            with connected(url) as late:
                late.sendall(b"GET /v1/conversions HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert status_of(late) == 503
            assert httpx2.get(f"{url}/healthz", trust_env=False).status_code == 200
        with Api(base_url=url, trust_env=False) as again:
            assert again.get("/v1/conversions").status_code == 200


def test_one_address_has_not_all_places(tmp_path: Path) -> None:
    own = socket.gethostbyname(socket.gethostname())
    if own.startswith("127."):
        pytest.skip("this machine has no address but loopback")
    with serving(tmp_path, "--host", "0.0.0.0", "--workers", "0") as (_, url):
        here = url.replace("0.0.0.0", own)
        with held(here, 256, b"") as connections:
            with connected(here) as late:
                assert status_of(late) == 503
            local = url.replace("0.0.0.0", "127.0.0.1")
            assert httpx2.get(f"{local}healthz", trust_env=False).status_code == 200
            assert len(connections) == 256


def test_one_key_has_so_many_streams_and_others_theirs(start: Starter) -> None:
    service = start(auth=True, streams_per_key=3)
    keys = Keys(service.jobs.database)
    mine, yours = keys.create("me").secret, keys.create("you").secret
    with served(service.settings, mine) as api:
        path = api.submit(b"waits").headers["location"]
        stream = f"GET {path}/events HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {mine}\r\n\r\n".encode()
        with held(str(api.base_url), 4, stream) as connections:
            assert sorted(map(status_of, connections)) == [200, 200, 200, 429]
            own = api.post(
                "/v1/conversions", content=b"mine", headers={"X-API-Key": yours, "Authorization": ""} | OCTETS
            )
            assert own.status_code == 202
            with connected(str(api.base_url)) as other:
                path = own.headers["location"]
                other.sendall(f"GET {path}/events HTTP/1.1\r\nHost: x\r\nX-API-Key: {yours}\r\n\r\n".encode())
                assert status_of(other) == 200
        with held(str(api.base_url), 1, stream) as [again]:
            assert status_of(again) in (200, 429)


OCTETS = {"Content-Type": "application/octet-stream"}


def test_a_body_without_room_in_the_quota_is_not_read(start: Starter) -> None:
    service = start(auth=True)
    made = Keys(service.jobs.database).create("me", allowance=Allowance(per_day=1, stored_bytes=1 << 20))
    with served(service.settings, made.secret) as api:

        def announced(length: int) -> int:
            with connected(str(api.base_url)) as connection:
                connection.sendall(
                    f"POST /v1/conversions HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {made.secret}\r\n"
                    f"Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n\r\n".encode()
                )
                return status_of(connection)

        assert announced(100 << 20) == 429
        first = api.submit(told())
        assert first.status_code == 202
        assert api.delete(first.headers["location"]).status_code == 204
        assert announced(1 << 10) == 429, "what was deleted was submitted all the same"


def test_keys_have_limits_where_the_operator_set_none(start: Starter) -> None:
    service = start(auth=True, quota_per_day=1)
    keys = Keys(service.jobs.database)
    usual, free = keys.create("me"), keys.create("you", allowance=Allowance(per_day=0))
    for made, statuses in ((usual, [202, 429]), (free, [202, 202])):
        with served(service.settings, made.secret) as api:
            assert [api.submit(told(n=n)).status_code for n in range(2)] == statuses
