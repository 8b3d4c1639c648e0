"""Damaged copies of real models through admission, in confined children: only refusals or successes come back.

python -m tests.chaos.fuzz MODEL.onnx ... [--mutations 2000] [--results FILE]
"""

from __future__ import annotations

import argparse
import collections
import tempfile
from pathlib import Path
from typing import Any

from service.isolation import Child, Ending, Limits, run
from tests.chaos.results import Results

PROGRAM = """
import json, random, sys, time
from converter.admission import admit
from converter.errors import Refusal
model, seed, count = open(sys.argv[1], "rb").read(), int(sys.argv[2]), int(sys.argv[3])
for number in range(seed, seed + count):
    chance = random.Random(number)
    damaged = bytearray(model)
    where = len(damaged) if chance.random() < 0.5 else min(len(damaged), 4000)  # names and shapes lie in front
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        position = chance.randrange(where)
        match chance.randrange(4):
            case 0:
                damaged[position] ^= 1 << chance.randrange(8)
            case 1:
                damaged[position] = chance.randrange(256)
            case 2:
                del damaged[position : position + chance.choice([1, 2, 8, 64])]
            case 3:
                damaged[position:position] = chance.randbytes(chance.choice([1, 2, 8, 64]))
        where = min(where, len(damaged))
    began = time.monotonic()
    try:
        admit(bytes(damaged))
        verdict = "admitted"
    except Refusal as problem:
        verdict = type(problem).__name__
    except BaseException as problem:
        verdict = f"{type(problem).__name__}: {problem}"[:300]
    print(json.dumps({"number": number, "verdict": verdict, "seconds": time.monotonic() - began}), flush=True)
"""
CLEAN = {"admitted", "InvalidModel", "UnsupportedModel", "TooLarge"}
BATCH = 500


def fuzz(model: Path, mutations: int, folder: Path) -> tuple[collections.Counter[str], list[str], float, int]:
    """Verdicts by kind, whatever was unclean, the slowest admission and the most memory."""
    code, work = folder / "code", folder / "work"
    code.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    (code / "program.py").write_text(PROGRAM)
    (code / "model.onnx").write_bytes(model.read_bytes())
    verdicts: collections.Counter[str] = collections.Counter()
    unclean: list[str] = []
    slowest, memory, number = 0.0, 0, 0
    while number < mutations:
        lines: list[dict[str, Any]] = []
        count = min(BATCH, mutations - number)
        command = [str(code / "program.py"), str(code / "model.onnx"), str(number), str(count)]
        ended = run(Child(command, work, Limits(600, 4 << 30, 1 << 30)), lines.append, lambda: True)
        for line in lines:
            verdict = line["verdict"]
            verdicts[verdict if verdict in CLEAN else "unclean"] += 1
            if verdict not in CLEAN:
                unclean.append(f"{model.name} {line['number']}: {verdict}")
            slowest = max(slowest, line["seconds"])
        memory = max(memory, ended.peak_memory)
        number += len(lines)
        if ended.ending is not Ending.EXITED or len(lines) < count:
            unclean.append(f"{model.name} {number}: the child {ended.ending} ({ended.code}) {ended.errors[-200:]}")
            verdicts["unclean"] += 1
            number += 1
    return verdicts, unclean, slowest, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--mutations", type=int, default=2000)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    results = Results("Damaged copies of real models through admission in a confined child",
                      ("model", "verdicts", "slowest", "most memory", "unclean"))  # fmt: skip
    for model in given.models:
        with tempfile.TemporaryDirectory() as folder:
            verdicts, unclean, slowest, memory = fuzz(model, given.mutations, Path(folder))
        told = ", ".join(f"{count} {name}" for name, count in verdicts.most_common())
        results.add(model.name, told, f"{slowest:.2f} s", f"{memory >> 20} MiB", len(unclean))
        for each in unclean[:20]:
            print("   ", each)
    results.write(given.results)


if __name__ == "__main__":
    main()
