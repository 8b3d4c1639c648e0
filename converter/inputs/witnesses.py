"""The tensors of a network that tell something of its inputs' preprocessing, found in its graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from converter.families import SOFTMAXES
from converter.graph import Graph, attribute, weight_of
from converter.normalization import BatchNormStatistics
from converter.scores import class_output, find_scores

__all__ = ["FAINT", "LEAST_CHANNELS", "Vector", "Witnesses", "call_witnesses", "estimate_mean", "layers_by_distance"]

Vector = NDArray[np.float64]

LEAST_CHANNELS = 4  # from which a slope over channels means anything
FAINT = 1e-2  # of the median deviation, below which a channel is dead


@dataclass(frozen=True)
class Witnesses:
    """The tensors of a network that tell something of its inputs' scale."""

    first: str | None
    biases: Mapping[str, Vector]  # of convolutions, by their output
    layers: tuple[str, ...]
    statistics: Mapping[str, BatchNormStatistics]
    classes: tuple[tuple[str, bool], ...]  # class scores, and whether they are probabilities already
    places: tuple[tuple[str, int | None], ...]
    bounded: Mapping[str, tuple[float, float]]  # what saturates there
    rectified: tuple[str, ...]
    returned: str | None
    filters: tuple[Vector, Vector] | None = None  # sums and biases of the first layer's filters, each over its norm
    last: frozenset[str] = frozenset()  # results whose channels are on the last axis
    gates: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # of recurrent layers by what they read:
    # [gates, features], whose products with that tensor are listened to as a layer's results


def call_witnesses(
    graph: Graph,
    name: str,
    batch_norms: Iterable[BatchNormStatistics],
    depth: int | None = None,
    conventional: bool = True,
) -> Witnesses:
    """Who can tell something of the input of this name; with ``depth`` only so many layers that it reaches first.

    Steps and frames are weighed by their features, and recurrent layers by their gates, for what is not
    ``conventional`` alone: for pictures and sound the weights were fitted without.
    """
    reached = _reached(graph, name)
    layers = [node for node in graph.nodes if node.output[0] in reached and weight_of(node, graph)]
    if depth is not None:
        layers = layers_by_distance(graph, name)[:depth]
        deepest = max((reached[node.output[0]] for node in layers), default=0)
        reached = {tensor: distance for tensor, distance in reached.items() if distance <= deepest}
    biases = {}
    for node in layers:
        if node.op_type == "Conv" and len(node.input) > 2 and node.input[2] in graph.initializers:
            bias = np.asarray(graph.initializers[node.input[2]], np.float64).reshape(-1)
            if bias.size >= LEAST_CHANNELS and bias.any():
                biases[node.output[0]] = bias
    classes = class_output(graph)
    scores = []
    if classes is not None and classes.name in reached:
        last = graph.producer(classes.name)
        softmax = last is not None and last.op_type in SOFTMAXES
        scores = [(last.input[0] if softmax and last is not None else classes.name, False)]
    places = [] if scores else [(each.tensor, each.axis) for each in find_scores(graph, None) if each.tensor in reached]
    return Witnesses(
        min(layers, key=lambda node: reached[node.output[0]]).output[0] if layers else None,
        biases,
        tuple(node.output[0] for node in layers),
        {each.tensor: each for each in batch_norms if each.tensor in reached},
        tuple(scores),
        tuple(places),
        _bounded(graph, reached),
        tuple(node.output[0] for node in graph.nodes if node.op_type == "Relu" and node.output[0] in reached),
        _returned(graph, name) if depth is None else None,
        _filters(graph, layers, reached),
        frozenset() if conventional else _with_channels_last(graph, layers),
        {} if conventional else _gates(graph, reached),
    )


def layers_by_distance(graph: Graph, name: str) -> list[NodeProto]:
    """The weighted layers that an input reaches, nearest first."""
    reached = _reached(graph, name)
    layers = [node for node in graph.nodes if node.output[0] in reached and weight_of(node, graph)]
    return sorted(layers, key=lambda node: reached[node.output[0]])


