"""Methods of making calibration data against one another: one quantizer, real data as the yardstick, several seeds.

    python -m tests.bench.methods                                         # everything, written into RESULTS.md
    python -m tests.bench.methods --only cifar10_resnet20 --methods auto zeroq --seeds 0 --limit 500 --dry
    python -m tests.bench.methods --precision w4a8 mixed
    python -m tests.bench.methods --methods without-rounding without-bias-correction

Everything takes a day, so each finished case is a line of ``methods.jsonl`` and is not built again while it is there;
``--again`` builds it anew. The table shows every case on record, whatever this run was asked for.

``real`` is our own quantizer given samples of the zoo's calibration split, which the evaluation does not use. The cases
of one model, method and seed share their samples and a process, whose peak memory is theirs together.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from converter import synthesis
from converter.admission import admit
from converter.checkpoints import Checkpoints
from converter.inputs.description import describe_task
from converter.inputs.plans import ADJUSTABLE, InputPlan
from converter.inputs.task import Task
from converter.normalization import Normalized, normalize
from converter.options import Method, Options, Precision, Step
from converter.progress import Reporter, silent
from converter.quantization.int4_packing import raise_opset
from converter.quantization.placement import weighted_nodes
from converter.quantization.stage import make_integers
from converter.reconstruction import reconstruct
from converter.synthesis import METHODS, Problem, Samples
from converter.synthesis.gzsq import Rule, synthesize_gzsq
from converter.synthesis.stage import make_samples
from converter.synthesis.zeroq import Variant, synthesize_zeroq
from tests.bench.evaluator import open_zoo
from tests.bench.results import publish, table

TITLE = "Methods: INT8 and below without data, by method"
RECORDS = Path(__file__).with_suffix(".jsonl")
REAL, REAL_NEAREST, FLOAT_HEAD = "real", "real-nearest", "noise-float-head"
VARIANTS: dict[str, tuple[Method, Callable[[Problem, int, int, int], Samples]]] = {
    "zeroq-code": (Method.ZEROQ, partial(synthesize_zeroq, variant=Variant.CODE)),
    "gzsq-paper": (Method.GZSQ, partial(synthesize_gzsq, rule=Rule.ADDITIVE)),
}
NAMES = [*(str(method) for method in Method), FLOAT_HEAD, *VARIANTS, REAL, REAL_NEAREST]
ABLATIONS = {f"without-{step}": frozenset({step}) for step in Step}  # of the default method
SKIPPED = {REAL_NEAREST: frozenset({Step.ROUNDING, Step.BIAS_CORRECTION}), **ABLATIONS}
REAL_SAMPLES = 256


@dataclass(frozen=True)
class Case:
    """One way of making samples for one model, and the precisions to build from them."""

    model: str
    method: str
    seed: int
    precisions: tuple[str, ...]
    seconds: float
    samples: int


@dataclass(frozen=True)
class Built:
    """One file, and what it took."""

    model: bytes
    seconds: float
    peak_bytes: int
    steps: int


@dataclass(frozen=True)
class Record:
    """One scored file: a line of ``methods.jsonl``. ``commit`` is the code that made it."""

    model: str
    precision: str
    method: str
    seed: int
    difference: float = 0.0
    agreement: float = 0.0
    seconds: float = 0.0
    steps: int = 0
    peak_bytes: int = 0
    bytes: int = 0
    commit: str = ""
    failure: str = ""

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.model, self.precision, self.method, self.seed


def build(case: Case) -> Iterator[Built]:
    """The model of one case at each precision; synthesis and optimization alone, without the report."""
    torch.set_num_threads(1)
    synthesis.HELD_OUT_STEPS = 0  # only the report looks at held-out samples
    options = Options(_register(case), seed=case.seed, time_budget=case.seconds, samples=case.samples)
    options = replace(options, skip=SKIPPED.get(case.method, frozenset()))
    admitted = admit(open_zoo().specs[case.model].file)
    normalized = normalize(admitted.model)
    task = _task(case, admitted.model, normalized, options)
    started, reporter, checkpoints = time.monotonic(), Reporter(silent), Checkpoints(None)
    samples = make_samples(task, options, reporter, checkpoints)
    synthesized = time.monotonic() - started
    for precision in map(Precision, case.precisions):
        chosen = replace(options, precision=precision)
        if precision is not Precision.INT8:
            raised = replace(normalized, model=raise_opset(normalized.model))
            task = _task(case, admitted.model, raised, chosen)
        started = time.monotonic()
        made = make_integers(task, samples, chosen, reporter, checkpoints)
        seconds = synthesized + time.monotonic() - started
        yield Built(made.model.SerializeToString(), seconds, _peak_bytes(), samples.steps)


def _task(case: Case, original: ModelProto, normalized: Normalized, options: Options) -> Task:
    """The model as the case has it converted."""
    task = describe_task(original, normalized, reconstruct(normalized.model), options)
    return replace(task, excluded={**task.excluded, **_heads(task)}) if case.method == FLOAT_HEAD else task


def _peak_bytes() -> int:
    """Of this process since it began; getrusage would count the one that it was forked from."""
    (peak,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak) * 1024


def _built(case: Case) -> list[Built]:
    return list(build(case))


def _register(case: Case) -> Method:
    """The method under which the case's way of making data can be had, in this process only."""
    if case.method in VARIANTS:
        method, function = VARIANTS[case.method]
        METHODS[method] = function
        return method
    if case.method in (REAL, REAL_NEAREST):
        METHODS[Method.NOISE] = partial(_real_samples, case.model)
        return Method.NOISE
    if case.method == FLOAT_HEAD:
        return Method.NOISE
    return Method.AUTO if case.method in ABLATIONS else Method(case.method)


