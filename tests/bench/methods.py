"""Methods of making calibration data against one another: one quantizer, real data as the yardstick, several seeds.

    python -m tests.bench.methods                                         # everything, written into RESULTS.md
    python -m tests.bench.methods --only cifar10_resnet20 --methods auto zeroq --seeds 1 --limit 500 --dry
    python -m tests.bench.methods --precision w4a8 mixed
    python -m tests.bench.methods --moments --only cifar10_resnet20_bn    # propagated against real moments, by layer

``real`` is our own quantizer given samples of the zoo's calibration split, which the evaluation does not use. Each
build is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converter.admission import admit
from converter.checkpoints import Checkpoints
from converter.graph import Graph, weight_of
from converter.inputs import ADJUSTABLE, InputPlan, assemble, describe_inputs, draw
from converter.integers import make_integers
from converter.moments import channel_axis, input_moments, propagate
from converter.normalization import normalize
from converter.options import Method, Options, Precision
from converter.progress import Reporter, silent
from converter.reconstruction import Reconstruction, reconstruct
from converter.sampling import make_samples
from converter.scaling import settle_scalings
from converter.synthesis import METHODS, Problem, Samples
from converter.synthesis.gzsq import Rule, additive_targets, synthesize_gzsq
from converter.synthesis.zeroq import Variant, synthesize_zeroq
from converter.task import describe_task
from tests.bench.evaluator import open_zoo
from tests.bench.results import origin, table, write_section

TITLE = "Methods: INT8 and below without data, by method"
MOMENTS_TITLE = "Moments: propagated from weights against real activations"
REAL = "real"
VARIANTS: dict[str, tuple[Method, Callable[[Problem, int, int, int], Samples]]] = {
    "zeroq-code": (Method.ZEROQ, partial(synthesize_zeroq, variant=Variant.CODE)),
    "gzsq-paper": (Method.GZSQ, partial(synthesize_gzsq, rule=Rule.ADDITIVE)),
}
NAMES = [*(str(method) for method in Method), *VARIANTS, REAL]
REAL_SAMPLES = 256
OBSERVED = 64  # real samples whose activations the moments are compared with


@dataclass(frozen=True)
class Case:
    """One build."""

    model: str
    method: str
    precision: str
    seed: int
    seconds: float
    samples: int


@dataclass(frozen=True)
class Built:
    """What came of it: the file, and what it took."""

    model: bytes
    seconds: float
    peak_bytes: int
    steps: int


@dataclass
class Cell:
    """The seeds of one model, method and precision."""

    differences: list[float] = field(default_factory=list)
    agreements: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    peak_bytes: int = 0
    bytes: int = 0
    failure: str = ""


def build(case: Case) -> Built:
    """The integer model of one case; synthesis and optimization alone, without the report."""
    torch.set_num_threads(1)
    method = _register(case)
    options = Options(
        method=method,
        precision=Precision(case.precision),
        seed=case.seed,
        time_budget=case.seconds,
        samples=case.samples,
    )
    admitted = admit(open_zoo().specs[case.model].file)
    normalized = normalize(admitted.model)
    if options.precision is not Precision.INT8:
        from converter.lowbit import raise_opset

        normalized = type(normalized)(raise_opset(normalized.model), normalized.batch_norms, normalized.changes)
    task = describe_task(admitted.model, normalized, reconstruct(normalized.model), options)
    started, reporter, checkpoints = time.monotonic(), Reporter(silent), Checkpoints(None)
    samples = make_samples(task, options, reporter, checkpoints)
    integers = make_integers(task, samples, options, reporter, checkpoints)
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Built(integers.model.SerializeToString(), seconds, peak, samples.steps)


def _register(case: Case) -> Method:
    """The method under which the case's way of making data can be had, in this process only."""
    if case.method in VARIANTS:
        method, function = VARIANTS[case.method]
        METHODS[method] = function
        return method
    if case.method == REAL:
        METHODS[Method.NOISE] = partial(_real_samples, case.model)
        return Method.NOISE
    return Method(case.method)


def _real_samples(name: str, problem: Problem, count: int, seed: int, steps: int) -> Samples:
    """Raw samples that become the zoo's own calibration feeds after our preprocessing."""
    zoo = open_zoo()
    feeds = zoo.baselines.calibration_feeds(zoo.specs[name], zoo.baselines.Kind("real"), REAL_SAMPLES, seed)
    raw = {}
    for plan in problem.plans:
        values = np.concatenate([feed[plan.name] for feed in feeds])
        raw[plan.name] = _unprepared(plan, values) if plan.kind in ADJUSTABLE else values
    return Samples(raw, (), "real data")


