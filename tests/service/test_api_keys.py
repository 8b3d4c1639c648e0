"""Keys: asked for where the service is reachable from elsewhere, each sees its own, quotas and rates hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.auth import Allowance, Keys, Scope
from service.database import Database, keys
from service.settings import Settings
from tests.service.web import Api, served


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, auth=True)


@pytest.fixture
def known(settings: Settings) -> Iterator[Keys]:
    database = Database(settings)
    database.migrate()
    yield Keys(database)
    database.dispose()


@pytest.fixture
def api(settings: Settings, known: Keys) -> Iterator[Api]:
    with served(settings) as api:
        yield api


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_keys_are_asked_for_beyond_loopback_only() -> None:
    assert not Settings(host="127.0.0.1").requires_keys
    assert not Settings(host="::1").requires_keys
    assert Settings(host="0.0.0.0").requires_keys
    assert not Settings(host="0.0.0.0", auth=False).requires_keys
    assert Settings(host="127.0.0.1", auth=True).requires_keys


def test_only_a_hash_is_kept(known: Keys, tmp_path: Path) -> None:
    made = known.create("ann")
    assert made.secret.startswith(made.key.prefix)
    assert len(made.secret) > 50
    with known._database.reading() as connection:
        [row] = connection.execute(keys.select()).all()
    assert made.secret not in str(row)
    assert made.secret.encode() not in b"".join(path.read_bytes() for path in tmp_path.glob("zsq.sqlite3*"))
    assert known.find(made.secret) == made.key
    assert known.find(made.secret[:-1]) is None
    assert known.find("") is None


def test_without_a_key_nothing_but_health_and_the_page(api: Api) -> None:
    for path in ("/", "/docs", "/openapi.json", "/static/app.js", "/healthz"):
        assert api.get(path).status_code == 200
    assert api.get("/readyz").status_code == 503  # no worker, but an answer
    for path in ("/v1/conversions", "/v1/conversions/x", "/v1/conversions/x/events", "/metrics"):
        answer = api.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["remedy"]
    assert api.submit(b"x").status_code == 401


def test_both_headers_and_the_cookie_of_the_page_work(api: Api, known: Keys) -> None:
    made = known.create("ann")
    assert api.get("/v1/conversions", headers=bearer(made.secret)).status_code == 200
    assert api.get("/v1/conversions", headers={"X-API-Key": made.secret}).status_code == 200
    assert api.post("/session", data={"key": "zsq_00000000_wrong"}).status_code == 401
    signed_in = api.post("/session", data={"key": made.secret})
    assert signed_in.status_code == 204
    assert all(flag in signed_in.headers["set-cookie"].lower() for flag in ("httponly", "samesite=strict"))
    assert api.get("/v1/conversions").status_code == 200
    assert api.delete("/session").status_code == 204
    assert api.get("/v1/conversions").status_code == 401


def test_revoked_keys_stop_at_once(api: Api, known: Keys) -> None:
    made = known.create("ann")
    assert api.get("/v1/conversions", headers=bearer(made.secret)).status_code == 200
    revoked = known.revoke(made.key.prefix)
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert api.get("/v1/conversions", headers=bearer(made.secret)).status_code == 401
    assert known.revoke("zsq_nothing") is None
    assert [key.name for key in known.list()] == ["ann"]


def test_a_foreign_conversion_does_not_exist(api: Api, known: Keys) -> None:
    ann, bob, root = (known.create(name, scopes) for name, scopes in (
        ("ann", (Scope.CONVERT, Scope.READ)), ("bob", (Scope.CONVERT, Scope.READ)), ("root", (Scope.ADMIN,)),
    ))  # fmt: skip
    api.headers.update(bearer(ann.secret))
    path = api.submit(b"x").headers["location"]
    for method, tail in (("GET", ""), ("GET", "/events"), ("GET", "/model"), ("POST", "/cancel"), ("DELETE", "")):
        assert api.request(method, path + tail, headers=bearer(bob.secret)).status_code == 404
    assert api.get("/v1/conversions", headers=bearer(bob.secret)).json()["conversions"] == []
    assert api.get(path, headers=bearer(root.secret)).status_code == 200
    assert api.get(path).json()["status"] == "queued"


def test_scopes(api: Api, known: Keys) -> None:
    reader, writer = known.create("reader", [Scope.READ]), known.create("writer", [Scope.CONVERT])
    assert api.get("/v1/conversions", headers=bearer(writer.secret)).status_code == 403
    assert api.get("/v1/conversions", headers=bearer(reader.secret)).status_code == 200
    assert api.get("/metrics", headers=bearer(reader.secret)).status_code == 403
    api.headers.update(bearer(reader.secret))
    assert api.submit(b"x").status_code == 403
    api.headers.update(bearer(writer.secret))
    assert api.submit(b"x", priority=1).status_code == 403
    assert api.submit(b"x", priority=200).status_code == 202


def test_quotas_and_rates_of_a_key(api: Api, known: Keys, settings: Settings) -> None:
    made = known.create("ann", allowance=Allowance(active=2, stored_bytes=1000, requests_per_minute=8))
    api.headers.update(bearer(made.secret))
    assert api.submit(b"1").status_code == 202
    large = api.submit(b"2" * 1001)
    assert large.status_code == 429
    assert large.json()["field"] == "stored_bytes"
    assert api.submit(b"2").status_code == 202
    many = api.submit(b"3")
    assert many.status_code == 429
    assert many.json()["field"] == "active"
    assert int(many.headers["retry-after"]) > 0
    kept = [path for path in (settings.data_dir / "artefacts" / "sha256").rglob("*") if path.is_file()]
    assert len(kept) == 2  # refused uploads are gone
    answers = [api.get("/v1/conversions") for _ in range(8)]
    assert answers[-1].status_code == 429
    assert answers[-1].json()["kind"] == "TooManyRequests"
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60


def test_whoever_guesses_keys_is_slowed_down(api: Api) -> None:
    answers = [api.get("/v1/conversions", headers=bearer(f"zsq_{n:08x}_x")).status_code for n in range(40)]
    assert answers[0] == 401
    assert answers[-1] == 429
