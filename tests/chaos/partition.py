"""A worker whose line to the database is cut while another lives: who takes over, when, and what the zombie may do.

Needs root for a network namespace, and PostgreSQL's server programs:

    python -m tests.chaos.partition [--results FILE]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.records import JobStatus
from tests.chaos.results import Results
from tests.service.harness import Cluster, Service, wait_until

HOST, GUEST, NET = "10.233.77.1", "10.233.77.2", "10.233.77.0/24"
STAGES = ["synthesis", "optimization", "quantization"]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def namespace() -> Iterator[list[str]]:
    """A network namespace with a line to this one; the value is the prefix of commands inside."""
    name = f"zsq{os.getpid()}"
    ip("netns", "add", name)
    try:
        ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        ip("addr", "add", f"{HOST}/24", "dev", f"{name}a")
        ip("link", "set", f"{name}a", "up")
        inside = ["ip", "netns", "exec", name]
        subprocess.run([*inside, "ip", "addr", "add", f"{GUEST}/24", "dev", f"{name}b"], check=True)
        subprocess.run([*inside, "ip", "link", "set", f"{name}b", "up"], check=True)
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        yield inside
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=False)


def line(state: str) -> None:
    ip("link", "set", f"zsq{os.getpid()}a", state)


def experiment(cluster: Cluster, inside: list[str], fence_after: float, database: str) -> tuple[float, str]:
    """Seconds until the second attempt began after the cut, and what became of the first worker's attempt."""
    url = cluster.create(database).replace("127.0.0.1", HOST)
    with tempfile.TemporaryDirectory() as folder:
        service = Service(Path(folder) / "data", url, fence_after=fence_after, sweep_every=3.0)
        try:
            service.worker(prefix=inside)
            wait_until(lambda: len(service.jobs.statistics().workers) == 1, 20, "the first worker")
            job = service.submit(stages=STAGES, seconds=8.0)
            service.wait_event(job, "checkpoint")
            service.worker()
            wait_until(lambda: len(service.jobs.statistics().workers) == 2, 20, "the second worker")
            line("down")
            cut = time.monotonic()
            service.wait_event(job, "started", seconds=60, count=2)
            took = time.monotonic() - cut
            time.sleep(max(0.0, 25.0 - took))
            line("up")
            final = service.wait_final(job, 120)
            time.sleep(5)  # whatever the zombie still wants to say
            kinds = [event.kind for event in service.events(job)]
            stages = [event.data["stage"] for event in service.events(job, "checkpoint")]
            assert final.status is JobStatus.SUCCEEDED, final
            assert kinds.count("succeeded") == 1, kinds
            assert kinds[-1] == "succeeded", kinds
            assert stages == STAGES, stages
            assert service.events(job, "started")[1].data["resumed"] == ["synthesis"]
            log = (service.folder / "worker-0.log").read_text()
            fenced, refused = "starting anew" in log, "job is not ours any more" in log
            assert fenced or refused, log
            return took, "child killed by its own worker" if fenced else "its result was refused"
        finally:
            service.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    results = Results("Link of a worker cut (network namespace, PostgreSQL, two workers)",
                      ("fence after", "taken over after", "the cut-off worker's attempt", "results"))  # fmt: skip
    cluster = Cluster()
    try:
        with namespace() as inside:
            cluster.open_to(NET, HOST)
            for fence_after in (10.0, 1000.0):
                for number in range(given.times):
                    took, fate = experiment(cluster, inside, fence_after, f"cut_{int(fence_after)}_{number}")
                    results.add(
                        f"{fence_after:.0f} s", f"{took:.1f} s", fate, "exactly one, finished stage not repeated"
                    )
    finally:
        cluster.remove()
    results.write(given.results)


if __name__ == "__main__":
    main()