def _unprepared(plan: InputPlan, values: NDArray[Any]) -> NDArray[Any]:
    scale, offset = plan.affine(0, len(values))
    return np.asarray((values - offset) / scale, np.float32)


def measure(cases: Sequence[Case], limit: int | None) -> dict[tuple[str, str, str], Cell]:
    """Every case built and scored on the evaluation split."""
    zoo, cells = open_zoo(), dict[tuple[str, str, str], Cell]()
    for case in cases:
        cell = cells.setdefault((case.model, case.precision, case.method), Cell())
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            try:
                built = process.submit(build, case).result()
            except Exception as problem:  # a bench goes on with the next case and shows this one as failed
                cell.failure = f"{type(problem).__name__}: {problem}".splitlines()[0][:100]
                print(f"{case}: {cell.failure}", file=sys.stderr, flush=True)
                continue
        spec = zoo.specs[case.model]
        scored = zoo.zoo.evaluate(spec, built.model, limit or spec.table_samples)
        cell.differences.append(scored.difference)
        cell.agreements.append(min(scored.sqnr_db.values()) if scored.agreement is None else scored.agreement)
        cell.seconds.append(built.seconds)
        cell.steps.append(built.steps)
        cell.peak_bytes, cell.bytes = max(cell.peak_bytes, built.peak_bytes), len(built.model)
        print(
            f"{case.model} {case.precision} {case.method} seed {case.seed}: {scored.difference:+.2f} / "
            f"{cell.agreements[-1]:.2f}, {built.seconds:.1f} s, {built.steps} steps, {built.peak_bytes >> 20} MiB",
            file=sys.stderr,
            flush=True,
        )
    return cells


def report(cells: dict[tuple[str, str, str], Cell], methods: Sequence[str]) -> str:
    """One table a precision: a row a model, a column a method; and the means."""
    parts = []
    for precision in dict.fromkeys(key[1] for key in cells):
        models = list(dict.fromkeys(key[0] for key in cells if key[1] == precision))
        rows = [[name, *(_cell(cells.get((name, precision, each))) for each in methods)] for name in models]
        means = []
        for each in methods:
            found = [cells[name, precision, each] for name in models if cells[name, precision, each].agreements]
            complete = len(found) == len(models)
            means.append(_mean(found) if complete else "-")
        parts.append(f"### {precision}\n\n{table(['model', *methods], [*rows, ['mean', *means]])}")
    return "\n\n".join(parts)


def _cell(cell: Cell | None) -> str:
    if cell is None or not cell.agreements:
        return "failed: " + cell.failure if cell and cell.failure else "-"
    spread = f" ± {statistics.stdev(cell.agreements):.2f}" if len(cell.agreements) > 1 else ""
    return (
        f"{statistics.mean(cell.differences):+.2f} / {statistics.mean(cell.agreements):.2f}{spread}, "
        f"{statistics.mean(cell.seconds):.0f} s, {cell.peak_bytes >> 20} MiB, {cell.bytes / 1024:.0f} kB"
    )


def _mean(cells: Sequence[Cell]) -> str:
    drop = statistics.mean(statistics.mean(each.differences) for each in cells)
    return f"{drop:+.2f} / {statistics.mean(statistics.mean(each.agreements) for each in cells):.2f}"


LEGEND = (
    "A cell: metric minus FP32's, agreement with FP32 (%, or dB where the model does not classify) as mean ± deviation "
    "over seeds, seconds of synthesis and optimization, peak memory, file size. `real`: our quantizer on 256 real "
    "samples. `noise`: N(0, 1) where the network gets it. `zeroq-code`, `gzsq-paper`: as published "
    "(converter/synthesis/zeroq.py, gzsq.py)."
)


def compare_moments(names: Sequence[str]) -> str:
    """For every weighted layer: median error of the mean (in real deviations) and |log ratio| of the deviation."""
    parts, totals = [], []
    for name in names:
        columns = _layer_errors(name)
        layers = list(columns["propagated"])
        rows = [[layer, *(_error(columns[each].get(layer)) for each in columns)] for layer in layers]
        averages = [
            np.mean([found[layer] for layer in layers if layer in found], 0) if found else None
            for found in columns.values()
        ]
        parts.append(f"### {name}\n\n{table(['layer', *columns], [*rows, ['mean', *map(_error, averages)]])}")
        totals.append([name, *map(_error, averages)])
        print(" | ".join(totals[-1]), file=sys.stderr, flush=True)
    return f"{table(['model', *columns], totals)}\n\n" + "\n\n".join(parts)