def _with_channels_last(graph: Graph, layers: Sequence[NodeProto]) -> frozenset[str]:
    """The results of products of steps or frames."""
    products = [node.output[0] for node in layers if node.op_type == "MatMul"]
    return frozenset(each for each in products if len(graph.shapes.get(each, ())) > 2)


def _gates(graph: Graph, reached: Mapping[str, int]) -> dict[str, NDArray[np.float32]]:
    """The weights [gates, features] of every recurrent layer's first direction, by the tensor that it reads."""
    return {
        node.input[0]: np.array(graph.initializers[node.input[1]][0], np.float32)
        for node in graph.nodes
        if node.op_type in ("LSTM", "GRU", "RNN") and node.input[0] in reached and node.input[1] in graph.initializers
    }


def _filters(graph: Graph, layers: Sequence[NodeProto], reached: Mapping[str, int]) -> tuple[Vector, Vector] | None:
    """Sums and biases of the filters of a first convolution or matrix product, in units of their norms."""
    node = min(layers, key=lambda each: reached[each.output[0]], default=None)
    if node is None or node.op_type not in ("Conv", "Gemm"):
        return None
    if len(node.input) < 3 or not {*node.input[1:3]} <= graph.initializers.keys():
        return None
    weight = np.asarray(graph.initializers[node.input[1]], np.float64)
    if node.op_type == "Gemm" and not attribute(node, "transB", 0):
        weight = weight.T
    flat = weight.reshape(len(weight), -1)
    norm = np.sqrt((flat**2).sum(1))
    alive = norm > FAINT * np.median(norm)
    bias = np.asarray(graph.initializers[node.input[2]], np.float64).reshape(-1)
    if alive.sum() < LEAST_CHANNELS or bias.size != len(weight):
        return None
    sums: Vector = flat.sum(1)[alive] / norm[alive]
    return (sums, bias[alive] / norm[alive]) if (sums**2).sum() > 0 else None


def estimate_mean(witnesses: Witnesses) -> tuple[float, float] | None:
    """The inputs' mean that the first layer's biases take back, and its standard error; None without biases."""
    if witnesses.filters is None:
        return None
    sums, bias = witnesses.filters
    slope = float(sums @ bias) / float(sums @ sums)
    error = math.sqrt(float(((bias - slope * sums) ** 2).sum()) / (len(sums) - 1) / float(sums @ sums))
    return -slope, error


def _reached(graph: Graph, name: str) -> dict[str, int]:
    """How many nodes away each tensor is that depends on the input."""
    distance = {name: 0}
    for node in graph.nodes:
        nearest = [distance[each] for each in node.input if each in distance]
        if nearest:
            distance.update({each: min(nearest) + 1 for each in node.output if each})
    return distance


def _bounded(graph: Graph, reached: Mapping[str, int]) -> dict[str, tuple[float, float]]:
    """What goes into functions that are flat outside of an interval, and that interval; what ends in scores is not of
    them.
    """
    found = {}
    for node in graph.nodes:
        if not node.input or node.input[0] not in reached or node.output[0] in graph.output_names:
            continue
        match node.op_type:
            case "Clip":
                bounds = [graph.initializers.get(each) if each else None for each in (*node.input[1:3], "", "")[:2]]
                if bounds[1] is not None and bounds[1].size == 1:
                    found[node.input[0]] = (-math.inf, float(bounds[1].item()))
            case "HardSwish" | "HardSigmoid":
                found[node.input[0]] = (-math.inf, 3.0)
            case "Sigmoid":
                found[node.input[0]] = (-6.0, 6.0)
            case "Tanh":
                found[node.input[0]] = (-3.0, 3.0)
    return found


def _returned(graph: Graph, name: str) -> str | None:
    """The output that is a picture of as many channels as the input has."""
    given = next(each for each in graph.inputs if each.name == name)
    for output in graph.outputs:
        shape = output.shape or graph.shapes.get(output.name)
        if shape is not None and given.shape is not None and len(shape) == len(given.shape) == 4:
            node = graph.producer(output.name)
            pictures = node is not None and node.op_type in (
                "Conv",
                "DepthToSpace",
                "Add",
                "Clip",
                "ConvTranspose",
                "Sub",
            )
            if pictures and shape[1] == given.shape[1]:
                return output.name
    return None
