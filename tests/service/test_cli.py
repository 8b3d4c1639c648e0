"""``zsq``: the commands of the service."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from converter.console import DONE, REFUSED, run
from service.cli import app

Zsq = Callable[..., tuple[int, str, str]]


@pytest.fixture
def zsq(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Zsq:
    """Runs a command on a database of its own; returns exit code, stdout and stderr."""
    monkeypatch.setenv("ZSQ_DATA_DIR", str(tmp_path / "data"))

    def call(*arguments: object) -> tuple[int, str, str]:
        code = run(app, [str(each) for each in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_version(zsq: Zsq) -> None:
    assert zsq("--version") == (DONE, f"zsq {version('zsq')}\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--port", "99999"], "The setting port is wrong"),
        (["serve", "--database-url", "mysql://x"], "the database is sqlite"),
        (["worker", "--store-url", "ftp://x"], "the store is file"),
        (["submit", "absent.onnx"], "There is no file absent.onnx"),
        (["submit", __file__, "--url", "http://127.0.0.1:9"], "The service does not answer"),
        (["submit", __file__, "--method", "magic"], "'magic' is not one of"),
        (["submit", __file__, "--input", "x=range=2:1"], "LOW below HIGH"),
        (["keys", "create", "me", "--scope", "everything"], "There is no scope 'everything'"),
        (["keys", "revoke", "zsq_00000000"], "There is no key zsq_00000000"),
        (["keys", "list", "--database-url", "postgresql://nobody@127.0.0.1:9/x"], "The database does not answer"),
        (["keys"], "Missing command"),
        (["webhooks", "secret", "zsq_00000000"], "There is no key zsq_00000000"),
        (["webhooks", "resend", "msg_0"], "There is no message msg_0"),
    ],
)
def test_misuse_is_one_line(zsq: Zsq, arguments: list[str], said: str) -> None:
    code, _, errors = zsq(*arguments)
    assert code == REFUSED
    assert said in errors
    assert len(errors.splitlines()) == 1


def test_a_key_is_shown_once_listed_without_its_secret_and_revoked(zsq: Zsq) -> None:
    _, shown, _ = zsq("keys", "create", "a colleague", "--scope", "read", "--json")
    made = json.loads(shown)
    assert made["scopes"] == ["read"]
    assert made["secret"].startswith(made["prefix"])
    _, listed, _ = zsq("keys", "list", "--json")
    assert json.loads(listed) == {name: value for name, value in made.items() if name != "secret"}
    assert made["secret"] not in listed
    code, revoked, _ = zsq("keys", "revoke", made["prefix"])
    assert code == DONE
    assert "revoked" in revoked


def test_a_port_in_use_is_told_before_anything_starts(zsq: Zsq) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, errors = zsq("serve", "--port", port)
    assert code == REFUSED
    assert f"127.0.0.1:{port}: Address already in use" in errors


def test_a_misspelt_variable_is_told(zsq: Zsq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSQ_WORKER_CONCURENCY", "2")
    code, _, errors = zsq("serve")
    assert code == REFUSED
    assert "ZSQ_WORKER_CONCURENCY is not a setting. Did you mean ZSQ_WORKER_CONCURRENCY?" in errors


def test_a_signing_secret_is_shown_once(zsq: Zsq) -> None:
    secrets = [json.loads(zsq("webhooks", "secret", "--json")[1])["secret"] for _ in range(2)]
    assert len(set(secrets)) == 2
    assert all(secret.startswith("whsec_") for secret in secrets)
