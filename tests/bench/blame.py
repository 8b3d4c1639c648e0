"""Whether the report blames the tensor that was spoilt: one at a time, its rank among the contributions.

    python -m tests.bench.blame --population FOLDER [--networks N] [--trials N] [--dry]

Every trial makes the steps of one activation 24 times as coarse, its range a tenth, or a weight 2 bits wide in an INT8
model of the population. Those that the outputs do not show (less than 3 dB) blame nobody and are left out.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from onnx import ModelProto, numpy_helper

from converter.admission import admit
from converter.checkpoints import Checkpoints
from converter.evaluation.ablation import contributions
from converter.evaluation.grids import Grid, read_grids
from converter.graph import Graph
from converter.inputs.description import describe_task
from converter.normalization import normalize
from converter.options import Options
from converter.progress import Reporter, silent
from converter.quantization.stage import Integers, make_integers
from converter.reconstruction import reconstruct
from converter.sessions import Feeds, open_session
from converter.synthesis import batches
from converter.synthesis.stage import make_samples
from tests.bench.prediction import Network, population
from tests.bench.results import publish, table

SEEN = 2.0  # times the error of the outputs: 3 dB
FEEDS = 8


def prepared(network: Network) -> tuple[Integers, list[Feeds]]:
    """The INT8 model of a network and held-out inputs, one by one."""
    original = admit(network.file).model
    stated = {} if network.spec is None else {Graph(original).inputs[0].name: network.spec}
    options, reporter, kept = Options(inputs=stated), Reporter(silent), Checkpoints(None)
    normalized = normalize(original)
    task = describe_task(original, normalized, reconstruct(normalized.model), options)
    samples = make_samples(task, options, reporter, kept)
    made = make_integers(task, samples, options, reporter, kept)
    feeds: list[Feeds] = list(batches(task.plans, samples.held_out, 1))
    return made, feeds[:FEEDS]


def spoil(int8: ModelProto, grid: Grid, how: str) -> ModelProto:
    """The model with one tensor's grid made worse."""
    model = ModelProto()
    model.CopyFrom(int8)
    name = grid.codes
    if grid.kind == "activation":
        name = next(node.input[1] for node in model.graph.node if grid.codes in node.output)
    for tensor in model.graph.initializer:
        if tensor.name == name:
            old = numpy_helper.to_array(tensor)
            if grid.kind == "weight":
                new = np.clip(np.round(old.astype(np.float64) / 64) * 64, -128, 127).astype(old.dtype)
            else:
                new = (old * (24 if how == "coarse" else 0.1)).astype(old.dtype)
            tensor.CopyFrom(numpy_helper.from_array(new, name))
    return model


def grids_of(made: Integers, int8: ModelProto) -> list[Grid]:
    """The grids of weights and activations in one of the network's INT8 models."""
    return [each for each in read_grids(Graph(made.float32), Graph(int8)) if each.kind != "bias"]


def trials(network: Network, count: int) -> Iterator[tuple[str, int]]:
    """How one tensor was spoilt, and its rank among those blamed, from 1."""
    made, feeds = prepared(network)
    grids = grids_of(made, made.model)
    draw = np.random.default_rng(zlib.crc32(network.name.encode()))
    before = total(made.float32, made.model, feeds)
    for _ in range(count):
        grid = grids[draw.integers(len(grids))]
        how = "weight of 2 bits" if grid.kind == "weight" else ("coarse", "cut")[draw.integers(2)]
        worse = spoil(made.model, grid, how)
        spoilt = {
            new.name
            for new, old in zip(grids_of(made, worse), grids_of(made, made.model), strict=True)
            if not np.array_equal(new.scale, old.scale)
        }
        shares = contributions(made.float32, worse, feeds)
        if total(made.float32, worse, feeds) < SEEN * before:
            continue
        ranked = sorted(shares, key=lambda name: -shares[name])
        yield how, 1 + min(ranked.index(name) for name in spoilt | {grid.name} if name in shares)


def total(float32: ModelProto, int8: ModelProto, feeds: list[Feeds]) -> float:
    """The error of all outputs relative to their power, the file computed as it is written."""
    before, after = open_session(float32), open_session(int8, level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    found = 0.0
    for feed in feeds:
        for x, y in zip(before.run(None, feed), after.run(None, feed), strict=True):
            found += float(np.square(y - x).sum() / max(np.square(x).sum(), 1e-30))
    return found


def main() -> None:
    """The ranks are printed, and in RESULTS.md unless it is a dry run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--population", type=Path, required=True)
    parser.add_argument("--networks", type=int, default=12)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[int]] = {}
    chosen = sorted(population(given.population, 1), key=lambda each: zlib.crc32(each.name.encode()))[: given.networks]
    for network in chosen:
        for how, rank in trials(network, given.trials):
            found.setdefault(how, []).append(rank)
    rows = [
        [how, str(len(ranks)), f"{np.mean([r == 1 for r in ranks]):.0%}", f"{np.mean([r <= 3 for r in ranks]):.0%}"]
        for how, ranks in sorted([*found.items(), ("all", [rank for each in found.values() for rank in each])])
    ]
    body = table(["what was spoilt", "trials that the outputs show", "blamed first", "among the first three"], rows)
    arguments = [each for each in sys.argv[1:] if each != "--dry"]
    publish("Blame", "blame", arguments, f"{len(chosen)} networks of the population.", body, dry=given.dry)


if __name__ == "__main__":
    main()
