"""A small converter for tests of the worker: speaks the protocol of ``python -m converter convert``, and does as told.

What it is told is JSON in the model file: ``{"stages": [...], "seconds": 0.1, "then": "succeed" or a misdeed}``.
"""

import argparse
import ctypes
import json
import os
import runpy
import sys
import time
from pathlib import Path

REPORT = runpy.run_path(str(Path(__file__).with_name("child_report.py")))["REPORT"]

parser = argparse.ArgumentParser()
parser.add_argument("model", type=Path)
parser.add_argument("-o", dest="output", type=Path)
for name in ("report", "html", "options", "checkpoints"):
    parser.add_argument(f"--{name}", type=Path)
parser.add_argument("--json", action="store_true")
given = parser.parse_args()

told = json.loads(given.model.read_text())
options = json.loads(given.options.read_text())


def say(event: str, **facts: object) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def progress(stage: str, done: float) -> None:
    say("progress", stage=stage, stage_progress=done, progress=done, message=f"{stage} {done}", seconds_left=1.0)


for stage in told.get("stages", ["synthesis", "optimization", "quantization"]):
    kept = given.checkpoints / f"{stage}.txt"
    if kept.exists():
        say("progress", stage=stage, stage_progress=1.0, progress=0.5, message=f"{stage} found", seconds_left=None)
        continue
    ends = time.monotonic() + told.get("seconds", 0.05)
    while time.monotonic() < ends:
        progress(stage, 0.5)
        time.sleep(0.02)
    if told.get("fills"):
        try:
            (given.checkpoints / "ballast").write_bytes(b"x" * told["fills"])
        except OSError as problem:
            say("error", kind="OutputNotWritable", message=f"ballast: {problem.strerror}.")
            sys.exit(2)
    kept.write_text(f"{stage} by {os.getpid()}")
    say("checkpoint", stage=stage, files=[kept.name])
    time.sleep(600 if told.get("hold") == stage else told.get("after_checkpoint", 0))

match told.get("then", "succeed"):
    case "refuse":
        say("error", kind="UnsupportedModel", message="No such operator.", node="n1", operator="Foo", extra="x" * 9999)
        sys.exit(2)
    case "crash":
        ctypes.string_at(0)
    case "kill":
        os.kill(os.getpid(), 9)
    case "silence":
        sys.exit(1)
    case "hang":
        time.sleep(600)
    case "eat":
        held = [bytearray(os.urandom(1) * (8 << 20)) for _ in range(10_000)]
    case "write":
        for number in range(10_000):
            Path(f"f{number}").write_bytes(b"x" * (8 << 20))
    case "babble":
        print("x" * (1 << 20), flush=True)
        time.sleep(600)
    case "no space":
        say("error", kind="OutputNotWritable", message="out.onnx: No space left on device.")
        sys.exit(2)

seed = options.get("seed", 0)
given.output.write_bytes(b"int8 of " + given.model.read_bytes() + str(seed).encode())
given.html.write_text("<script>alert(1)</script>")
given.report.write_text(told.get("report") or json.dumps(REPORT))
if told.get("then") == "link":
    given.output.unlink()
    given.output.symlink_to("/etc/passwd")
if told.get("then") == "empty":
    given.output.write_bytes(b"")
say("result", model=str(given.output), report=str(given.report), html=str(given.html))