def _heads(task: Task) -> dict[str, str]:
    """The layers after which none follows on the way to an output."""
    weighted = {node.name for node in weighted_nodes(task.graph)}
    found, waiting, seen = dict[str, str](), list(task.graph.output_names), set[str]()
    while waiting:
        tensor = waiting.pop()
        node = task.graph.producer(tensor)
        if node is None or tensor in seen:
            continue
        seen.add(tensor)
        if node.name in weighted:
            found[node.name] = "a head"
        else:
            waiting += node.input
    return found


def _real_samples(name: str, problem: Problem, count: int, seed: int, steps: int) -> Samples:
    """Raw samples that become the zoo's own calibration feeds after our preprocessing."""
    zoo = open_zoo()
    feeds = zoo.baselines.calibration_feeds(zoo.specs[name], zoo.baselines.Kind("real"), REAL_SAMPLES, seed)
    raw = {}
    for plan in problem.plans:
        axis = plan.batch_axis
        values = [feed[plan.name][None] if axis is None else np.moveaxis(feed[plan.name], axis, 0) for feed in feeds]
        raw[plan.name] = np.concatenate(values)
        if plan.kind in ADJUSTABLE:
            raw[plan.name] = _unprepared(plan, raw[plan.name])
    return Samples(raw, (), "real data")


def _unprepared(plan: InputPlan, values: NDArray[Any]) -> NDArray[Any]:
    scale, offset = plan.affine(0, len(values))
    return np.asarray((values - offset) / scale, np.float32)


def measure(case: Case, limit: int | None) -> Iterator[Record]:
    """The case built and scored on the evaluation split."""
    zoo = open_zoo()
    spec, commit = zoo.specs[case.model], _commit()
    empty = [Record(case.model, precision, case.method, case.seed, commit=commit) for precision in case.precisions]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        try:
            files = process.submit(_built, case).result()
        except Exception as problem:  # a bench goes on with the next case and shows this one as failed
            failure = f"{type(problem).__name__}: {problem}".splitlines()[0][:100]
            yield from (replace(each, failure=failure) for each in empty)
            return
    for record, built in zip(empty, files, strict=True):
        scored = zoo.zoo.evaluate(spec, built.model, limit or spec.table_samples)
        yield replace(
            record,
            difference=round(scored.difference, 3),
            agreement=round(min(scored.sqnr_db.values()) if scored.agreement is None else scored.agreement, 3),
            seconds=round(built.seconds, 1),
            steps=built.steps,
            peak_bytes=built.peak_bytes,
            bytes=len(built.model),
        )


