"""Outliers of a few channels move from the activations of dynamic products into their weights, the function unchanged.

A dynamic product has one step for all channels of its input, and a few channels of a transformer reach ten times as far
as the others. After SmoothQuant (Xiao et al. 2023, eq. 3 and 4) each channel is divided by max|x|^a / max|w|^(1-a) and
the weights of its row are multiplied by it. Where SmoothQuant has one exponent for a whole model, here each product has
the one that makes its own predicted error least: that of the rounded input plus that of the rounded weights. On MiniLM
the cosine so goes from 0.9933 to 0.9979 (one exponent of 0.5: 0.9963; tests/bench/RESULTS.md). Samples say only how far
channels reach beside each other; no range is taken from them, so that inputs they do not show are not clipped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper
from torch import Tensor

from converter.families import PRODUCTS
from converter.graph import Graph, attribute, copied
from converter.inputs.plans import tensors
from converter.normalization.rewriting import Rewriting
from converter.quantization.integer_weights import round_channels
from converter.reconstruction import Reconstruction
from converter.sessions import Feeds

__all__ = ["Smoothed", "smooth"]

EXPONENTS = (0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LEAST_GAIN = 1.5  # in predicted squared error, below which one more multiplication is not worth its time
FAINTEST = 1e-3  # of the farthest channel's reach: samples may just not show what a quieter one does


@dataclass(frozen=True)
class Smoothed:
    """A float model of the same function, and by how much each smoothed tensor's predicted error fell."""

    model: ModelProto
    gains: dict[str, float]


@dataclass
class _Reach:
    """How far one tensor's channels reach in each sample, which is what a step is found from at run time."""

    low: list[NDArray[np.float64]]
    high: list[NDArray[np.float64]]
    squares: NDArray[np.float64]
    rows: int = 0

    def update(self, values: Tensor) -> None:
        """Takes in one batch, the samples along its first axis and the channels along its last."""
        flat = (
            values.detach().reshape(len(values), -1, values.shape[-1]) if values.dim() > 2 else values.detach()[:, None]
        )
        if flat.numel():
            array = flat.double().numpy()
            self.low.append(np.minimum(array.min(1), 0))
            self.high.append(np.maximum(array.max(1), 0))
            self.squares = self.squares + (array**2).sum((0, 1))
            self.rows += flat.shape[0] * flat.shape[1]


def smooth(
    model: ModelProto, graph: Graph, network: Reconstruction, dynamic: Collection[str], batches: Iterable[Feeds]
) -> Smoothed:
    """The model with the inputs of the products named in ``dynamic`` smoothed, where that pays."""
    groups: dict[str, list[NodeProto]] = {}
    for node in graph.nodes:
        if node.name in dynamic and node.op_type in PRODUCTS and node.input[0] not in graph.initializers:
            groups.setdefault(node.input[0], []).append(node)
    groups = {name: nodes for name, nodes in groups.items() if all(_own_weight(node, nodes, graph) for node in nodes)}
    reaches = _observe(network, {name: _weight(nodes[0], graph).shape[0] for name, nodes in groups.items()}, batches)
    rewriting = Rewriting(copied(model))
    present = {node.name: node for node in rewriting.nodes}
    gains = {}
    for name, nodes in groups.items():
        gain, divisor = _best(reaches[name], np.concatenate([_weight(node, graph) for node in nodes], 1))
        if gain >= LEAST_GAIN:
            gains[name] = gain
            _divide(name, [present[node.name] for node in nodes], divisor, rewriting)
    return Smoothed(rewriting.finish(), gains)


def _weight(node: NodeProto, graph: Graph) -> NDArray[np.float64]:
    """[inputs, outputs] the weight of a product."""
    weight = graph.initializers[node.input[1]].astype(np.float64)
    return weight.T if _turned(node) else weight


def _turned(node: NodeProto) -> bool:
    return node.op_type == "Gemm" and bool(attribute(node, "transB", 0))


def _own_weight(node: NodeProto, group: list[NodeProto], graph: Graph) -> bool:
    """Whether nobody outside the group has this weight, nor is there a table that could be the same one transposed."""
    names = {each.name for each in group}
    shape = sorted(graph.initializers.shape(node.input[1]))
    tables = [each.input[0] for each in graph.nodes if each.op_type == "Gather" and each.input[0] in graph.initializers]
    return all(reader.name in names for reader in graph.consumers(node.input[1])) and not any(
        sorted(graph.initializers.shape(table)) == shape for table in tables
    )


