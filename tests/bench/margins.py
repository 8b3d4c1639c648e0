"""How much further real inputs reach than synthesized ones, layer by layer, and which margin of ranges suits that.

    python -m tests.bench.margins listen --population FOLDER --out HEARD.jsonl [--only NAME ...]
    python -m tests.bench.margins fit HEARD.jsonl [--dry]

``listen`` makes calibration samples for every network as a conversion does, its true preprocessing stated, and takes
each tensor's range from them. On real inputs it then measures the relative squared error that the tensor would have
within that range times each of ``FACTORS``. ``fit`` finds the law of factors under which networks lose least, each
architecture judged by the law of all others. A network is NAME.onnx with the sidecar that ``tests.bench.population``
writes, or with NAME.npz, real inputs by name as the network takes them [N, ...], and NAME.json: ``name``,
``architecture`` and ``inputs``, what is stated of each input.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converter.admission import admit
from converter.checkpoints import Checkpoints
from converter.errors import ConversionError
from converter.graph import Graph, weight_of
from converter.inputs.description import describe_task
from converter.normalization import normalize
from converter.options import Options
from converter.progress import Reporter, silent
from converter.quantization.activation_functions import function_after
from converter.quantization.calibration import Observer, RangeRule, observe, squared_error
from converter.quantization.placement import place, quantized_tensors
from converter.quantization.qdq_writer import Range
from converter.quantization.ranges import stated_bounds
from converter.reconstruction import reconstruct
from converter.sessions import Feeds
from converter.specifications import InputSpec
from converter.synthesis.stage import make_samples
from tests.bench.population import evaluation_inputs, networks
from tests.bench.results import publish, table

TITLE = "Margins: ranges of samples on real inputs"
FACTORS = tuple(round(0.5 * 1.05**step, 4) for step in range(46))  # 0.5 to 4.5
REAL = 96  # inputs that a network is judged on
BATCH = 8
LEAST_TENSORS = 4  # of a network, whose mean is a chance otherwise


@dataclass(frozen=True)
class Network:
    """A network, what is stated of its inputs, and real inputs as it takes them."""

    name: str
    architecture: str
    file: Path
    stated: Mapping[str, InputSpec]
    real: Mapping[str, NDArray[Any]]


def read(folder: Path, only: Sequence[str]) -> Iterator[Network]:
    """The networks of a folder."""
    for file, known in networks(folder):
        if only and known["name"] not in only:
            continue
        name = Graph(admit(file).model).inputs[0].name
        if "evaluation" in known:
            inputs, _ = evaluation_inputs(known, folder, REAL)
            stated = {} if known["kind"] == "signal" else {name: _spec(known["scaling"])}
            yield Network(known["name"], known["architecture"], file, stated, {name: inputs})
        else:
            real = dict(np.load(file.with_suffix(".npz")))
            given = {key: _stated(value, real[key]) for key, value in known["inputs"].items()}
            yield Network(known["name"], known["architecture"], file, given, real)


def _spec(scaling: Mapping[str, Any]) -> InputSpec:
    scale, offset = scaling["scale"], scaling["offset"]
    scale = scale * len(offset) if len(scale) == 1 else scale
    mean = tuple(-o / s for o, s in zip(offset, scale, strict=True))
    return InputSpec(mean=mean, std=tuple(1 / s for s in scale))


def _stated(words: Mapping[str, Any], real: NDArray[Any]) -> InputSpec:
    low_high, mean, std = (tuple(words.get(key) or ()) or None for key in ("value_range", "mean", "std"))
    return InputSpec(value_range=low_high, mean=mean, std=std, shape=real.shape)


def listen(network: Network, seed: int) -> Iterator[dict[str, Any]]:
    """A line for every tensor that has a range of its own."""
    original = admit(network.file).model
    normalized = normalize(original)
    options = Options(inputs=dict(network.stated), seed=seed)
    task = describe_task(original, normalized, reconstruct(normalized.model), options)
    samples = make_samples(task, options, Reporter(silent), Checkpoints(None))
    shared = quantized_tensors(task.graph, place(task.graph, {}).nodes)
    names = sorted(set(shared.values()))
    drawn = observe(task.network, names, samples.feeds(BATCH))
    real = observe(task.network, names, _batches(network.real))
    depths, plan = layers_before(task.graph), task.plans[0]
    for name in names:
        function = function_after(name, task.graph, task.network)
        taken = drawn[name].range(RangeRule.MSE, 256, function)
        if taken.low == taken.high or stated_bounds(name, task.graph, taken) is not taken:
            continue
        if any(name == each.name for each in task.graph.inputs):
            continue
        yield {
            "name": network.name,
            "architecture": network.architecture,
            "seed": seed,
            "tensor": name,
            "kind": str(plan.kind),
            "places": int(np.prod(plan.shape)),
            "depth": depths.get(name, 0),
            "deepest": max(depths.values()),
            "reach": round(_deviation(real[name]) / max(_deviation(drawn[name]), 1e-12), 4),
            "errors": [_rounded(squared_error(real[name], _times(taken, each), function)) for each in FACTORS],
        }


def _times(taken: Range, factor: float) -> Range:
    return Range(taken.low * factor, taken.high * factor, taken.method, taken.levels)


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")


def _deviation(observer: Observer) -> float:
    total = observer.counts.sum()
    mean = (observer.counts * observer.centres).sum() / total
    return float(np.sqrt((observer.counts * (observer.centres - mean) ** 2).sum() / total))


def _batches(real: Mapping[str, NDArray[Any]]) -> Iterator[Feeds]:
    count = min(len(each) for each in real.values())
    for start in range(0, min(count, REAL), BATCH):
        yield {name: each[start : start + BATCH] for name, each in real.items()}


def layers_before(graph: Graph) -> dict[str, int]:
    """How many layers with weights lie on the longest way from an input to each tensor."""
    found = dict.fromkeys((each.name for each in graph.inputs), 0)
    for node in graph.nodes:
        before = max((found[each] for each in node.input if each in found), default=0)
        found.update(dict.fromkeys(node.output, before + (weight_of(node, graph) is not None)))
    return found


@dataclass(frozen=True)
class Heard:
    """One network's tensors: the errors of each factor [tensors, factors], and how deep each lies, from 0 to 1."""

    name: str
    architecture: str
    errors: NDArray[np.float64]
    depths: NDArray[np.float64]
    large: bool

    def loss(self, law: Law) -> float:
        """The amplitude of the mean error under the law, in % of a tensor's: decisions flip in proportion to it."""
        factors = np.clip(law(self.depths, self.large), FACTORS[0], FACTORS[-1])
        logs = [
            np.interp(np.log(factor), np.log(FACTORS), row) for factor, row in zip(factors, self.errors, strict=True)
        ]
        return 100 * float(np.sqrt(np.exp(logs).mean()))


