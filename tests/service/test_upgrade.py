"""Workers of two versions side by side, and the older ones told to end in the middle of jobs."""

from __future__ import annotations

from pathlib import Path

from service.records import JobStatus
from tests.chaos.upgrade import OLD, older, upgrade
from tests.service.conftest import Starter
from tests.service.harness import CHILD, wait_until

STAGES = ["synthesis", "optimization", "quantization"]


def test_a_rolling_upgrade_loses_nothing_and_repeats_nothing(
    start: Starter, database_url: str | None, tmp_path: Path
) -> None:
    service = start(database_url)
    jobs = [service.submit(stages=STAGES, seconds=0.7, number=number) for number in range(5)]
    found = upgrade(service, jobs, older(tmp_path / "older"), 2, [str(CHILD)])
    assert found.succeeded_once == len(jobs)
    assert found.stages_repeated == 0
    assert found.handed_back >= 1, "a grace of half a second is less than two stages take"


def test_who_is_of_which_version_is_known(start: Starter, tmp_path: Path) -> None:
    service = start()
    service.worker(variables=older(tmp_path / "older"))
    service.worker()
    wait_until(lambda: len(service.jobs.statistics().workers) == 2, 30, "both workers")
    versions = {each.version for each in service.jobs.statistics().workers}
    assert OLD in versions
    assert len(versions) == 2
    assert service.wait_final(service.submit()).status is JobStatus.SUCCEEDED
