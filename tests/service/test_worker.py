"""The worker as a process: what it does with jobs, and that nothing is lost however it ends."""

from __future__ import annotations

import os
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
import sqlalchemy as sa
from onnx import TensorProto, helper, numpy_helper

from converter.report import Report
from service import database as tables
from service.attempts import Attempts
from service.engine import Kind
from service.records import JobStatus, NewJob
from tests.service.conftest import Starter
from tests.service.harness import Cluster, Service, kill_tree, wait_until


def finished_once(service: Service, job_id: str) -> bool:
    kinds = [event.kind for event in service.jobs.events(job_id, limit=10_000)]
    return kinds.count("succeeded") == 1 and kinds[-1] == "succeeded"


def test_a_job_succeeds_with_checked_results(service: Service) -> None:
    service.worker()
    job = service.wait_final(service.submit())
    assert job.status is JobStatus.SUCCEEDED
    assert job.progress == 1.0
    assert set(job.artefacts) == {"model", "report", "html"}
    page = b"".join(service.jobs.artefacts.read_chunks(job.artefacts["html"]))
    assert b"<script>alert(1)" not in page, "the page is made here from checked data, not taken from the child"
    assert b"".join(service.jobs.artefacts.read_chunks(job.artefacts["model"])).startswith(b"int8 of")
    assert finished_once(service, job.id)
    assert job.isolation is not None
    assert job.isolation["level"] in ("full", "partial", "limits")
    report = Report.from_json(b"".join(service.jobs.artefacts.read_chunks(job.artefacts["report"])))
    assert report.environment.isolation is not None
    assert report.environment.isolation.model_dump().items() <= job.isolation.items()
    wait_until(lambda: not list(service.jobs.artefacts.list("checkpoints")), 10, "the checkpoints to go")


MISDEEDS = {
    "refuse": "UnsupportedModel",
    "crash": "Crashed",
    "silence": "Bug",
    "eat": "OutOfMemory",
    "write": "OutOfDisk",
    "babble": "Crashed",
    "empty": "BadOutput",
    "hang": "OutOfTime",
}


def test_each_misdeed_fails_its_own_job_with_a_clear_class(start: Starter) -> None:
    service = start(job_memory_limit=300 << 20, job_disk_limit=100 << 20, job_time_limit=5)
    service.worker()
    jobs = {then: service.submit(then=then, stages=[]) for then in MISDEEDS}
    jobs["report"] = service.submit(stages=[], report='{"model": 1}')
    found = {}
    for then, job in jobs.items():
        final = service.wait_final(job)
        assert final.status is JobStatus.FAILED
        assert final.error is not None
        found[then] = final.error["kind"]
        assert max(map(len, final.error.values())) <= 2000
    assert found == {**MISDEEDS, "report": "BadOutput"}
    assert service.wait_final(service.submit()).status is JobStatus.SUCCEEDED


def test_a_killed_worker_is_replaced_and_finished_stages_are_not_repeated(service: Service) -> None:
    first = service.worker()
    job = service.submit(stages=["synthesis", "optimization"], hold="synthesis")
    service.wait_event(job, "checkpoint")
    second = service.worker()
    wait_until(lambda: len(service.jobs.statistics().workers) == 2, 20, "the second worker")
    first.kill()
    final = service.wait_final(job)
    assert final.status is JobStatus.SUCCEEDED
    assert final.attempt == 2
    assert finished_once(service, job.id)
    resumed = [event.data["resumed"] for event in service.events(job, "started")]
    assert resumed == [[], ["synthesis"]]
    assert [event.data["stage"] for event in service.events(job, "checkpoint")] == ["synthesis", "optimization"]
    assert second.poll() is None