def _observe(network: Reconstruction, channels: dict[str, int], batches: Iterable[Feeds]) -> dict[str, _Reach]:
    reaches = {name: _Reach([], [], np.zeros(count)) for name, count in channels.items()}

    def watch(reach: _Reach) -> Callable[[Tensor], Tensor]:
        def look(values: Tensor) -> Tensor:
            reach.update(values)
            return values

        return look

    hooks = {name: watch(reach) for name, reach in reaches.items()}
    with torch.no_grad():
        for feeds in batches if hooks else ():
            network.run(tensors(feeds), [*hooks], edit=hooks)
    return reaches


def _best(reach: _Reach, weight: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """The divisor of each channel with the least predicted error, and how many times less that is than without."""
    if not reach.rows:
        return 1.0, np.ones(len(weight))
    low, high = np.concatenate(reach.low), np.concatenate(reach.high)  # [samples, channels]
    far = np.maximum(high, -low).mean(0)
    if not np.isfinite(far).all() or far.max() <= 0:
        return 1.0, np.ones(len(weight))
    far = np.maximum(far, far.max() * FAINTEST)
    heavy = np.abs(weight).max(1)
    heavy = np.maximum(heavy, max(heavy.max(), 1e-12) * FAINTEST)
    power = reach.squares / reach.rows

    def error(divisor: NDArray[np.float64]) -> float:
        """Summed over outputs: the input's squared step times the weights', and the weights' times the input's."""
        step = ((high / divisor).max(1) - (low / divisor).min(1)) / 255
        scaled = weight * divisor[:, None]
        steps = round_channels(scaled, (1,), summed=0).scale.astype(np.float64)
        return float((step**2).mean() * (scaled**2).sum() + (steps**2).sum() * (power / divisor**2).sum())

    trials = [far**a / heavy ** (1 - a) for a in EXPONENTS]
    trials = [each / np.exp(np.log(each).mean()) for each in trials]
    divisor = min(trials, key=error)
    return error(np.ones(len(weight))) / max(error(divisor), 1e-300), divisor


def _divide(name: str, readers: list[NodeProto], divisor: NDArray[np.float64], rewriting: Rewriting) -> None:
    """The readers read the tensor divided by channel, their weights multiplied by the same."""
    for node in readers:
        weight = np.asarray(rewriting.constant(node.input[1]), np.float64)
        scaled = (weight * (divisor if _turned(node) else divisor[:, None])).astype(np.float32)
        rewriting.set_inputs(node, [name, rewriting.set_constant(node.input[1], scaled, node), *node.input[2:]])
    maker = rewriting.maker(name)
    if maker is not None and _absorbs(maker, readers, divisor, rewriting):
        inputs = list(maker.input)
        for index in range(1, len(inputs)):
            value = (np.asarray(rewriting.constant(inputs[index]), np.float64) / divisor).astype(np.float32)
            inputs[index] = rewriting.set_constant(inputs[index], value, maker)
        rewriting.set_inputs(maker, inputs)
        return
    inverse = rewriting.add_constant(f"{name}:inverse", (1 / divisor).astype(np.float32))
    smoothed = rewriting.fresh(f"{name}:smooth")
    for node in readers:
        rewriting.set_inputs(node, [smoothed, *node.input[1:]])
    rewriting.insert(readers[0], before=[helper.make_node("Mul", [name, inverse], [smoothed], name=smoothed)])


def _absorbs(maker: NodeProto, readers: list[NodeProto], divisor: NDArray[np.float64], rewriting: Rewriting) -> bool:
    """Whether the maker is a normalization by channel whose result nobody but the readers sees."""
    result = maker.output[0]
    constants = [rewriting.constant_input(maker, index) for index in range(1, len(maker.input))]
    return (
        maker.op_type == "LayerNormalization"
        and len(rewriting.readers(result)) == len(readers)
        and not rewriting.is_seen(result)
        and all(each is not None and each.shape == divisor.shape for each in constants)
    )
