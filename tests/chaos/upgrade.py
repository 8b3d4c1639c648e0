"""A rolling upgrade under load: old workers are told to end in the middle of jobs, one after another; new ones come.

    python -m tests.chaos.upgrade MODEL.onnx [--old CHECKOUT] [--jobs 12] [--database sqlite|postgresql]

The old workers are of CHECKOUT, a working tree of an earlier commit whose tables are of a version this one can use;
without it they are this code under an older version's number.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from service import database as tables
from service.records import Job, JobStatus
from tests.chaos import databases
from tests.chaos.results import Results
from tests.service.harness import ROOT, Service, wait_until

__all__ = ["OLD", "Outcome", "older", "upgrade"]

OLD = "0.0.9"
GRACE, HAND_BACK = 20.0, 5.0  # seconds: what zsq worker says by default, and what it needs beyond it


@dataclass(frozen=True)
class Outcome:
    """What came of the jobs, and how long the old workers took to end."""

    succeeded_once: int
    stages_repeated: int
    handed_back: int
    slowest_end: float


def older(folder: Path, checkout: Path = ROOT) -> dict[str, str]:
    """Variables under which ``checkout`` runs and says that it is version OLD."""
    facts = folder / f"zsq-{OLD}.dist-info" / "METADATA"
    facts.parent.mkdir(parents=True)
    facts.write_text(f"Metadata-Version: 2.1\nName: zsq\nVersion: {OLD}\n")
    return {"PYTHONPATH": os.pathsep.join((str(folder), str(checkout)))}


def upgrade(
    service: Service, jobs: Sequence[Job], old: dict[str, str], workers: int, command: Sequence[str]
) -> Outcome:
    """All jobs are final; each old worker was told to end in the middle of one, and replaced before the next was."""
    first = [service.worker(command, variables=old) for _ in range(workers)]
    wait_until(lambda: _versions(service) == [OLD] * workers, 60, "the old workers")
    slowest = 0.0
    for process in first:
        wait_until(lambda pid=process.pid: _runs_a_job(service, pid), 60, "an old worker in mid-job")  # type: ignore[misc]
        process.terminate()
        began = time.monotonic()
        service.worker(command)
        assert process.wait(service.settings.worker_grace + HAND_BACK) == 0
        slowest = max(slowest, time.monotonic() - began)
    for job in jobs:
        service.wait_final(job, 600)
    return _outcome(service, jobs, slowest)


def _outcome(service: Service, jobs: Sequence[Job], slowest: float) -> Outcome:
    good = repeated = handed_back = 0
    for job in jobs:
        kinds = [event.kind for event in service.events(job)]
        good += service.job(job).status is JobStatus.SUCCEEDED and kinds.count("succeeded") == 1
        stages = [event.data["stage"] for event in service.events(job, "checkpoint")]
        repeated += len(stages) - len(set(stages))
        handed_back += kinds.count("interrupted")
    return Outcome(good, repeated, handed_back, slowest)


def _versions(service: Service) -> list[str | None]:
    return [each.version for each in service.jobs.statistics().workers]


def _runs_a_job(service: Service, pid: int) -> bool:
    """Whether this worker is in the middle of a job: past its first finished stage, before its end."""
    with service.jobs.database.reading() as connection:
        running = sa.select(tables.jobs.c.worker, tables.jobs.c.checkpoints).where(
            tables.jobs.c.status == JobStatus.RUNNING
        )
        found = connection.execute(running).all()
    return any(row.checkpoints and f"-{pid}-" in row.worker for row in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--old", type=Path, default=ROOT)
    parser.add_argument("--jobs", type=int, default=12)
    parser.add_argument("--database", choices=databases.KINDS, action="append")
    parser.add_argument("--grace", type=float, default=GRACE)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    columns = ("database", "succeeded once", "stages repeated", "jobs handed back", "slowest end of a worker")
    results = Results(
        f"Two workers replaced while {given.jobs} conversions of {given.model.name} wait and run", columns
    )
    with databases.opened(given.database) as places:
        for database in places.kinds:
            url = places.create(database, "upgrade")
            with tempfile.TemporaryDirectory() as folder:
                service = Service(Path(folder) / "data", url, worker_grace=given.grace)
                try:
                    jobs = [service.submit(given.model) for _ in range(given.jobs)]
                    found = upgrade(service, jobs, older(Path(folder) / "older", given.old), 2, ())
                finally:
                    service.close()
            good = f"{found.succeeded_once} of {given.jobs}"
            results.add(database, good, found.stages_repeated, found.handed_back, f"{found.slowest_end:.1f} s")
    results.write(given.results)


if __name__ == "__main__":
    main()
