"""A small converter for tests of the worker: speaks the protocol of ``python -m converter convert``, and does as told.

What it is told is JSON in the model file: ``{"stages": [...], "seconds": 0.1, "then": "succeed" or a misdeed}``.
"""

import argparse
import ctypes
import json
import os
import sys
import time
from pathlib import Path

REPORT = {
    "model": {"name": "m", "sha256": "0" * 64, "bytes": 1, "ir_version": 8, "opset": 17, "nodes": 1, "parameters": 1},
    "options": {},
    "environment": {"command": "convert", "seed": 0, "threads": 1, "isolation": {"level": "of its own invention"}},
    "inputs": [],
    "synthesis": {"method": "auto", "samples": 8, "seconds": 0.1, "seed": 0},
    "quantization": {
        "precision": "int8", "target": "x64", "weight_type": "int8", "activation_type": "uint8",
        "nodes_quantized": 1, "nodes_float": 0,
    },
    "fidelity": {"distribution": "noise", "samples": 8, "outputs": []},
    "predicted": {"basis": "nothing", "reason": "it was told what to say"},
    "layers": [],
    "kernels": {
        "optimizer": "extended", "nodes": 1, "integer": 1, "float_compute": 0, "conversions": 0, "other": 0,
    },
    "size": {"float32_bytes": 4, "int8_bytes": 1, "ratio": 4.0},
    "timings": {"stages": {}, "total_seconds": 0.1},
}  # fmt: skip

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
