"""What a conversion costs: zsq (fast, normal), onnxruntime's own with 64 real samples, and its dynamic one, in turns.

    python -m tests.bench.conversions                                   # five models, written into RESULTS.md
    python -m tests.bench.conversions --only kws_dscnn --repeat 1 --dry

Each conversion is a process of its own from its start to its end, imports included; of several runs the least counts.
Seconds of the processor tell more than those of the wall where the machine has other work.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from tests.bench.bars import MIB
from tests.bench.evaluator import open_zoo
from tests.bench.results import publish, table
from tests.bench.static import build_static

TITLE = "Conversions: what they cost, against onnxruntime's own"
HEADER = ["model", "converter", "wall s", "user s", "system s", "peak MiB", "processor against onnxruntime's"]
DEFAULT = ("cifar10_resnet8_mlperftiny", "cifar10_resnet20", "kws_dscnn", "imagenet_mobilenetv1_025")
SAMPLES = 64
STATIC, DYNAMIC = "onnxruntime static", "onnxruntime dynamic"
ZSQ = {"zsq fast": ("--effort", "fast"), "zsq normal": ()}


@dataclass(frozen=True)
class Cost:
    """Seconds and bytes of one process."""

    wall: float
    user: float
    system: float
    peak: int

    @property
    def processor(self) -> float:
        return self.user + self.system


def run(command: Sequence[str], threads: int) -> Cost:
    """What the command took; raises RuntimeError if it failed."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    started = time.perf_counter()
    silence = os.open(os.devnull, os.O_WRONLY)
    child = os.posix_spawn(
        command[0], list(command), environment, file_actions=[(os.POSIX_SPAWN_DUP2, silence, each) for each in (1, 2)]
    )
    _, status, used = os.wait4(child, 0)
    os.close(silence)
    if os.waitstatus_to_exitcode(status) not in (0, 3):
        raise RuntimeError(f"{' '.join(command[1:5])} ended with {os.waitstatus_to_exitcode(status)}")
    return Cost(time.perf_counter() - started, used.ru_utime, used.ru_stime, used.ru_maxrss * 1024)


def commands(name: str, folder: Path, threads: int) -> dict[str, list[str]]:
    """The command of each converter for a zoo model."""
    source = str(open_zoo().specs[name].file)
    ours = [sys.executable, "-m", "converter", "convert", source, "--threads", str(threads), "-o"]
    theirs = [sys.executable, "-m", "tests.bench.conversions", "--build"]
    return {
        **{kind: [*ours, str(folder / "zsq.onnx"), *flags] for kind, flags in ZSQ.items()},
        STATIC: [*theirs, STATIC, name, str(folder / "static.onnx")],
        DYNAMIC: [*theirs, DYNAMIC, name, str(folder / "dynamic.onnx")],
    }


def build(kind: str, name: str, target: Path) -> None:
    """onnxruntime's own model of a zoo model."""
    zoo = open_zoo()
    spec = zoo.specs[name]
    if kind == DYNAMIC:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(str(spec.file), str(target), weight_type=QuantType.QInt8, per_channel=True)
        return
    session = zoo.inference.open_session(spec.file)
    build_static(spec.file, target, list(zoo.inference.feeds(session, spec, spec.dataset.calibration().first(SAMPLES))))


def rows(name: str, options: argparse.Namespace) -> Iterator[list[str]]:
    """The table's rows of one model, all converters run in turns."""
    with tempfile.TemporaryDirectory(prefix="zsq-conversions-") as scratch:
        each = commands(name, Path(scratch), options.threads)
        costs: dict[str, list[Cost]] = {kind: [] for kind in each}
        failures: dict[str, str] = {}
        for _ in range(options.repeat):
            for kind, command in each.items():
                try:
                    costs[kind].append(run(command, options.threads))
                except RuntimeError as problem:
                    failures[kind] = str(problem)
    least = {kind: min(found, key=lambda cost: cost.processor) for kind, found in costs.items() if found}
    own = least.get(STATIC)
    for kind in each:
        cost = least.get(kind)
        if cost is None:
            yield [name, kind, *[""] * (len(HEADER) - 3), failures[kind]]
            continue
        ratio = f"{cost.processor / own.processor:.2f}" if own else "-"
        numbers = [f"{value:.1f}" for value in (cost.wall, cost.user, cost.system)]
        yield [name, kind, *numbers, f"{cost.peak / MIB:.0f}", ratio]


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(given)
    if options.build:
        kind, name, target = options.build
        build(kind, name, Path(target))
        return 0
    lines = [line for name in options.only for line in rows(name, options)]
    load = os.getloadavg()[1]
    about = (
        f"Least of {options.repeat} run(s) in turns, {options.threads} thread(s); the machine's load at the end was "
        f"{load:.1f}. Static: `quant_pre_process` and `quantize_static` with {SAMPLES} real samples."
    )
    publish(TITLE, "conversions", given, about, table(HEADER, lines), dry=options.dry)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.conversions", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--only", nargs="*", default=list(DEFAULT), metavar="NAME", help="these zoo models")
    parser.add_argument("--repeat", type=int, default=2, help="runs of each, of which the least counts")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md as it is")
    parser.add_argument("--build", nargs=3, metavar=("KIND", "NAME", "OUT"), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
