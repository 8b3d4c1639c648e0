"""What the API process costs: cold start to ready, memory at rest, memory while a large model is uploaded.

python -m tests.bench.api_footprint [--gib 1]
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil

import service.serving
from tests.bench.results import origin, table, write_section
from tests.chaos.kill import Serve

STARTS = 5
PIECE = bytes(range(256)) * 4096  # 1 MiB


class Large:
    """A file of so many bytes that is nowhere."""

    def __init__(self, size: int) -> None:
        self.size, self.position = size, 0

    def read(self, count: int = -1) -> bytes:
        count = min(len(PIECE) if count < 0 else count, self.size - self.position)
        self.position += count
        return PIECE[:count] if count <= len(PIECE) else (PIECE * (count // len(PIECE) + 1))[:count]

    def seek(self, offset: int, whence: int = 0) -> int:
        self.position = offset if whence == 0 else self.size + offset
        return self.position

    def tell(self) -> int:
        return self.position

    def pieces(self) -> Iterator[bytes]:
        while piece := self.read():
            yield piece


def main() -> None:
    given = argparse.ArgumentParser()
    given.add_argument("--gib", type=float, default=1.0)
    size = int(given.parse_args().gib * (1 << 30)) - (1 << 20)
    compiled = Path(importlib.util.cache_from_source(str(service.serving.__file__))).exists()
    rows = [_cold(f"this checkout, its own bytecode {'cached' if compiled else 'made at each start'}")]
    with (
        tempfile.TemporaryDirectory(prefix="zsq-bytecode-") as cache,
        tempfile.TemporaryDirectory(prefix="zsq-footprint-") as folder,
    ):
        os.environ |= {"PYTHONPYCACHEPREFIX": cache, "PYTHONDONTWRITEBYTECODE": ""}
        _start()  # fills the cache
        rows.append(_cold("all bytecode cached, as where it is installed"))
        serve = Serve(Path(folder), None, workers=1)
        process = psutil.Process(serve.process.pid)
        try:
            time.sleep(2)
            rows.append(["API process at rest", f"{process.memory_info().rss / (1 << 20):.0f} MiB"])
            with httpx2.Client(base_url=serve.client.base_url, timeout=600, trust_env=False) as client:
                rows += [_upload(client, process, how, size) for how in ("raw body", "form")]
        finally:
            serve.close()
    load = f"Load average {os.getloadavg()[0]:.1f}."
    command = ["python", "-m", "tests.bench.api_footprint", *sys.argv[1:]]
    write_section("API footprint", f"{origin(command)} {load}\n\n{table(['what', 'measured'], rows)}")
    print(table(["what", "measured"], rows))


def _cold(how: str) -> list[str]:
    seconds, spent = zip(*(_start() for _ in range(STARTS)), strict=True)
    told = f"{statistics.median(seconds):.1f} s, most {max(seconds):.1f} s ({statistics.median(spent):.1f} s of CPU)"
    return [f"cold start of `zsq serve` to ready, worker included; {how}", told]


def _start() -> tuple[float, float]:
    """Seconds until a service on an empty folder is ready, and seconds of CPU of API and worker until then."""
    with tempfile.TemporaryDirectory(prefix="zsq-footprint-") as folder:
        started = time.monotonic()
        serve = Serve(Path(folder), None, workers=1)
        ready = time.monotonic() - started
        process = psutil.Process(serve.process.pid)
        spent = sum(sum(each.cpu_times()[:2]) for each in (process, *process.children(recursive=True)))
        serve.close()
    return ready, spent


def _upload(client: httpx2.Client, process: psutil.Process, how: str, size: int) -> list[str]:
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak is counted from now on
    started = time.monotonic()
    large = Large(size)
    if how == "form":
        answer = client.post("/v1/conversions", files={"model": ("large.onnx", large)}, params={"seed": 1})  # type: ignore[dict-item]
    else:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        answer = client.post("/v1/conversions", content=large.pieces(), headers=headers)
    seconds = time.monotonic() - started
    assert answer.status_code == 202, answer.text
    assert answer.json()["model"]["bytes"] == size
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    client.delete(answer.headers["location"])
    return [f"upload of {size / (1 << 30):.2f} GiB, {how}", f"peak {peak / 1024:.0f} MiB, {seconds:.1f} s"]


if __name__ == "__main__":
    main()
