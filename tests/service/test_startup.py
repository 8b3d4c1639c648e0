"""A service that cannot begin says why, in one sentence, and everything it and its libraries say can be read."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
import structlog

from service import logs
from service.database import MIGRATIONS, SCHEMA_VERSION, Database, SchemaMismatch, metadata, schema
from service.settings import Settings
from tests.service.conftest import Starter
from tests.service.harness import ROOT
from tests.service.running import serving, until
from tests.service.web import served


def zsq(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(
        [sys.executable, "-P", "-m", "service", *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_database_that_is_away_is_waited_for_and_then_named(tmp_path: Path) -> None:
    url = f"postgresql://user:secret@127.0.0.1:{closed_port()}/zsq"
    ended = zsq("serve", "--port", "0", "--data-dir", str(tmp_path), "--database-url", url, ZSQ_STARTUP_WAIT="1")
    assert ended.returncode == 1
    assert ended.stdout == "", "nothing is announced that does not serve"
    waited, *_, sentence = ended.stderr.splitlines()
    assert json.loads(waited)["event"] == "waiting for the database"
    assert sentence.startswith("zsq: The database at postgresql://127.0.0.1:")
    assert "--database-url" in sentence
    assert "secret" not in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("")
    ended = zsq(command, "--data-dir", str(tmp_path / "file" / "data"))
    assert ended.returncode == 1
    assert ended.stdout == ""
    [sentence] = ended.stderr.splitlines()
    assert sentence.startswith(f"zsq: The data folder {tmp_path}/file/data cannot be written")


def test_a_host_that_does_not_resolve_is_no_bug(tmp_path: Path) -> None:
    ended = zsq("serve", "--host", "no-such-host.invalid", "--data-dir", str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.startswith("zsq: The host 'no-such-host.invalid' is no address of this machine")


def test_what_lies_in_the_working_folder_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("service", "converter", "json", "structlog"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'hijacked')!r}, 'a').write({name!r})\n")
    with serving(tmp_path, cwd=folder) as (_, url):
        import httpx2

        until(lambda: httpx2.get(f"{url}readyz", trust_env=False).status_code == 200)
    assert not (tmp_path / "hijacked").exists()


def test_libraries_are_heard_although_one_installs_a_null_handler(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger().addHandler(logging.NullHandler())
    logs.configure(Settings(data_dir=tmp_path))
    logging.getLogger("uvicorn.error").error("it broke: %s", "why")
    structlog.get_logger().info("ours", job="j")
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [("it broke: why", "error"), ("ours", "info")]
    assert lines[0]["logger"] == "uvicorn.error"
    assert lines[0]["timestamp"]


def test_requests_and_wrong_keys_are_logged_with_who_sent_them(
    start: Starter, capfd: pytest.CaptureFixture[str]
) -> None:
    from service.auth import Keys

    service = start(auth=True)
    made = Keys(service.jobs.database).create("me")
    with served(service.settings, made.secret) as api:
        api.get("/v1/conversions")
        wrong = f"{made.key.prefix}_{'x' * 43}"
        assert api.get("/v1/conversions", headers={"Authorization": f"Bearer {wrong}"}).status_code == 401
        assert api.get("/v1/conversions", headers={"Authorization": "Bearer whatever"}).status_code == 401
    said = capfd.readouterr().err
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    request = next(line for line in lines if line["event"] == "request" and line["status"] == 200)
    assert request["client"] == "127.0.0.1"
    assert request["key"] == made.key.id
    refused = [line for line in lines if line["event"] == "wrong key"]
    assert [line["prefix"] for line in refused] == [made.key.prefix, None]
    assert {line["client"] for line in refused} == {"127.0.0.1"}
    assert wrong not in said
    assert "whatever" not in said


def make_old(database: Database) -> None:
    """The tables are those of the version before."""
    with database.writing() as connection:
        metadata.create_all(connection)
        for statement in MIGRATIONS[2]:
            words = statement.split()
            connection.execute(sa.text(f"ALTER TABLE {words[2]} DROP COLUMN {words[5]}"))
        for name in ("zsq_submissions", "zsq_counters"):
            connection.execute(sa.text(f"DROP TABLE {name}"))
        connection.execute(sa.text("INSERT INTO zsq_schema (version) VALUES (1)"))


def test_older_tables_are_brought_up_to_date(tmp_path: Path, database_url: str | None) -> None:
    given = {} if database_url is None else {"database_url": database_url}
    database = Database(Settings(data_dir=tmp_path, **given))  # type: ignore[arg-type]
    make_old(database)
    for _ in range(2):
        database.migrate()
    with database.reading() as connection:
        assert connection.execute(sa.select(schema)).one() == (SCHEMA_VERSION, 1)
        for table in metadata.sorted_tables:
            connection.execute(sa.select(table).limit(1))
    database.dispose()


def test_newer_tables_are_used_if_they_say_so_and_refused_otherwise(tmp_path: Path) -> None:
    database = Database(Settings(data_dir=tmp_path))
    database.migrate()
    for oldest in (SCHEMA_VERSION, SCHEMA_VERSION + 1):
        with database.writing() as connection:
            connection.execute(sa.update(schema).values(version=SCHEMA_VERSION + 1, oldest=oldest))
        if oldest == SCHEMA_VERSION:
            database.migrate()
        else:
            with pytest.raises(SchemaMismatch, match="Install the newer"):
                database.migrate()
    database.dispose()
    ended = zsq("serve", "--port", "0", "--workers", "0", "--data-dir", str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("zsq: The database has schema")
