"""Convert every zoo model without data and score the result on real data, beside FP32 and onnxruntime's own builds.

    python -m tests.bench.zoo                                   # everything, written into RESULTS.md
    python -m tests.bench.zoo --only kws_dscnn cifar10_resnet20 --limit 200 --dry
    python -m tests.bench.zoo --int8 DIR --dry                  # scores DIR/NAME.int8.onnx, converts nothing

Each conversion is a process of its own. Baselines come from the zoo's table (same samples); with ``--limit`` the
real-data build is made once, kept in the cache, and scored on the same samples instead.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from tests.bench.bars import MIB, Bar, Measured, verdicts
from tests.bench.clock import medians
from tests.bench.evaluator import KINDS, Baseline, Zoo, as_baseline, baseline_model, open_zoo
from tests.bench.results import publish, table

TITLE = "Zoo: INT8 without data against INT8 with real data"


@dataclass(frozen=True)
class Conversion:
    """One run of the converter; ``failure`` is its one line on stderr."""

    model: Path
    seconds: float | None = None
    peak_bytes: int | None = None
    failure: str | None = None


@dataclass
class Row:
    """One model of the table."""

    name: str
    metric: str = ""
    samples: int = 0
    fp32: float | None = None
    int8: float | None = None
    standard_error: float | None = None
    measured: Measured | None = None
    fidelity: float | None = None  # agreement in %, or dB of the worst output
    latency: float | None = None  # INT8 over FP32 time
    real_latency: float | None = None
    baselines: dict[str, Baseline] = field(default_factory=dict)
    bars: list[Bar] = field(default_factory=list)
    sha256: str | None = None
    failure: str | None = None


def convert(source: Path, target: Path, options: Sequence[str], threads: int = 1) -> Conversion:
    """The converter was run on the file in a process of its own, which was watched."""
    command = [sys.executable, "-m", "converter", "convert", str(source), "-o", str(target), "--json", *options]
    environment = os.environ | {"ORT_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=environment)
        peak = _watch(process)
        seconds = time.perf_counter() - start
        errors.seek(0)
        lines = errors.read().strip().splitlines()
    failed = process.returncode not in (0, 3)
    failure = f"exit {process.returncode}: {lines[-1] if lines else 'silent'}" if failed else None
    return Conversion(target, seconds, peak, failure)


def _watch(process: subprocess.Popen[bytes]) -> int:
    """The process has ended; returns the peak resident memory of its tree.

    Not from wait4: the kernel counts the parent's pages before exec as the child's.
    """
    peak = 0
    while True:
        try:
            parent = psutil.Process(process.pid)
            tree = [parent, *parent.children(recursive=True)]
            peak = max(peak, sum(each.memory_info().rss for each in tree), _high_water(process.pid))
        except (psutil.Error, OSError, ValueError):
            pass  # it ended between two looks
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        return peak


def _high_water(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def score(zoo: Zoo, name: str, conversion: Conversion, limit: int | None, timed: bool) -> Row:
    """FP32, our INT8 and the baselines of one model, on the same samples."""
    spec, row = zoo.specs[name], Row(name, failure=conversion.failure)
    if conversion.failure is None and not conversion.model.is_file():
        row.failure = f"there is no {conversion.model.name}"
    if row.failure is not None:
        return row
    samples = limit or spec.table_samples
    try:
        result = zoo.zoo.evaluate(spec, conversion.model, samples)
    except zoo.inference.ModelMismatchError as error:
        row.failure = f"other interface: {error}"
        return row
    row.metric, row.samples, row.fp32, row.int8 = result.metric, result.samples, result.fp32, result.int8
    row.standard_error = result.standard_error
    row.fidelity = as_baseline(asdict(result)).fidelity
    row.sha256 = hashlib.sha256(conversion.model.read_bytes()).hexdigest()
    if limit is None:
        row.baselines = zoo.stored_baselines(name)
    else:
        real = zoo.zoo.evaluate(spec, baseline_model(zoo, name), limit)
        row.baselines = {"real": as_baseline(asdict(real))}
    if timed:
        row.latency, row.real_latency = latency(zoo, name, conversion.model)
    row.measured = Measured(
        name=name,
        metric=result.metric,
        difference=result.difference,
        agreement=result.agreement,
        size_ratio=spec.file.stat().st_size / conversion.model.stat().st_size,
        fp32_bytes=spec.file.stat().st_size,
        weight_share=weight_share(spec.file),
        seconds=conversion.seconds,
        peak_bytes=conversion.peak_bytes,
        speed_against_real=row.real_latency / row.latency if row.latency and row.real_latency else None,
    )
    row.bars = verdicts(row.measured, row.baselines.get("real"))
    return row


def latency(zoo: Zoo, name: str, model: Path) -> tuple[float, float]:
    """Time over FP32's of our build and of the real-data build: medians of interleaved runs, one thread."""
    spec, inference = zoo.specs[name], zoo.inference
    sessions = [inference.open_session(file) for file in (spec.file, model, baseline_model(zoo, name))]
    feed = next(inference.feeds(sessions[0], spec, spec.dataset.evaluation().first(1)))
    original, mine, real = medians(sessions, feed)
    return mine / original, real / original


def weight_share(file: Path) -> float:
    """The share of the file that is float weights of rank 2 and more."""
    import onnx

    graph = onnx.load(str(file)).graph
    weights = [each for each in graph.initializer if len(each.dims) >= 2 and each.data_type == onnx.TensorProto.FLOAT]
    return sum(4 * _product(each.dims) for each in weights) / file.stat().st_size


