"""Channels of one tensor brought to one range, without changing the float function.

One step size serves a whole activation tensor, so a channel that uses a quarter of its range is rounded four times too
coarsely. Where a channel is only ever scaled, moved, added to its like or rectified between the layer that makes it and
the layers that read it, it can be made s times larger by the one and taken s times less by the others. That is
cross-layer equalization (Nagel et al. 2019, eq. 7-11) over whole residual streams and depthwise layers, with the scales
of SmoothQuant (Xiao et al. 2023, eq. 4) at its alpha of 1/2, so that activations and weights share the difficulty.
LayerNormalization's scale makes channels as a layer does, which is SmoothQuant's own case.

Which channels belong together is found by sending channel numbers through the graph: a node that only moves data is run
on the numbers themselves, so shuffles, splits and concatenations need no rules of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto
from torch import Tensor

from converter.families import MOVING
from converter.graph import Array, Graph, attribute, copied, output_channels, weight_of
from converter.inputs.plans import tensors
from converter.normalization.rewriting import put_constants
from converter.options import Options, Precision, Step
from converter.quantization.channel_numbers import Channels, Labels, Numbers, label_fresh
from converter.reconstruction import Reconstruction
from converter.sessions import Feeds

__all__ = [
    "LAYERS",
    "NORMALIZATIONS",
    "Equalization",
    "Maker",
    "equalize",
    "equalized_kinds",
    "equalizing_step",
]


class Maker(Enum):
    """What makes the channels that may be scaled."""

    LAYER = auto()  # its weights
    NORMALIZATION = auto()  # its scale and bias
    SCALE = auto()  # a constant factor
    BIAS = auto()  # of a MatMul: it is scaled with what it is added to


SPATIAL = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})
POINTWISE = frozenset({"Relu", "LeakyRelu", "Identity"})
LAYERS = frozenset({Maker.LAYER})
NORMALIZATIONS = frozenset({Maker.NORMALIZATION, Maker.SCALE})
MOST = 8.0  # a channel is enlarged by; beyond, it is nearly dead and its weights would dwarf the others'
STRENGTH = 0.5  # exponent of the wanted scale


@dataclass
class Equalization:
    """The model with equalized channels and how many channels of how many layers were scaled."""

    model: ModelProto
    channels: int
    layers: int
    largest: float


def equalizing_step(options: Options) -> Step:
    """The step that equalization is: of layers where those take part, else of what normalizations leave."""
    layers = options.precision is Precision.W4A4 and Step.EQUALIZATION not in options.skip
    return Step.EQUALIZATION if layers else Step.MIGRATION


def equalized_kinds(options: Options, graph: Graph) -> frozenset[Maker]:
    """What fits activations' codes better and weights' codes worse: layers at 4-bit activations, normalizations unless
    weights alone have 4 bits.

    Weights of 4 bits suffer most: at the mixed precision equalized layers cost SqueezeNet 2.9 points of agreement and
    five small classifiers 0.8, normalizations cost ViT 2.3. At 8 bits equalized layers fill every channel's range up to
    what the samples showed, and real inputs show more: 5 points on SqueezeNet (tests/bench/RESULTS.md).
    """
    if options.precision in (Precision.W4A8, Precision.MIXED):
        return frozenset()
    scaled = any(node.op_type in ("LayerNormalization", "Mul") for node in graph.nodes)
    kinds = NORMALIZATIONS if scaled and Step.MIGRATION not in options.skip else frozenset[Maker]()
    return kinds | LAYERS if equalizing_step(options) is Step.EQUALIZATION else kinds


def equalize(
    model: ModelProto,
    network: Reconstruction,
    graph: Graph,
    rounded: Iterable[str],
    calibration: Iterable[Feeds],
    kinds: frozenset[Maker],
) -> Equalization:
    """The model with the channels of its ``rounded`` tensors equalized as far as the graph allows.

    ``kinds`` says which makers of channels may be scaled: LAYERS, NORMALIZATIONS or both.
    """
    batches = list(calibration)
    shapes, indices = _looked_at(network, graph, batches[0])
    labels = Labels(indices=indices)
    made: dict[str, tuple[Maker, Numbers]] = {}  # node -> kind, numbers of the channels it makes
    read: dict[str, Numbers] = {}  # node -> numbers of the channels that its weight reads
    for name in (each.name for each in graph.inputs):
        label_fresh(labels, name, shapes, fixed=True)
    for node in graph.nodes:
        _follow(node, graph, network, shapes, labels, made, read)
    for output in graph.outputs:
        labels.fix(output.name)
    movable = {labels.channels.root(int(each)) for kind, numbers in made.values() if kind in kinds for each in numbers}
    scales = _scales(network, graph, labels, [name for name in rounded if name in labels.numbers], batches)
    scales = {root: scale for root, scale in scales.items() if root in movable}
    return _rescale(model, graph, labels.channels, made, read, scales)


def _looked_at(network: Reconstruction, graph: Graph, feeds: Feeds) -> tuple[dict[str, torch.Size], dict[str, Tensor]]:
    """The shape of every float tensor, and every tensor of integers: where data go may depend on the inputs."""
    shapes: dict[str, torch.Size] = {}
    indices: dict[str, Tensor] = {}

    def look(name: str) -> Callable[[Tensor], Tensor]:
        def note(value: Tensor) -> Tensor:
            if isinstance(value, Tensor) and value.is_floating_point():
                shapes[name] = value.shape
            elif isinstance(value, Tensor):
                indices[name] = value
            return value

        return note

    names = [name for node in graph.nodes for name in node.output if name] + [each.name for each in graph.inputs]
    with torch.no_grad():
        network.run(tensors(feeds), [each.name for each in graph.outputs], edit={name: look(name) for name in names})
    return shapes, indices


def _follow(
    node: NodeProto,
    graph: Graph,
    network: Reconstruction,
    shapes: Mapping[str, torch.Size],
    labels: Labels,
    made: dict[str, tuple[Maker, Numbers]],
    read: dict[str, Numbers],
) -> None:
    """Numbers the channels of a node's outputs, and fixes those that the node does not let through."""
    data = [name for name in node.input if name in labels.numbers]
    if _follow_layer(node, graph, shapes, labels, made, read):
        return
    if node.op_type in POINTWISE and data:
        labels.numbers[node.output[0]] = labels.numbers[data[0]]
        return
    if node.op_type in SPATIAL and data and node.output[0] in shapes:
        numbers = labels.along(data[0], 1)
        if numbers is not None:
            view = [-1 if each == 1 else 1 for each in range(len(shapes[node.output[0]]))]
            held = torch.from_numpy(numbers.astype(np.float64)).reshape(view)
            labels.numbers[node.output[0]] = held.expand(shapes[node.output[0]])
            return
    if node.op_type in MOVING and data and _all_numbered(node, shapes, labels):
        moved = _moved(node, network, data, labels)
        if moved and all(
            isinstance(value, Tensor) and value.shape == shapes.get(name) for name, value in moved.items()
        ):
            labels.numbers.update(moved)
            return
    if node.op_type == "Add" and len(data) == 2 and shapes.get(data[0]) == shapes.get(data[1]):
        one, other = (labels.numbers[name].reshape(-1).numpy().astype(np.int64) for name in data)
        pairs = np.unique(np.stack([one, other], 1), axis=0)
        labels.channels.join(pairs[:, 0].tolist(), pairs[:, 1].tolist())
        labels.numbers[node.output[0]] = labels.numbers[data[0]]
        return
    if node.op_type == "Mul" and len(data) == 2 and _gated(node, data, shapes, labels):
        return
    for name in data:
        labels.fix(name)
    for name in node.output:
        if name:
            label_fresh(labels, name, shapes, fixed=True)


