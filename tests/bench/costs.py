"""Estimated against measured time of the zoo's models, all in float and with every layer on integers that can be.

    python -m tests.bench.costs                              # all, written into RESULTS.md
    python -m tests.bench.costs --only kws_dscnn --dry

What ``converter.quantization.costs`` estimates decides which layers stay in float, so it should order alternatives as
onnxruntime's own time does; only ratios matter.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import torch

from converter.admission import admit
from converter.checkpoints import Checkpoints
from converter.inputs.description import describe_task
from converter.inputs.sizes import sizes
from converter.normalization import normalize
from converter.options import Method, Options, Step
from converter.progress import Reporter, silent
from converter.quantization.costs import node_cost
from converter.quantization.float_fallback import integer_cost
from converter.quantization.placement import place
from converter.quantization.stage import make_integers
from converter.reconstruction import reconstruct
from converter.sessions import open_session
from converter.synthesis import batches
from converter.synthesis.stage import make_samples
from tests.bench.clock import medians
from tests.bench.evaluator import open_zoo
from tests.bench.results import publish, table

TITLE = "Estimated against measured time"
HEADER = ["model", "float, ms", "estimated", "integers, ms", "estimated", "integers / float", "estimated"]
PLAIN = frozenset({Step.FLOAT_FALLBACK, Step.ROUNDING, Step.BIAS_CORRECTION})


def compare(name: str) -> list[float]:
    """Measured and estimated milliseconds of the float model, then of the all-integer one."""
    spec = open_zoo().specs[name]
    options = Options(method=Method.NOISE, samples=8, skip=PLAIN)
    admitted = admit(spec.file)
    normalized = normalize(admitted.model)
    task = describe_task(admitted.model, normalized, reconstruct(normalized.model), options)
    samples = make_samples(task, options, Reporter(silent), Checkpoints(None))
    integers = make_integers(task, samples, options, Reporter(silent), Checkpoints(None))
    feed = next(batches(task.plans, samples.calibration, 1))
    measured = medians([open_session(each, 1) for each in (normalized.model, integers.model)], feed, seconds=2.0)
    elements = sizes(task.network, task.graph, feed)
    in_float = sum(node_cost(node, task.graph, elements, integer=False) for node in task.graph.nodes)
    in_integers = integer_cost(task.graph, place(task.graph, {}), elements)
    return [1e3 * measured[0], in_float / 1e3, 1e3 * measured[1], in_integers / 1e3]


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m tests.bench.costs", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these zoo models")
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md as it is")
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    rows, errors = [], []
    for name in options.only or [each for each in open_zoo().specs if not each.endswith("_bn")]:
        found = compare(name)
        ratios = found[2] / found[0], found[3] / found[1]
        errors.append(abs(math.log(ratios[1] / ratios[0])))
        rows.append([name, *(f"{value:.3f}" for value in found), *(f"{ratio:.2f}" for ratio in ratios)])
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    away = math.exp(sum(errors) / len(errors)) - 1
    text = f"{table(HEADER, rows)}\n\nThe estimated ratio is {away:.0%} away from the measured one (geometric mean)."
    publish(TITLE, "costs", given, text, dry=options.dry)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