def _commit() -> str:
    asked = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(asked, cwd=RECORDS.parent, capture_output=True, text=True, check=False).stdout.strip()


def read_records(path: Path) -> dict[tuple[str, str, str, int], Record]:
    """Every case on record, a later line instead of an earlier one of the same case."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {record.key: record for record in (Record(**json.loads(line)) for line in lines)}


def report(records: Mapping[tuple[str, str, str, int], Record]) -> str:
    """INT8 by method, a row a model; and of each precision, with methods and with steps left out, the means over the
    classifiers that the fullest columns have. What every case gave is in the file of records.
    """
    parts, lines = [], []
    for precision in (str(each) for each in Precision):
        cells: dict[tuple[str, str], list[Record]] = {}
        for record in records.values():
            if record.precision == precision:
                cells.setdefault((record.model, record.method), []).append(record)
        compared = Compared(cells, NAMES)
        if precision == Precision.INT8 and compared.models:
            parts.append(f"### {precision}\n\n{compared.table()}")
        elif compared.models:
            lines.append(f"{precision}, {compared.means()}")
        without = Compared(cells, [str(Method.AUTO), *ABLATIONS])
        if without.models:
            lines.append(f"{precision}, one step left out, {without.means()}")
    means = "\n".join(f"- {line}" for line in lines)
    return "\n\n".join(filter(None, [*parts, means, _file_shares(records)]))


class Compared:
    """The models that have at least two of some columns, and how the columns do on them."""

    def __init__(self, cells: Mapping[tuple[str, str], list[Record]], columns: Sequence[str]) -> None:
        specs = open_zoo().specs
        self.cells = cells
        self.methods = [name for name in columns if any(method == name for _, method in cells)]
        self.models = [name for name in specs if sum((name, each) in cells for each in self.methods) > 1]
        classifiers = [name for name in self.models if specs[name].metric.classifier]
        scored = {each: [name for name in classifiers if _scored(cells, name, each)] for each in self.methods}
        most = max(map(len, scored.values()), default=0)
        self.whole = [each for each in self.methods if len(scored[each]) == most]  # those with gaps have no mean here
        self.shared = [name for name in classifiers if all(name in scored[each] for each in self.whole)]

    def table(self) -> str:
        """A row a model, and the means."""
        rows = [[name, *(_cell(self.cells.get((name, each), [])) for each in self.methods)] for name in self.models]
        means = [self._mean(each) if each in self.whole else "-" for each in self.methods]
        return table(["model", *self.methods], [*rows, [f"mean of {len(self.shared)} classifiers", *means]])

    def means(self) -> str:
        """The means, and where each column loses most, on a line."""
        found = (f"{each} {self._mean(each)} (least {self._least(each)})" for each in self.whole)
        return f"mean of {len(self.shared)} classifiers: {'; '.join(found)}."

    def _mean(self, method: str) -> str:
        return _mean([self.cells[name, method] for name in self.shared])

    def _least(self, method: str) -> str:
        agreement = {name: _agreement(self.cells[name, method]) for name in self.shared}
        worst = min(agreement, key=agreement.__getitem__)
        return f"{agreement[worst]:.1f}, {worst}"


def _file_shares(records: Mapping[tuple[str, str, str, int], Record]) -> str:
    """How large the default method's files are beside its INT8 files of the same model and seed, by precision."""
    shares: dict[str, list[float]] = {}
    for record in records.values():
        whole = records.get((record.model, str(Precision.INT8), record.method, record.seed))
        if record.method == Method.AUTO and record.precision != Precision.INT8 and whole is not None:
            shares.setdefault(record.precision, []).append(record.bytes / whole.bytes)
    found = (f"{name} {statistics.mean(each):.3f} ({len(each)} files)" for name, each in sorted(shares.items()))
    return f"Size of `auto`'s files over its INT8 files', mean: {', '.join(found)}." if shares else ""