def _moved(node: NodeProto, network: Reconstruction, data: list[str], labels: Labels) -> dict[str, Tensor]:
    """The numbers where the node puts them; none where it does not run on its own, as with a batch written down."""
    feeds = {name: labels.numbers[name].contiguous() for name in data}
    feeds |= {name: labels.indices[name] for name in node.input if name in labels.indices}
    with torch.no_grad(), suppress(RuntimeError, IndexError, ValueError):
        return network.run(feeds, [name for name in node.output if name])
    return {}


def _all_numbered(node: NodeProto, shapes: Mapping[str, torch.Size], labels: Labels) -> bool:
    """Whether every float tensor that the node moves has numbers; a constant that joins a concatenation has none."""
    needed = list(node.input) if node.op_type == "Concat" else [name for name in node.input if name in shapes]
    return all(name in labels.numbers for name in needed)


def _gated(node: NodeProto, data: list[str], shapes: Mapping[str, torch.Size], labels: Labels) -> bool:
    """A product scales with either factor: the one that is free carries the channels, the gate stays fixed."""
    for carrier, gate in (data, data[::-1]):
        free = not all(labels.channels.is_fixed(int(number)) for number in labels.of(carrier))
        if (
            free
            and shapes.get(carrier) == shapes.get(node.output[0])
            and not set(labels.of(carrier)) & set(labels.of(gate))
        ):
            labels.fix(gate)
            labels.numbers[node.output[0]] = labels.numbers[carrier]
            return True
    return False


