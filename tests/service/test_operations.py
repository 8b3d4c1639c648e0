"""Health, readiness, metrics, logs; and that the API process stays light."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from service.auth import Keys, Scope
from service.settings import Settings
from tests.service.conftest import Starter
from tests.service.harness import ROOT, wait_until
from tests.service.running import READY_WITHIN, serving, until
from tests.service.web import served, told

LIGHT = """
import sys
from service.settings import Settings
from tests.service.web import served
with served(Settings(data_dir=sys.argv[1])) as api:
    assert api.submit(b"\\x08\\x08 anything").status_code == 202
    for path in ("/", "/docs", "/metrics", "/readyz", "/openapi.json", "/v1/conversions"):
        assert api.get(path).status_code in (200, 503), path
print([name for name in ("onnx", "onnxruntime", "torch", "numpy") if name in sys.modules])
"""


def test_the_api_process_never_loads_what_could_open_a_model(tmp_path: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", LIGHT, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]", ran.stderr


def test_health_and_readiness(start: Starter, database_url: str | None) -> None:
    service = start(database_url)
    with served(service.settings) as api:
        assert api.get("/healthz").json()["status"] == "ok"
        unready = api.get("/readyz")
        assert unready.status_code == 503
        assert {name: check["ok"] for name, check in unready.json()["checks"].items()} == {
            "database": True,
            "store": True,
            "worker": False,
        }
        service.worker()
        done = api.wait_final(api.submit(told()).json()["id"])
        ready = api.get("/readyz")
        assert ready.status_code == 200
        [worker] = ready.json()["workers"]
        assert worker["isolation"]["level"]
        assert done["isolation"]["level"] == worker["isolation"]["level"]


def test_a_killed_worker_is_not_waited_for(
    start: Starter, database_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.SEEN", timedelta(days=1))  # what it said last will not be outdated in time
    service = start(database_url)
    with served(service.settings) as api:
        worker, other = service.worker(), service.worker()
        wait_until(lambda: len(api.get("/readyz").json()["workers"]) == 2, 60, "two workers")
        worker.kill()
        wait_until(lambda: len(api.get("/readyz").json()["workers"]) == 1, 60, "one worker")
        assert api.get("/readyz").status_code == 200
        other.kill()
        wait_until(lambda: api.get("/readyz").status_code == 503, 60, "no worker")


def test_without_a_worker_of_its_own_the_api_is_ready_alone(tmp_path: Path) -> None:
    with served(Settings(data_dir=tmp_path, worker=False)) as api:
        assert api.get("/readyz").status_code == 200


def value(text: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def test_metrics_tell_of_queue_conversions_and_requests(start: Starter, database_url: str | None) -> None:
    service = start(database_url)
    with served(service.settings) as api:
        waiting = api.submit(told(seconds=0.7)).json()["id"]
        before = api.get("/metrics").text
        assert value(before, "zsq_queue_depth ") == 1
        assert value(before, "zsq_queue_oldest_seconds ") > 0
        service.worker()
        api.wait_final(waiting)
        api.wait_final(api.submit(told(then="refuse")).json()["id"])
        api.submit(told(seconds=0.7))
        after = api.get("/metrics")
        assert after.headers["content-type"].startswith("text/plain")
        for name, expected in {
            'zsq_conversions_total{status="succeeded"}': 1,
            'zsq_conversions_total{status="reused"}': 1,
            'zsq_conversion_failures_total{kind="UnsupportedModel"}': 1,
            "zsq_conversion_seconds_count": 1,
            'zsq_stage_seconds_count{stage="optimization"}': 1,
            "zsq_child_peak_memory_bytes_count": 2,
            "zsq_queue_depth ": 0,
            "zsq_workers ": 1,
            'zsq_jobs{status="succeeded"}': 2,
            'zsq_model_bytes_total{side="float"}': len(told(seconds=0.7)),
            'zsq_http_request_seconds_count{method="POST",route="/v1/conversions",status="202"}': 3,
        }.items():
            assert value(after.text, name) == expected, name
        assert value(after.text, "zsq_uploaded_bytes_total") > 0
        assert value(after.text, "zsq_attempts_total ") == 2
        assert value(after.text, "zsq_build_info") == 1
        assert value(after.text, "zsq_disk_free_bytes ") > 0
        again = api.get("/metrics").text
        assert value(again, "zsq_conversions_total") == value(after.text, "zsq_conversions_total")
    with served(service.settings) as other:  # another process, or this one started anew
        assert value(other.get("/metrics").text, "zsq_conversions_total") == value(after.text, "zsq_conversions_total")


def test_a_key_for_counts_reads_counts_alone(start: Starter) -> None:
    service = start(auth=True)
    made = Keys(service.jobs.database).create("prometheus", [Scope.METRICS])
    with served(service.settings, made.secret) as api:
        assert api.get("/metrics").status_code == 200
        assert api.get("/v1/conversions").status_code == 403
        assert api.get("/metrics", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert value(api.get("/metrics").text, "zsq_wrong_keys_total ") == 1


def test_told_to_end_it_says_so_first_and_serves_on(tmp_path: Path) -> None:
    with serving(tmp_path) as (process, url):
        until(lambda: httpx2.get(f"{url}readyz", trust_env=False).status_code == 200)
        process.send_signal(signal.SIGTERM)
        until(lambda: httpx2.get(f"{url}readyz", trust_env=False).json()["status"] == "draining")
        assert httpx2.get(f"{url}v1/conversions", trust_env=False).status_code == 200
        assert process.wait(READY_WITHIN) == 0


def test_a_draining_worker_is_no_reason_to_be_ready(start: Starter) -> None:
    service = start(worker_grace=60)
    worker = service.worker()
    job = service.submit(seconds=600)
    service.wait_running(job)
    with served(service.settings) as api:
        wait_until(lambda: api.get("/readyz").status_code == 200, 30, "readiness")
        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: api.get("/readyz").status_code == 503, 30, "its end")
        said = api.get("/readyz").json()
        assert said["message"] == "worker: no worker that takes jobs was heard of in the last seconds."
        assert said["workers"][0]["draining"]
        worker.send_signal(signal.SIGTERM)
        wait_until(lambda: service.job(job).status == "queued", 30, "the job handed back")


def test_a_server_that_ends_leaves_another_its_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with served(Settings(data_dir=tmp_path / "one")) as first:
        with served(Settings(data_dir=tmp_path / "two")) as second:
            second.submit(b"y")
        capfd.readouterr()
        first.submit(b"x")
        assert capfd.readouterr().err == ""
    assert '"POST"' in capfd.readouterr().err


def test_logs_are_json_with_the_job_and_without_health_checks(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with served(Settings(data_dir=tmp_path)) as api:
        path = api.submit(b"x").headers["location"]
        answer = api.get(path)
        api.get("/healthz")
        assert capfd.readouterr().err == "", "a server's thread writes nothing between pytest's lines"
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    requests = [line for line in lines if line["event"] == "request"]
    assert [line["path"] for line in requests] == ["/v1/conversions", path]
    assert requests[1]["job"] == path.rsplit("/", 1)[1]
    assert requests[1]["request"] == answer.headers["x-request-id"]
    assert requests[1]["timestamp"]