Law = Callable[[NDArray[np.float64], bool], NDArray[np.float64]]
LARGE = 3 * 128 * 128
STEPS = tuple(round(0.05 * step, 2) for step in range(-4, 15))


def growing(first: float, more: float) -> Law:
    """exp(first) at the first layer, exp(first + more) at the last."""
    return lambda depths, large: np.exp(first + more * depths)


def of_large_pictures(depths: NDArray[np.float64], large: bool) -> NDArray[np.float64]:
    """The margin as it was before."""
    return np.full_like(depths, 1.25 if large else 1.0)


LAWS: Mapping[str, Sequence[Law]] = {
    "none": [growing(0.0, 0.0)],
    "1.25 for large pictures, as before": [of_large_pictures],
    "one for all": [growing(first, 0.0) for first in STEPS],
    "by relative depth": [growing(0.0, more) for more in STEPS],
    "both": [growing(first, more) for first in STEPS for more in STEPS],
}


def fit(networks: Sequence[Heard]) -> list[list[str]]:
    """For each kind of law: the mean loss, each architecture under the law that is best for all others."""
    names = sorted({each.architecture for each in networks})
    shares = np.array([1 / sum(other.architecture == each.architecture for other in networks) for each in networks])
    rows = []
    for kind, laws in LAWS.items():
        losses = np.array([[each.loss(law) for each in networks] for law in laws])  # [laws, networks]
        judged = np.zeros(len(networks))
        for name in names:
            out = np.array([each.architecture == name for each in networks])
            judged[out] = losses[int(np.argmin(losses[:, ~out] @ shares[~out])), out]
        best = laws[int(np.argmin(losses @ shares))](np.array([0.0, 1.0]), False)
        rows.append([kind, f"{best[0]:.2f}, {best[1]:.2f}", f"{float(judged @ shares / shares.sum()):.2f}"])
    return rows


def read_heard(path: Path) -> list[Heard]:
    """The networks of a file that ``listen`` wrote; their inputs are left out."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        if row["depth"] > 0:
            lines.setdefault(row["name"], []).append(row)
    return [
        Heard(
            name,
            rows[0]["architecture"],
            np.log(np.array([row["errors"] for row in rows]) + 1e-12),
            np.array([row["depth"] / row["deepest"] for row in rows]),
            rows[0]["kind"] == "picture" and rows[0]["places"] >= LARGE,
        )
        for name, rows in lines.items()
        if len(rows) >= LEAST_TENSORS
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """What was asked for is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    hearing = commands.add_parser("listen")
    hearing.add_argument("--population", type=Path, required=True, nargs="+")
    hearing.add_argument("--out", type=Path, required=True)
    hearing.add_argument("--only", nargs="*", default=())
    hearing.add_argument("--seed", type=int, default=0)
    fitting = commands.add_parser("fit")
    fitting.add_argument("heard", type=Path, nargs="+")
    fitting.add_argument("--dry", action="store_true")
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    if given.command == "fit":
        every = [network for path in given.heard for network in read_heard(path)]
        kinds = len({each.architecture for each in every})
        header = ["margin", "best for all: at the first layer, the last", "left out: amplitude of layers' errors, %"]
        legend = f"{len(every)} networks of {kinds} architectures."
        publish(TITLE, "margins", words, legend, table(header, fit(every)), dry=given.dry)
        return 0
    done = {json.loads(line)["name"] for line in given.out.read_text().splitlines()} if given.out.exists() else set()
    for folder in given.population:
        for network in read(folder, given.only):
            if network.name in done:
                continue
            try:
                lines = [json.dumps(each) for each in listen(network, given.seed)]
            except ConversionError as error:
                print(f"{network.name}: {error}", flush=True)
                continue
            with given.out.open("a") as file:
                file.writelines(f"{line}\n" for line in lines)
            print(network.name, len(lines), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