def _follow_layer(
    node: NodeProto,
    graph: Graph,
    shapes: Mapping[str, torch.Size],
    labels: Labels,
    made: dict[str, tuple[Maker, Numbers]],
    read: dict[str, Numbers],
) -> bool:
    """Whether the node makes new channels: a weighted layer, or a normalization with a constant scale."""
    found = weight_of(node, graph)
    if found is not None and _alone(node.input[1:], graph) and node.input[0] in labels.numbers:
        reads = labels.along(node.input[0], 1 if node.op_type == "Conv" else -1)
        if reads is None:
            labels.fix(node.input[0])
        else:
            read[node.name] = reads
        axis = output_channels(node)
        made[node.name] = (Maker.LAYER, label_fresh(labels, node.output[0], shapes, fixed=False, axis=axis))
        if node.op_type == "Conv" and any(node.input[2:]) and node.input[2] not in graph.initializers:
            labels.fix(node.output[0])
        return True
    if node.op_type == "LayerNormalization" and _alone(node.input[1:], graph) and node.input[1] in graph.initializers:
        labels.fix(node.input[0])
        if graph.initializers[node.input[1]].ndim == 1:
            made[node.name] = (Maker.NORMALIZATION, label_fresh(labels, node.output[0], shapes, fixed=False, axis=-1))
            return True
    if node.op_type == "Mul":
        constant = [name for name in node.input if name in graph.initializers]
        if len(constant) == 1 and _alone(constant, graph) and graph.initializers[constant[0]].ndim == 1:
            other = next(name for name in node.input if name not in graph.initializers)
            shape = shapes.get(node.output[0])
            if shape is not None and shape[-1:] == graph.initializers[constant[0]].shape and len(shape) > 1:
                labels.fix(other)
                made[node.name] = (Maker.SCALE, label_fresh(labels, node.output[0], shapes, fixed=False, axis=-1))
                return True
    if node.op_type == "Add":  # the bias of a MatMul
        constant = [name for name in node.input if name in graph.initializers]
        moving = [name for name in node.input if name in labels.numbers]
        if (
            len(constant) == 1
            and len(moving) == 1
            and _alone(constant, graph)
            and graph.initializers[constant[0]].ndim == 1
        ):
            numbers = labels.along(moving[0], -1)
            if numbers is not None and len(numbers) == graph.initializers[constant[0]].size:
                made[node.name] = (Maker.BIAS, numbers)
                labels.numbers[node.output[0]] = labels.numbers[moving[0]]
                return True
    return False


def _alone(names: Iterable[str], graph: Graph) -> bool:
    """Whether no other node reads these constants."""
    return all(not name or len(graph.consumers(name)) == 1 for name in names)


