"""Moments that are propagated from weights, or matched by samples, against those of real activations, layer by layer.

python -m tests.bench.moments                                      # every classifier, written into RESULTS.md
python -m tests.bench.moments --only cifar10_resnet20_bn --dry
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converter.admission import admit
from converter.graph import Graph, weight_of
from converter.inputs.drawing import draw_inputs
from converter.inputs.plans import assemble
from converter.inputs.recognition import describe_inputs
from converter.inputs.scaling import settle_scalings
from converter.normalization import normalize
from converter.reconstruction import Reconstruction, reconstruct
from converter.synthesis.gaussians import input_moments
from converter.synthesis.gzsq import additive_targets
from converter.synthesis.moments import channel_axis, propagate
from tests.bench.evaluator import open_zoo
from tests.bench.results import publish, table

TITLE = "Moments: propagated from weights against real activations"
LEGEND = "Error of the mean in real deviations / |log ratio| of deviations, medians over channels."
OBSERVED = 64  # real samples whose activations the moments are compared with


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
    drawn = assemble(plans, draw_inputs(plans, OBSERVED, generator))
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
    parser = argparse.ArgumentParser(prog="python -m tests.bench.moments", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models (default: every classifier)")
    parser.add_argument("--dry", action="store_true", help="print only, leave RESULTS.md as it is")
    options = parser.parse_args(given)
    zoo = open_zoo()
    text = compare_moments(options.only or [name for name, spec in zoo.specs.items() if spec.metric.classifier])
    publish(TITLE, "moments", given, LEGEND, text, dry=options.dry)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
