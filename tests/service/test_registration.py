"""Conversions on their way to a real MLflow server: once each, whatever happens to it or to the worker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from converter.console import REFUSED
from service import cli
from service.engine import TaskState
from service.outbox import PAUSES, REGISTRATIONS, resend
from service.records import Registration
from service.registration import Registrations
from tests.mlflow_server import MlflowServer
from tests.service.conftest import Starter
from tests.service.harness import Service, kill_tree, wait_until

UNREACHABLE = "http://127.0.0.1:1"


def registered(service: Service) -> list[Registration]:
    return list(service.jobs.registrations(None, 100))


def handler(service: Service) -> Registrations:
    """As a worker calls it, here and now."""
    return Registrations(service.jobs, service.settings, service.folder / "on their way")


def test_two_runs_of_a_job_leave_one_version(
    start: Starter, database_url: str | None, mlflow_server: MlflowServer
) -> None:
    name = "on a server" if database_url else "on sqlite"
    service = start(database_url, mlflow_uri=mlflow_server.uri, mlflow_name=f"{name} {{name}}")
    service.worker()
    jobs = [service.submit(stages=["synthesis"]) for _ in range(2)]
    for job in jobs:
        assert service.wait_final(job).status == "succeeded"
    service.wait_final(service.submit(then="refuse"))
    wait_until(lambda: [each.status for each in registered(service)] == ["delivered"] * 2, 120, "both registrations")
    [version] = mlflow_server.versions(f"{name} told.json")
    assert {each.version for each in registered(service)} == {version.version}
    assert version.tags["zsq.job"] in {job.id for job in jobs}
    assert mlflow_server.client.get_model_version_by_alias(version.name, "candidate").version == version.version


def test_a_server_that_is_away_delays_no_conversion_and_gets_it_later(
    start: Starter, mlflow_server: MlflowServer
) -> None:
    service = start(mlflow_uri=mlflow_server.uri, mlflow_name="away")
    mlflow_server.stop()
    try:
        worker = service.worker()
        jobs = [service.submit(seconds=0.05, number=number) for number in range(2)]
        for job in jobs:
            assert service.wait_final(job).status == "succeeded"
        wait_until(lambda: all(each.attempts for each in registered(service)), 60, "a try of each")
        worker.kill()
        worker.wait()
    finally:
        mlflow_server.start()
    for each in registered(service):
        assert each.status == "pending"
        assert "did not take the model" in (each.last_error or "")
        following = f"{each.id}.{each.attempts + 1}"
        assert service.jobs.engine.states([following])[following] is TaskState.QUEUED
        handler(service)(each.id)
    assert {(each.status, each.last_error) for each in registered(service)} == {("delivered", None)}
    assert len(mlflow_server.versions("away")) == len(jobs)


def test_what_was_given_up_is_shown_and_sent_again(
    start: Starter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service = start(mlflow_uri=UNREACHABLE)
    service.worker()
    job = service.submit()
    service.wait_final(job)
    kill_tree(service.processes[0].pid)
    [waiting] = registered(service)
    with service.jobs.database.writing() as connection:  # all tries of the day but the last
        connection.execute(sa.update(REGISTRATIONS.table).values(attempts=len(PAUSES)))
    handler(service)(waiting.id)
    assert service.jobs.statistics().dead_registrations == 1
    capsys.readouterr()
    monkeypatch.setenv("ZSQ_DATA_DIR", str(service.folder))
    monkeypatch.setattr("sys.argv", ["zsq", "mlflow", "list", "--dead", "--json"])
    assert cli.main() == 0
    [line] = capsys.readouterr().out.splitlines()
    assert json.loads(line)["job"] == job.id
    for code in (0, REFUSED):  # the second time it waits already
        monkeypatch.setattr("sys.argv", ["zsq", "mlflow", "resend", waiting.id])
        assert cli.main() == code
    assert registered(service)[0].status == "pending"


def test_a_result_that_is_gone_is_said_to_be(start: Starter) -> None:
    service = start(mlflow_uri=UNREACHABLE)
    service.worker()
    job = service.wait_final(service.submit())
    kill_tree(service.processes[0].pid)
    service.jobs.artefacts.delete_now(job.artefacts["model"])
    [waiting] = registered(service)
    handler(service)(waiting.id)
    assert registered(service)[0].last_error == "The result is no longer in the store."
    service.jobs.remove([job.id])
    assert registered(service) == []
    assert not resend(service.jobs.database, service.jobs.engine, REGISTRATIONS, waiting.id, None)


def test_nothing_is_registered_unless_asked_for(start: Starter) -> None:
    service = start()
    service.worker()
    assert service.wait_final(service.submit()).status == "succeeded"
    assert registered(service) == []


def test_a_password_in_the_address_is_refused_without_repeating_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZSQ_MLFLOW_URI", "http://ann:secret@mlflow.example")
    monkeypatch.setattr("sys.argv", ["zsq", "mlflow", "list", "--data-dir", str(tmp_path)])
    assert cli.main() == REFUSED
    said = capsys.readouterr().err
    assert "MLFLOW_TRACKING_PASSWORD" in said
    assert "secret" not in said