def _error(pair: Sequence[float] | NDArray[Any] | None) -> str:
    return "-" if pair is None or np.isnan(pair).any() else f"{pair[0]:.2f} / {pair[1]:.2f}"


def _layer_errors(name: str) -> dict[str, dict[str, tuple[float, float]]]:
    zoo = open_zoo()
    spec = zoo.specs[name]
    normalized = normalize(admit(spec.file).model)
    network, graph = reconstruct(normalized.model), Graph(normalized.model)
    plans = settle_scalings(network, graph, describe_inputs(graph, {}), normalized.batch_norms, 0)
    layers = [node.output[0] for node in graph.nodes if weight_of(node, graph) is not None]
    session = zoo.inference.open_session(spec.file)
    feeds = list(zoo.inference.feeds(session, spec, spec.dataset.calibration().first(OBSERVED)))
    real = _observe(network, graph, layers, {key: np.concatenate([each[key] for each in feeds]) for key in feeds[0]})
    generator = np.random.default_rng(0)
    drawn = assemble(plans, {plan.name: draw(plan, OBSERVED, generator) for plan in plans})
    prior, noise = input_moments(plans, 0), input_moments(plans, 0, noise=True)
    estimates: dict[str, dict[str, tuple[NDArray[Any], NDArray[Any]]]] = {
        "propagated": _pairs(propagate(network, graph, prior), layers),
        "without correlation": _pairs(propagate(network, graph, prior, independent=True), layers),
        "from N(0, 1)": _pairs(propagate(network, graph, noise), layers),
        "GZSQ's rule": {each.tensor: (each.mean.numpy(), each.std.numpy()) for each in additive_targets(graph)},
        "pictures of the prior": _observe(network, graph, layers, drawn),
        "BatchNorm": {each.tensor: (each.mean, each.std) for each in normalized.batch_norms},
    }
    return {
        label: {layer: _errors(found[layer], real[layer]) for layer in layers if layer in found}
        for label, found in estimates.items()
    }


def _pairs(found: Any, layers: Sequence[str]) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    return {layer: (found[layer].mean, found[layer].std) for layer in layers if layer in found}


def _observe(
    network: Reconstruction, graph: Graph, layers: Sequence[str], feeds: dict[str, NDArray[Any]]
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    with torch.no_grad():
        values = network.run({name: torch.from_numpy(each) for name, each in feeds.items()}, layers)
    found = {}
    for layer, value in values.items():
        channels = value.movedim(channel_axis(graph, layer, value.dim()), 0).flatten(1)
        found[layer] = (channels.mean(1).numpy(), channels.std(1).numpy())
    return found


def _errors(
    estimate: tuple[NDArray[Any], NDArray[Any]], real: tuple[NDArray[Any], NDArray[Any]]
) -> tuple[float, float]:
    mean, std = real
    alive = std > 1e-3 * np.median(std)
    of_mean = np.median(np.abs(estimate[0] - mean)[alive] / std[alive])
    of_std = np.median(np.abs(np.log(np.maximum(estimate[1][alive], 1e-9) / std[alive])))
    return float(of_mean), float(of_std)


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parse(given)
    zoo = open_zoo()
    names = options.only or [name for name, spec in zoo.specs.items() if spec.metric.classifier]
    command = origin(["python", "-m", "tests.bench.methods", *given])
    if options.moments:
        title, text = MOMENTS_TITLE, compare_moments(names)
        text = f"Error of the mean in real deviations / |log ratio| of deviations, medians over channels.\n\n{text}"
    else:
        cases = [
            Case(name, method, precision, seed, options.seconds, options.samples)
            for name in names
            for precision in options.precision
            for method in options.methods
            for seed in range(options.seeds)
        ]
        title, text = TITLE, f"{LEGEND}\n\n{report(measure(cases, options.limit), options.methods)}"
    print(text)
    if not options.dry:
        write_section(title, f"{command}\n\n{text}")
    return 0


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.methods", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models (default: every classifier)")
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--precision", nargs="+", choices=[str(each) for each in Precision], default=["int8"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="time budget of each conversion")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--limit", type=int, help="the first N samples (default: those of the zoo's table)")
    parser.add_argument("--moments", action="store_true", help="compare moments instead of methods")
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md as it is")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