def _product(sizes: Sequence[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


# ------------------------------------------------------------------------------------------------------------- table


def line(row: Row) -> list[str]:
    """The cells of one row; a cell of INT8 is the metric and, after the slash, agreement in % or dB."""
    if row.failure is not None or row.measured is None or row.fp32 is None or row.int8 is None:
        return [row.name, "failed", *[""] * (len(HEADER) - 3), row.failure or ""]
    digits = 3 if row.fp32 < 10 else 1
    unit = "" if row.measured.agreement is not None else " dB"

    def cell(value: float, fidelity: float) -> str:
        return f"{value:.{digits}f} / {fidelity:.1f}{unit}"

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    peak = row.measured.peak_bytes
    return [
        row.name,
        row.metric,
        str(row.samples),
        f"{row.fp32:.{digits}f}",
        cell(row.int8, row.fidelity or 0.0),
        number(row.standard_error, f".{digits}f"),
        *(cell(b.value, b.fidelity) if (b := row.baselines.get(kind)) else "-" for kind in KINDS),
        f"{row.measured.size_ratio:.2f}",
        number(row.latency, ".2f"),
        number(row.real_latency, ".2f"),
        number(row.measured.seconds, ".1f"),
        number(None if peak is None else peak / MIB, ".0f"),
        ", ".join(f"**{bar.what}: {bar.detail}**" for bar in row.bars if not bar.met) or "all met",
    ]


HEADER = [
    "model", "metric", "n", "FP32", "zsq INT8", "±", *KINDS, "size", "time", "time real", "s", "MiB", "bars",
]  # fmt: skip


def summary(rows: Sequence[Row]) -> str:
    """What holds over all models."""
    done = [row for row in rows if row.measured is not None]
    pairs = [
        (row.measured.agreement, row.baselines["real"].fidelity)
        for row in done
        if row.measured and row.measured.agreement is not None and "real" in row.baselines
    ]
    lines = [f"{len(done)} of {len(rows)} models converted and scored."]
    if pairs:
        mine, real = (sum(column) / len(pairs) for column in zip(*pairs, strict=True))
        met = "met" if mine >= real - 1e-9 else "not met"
        lines.append(
            f"Mean agreement over {len(pairs)} classifiers: {mine:.2f} %, real-data build {real:.2f} % ({met})."
        )
    unmet = [f"{row.name} {bar.what}" for row in done for bar in row.bars if not bar.met]
    total = sum(len(row.bars) for row in done)
    lines.append(f"{total - len(unmet)} of {total} bars met" + (f"; not met: {', '.join(unmet)}." if unmet else "."))
    return " ".join(lines)


LEGEND = (
    "A cell is the metric and, after the slash, the agreement with FP32's top-1 in % (classifiers) or the SQNR of the "
    "worst output. `±`: paired standard error of INT8 minus FP32. `real`, `noise`: onnxruntime's own static INT8 "
    "calibrated on real data or noise (`_float_head`: head left in float), from the zoo's table. `size`: FP32 bytes "
    "over INT8 bytes. `time`: INT8 over FP32 median latency, `time real` that of the real-data build, the three run in "
    "turns on one thread. `s`, `MiB`: the whole conversion with its report."
)


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(given)
    zoo = open_zoo()
    unknown = sorted(set(options.only or ()) - set(zoo.specs))
    if unknown:
        raise SystemExit(f"no model {', '.join(unknown)}; there are: {', '.join(zoo.specs)}")
    names = options.only or list(zoo.specs)
    with tempfile.TemporaryDirectory(prefix="zsq-zoo-") as scratch:
        rows = []
        for name in names:
            conversion = _obtain(zoo, name, options, Path(scratch))
            rows.append(row := score(zoo, name, conversion, options.limit, options.timed))
            print(f"{name}: {row.failure or ' | '.join(line(row)[3:])}", file=sys.stderr, flush=True)
    text = f"{table(HEADER, [line(row) for row in rows])}\n\n{summary(rows)}\n"
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    publish(TITLE, "zoo", given, LEGEND, text, dry=options.dry)
    return 0 if all(row.failure is None for row in rows) else 1


def _obtain(zoo: Zoo, name: str, options: argparse.Namespace, scratch: Path) -> Conversion:
    if options.int8:
        return Conversion(options.int8 / f"{name}.int8.onnx")
    folder: Path = options.keep or scratch
    folder.mkdir(parents=True, exist_ok=True)
    flags = ["--method", options.method, "--seed", str(options.seed), "--threads", str(options.threads), *options.extra]
    first = convert(zoo.specs[name].file, folder / f"{name}.int8.onnx", flags, options.threads)
    if options.twice and first.failure is None:
        second = convert(zoo.specs[name].file, scratch / f"{name}.again.int8.onnx", flags, options.threads)
        if second.failure or second.model.read_bytes() != first.model.read_bytes():
            return Conversion(first.model, failure=second.failure or "a second run gave another model")
    return first


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.zoo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models")
    parser.add_argument("--limit", type=int, help="the first N samples (default: those of the zoo's table)")
    parser.add_argument("--method", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--int8", type=Path, metavar="DIR", help="score DIR/NAME.int8.onnx instead of converting")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="put the converted models and reports here")
    parser.add_argument("--twice", action="store_true", help="convert twice and compare the bytes")
    parser.add_argument("--no-latency", dest="timed", action="store_false", help="do not measure latency")
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md as it is")
    parser.add_argument("--json", type=Path, metavar="OUT", help="every figure as JSON")
    parser.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="the rest goes to zsq convert as it is")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