def _scored(cells: Mapping[tuple[str, str], list[Record]], model: str, method: str) -> bool:
    return any(not record.failure for record in cells.get((model, method), []))


def _cell(records: Sequence[Record]) -> str:
    done = [record for record in records if not record.failure]
    if not done:
        return "failed: " + records[0].failure if records else "-"
    agreements = [record.agreement for record in done]
    spread = f" ± {statistics.stdev(agreements):.2f}" if len(done) > 1 else ""
    return (
        f"{statistics.mean(record.difference for record in done):+.2f} / {statistics.mean(agreements):.2f}{spread} "
        f"({len(done)}), {statistics.mean(record.seconds for record in done):.0f} s, "
        f"{max(record.peak_bytes for record in done) >> 20} MiB, {done[-1].bytes / 1024:.0f} kB"
    )


def _mean(cells: Sequence[Sequence[Record]]) -> str:
    if not cells:
        return "-"
    drop = statistics.mean(statistics.mean(each.difference for each in cell if not each.failure) for cell in cells)
    return f"{drop:+.2f} / {statistics.mean(map(_agreement, cells)):.2f}"


def _agreement(cell: Sequence[Record]) -> float:
    return statistics.mean(each.agreement for each in cell if not each.failure)


LEGEND = (
    "A cell: metric minus FP32's, agreement with FP32 (%, or dB where the model does not classify) as mean ± deviation "
    "over seeds (how many), seconds of synthesis and optimization, peak memory, file size. `real`: our quantizer on "
    "256 real samples, `real-nearest`: the same without rounding and bias correction. `noise`: N(0, 1) where the "
    "network gets it. `zeroq-code`, `gzsq-paper`: as published (converter/synthesis/zeroq.py, gzsq.py). The precisions "
    "of one model, method and seed were built in one process one after another: peaks are of those up to the cell's."
)


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(given)
    zoo = open_zoo()
    names = options.only or [name for name, spec in zoo.specs.items() if spec.metric.classifier]
    records = {} if options.again else read_records(options.records)
    for seed in options.seeds:
        for name in names:
            for method in options.methods:
                wanted = [each for each in options.precision if (name, each, method, seed) not in records]
                if not wanted:
                    continue
                for record in measure(
                    Case(name, method, seed, tuple(wanted), options.seconds, options.samples), options.limit
                ):
                    records[record.key] = record
                    line = json.dumps(asdict(record))
                    print(line, file=sys.stderr, flush=True)
                    if not options.dry:
                        with options.records.open("a") as file:
                            file.write(line + "\n")
    text = report(records if options.dry else read_records(options.records))
    made = f"Cases built by {', '.join(sorted({record.commit for record in read_records(options.records).values()}))}."
    publish(TITLE, "methods", given, made, LEGEND, text, dry=options.dry)
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.methods", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models (default: every classifier)")
    parser.add_argument("--methods", nargs="+", choices=[*NAMES, *ABLATIONS], default=NAMES)
    parser.add_argument("--precision", nargs="+", choices=[str(each) for each in Precision], default=list(Precision))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=60.0, help="time budget of each conversion")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--limit", type=int, help="the first N samples (default: those of the zoo's table)")
    parser.add_argument("--records", type=Path, default=RECORDS, help="the file of finished cases")
    parser.add_argument("--again", action="store_true", help="build cases that are on record anew")
    parser.add_argument("--dry", action="store_true", help="print only, leave the files as they are")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
