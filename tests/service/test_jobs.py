"""Jobs as tables: one transaction with the queue, quotas, reuse, and nothing left of what is deleted."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from service import database as tables
from service.attempts import Attempts, Superseded
from service.database import now
from service.engine import TaskState
from service.jobs import Jobs, result_key
from service.records import IdempotencyConflict, JobStatus, NewJob, QueueFull, Quota, QuotaExceeded
from service.retention import Retention
from service.storage import Missing, Stored
from tests.service.conftest import Starter
from tests.service.harness import Service


@pytest.fixture
def jobs(service: Service) -> Jobs:
    return service.jobs


def new(jobs: Jobs, text: str = "model", **changes: object) -> NewJob:
    import io

    stored = jobs.artefacts.put_open(io.BytesIO(text.encode()))
    return replace(NewJob(owner="ann", model=stored, model_name="m.onnx"), **changes)  # type: ignore[arg-type]


def finish(jobs: Jobs, job_id: str, text: str = "result") -> None:
    import io

    attempts = Attempts(jobs, "worker", 3)
    attempt = attempts.begin(job_id)
    assert attempt is not None
    names = ("model", "report", "html")
    attempts.succeed(attempt, {name: jobs.artefacts.put_open(io.BytesIO((name + text).encode())) for name in names})


def test_row_and_task_come_together(jobs: Jobs) -> None:
    job = jobs.submit(new(jobs))
    assert job.status is JobStatus.QUEUED
    assert jobs.engine.states([job.id]) == {job.id: TaskState.QUEUED}
    assert [event.kind for event in jobs.events(job.id)] == ["queued"]
    assert len(job.id) == 32


def test_a_failing_submission_leaves_neither_row_nor_task(jobs: Jobs) -> None:
    absent = Stored("sha256/ab/absent", "ab", 2)
    with pytest.raises(Missing):
        jobs.submit(NewJob(owner="ann", model=absent, model_name="m.onnx"))
    assert jobs.list(None).jobs == ()
    assert jobs.statistics().queued == 0
    assert jobs.engine.running() == []


def test_others_do_not_see_a_job(jobs: Jobs) -> None:
    job = jobs.submit(new(jobs))
    assert jobs.get(job.id, "ann") is not None
    assert jobs.get(job.id, "bob") is None
    assert jobs.cancel(job.id, "bob") is None
    assert not jobs.delete(job.id, "bob")
    assert jobs.list("bob").jobs == ()


def test_pages_are_complete_and_without_repetition(jobs: Jobs) -> None:
    submitted = [jobs.submit(new(jobs, fresh=True)).id for _ in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        page = jobs.list("ann", cursor, limit=3)
        seen += [job.id for job in page.jobs]
        cursor = page.next_cursor
        if cursor is None:
            break
        jobs.submit(new(jobs, owner="bob", fresh=True))
    assert seen == submitted[::-1]
    with pytest.raises(ValueError, match="cursor"):
        jobs.list("ann", "nonsense!")


def test_an_idempotency_key_gives_the_same_job_or_a_conflict(jobs: Jobs) -> None:
    request = new(jobs, idempotency_key="k", fingerprint="f")
    first = jobs.submit(request)
    assert jobs.submit(request).id == first.id
    assert jobs.submit(replace(request, owner="bob")).id != first.id
    with pytest.raises(IdempotencyConflict):
        jobs.submit(replace(request, fingerprint="g"))
    assert len(jobs.list("ann").jobs) == 1


def test_quotas_are_exact_under_concurrency(jobs: Jobs) -> None:
    request = new(jobs, quota=Quota(active=3), fresh=True)

    def attempt(_: int) -> bool:
        try:
            jobs.submit(request)
        except QuotaExceeded:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(attempt, range(12)))
    assert sum(taken) == 3
    with pytest.raises(QuotaExceeded, match="stored_bytes"):
        jobs.submit(new(jobs, owner="bob", quota=Quota(stored_bytes=3)))
    with pytest.raises(QuotaExceeded, match="per_day"):
        jobs.submit(replace(request, quota=Quota(per_day=3)))


def test_a_full_queue_says_when_to_come_back(start: Starter) -> None:
    service = start(queue_limit=2)
    for _ in range(2):
        service.jobs.submit(new(service.jobs, fresh=True))
    with pytest.raises(QueueFull) as caught:
        service.jobs.submit(new(service.jobs, fresh=True))
    assert caught.value.retry_after > 0


def test_a_known_result_is_given_at_once_to_its_owner_only(jobs: Jobs) -> None:
    first = jobs.submit(new(jobs, options={"seed": 1}))
    finish(jobs, first.id)
    again = jobs.submit(new(jobs, options={"seed": 1}))
    assert again.status is JobStatus.SUCCEEDED
    assert again.reused_from == first.id
    assert [event.kind for event in jobs.events(again.id)] == ["queued", "succeeded"]
    assert jobs.submit(new(jobs, options={"seed": 2})).status is JobStatus.QUEUED
    assert jobs.submit(new(jobs, options={"seed": 1}, fresh=True)).status is JobStatus.QUEUED
    assert jobs.submit(new(jobs, options={"seed": 1}, owner="bob")).status is JobStatus.QUEUED
    assert jobs.delete(first.id, "ann")
    for key in again.artefacts.values():
        assert jobs.artefacts.exists(key), "the second job still needs the shared results"


def test_result_keys_ignore_the_order_of_options_only() -> None:
    assert result_key("a", {"x": 1, "y": 2}) == result_key("a", {"y": 2, "x": 1})
    assert len({result_key("a", {}), result_key("b", {}), result_key("a", {"x": 1})}) == 3


def test_cancelling_is_final_and_repeatable(jobs: Jobs) -> None:
    job = jobs.submit(new(jobs))
    cancelled = jobs.cancel(job.id, "ann")
    assert cancelled is not None
    assert cancelled.status is JobStatus.CANCELLED
    assert cancelled.revision > job.revision
    assert jobs.cancel(job.id, "ann") == cancelled
    assert jobs.engine.states([job.id])[job.id] is TaskState.ENDED
    assert Attempts(jobs, "worker", 3).begin(job.id) is None


def test_deleting_leaves_nothing(jobs: Jobs) -> None:
    job = jobs.submit(new(jobs, idempotency_key="k"))
    finish(jobs, job.id)
    assert jobs.delete(job.id, "ann")
    assert jobs.get(job.id, None) is None
    assert jobs.events(job.id) == []
    assert list(jobs.artefacts.list("sha256")) == []
    with jobs.database.reading() as connection:
        for table in (tables.blobs, tables.blob_uses, tables.idempotency):
            assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 0
    assert not jobs.delete(job.id, "ann")


def test_only_the_newest_attempt_may_write(jobs: Jobs) -> None:
    job = jobs.submit(new(jobs))
    attempts = Attempts(jobs, "one", 3)
    zombie = attempts.begin(job.id)
    current = Attempts(jobs, "two", 3).begin(job.id)
    assert zombie is not None
    assert current is not None
    assert current.number == zombie.number + 1
    assert not attempts.is_current(zombie)
    writes: list[Callable[[], None]] = [
        lambda: attempts.progress(zombie, {"progress": 0.9}, {}),
        lambda: attempts.checkpoint(zombie, "synthesis", {}),
        lambda: attempts.succeed(zombie, {}),
        lambda: attempts.fail(zombie, {"kind": "x", "message": "y"}),
        lambda: attempts.interrupt(zombie, "z"),
    ]
    for write in writes:
        with pytest.raises(Superseded):
            write()
    found = jobs.get(job.id, None)
    assert found is not None
    assert found.status is JobStatus.RUNNING
    assert found.progress == 0.0


def test_checkpoints_reach_the_next_attempt(jobs: Jobs) -> None:
    job = jobs.submit(new(jobs))
    attempts = Attempts(jobs, "one", 3)
    first = attempts.begin(job.id)
    assert first is not None
    attempts.checkpoint(first, "synthesis", {"a.npz": "key-a"})
    attempts.checkpoint(first, "optimization", {"b.npz": "key-b"})
    attempts.worker_died(job.id, "another")
    assert attempts.is_current(first)
    attempts.worker_died(job.id, "one")
    second = attempts.begin(job.id)
    assert second is not None
    assert second.checkpoints == {"synthesis": {"a.npz": "key-a"}, "optimization": {"b.npz": "key-b"}}
    started = [event.data for event in jobs.events(job.id) if event.kind == "started"]
    assert started == [{"attempt": 1, "resumed": []}, {"attempt": 2, "resumed": ["optimization", "synthesis"]}]


def test_strikes_count_only_what_was_not_forgiven(jobs: Jobs) -> None:
    job = jobs.submit(new(jobs))
    attempts = Attempts(jobs, "one", 3)
    for _ in range(5):
        attempt = attempts.begin(job.id)
        assert attempt is not None
        attempts.interrupt(attempt, "shutdown")
    for _ in range(3):
        assert attempts.begin(job.id) is not None
    attempts.forgive(job.id)
    assert attempts.begin(job.id) is not None
    assert attempts.begin(job.id) is None
    found = jobs.get(job.id, None)
    assert found is not None
    assert found.status is JobStatus.FAILED
    assert found.error is not None
    assert found.error["kind"] == "WorkerLost"


def test_event_ids_are_never_used_twice(jobs: Jobs) -> None:
    first = jobs.submit(new(jobs))
    last = jobs.events(first.id)[-1].id
    jobs.delete(first.id, "ann")
    second = jobs.submit(new(jobs))
    assert jobs.events(second.id)[0].id > last


def age(jobs: Jobs, job_id: str, days: float) -> None:
    with jobs.database.writing() as connection:
        values = {"finished_at": now() - timedelta(days=days)}
        connection.execute(sa.update(tables.jobs).where(tables.jobs.c.id == job_id).values(**values))


def test_old_jobs_expire_and_active_ones_stay(start: Starter, database_url: str | None) -> None:
    service = start(database_url, keep_days=7)
    jobs = service.jobs
    old, young, waiting = (jobs.submit(new(jobs, text, fresh=True)) for text in ("a", "b", "c"))
    finish(jobs, old.id)
    finish(jobs, young.id)
    age(jobs, old.id, 8)
    age(jobs, young.id, 6)
    Retention(jobs, service.settings).run()
    assert {job.id for job in jobs.list(None).jobs} == {young.id, waiting.id}
    assert not jobs.artefacts.exists(old.model_key)
    assert jobs.artefacts.exists(young.model_key)


def test_the_oldest_go_first_when_there_is_too_much(start: Starter) -> None:
    service = start(keep_bytes=1000)
    jobs = service.jobs
    ids = []
    for number in range(4):
        job = jobs.submit(new(jobs, f"{number}" * 300, fresh=True))
        finish(jobs, job.id, str(number))
        age(jobs, job.id, 4 - number)
        ids.append(job.id)
    Retention(jobs, service.settings).run()
    assert [job.id for job in jobs.list(None).jobs] == ids[:0:-1]
    assert jobs.blobs.total() <= 1000


def test_what_crashes_left_behind_is_collected(start: Starter) -> None:
    import os

    service = start()
    jobs = service.jobs
    job = jobs.submit(new(jobs, "kept"))
    new(jobs, "never submitted")
    folder = jobs.artefacts.folder
    assert folder is not None
    (folder / "tmp").mkdir(exist_ok=True)
    (folder / "tmp" / "dead#1").write_text("half")
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (1, 1))
    assert Retention(jobs, service.settings).sweep_store() == 2
    assert [entry.key for entry in jobs.artefacts.list("sha256")] == [job.model_key]


def test_a_webhook_is_queued_with_the_end_of_its_job(jobs: Jobs) -> None:
    job = jobs.submit(new(jobs, webhook="https://example.org/hook"))
    finish(jobs, job.id)
    (delivery,) = jobs.deliveries(job.id, "ann")
    assert delivery.status == "pending"
    assert jobs.deliveries(job.id, "bob") == []
    with jobs.database.reading() as connection:
        body = connection.execute(sa.select(tables.deliveries.c.body)).scalar()
    assert body is not None
    assert json.loads(body)["data"] == {"id": job.id, "status": "succeeded"}
    assert jobs.engine.states([f"{delivery.id}.1"]) == {f"{delivery.id}.1": TaskState.QUEUED}
