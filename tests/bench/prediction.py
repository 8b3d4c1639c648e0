"""Measures what synthetic inputs show of many INT8 models and what real ones did, and fits the law between the two.

    python -m tests.bench.prediction measure --population FOLDER --out MEASURED.jsonl [--zoo NAME ...] [--limit N]
    python -m tests.bench.prediction fit MEASURED.jsonl [--write]

``measure`` converts every classifier of the population (``tests.bench.population``) and of the zoo with its true
preprocessing stated, spoils the INT8 model in several ways (``tests.bench.sabotage``), and writes a line for each: the
report's statistics on its held-out synthetic inputs, and flips and accuracy on real labelled ones. ``fit`` writes
``converter/evaluation/flip_law.json`` and a section of RESULTS.md, coverage and error with each architecture left out.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from converter.admission import admit
from converter.checkpoints import Checkpoints
from converter.evaluation.fidelity import Choices
from converter.graph import Graph
from converter.inputs.description import describe_task
from converter.normalization import normalize
from converter.options import Method, Options
from converter.progress import Reporter, silent
from converter.quantization.stage import make_integers
from converter.reconstruction import reconstruct
from converter.scores import class_output
from converter.sessions import Feeds, open_session, split
from converter.specifications import InputSpec
from converter.synthesis import batches
from converter.synthesis.stage import make_samples
from tests.bench.evaluator import open_zoo
from tests.bench.population import evaluation_inputs, networks
from tests.bench.sabotage import SABOTAGES, sabotage

AS_MADE = "as made"
NOISE = "calibrated on noise"
LEARNT = 1.5  # times chance, below which a network is no classifier
ZOO_SPECS = {  # the preprocessing of the zoo's functions of these names
    "torch_norm": InputSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "torch_norm_224": InputSpec(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    "symmetric_224": InputSpec(value_range=(-1.0, 1.0)),
    "raw": InputSpec(value_range=(0.0, 255.0)),
    "unit": InputSpec(value_range=(0.0, 1.0)),
}


@dataclass(frozen=True)
class Network:
    """A classifier with real labelled inputs, prepared as it wants them."""

    name: str
    architecture: str
    source: str
    file: Path
    spec: InputSpec | None
    inputs: NDArray[Any]
    labels: NDArray[np.int64]


def population(folder: Path, limit: int) -> Iterator[Network]:
    """The classifiers of the population that have learnt something."""
    for file, known in networks(folder):
        if known["output"] not in ("classes", "probabilities") or known["score"] < LEARNT / known["classes"]:
            continue
        inputs, labels = evaluation_inputs(known, folder, limit)
        scale, offset = known["scaling"]["scale"], known["scaling"]["offset"]
        spec = None
        if known["kind"] == "picture":
            scale = scale * len(offset) if len(scale) == 1 else scale
            mean = tuple(-o / s for o, s in zip(offset, scale, strict=True))
            spec = InputSpec(mean=mean, std=tuple(1 / s for s in scale))
        yield Network(known["name"], known["architecture"], "population", file, spec, inputs, labels)


def zoo_networks(names: Sequence[str], limit: int) -> Iterator[Network]:
    """The zoo's classifiers of these names."""
    zoo = open_zoo()
    for name in names:
        spec = zoo.specs[name]
        items = list(spec.dataset.evaluation().first(limit))
        inputs = np.concatenate([spec.preprocess(item) for item, _ in items])
        labels = np.array([label for _, label in items], np.int64)
        known = ZOO_SPECS.get(spec.preprocess.__name__)
        yield Network(name, name.removesuffix("_bn"), "zoo", spec.file, known, inputs, labels)


def variants(network: Network, spoilt: int) -> Iterator[tuple[str, ModelProto, ModelProto, list[Feeds]]]:
    """Each INT8 model of the network with its name, the FP32 model and the held-out inputs."""
    original = admit(network.file).model
    reporter, kept = Reporter(silent), Checkpoints(None)
    stated = {} if network.spec is None else {Graph(original).inputs[0].name: network.spec}
    options = Options(inputs=stated)
    normalized = normalize(original)
    task = describe_task(original, normalized, reconstruct(normalized.model), options)
    samples = make_samples(task, options, reporter, kept)
    held_out: list[Feeds] = list(batches(task.plans, samples.held_out, 8))
    made = make_integers(task, samples, options, reporter, kept).model
    yield AS_MADE, made, original, held_out
    seed = zlib.crc32(network.name.encode())
    names = list(SABOTAGES)
    for name in [names[(seed + 2 * turn) % len(names)] for turn in range(spoilt)]:
        yield name, sabotage(made, name, seed), original, held_out
    if spoilt >= len(names):
        noisy = Options(method=Method.NOISE, inputs=stated)
        drawn = make_samples(task, noisy, reporter, kept)
        yield NOISE, make_integers(task, drawn, noisy, reporter, kept).model, original, held_out


def judged(float32: ort.InferenceSession, int8: ort.InferenceSession, original: ModelProto, feeds: list[Feeds]) -> Any:
    """The classifier's decisions of both sessions on the feeds, as ``compare`` would keep them."""
    output = class_output(Graph(original))
    assert output is not None
    choices = Choices(output)
    for feed, _ in split(float32, feeds):
        (x,), (y,) = float32.run([output.name], feed), int8.run([output.name], feed)
        choices.add(np.asarray(x), np.asarray(y))
    return choices


def measure(network: Network, spoilt: int) -> Iterator[dict[str, Any]]:
    """A line for every INT8 model of the network."""
    for name, int8, original, held_out in variants(network, spoilt):
        plain = name in (AS_MADE, NOISE)
        levels = ort.GraphOptimizationLevel
        level = levels.ORT_ENABLE_ALL if plain else levels.ORT_DISABLE_ALL
        before, after = open_session(original), open_session(int8, level=level)
        synthetic = judged(before, after, original, held_out)
        given = before.get_inputs()[0].name
        real = judged(before, after, original, [{given: part} for part in np.array_split(network.inputs, 20)])
        decisions, truth = synthetic.result(), real.result()
        if decisions is None or truth is None or decisions.margin_errors is None:
            continue
        right = [np.array(each) == network.labels for each in (real.before, real.after)]
        yield {
            "network": network.name,
            "architecture": network.architecture,
            "source": network.source,
            "variant": name,
            "decisions": decisions.model_dump(mode="json"),
            "margins": np.round(synthetic.errors.margins, 5).tolist(),
            "changes": np.round(synthetic.errors.changes, 6).tolist(),
            "confidences": np.round(synthetic.errors.confidences, 4).tolist(),
            "real": {
                "n": len(network.labels),
                "flips": truth.agreement.n - truth.agreement.successes,
                "before": int(right[0].sum()),
                "after": int(right[1].sum()),
                "discordant": int((right[0] != right[1]).sum()),
                "errors": truth.margin_errors.model_dump(mode="json"),
            },
        }


def main() -> None:
    """What was asked for has been measured, or fitted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--population", type=Path)
    parser.add_argument("--zoo", nargs="*", default=[])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--spoilt", type=int, default=4, help="sabotages of each; with all nine, noise calibration too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    done = {json.loads(line)["network"] for line in given.out.open()} if given.out.exists() else set()
    found = list(population(given.population, given.limit)) if given.population else []
    for network in [
        *sorted(found, key=lambda each: zlib.crc32(each.name.encode())),
        *zoo_networks(given.zoo, given.limit),
    ]:
        if network.name in done:
            continue
        lines = [json.dumps(each) for each in measure(network, given.spoilt)]
        with given.out.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))
        print(network.name, len(lines), flush=True)


if __name__ == "__main__":
    main()