def test_the_child_dies_with_its_worker(start: Starter) -> None:
    service = start()
    worker = service.worker()
    service.wait_event(service.submit(seconds=30), "progress")
    children = psutil.Process(worker.pid).children(recursive=True)
    assert children
    os.kill(worker.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def test_cancel_kills_the_child_within_two_seconds(start: Starter) -> None:
    service = start()
    worker = service.worker()
    job = service.submit(seconds=60)
    service.wait_event(job, "progress")
    cancelled = service.jobs.cancel(job.id, "local")
    assert cancelled is not None
    assert cancelled.status is JobStatus.CANCELLED
    wait_until(lambda: not psutil.Process(worker.pid).children(), 2.0, "the child to be killed")
    assert service.wait_final(service.submit()).status is JobStatus.SUCCEEDED, "the worker goes on"
    assert service.job(job).status is JobStatus.CANCELLED


def test_deleting_a_running_job_removes_everything(start: Starter) -> None:
    service = start()
    worker = service.worker()
    job = service.submit(stages=["synthesis", "optimization"], hold="synthesis")
    service.wait_event(job, "checkpoint")
    assert service.jobs.delete(job.id, "local")
    assert service.jobs.get(job.id, None) is None
    wait_until(lambda: not psutil.Process(worker.pid).children(), 2.0, "the child to be killed")
    assert not service.jobs.artefacts.exists(job.model_key)
    wait_until(lambda: not list(service.jobs.artefacts.list("checkpoints")), 5.0, "the checkpoints to go")


def test_sigterm_hands_the_job_back_and_does_not_blame_it(service: Service) -> None:
    first = service.worker()
    job = service.submit(seconds=3.0, stages=["synthesis"])
    service.wait_event(job, "progress")
    first.terminate()
    assert first.wait(20) == 0
    assert service.job(job).status is JobStatus.QUEUED
    assert service.events(job, "interrupted")[0].data["reason"] == "the worker is shutting down"
    service.worker()
    assert service.wait_final(job).status is JobStatus.SUCCEEDED


def test_sigterm_lets_a_short_job_finish(start: Starter) -> None:
    service = start(worker_grace=30)
    worker = service.worker()
    job = service.submit(seconds=0.5)
    service.wait_event(job, "progress")
    worker.terminate()
    assert worker.wait(30) == 0
    assert service.job(job).status is JobStatus.SUCCEEDED
    assert service.job(job).attempt == 1


def test_a_job_that_kills_its_worker_three_times_is_given_up(start: Starter) -> None:
    service = start()
    job = service.submit(seconds=60)
    for attempt in range(1, 4):
        worker = service.worker()
        wait_until(lambda n=attempt: service.job(job).attempt == n, 20, f"attempt {attempt}")  # type: ignore[misc]
        kill_tree(worker.pid)
        worker.wait()
    service.worker()
    final = service.wait_final(job)
    assert final.status is JobStatus.FAILED
    assert final.error is not None
    assert final.error["kind"] == "WorkerLost"
    assert final.attempt == 3


def test_a_full_disk_interrupts_and_does_not_fail(start: Starter) -> None:
    service = start()
    service.worker()
    job = service.submit(then="no space", stages=[])
    service.wait_event(job, "interrupted")
    assert service.events(job, "interrupted")[0].data["reason"] == "the disk is full"
    assert not service.job(job).status.is_final


def test_an_archive_with_external_data_is_converted(start: Starter) -> None:
    service = start()
    service.worker(command=())
    weight = numpy_helper.from_array(np.linspace(-1, 1, 8 * 3 * 9, dtype=np.float32).reshape(8, 3, 3, 3), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 6, 6])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, service.folder / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    with zipfile.ZipFile(service.folder / "net.zip", "w") as archive:
        for name in ("net.onnx", "w.bin"):
            archive.write(service.folder / name, f"folder/{name}")
    stored = service.jobs.artefacts.put_file(service.folder / "net.zip")
    options = {"samples": 8, "time_budget": 1, "validation": "/etc/passwd"}
    new = NewJob(owner="local", model=stored, model_name="net.zip", archive=True, options=options)
    final = service.wait_final(service.jobs.submit(new), 120)
    assert final.status is JobStatus.SUCCEEDED, final.error


def test_a_worker_of_several_conversions_runs_them_at_once(start: Starter) -> None:
    service = start(worker_concurrency=2)
    service.worker(command=())
    wait_until(lambda: len(service.jobs.statistics().workers) == 2, 30, "two processes")
    (service.folder / "text.onnx").write_text("no model")
    final = service.wait_final(service.submit(service.folder / "text.onnx"))
    assert final.error is not None
    assert final.error["kind"] == "InvalidModel", "the real converter ran"
    service.processes[0].terminate()
    assert service.processes[0].wait(30) == 0
    assert service.jobs.statistics().workers == ()


def test_priority_decides_who_is_next(start: Starter) -> None:
    service = start()
    stored = service.jobs.artefacts.put_file(_told(service.folder))
    order = [
        service.jobs.submit(NewJob(owner="local", model=stored, model_name="m.onnx", fresh=True, priority=priority)).id
        for priority in (300, 200, 100)
    ]
    service.worker()
    wait_until(lambda: service.jobs.statistics().by_status[JobStatus.SUCCEEDED] == 3, 30, "three jobs")
    ended = sorted(order, key=lambda job_id: service.jobs.events(job_id)[-1].id)
    assert ended == order[::-1]


def _told(folder: Path) -> Path:
    path = folder / "told.json"
    path.write_text('{"stages": []}')
    return path


def test_a_row_the_engine_lost_is_queued_again(start: Starter) -> None:
    service = start()
    job = service.submit(stages=[])
    service.jobs.engine.forget([job.id])
    attempts = Attempts(service.jobs, "tester", 3)
    assert attempts.reconcile() == 1
    assert attempts.reconcile() == 0
    service.worker()
    assert service.wait_final(job).status is JobStatus.SUCCEEDED


def test_a_living_worker_that_was_declared_dead_lets_go_and_may_take_the_job_again(start: Starter) -> None:
    service = start()
    service.worker()
    job = service.submit(stages=["synthesis", "optimization"], hold="synthesis")
    service.wait_event(job, "checkpoint")
    (task,) = service.jobs.engine.running()
    Attempts(service.jobs, "another", 3).worker_died(job.id, task.worker)
    service.jobs.engine.requeue(job.id, Kind.CONVERSION)
    final = service.wait_final(job)
    assert final.status is JobStatus.SUCCEEDED
    assert [event.data["resumed"] for event in service.events(job, "started")] == [[], ["synthesis"]]
    with service.jobs.database.reading() as connection:
        assert connection.execute(sa.select(tables.jobs.c.strikes)).scalar() == 1


@pytest.mark.postgres
def test_a_worker_cut_off_from_its_lock_starts_anew_and_is_not_blamed(start: Starter, cluster: Cluster) -> None:
    service = start(cluster.create("zsq_core_fence"), fence_after=3.0)
    worker = service.worker()
    job = service.submit(seconds=1.5, stages=["synthesis", "optimization", "quantization"])
    service.wait_event(job, "checkpoint")
    cluster.stop()
    try:
        wait_until(lambda: "starting anew" in service.logs(), 20, "the fence")
        time.sleep(0.5)
    finally:
        cluster.start()
    final = service.wait_final(job)
    assert final.status is JobStatus.SUCCEEDED
    assert worker.poll() is None, "it is the same process, under another name"
    assert finished_once(service, job.id)
    stages = [event.data["stage"] for event in service.events(job, "checkpoint")]
    assert stages == ["synthesis", "optimization", "quantization"]