def _scales(
    network: Reconstruction, graph: Graph, labels: Labels, rounded: list[str], batches: list[Feeds]
) -> dict[int, float]:
    """How much each class of channels may grow: until one of its channels fills its tensor's range."""
    peaks: dict[str, Tensor] = {}
    axes = {
        name: 1 if labels.numbers[name].dim() >= 3 and labels.along(name, 1) is not None else -1 for name in rounded
    }

    def watch(name: str) -> Callable[[Tensor], Tensor]:
        def look(value: Tensor) -> Tensor:
            axis = axes[name]
            peak = value.abs().movedim(axis, 0).reshape(value.shape[axis], -1).amax(1)
            peaks[name] = torch.maximum(peaks[name], peak) if name in peaks else peak
            return value

        return look

    usable = [
        name for name, axis in axes.items() if labels.numbers[name].dim() and labels.along(name, axis) is not None
    ]
    last = network.last_of(usable)
    with torch.no_grad():
        for feeds in batches:
            network.run(tensors(feeds), last, edit={name: watch(name) for name in usable})
    wanted: dict[int, float] = {}
    for name in usable:
        numbers = labels.along(name, axes[name])
        if numbers is None or len(numbers) != peaks[name].numel():
            labels.fix(name)
            continue
        top = float(peaks[name].max())
        for number, peak in zip(numbers.tolist(), peaks[name].tolist(), strict=True):
            root = labels.channels.root(number)
            room = min(top / max(peak, 1e-12), MOST**2) if top > 0 else 1.0
            wanted[root] = min(wanted.get(root, MOST**2), room)
    return {
        root: min(room**STRENGTH, MOST)
        for root, room in wanted.items()
        if root not in labels.channels.fixed and room > 1.01
    }


def _rescale(
    model: ModelProto,
    graph: Graph,
    channels: Channels,
    made: Mapping[str, tuple[Maker, Numbers]],
    read: Mapping[str, Numbers],
    scales: Mapping[int, float],
) -> Equalization:
    def factors(numbers: Numbers) -> NDArray[np.float64]:
        return np.array([scales.get(channels.root(int(each)), 1.0) for each in numbers], np.float64)

    values: dict[str, Array] = {}
    touched = 0
    for node in graph.nodes:
        kind, numbers = made.get(node.name, (None, np.empty(0, np.int64)))
        grow, shrink = factors(numbers), factors(read.get(node.name, np.empty(0, np.int64)))
        if not (grow != 1).any() and not (shrink != 1).any():
            continue
        touched += 1
        if kind is Maker.LAYER:
            values |= _rescale_layer(node, graph, grow, shrink)
        else:  # a normalization's scale and bias, a constant factor, or a MatMul's bias
            for name in node.input:
                if name in graph.initializers and graph.initializers[name].size == len(grow):
                    values[name] = graph.initializers[name] * grow
    changed = copied(model)
    put_constants(changed, values)
    count = sum(
        int((factors(numbers) != 1).sum()) for kind, numbers in made.values() if kind in LAYERS | NORMALIZATIONS
    )
    return Equalization(changed, count, touched, max(scales.values(), default=1.0))


def _rescale_layer(
    node: NodeProto, graph: Graph, grow: NDArray[np.float64], shrink: NDArray[np.float64]
) -> dict[str, Array]:
    """The weight with its output channels ``grow`` times larger and its input channels ``shrink`` times smaller, and
    its bias.
    """
    found = weight_of(node, graph)
    assert found is not None
    weight = np.asarray(graph.initializers[found[0]], np.float64)
    rows = np.moveaxis(weight, found[1], 0)  # [O, I, ...]
    if shrink.size:
        groups = int(attribute(node, "group", 1)) if node.op_type == "Conv" else 1
        inputs = shrink.reshape(groups, -1).repeat(rows.shape[0] // groups, axis=0)  # [O, I / groups]
        rows = rows / inputs.reshape(*inputs.shape, *[1] * (rows.ndim - 2))
    rows = rows * grow.reshape(-1, *[1] * (rows.ndim - 1))
    changed = {found[0]: np.moveaxis(rows, 0, found[1])}
    if len(node.input) > 2 and node.input[2] in graph.initializers:
        changed[node.input[2]] = graph.initializers[node.input[2]] * grow
    return changed
