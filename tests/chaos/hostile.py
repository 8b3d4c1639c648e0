"""Every hostile file through a running service: each job fails with its own class, and nothing else happens.

python -m tests.chaos.hostile [--results FILE]
"""

from __future__ import annotations

import argparse
import collections
import tempfile
import time
from pathlib import Path

import psutil

from tests.chaos.kill import Serve
from tests.chaos.results import Results
from tests.hostile import HOSTILE


def files_below(*folders: Path) -> set[str]:
    return {str(path) for folder in folders for path in folder.rglob("*") if path.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    corpus = [each for each in HOSTILE if each.uploadable]
    results = Results("Hostile files through the service, each in its own child", ("what", "measured"))
    kinds: collections.Counter[str] = collections.Counter()
    wrong: list[str] = []
    memory, slowest = 0, 0.0
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as scratch:
        serve = Serve(Path(folder), None, workers=1)
        try:
            worker = psutil.Process(serve.process.pid).children()[0]
            elsewhere = [Path("/var/tmp"), Path.home() / ".cache"]
            before = files_below(*elsewhere)
            for hostile in corpus:
                place = Path(scratch) / hostile.name
                place.mkdir()
                body = hostile.make(place).read_bytes()
                began = time.monotonic()
                answer = serve.client.post(
                    "/v1/conversions?fresh=true", content=body, headers={"content-type": "application/octet-stream"}
                )
                if answer.status_code != 202:
                    kind = answer.json()["kind"]
                    kinds[f"{kind} at the door ({answer.status_code})"] += 1
                    if kind != hostile.error.__name__ or not 400 <= answer.status_code < 500:
                        wrong.append(f"{hostile.name}: {answer.status_code} {kind} for {hostile.error.__name__}")
                    continue
                job_id = answer.json()["id"]
                final = serve.wait_final(job_id, 120)
                slowest = max(slowest, time.monotonic() - began)
                kind = (final.get("error") or {}).get("kind") or (final.get("error") or {}).get("type") or "none"
                kinds[kind] += 1
                if final["status"] != "failed" or kind != hostile.error.__name__:
                    wrong.append(f"{hostile.name}: {final['status']} {kind} for {hostile.error.__name__}")
                assert serve.client.get("/healthz").status_code == 200
            memory = max(memory, *(_peaks(serve)))
            left = files_below(serve.folder / "data" / "attempts")
            new = files_below(*elsewhere) - before
            assert worker.is_running(), "the worker was replaced"
        finally:
            serve.close()
    results.add("files", f"{len(corpus)}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()))
    results.add("other than expected", "; ".join(wrong) or "none")
    results.add("most memory of a child", f"{memory / (1 << 20):.0f} MiB")
    results.add("slowest answer", f"{slowest:.1f} s")
    results.add("files left behind or written elsewhere", ", ".join(sorted(left | new)) or "none")
    results.add("worker and API", "alive throughout")
    results.write(given.results)


def _peaks(serve: Serve) -> list[int]:
    from service.jobs import Jobs

    jobs = Jobs.open(serve.settings)
    try:
        found = jobs.list(None, limit=1000).jobs
        return [int((job.isolation or {}).get("peak_memory", 0)) for job in found]
    finally:
        jobs.close()


if __name__ == "__main__":
    main()
