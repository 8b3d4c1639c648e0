"""Weights and biases fitted to the integer network, layer after layer, so that errors do not pile up.

Two streams of the same samples walk through the graph: the float network's and the integer network's so far. At each
weighted layer the weights are rounded against the second moments of what the integer network really feeds it
(``converter.rounding.compensate``), and the bias takes up the difference of the two streams' mean outputs (empirical
bias correction, Nagel et al. 2019, section 4.2, on synthesized data, earlier layers already corrected).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from onnx import ModelProto, NodeProto, numpy_helper
from torch import Tensor

from converter.graph import Array, Graph, attribute, copied, output_channels, reads_of, weight_of
from converter.normalization.rewriting import put_constants
from converter.quantization.bias_room import least_steps
from converter.quantization.low_bit_rounding import Inputs, fit
from converter.quantization.qdq_writer import Range, WeightGrid
from converter.quantization.rounding import Moments, cancel, compensate, max_scale, mse_scale, nearest, patches
from converter.quantization.saturation import pair_scale
from converter.quantization.sensitivity import round_to_range
from converter.quantization.variation import Variation, relative
from converter.reconstruction import Reconstruction

__all__ = ["Correction", "LayerChange", "Settings", "apply_correction", "correct"]

COLUMNS_A_WEIGHT = 8  # input patches seen for each weight of a row, at most
LEAST_COLUMNS = 20_000  # input patches that may be seen of any layer, however few weights its rows have
WIDEST = 2_304  # weights a row up to which moments are kept: beyond, there are fewer patches than weights


@dataclass(frozen=True)
class LayerChange:
    """What was done to one layer: its squared output error relative to the output's variance, before and after."""

    node: str
    weight: str
    nearest_error: float
    error: float
    bias_shift: float
    too_wide: bool = False  # for errors that compensate: more than ``WIDEST`` weights a row


@dataclass
class Correction:
    """New values of weights and biases, and the grid each weight lies on."""

    weights: dict[str, Array] = field(default_factory=dict)
    biases: dict[str, Array] = field(default_factory=dict)  # by node name
    grids: dict[str, WeightGrid] = field(default_factory=dict)
    changes: list[LayerChange] = field(default_factory=list)


@dataclass(frozen=True)
class Settings:
    """Which parts of the correction are wanted, and at how many bits the weights end."""

    compensate: bool = True
    correct_bias: bool = True
    bits: Mapping[str, int] = field(default_factory=dict)  # by weight name; 8 where absent
    isolated: bool = False  # each layer as if it alone were rounded
    saturating: frozenset[str] = frozenset()  # nodes whose products the target adds in pairs of 16 bits


def correct(
    network: Reconstruction,
    graph: Graph,
    nodes: frozenset[str],
    quantized: Mapping[str, Range],
    batches: Sequence[Mapping[str, Tensor]],
    settings: Settings,
    progress: Callable[[float], None] = lambda _: None,
    settled: Correction | None = None,
) -> Correction:
    """Rounded weights and corrected biases of every weighted node in ``nodes``, given each activation's range.

    Weights ``settled`` before stay as they are, and the others make up for them.
    """
    result = settled or Correction()
    uses = _count_uses(graph)
    streams = [_Stream(dict(feeds), quantized) for feeds in batches]
    total = len(graph.nodes)
    with torch.no_grad():
        for index, node in enumerate(graph.nodes[: _behind_last(graph, nodes)]):
            found = weight_of(node, graph) if node.name in nodes else None
            if found is None or (settings.isolated and found[0] in result.weights):
                for stream in streams:
                    stream.step(network, node, graph)
            elif found[0] in result.weights:  # a weight that two nodes share keeps its first rounding
                for stream in streams:
                    stream.step(network, node, graph, {found[0]: torch.from_numpy(result.weights[found[0]].copy())})
            else:
                _correct_layer(network, graph, node, *found, streams, settings, result)
            for stream in streams:
                stream.release(node, uses)
            _spend(node, uses)
            progress((index + 1) / total)
    return result


def _behind_last(graph: Graph, nodes: frozenset[str]) -> int:
    """The place behind the last layer to correct: what follows, such as NonMaxSuppression, changes no weight."""
    places = [place for place, node in enumerate(graph.nodes) if node.name in nodes and weight_of(node, graph)]
    return max(places, default=-1) + 1


def _count_uses(graph: Graph) -> dict[str, int]:
    uses: dict[str, int] = {}
    for node in graph.nodes:
        for tensor in reads_of(node):
            uses[tensor] = uses.get(tensor, 0) + 1
    return uses


def _spend(node: NodeProto, uses: dict[str, int]) -> None:
    for tensor in reads_of(node):
        uses[tensor] -= 1


class _Stream:
    """One batch on its way through the float network (``exact``) and the integer network (``rounded``)."""

    def __init__(self, feeds: dict[str, Tensor], quantized: Mapping[str, Range]) -> None:
        self.quantized = quantized
        self.exact = dict(feeds)
        self.rounded = {name: self._round(name, value) for name, value in feeds.items()}

    def _round(self, name: str, value: Tensor) -> Tensor:
        if name in self.quantized and value.is_floating_point():
            each = self.quantized[name].widened()
            return round_to_range(value, each.low, each.high, each.levels)
        return value

    def step(
        self, network: Reconstruction, node: NodeProto, graph: Graph, replaced: Mapping[str, Tensor] | None = None
    ) -> None:
        """Runs one node in both streams; ``replaced`` are weights of the integer network."""
        outputs = [name for name in node.output if name]
        reads = [name for name in reads_of(node) if name in self.exact]
        exact = network.run({name: self.exact[name] for name in reads}, outputs)
        same = not replaced and all(self.rounded[name] is self.exact[name] for name in reads)
        rounded = (
            exact if same else network.run({name: self.rounded[name] for name in reads} | dict(replaced or {}), outputs)
        )
        self.store(exact, rounded)

    def store(self, exact: Mapping[str, Tensor], rounded: Mapping[str, Tensor]) -> None:
        """Keeps a node's outputs for its readers, rounded where the integer network rounds them."""
        for name in exact:
            self.exact[name] = exact[name]
            self.rounded[name] = self._round(name, rounded[name])

    def release(self, node: NodeProto, uses: Mapping[str, int]) -> None:
        """Forgets what only this node still had to read."""
        reads = reads_of(node)
        for name in (*reads, *node.output):
            if uses.get(name, 0) - (name in reads) <= 0:
                self.exact.pop(name, None)
                self.rounded.pop(name, None)


def _correct_layer(
    network: Reconstruction,
    graph: Graph,
    node: NodeProto,
    weight_name: str,
    axis: int,
    streams: Sequence[_Stream],
    settings: Settings,
    result: Correction,
) -> None:
    weight = torch.from_numpy(np.array(graph.initializers[weight_name]))
    rows = weight.movedim(axis, 0).flatten(1)  # [O, K]
    bits = settings.bits.get(weight_name, 8)
    scale = max_scale(rows, bits) if bits == 8 else mse_scale(rows, bits)
    scale = torch.maximum(scale, _least_scale(node, graph, streams, settings, weight, rows))
    plain = nearest(rows, scale, bits)
    if settings.compensate and bits < 8 and rows.shape[1] <= WIDEST:
        least = _least_scale(node, graph, streams, settings, weight, rows)
        scale, rounded = _fit_rows(node, weight, rows, scale, bits, streams, least)
    else:
        rounded = _round_rows(node, weight, rows, scale, bits, streams, settings)

    def shaped(values: Tensor) -> Tensor:
        return values.reshape(weight.movedim(axis, 0).shape).movedim(0, axis).contiguous()

    output = node.output[0]
    channel = output_channels(node)
    new, old = shaped(rounded), shaped(plain)
    shift = torch.zeros(rows.shape[0], dtype=torch.float64)
    places = 0
    runs = []
    for number, stream in enumerate(streams):
        reads = [name for name in reads_of(node) if name in stream.exact]
        exact = network.run({name: stream.exact[name] for name in reads}, [output])[output]
        feeds = {name: stream.rounded[name] for name in reads}
        after = network.run(feeds | {weight_name: new}, [output])[output]
        difference = (exact - after).movedim(channel, 0).reshape(exact.shape[channel], -1)
        shift += difference.sum(1, dtype=torch.float64)
        places += difference.shape[1]
        if number == 0:  # what rounding to nearest would have cost is told from one batch
            before = network.run(feeds | {weight_name: old}, [output])[output]
        runs.append((stream, exact, after))
    mean = (shift / max(places, 1)).float()
    if not settings.correct_bias or not _takes_bias(node, graph):
        mean = torch.zeros_like(mean)
    view = [-1 if each == channel % runs[0][1].dim() else 1 for each in range(runs[0][1].dim())]
    varying = Variation()
    for stream, exact, after in runs:
        varying.add(exact)
        stream.store({output: exact}, {output: exact if settings.isolated else after + mean.reshape(view)})
    result.weights[weight_name] = new.numpy()
    result.grids[weight_name] = WeightGrid(scale.numpy().astype(np.float32), axis, bits)
    if bool(mean.any()):
        result.biases[node.name] = mean.numpy()
    _, exact, after = runs[0]
    samples = varying.count / max(exact.numel(), 1)
    result.changes.append(
        LayerChange(
            node.name,
            weight_name,
            relative(samples * float((exact - before).square().sum()), [varying]),
            relative(samples * float((exact - after - mean.reshape(view)).square().sum()), [varying]),
            float(mean.abs().max()),
            settings.compensate and rows.shape[1] > WIDEST,
        )
    )


def _round_rows(
    node: NodeProto,
    weight: Tensor,
    rows: Tensor,
    scale: Tensor,
    bits: int,
    streams: Sequence[_Stream],
    settings: Settings,
) -> Tensor:
    """[O, K] on the grid: compensated where the moments fit, else with errors that cancel, else nearest."""
    if not settings.compensate:
        return nearest(rows, scale, bits)
    groups = int(attribute(node, "group", 1)) if node.op_type == "Conv" else 1
    width = rows.shape[1]
    kernel = weight[0, 0].numel() if node.op_type == "Conv" else 1
    if width > WIDEST:
        return cancel(rows, scale, kernel, bits) if kernel > 1 else nearest(rows, scale, bits)
    moments = Moments.empty(groups, width)
    wanted = max(max(COLUMNS_A_WEIGHT * width, LEAST_COLUMNS) // max(len(streams), 1), 1)
    for stream in streams:
        x = stream.rounded[node.input[0]]
        moments.add(_columns(node, x, weight, groups, wanted))
    mean = moments.mean()
    if not bool(torch.isfinite(mean).all()) or float(mean.abs().max()) == 0.0:
        return nearest(rows, scale, bits)
    return compensate(rows, scale, mean, bits)


def _fit_rows(
    node: NodeProto,
    weight: Tensor,
    rows: Tensor,
    scale: Tensor,
    bits: int,
    streams: Sequence[_Stream],
    least: Tensor,
) -> tuple[Tensor, Tensor]:
    """Steps and weights on few bits that miss the float network's outputs least."""
    groups = int(attribute(node, "group", 1)) if node.op_type == "Conv" else 1
    inputs = Inputs.empty(groups, rows.shape[1])
    wanted = max(max(COLUMNS_A_WEIGHT * rows.shape[1], LEAST_COLUMNS) // max(len(streams), 1), 1)
    for stream in streams:
        exact, rounded = (
            _columns(node, values[node.input[0]], weight, groups, wanted) for values in (stream.exact, stream.rounded)
        )
        inputs.add(exact, rounded)
    if not inputs.usable:
        return scale, nearest(rows, scale, bits)
    return fit(rows, inputs, bits, least)


def _columns(node: NodeProto, x: Tensor, weight: Tensor, groups: int, wanted: int) -> Tensor:
    """[G, K, P] patches of a Conv, or [1, K, P] rows of a Gemm or MatMul: less than twice ``wanted``, evenly
    chosen, of a picture whole rows first, so that no patch is made in vain.
    """
    if node.op_type != "Conv":
        return _thinned(x.reshape(-1, x.shape[-1]).T[None], wanted)
    rank = weight.dim() - 2
    kernel = tuple(weight.shape[2:])
    stride = list(attribute(node, "strides", [1] * rank))
    dilation = list(attribute(node, "dilations", [1] * rank))
    pads = _pads(node, x, kernel, stride, dilation)
    sizes = [
        (size + pads[each] + pads[each + rank] - dilation[each] * (kernel[each] - 1) - 1) // stride[each] + 1
        for each, size in enumerate(x.shape[2:])
    ]
    stride[0] *= min(max(len(x) * math.prod(sizes) // wanted, 1), max(sizes[0], 1))
    return _thinned(patches(x, kernel, stride, pads, dilation, groups), wanted)


def _thinned(columns: Tensor, wanted: int) -> Tensor:
    return columns[:, :, :: max(columns.shape[2] // wanted, 1)]


def _pads(node: NodeProto, x: Tensor, kernel: tuple[int, ...], stride: list[int], dilation: list[int]) -> list[int]:
    """Begin pads, then end pads, with auto_pad worked out."""
    rank = len(kernel)
    automatic = attribute(node, "auto_pad", "NOTSET")
    if automatic in ("NOTSET", ""):
        return list(attribute(node, "pads", [0] * 2 * rank))
    if automatic == "VALID":
        return [0] * 2 * rank
    begin, end = [], []
    for size, width, step, spacing in zip(x.shape[2:], kernel, stride, dilation, strict=True):
        total = max((-(-size // step) - 1) * step + (width - 1) * spacing + 1 - size, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if automatic == "SAME_UPPER" else large)
        end.append(large if automatic == "SAME_UPPER" else small)
    return begin + end


def _least_scale(
    node: NodeProto, graph: Graph, streams: Sequence[_Stream], settings: Settings, weight: Tensor, rows: Tensor
) -> Tensor:
    """[O] steps below which biases do not fit 32 bits or, on a target that saturates, pairs of products 16 bits."""
    least = _roomy(torch.zeros(len(rows)), node, graph, streams)
    return torch.maximum(least, pair_scale(node, weight, rows)) if node.name in settings.saturating else least


def _roomy(scale: Tensor, node: NodeProto, graph: Graph, streams: Sequence[_Stream]) -> Tensor:
    """Steps large enough that the bias, in units of input step times weight step, fits 32 bits with room to spare."""
    least = least_steps(node, graph, streams[0].quantized)
    return scale if least is None or least.numel() != scale.numel() else torch.maximum(scale, least)


def _takes_bias(node: NodeProto, graph: Graph) -> bool:
    if node.op_type == "MatMul":
        return _bias_add(node, graph) is not None
    return True


def _bias_add(node: NodeProto, graph: Graph) -> tuple[NodeProto, str] | None:
    """The Add of a constant vector that alone reads this MatMul, and the constant."""
    readers = graph.consumers(node.output[0])
    if len(readers) != 1 or readers[0].op_type != "Add" or node.output[0] in graph.output_names:
        return None
    other = [name for name in readers[0].input if name != node.output[0]]
    if len(other) != 1 or other[0] not in graph.initializers or len(graph.consumers(other[0])) != 1:
        return None
    return (readers[0], other[0]) if graph.initializers[other[0]].ndim == 1 else None


def apply_correction(model: ModelProto, correction: Correction) -> ModelProto:
    """A copy of the model with the new weights and biases in it, biases added where a layer had none."""
    changed = copied(model)
    graph = Graph(model)
    values = dict(correction.weights)
    for node in changed.graph.node:
        shift = correction.biases.get(node.name)
        if shift is None:
            continue
        if node.op_type == "MatMul":
            found = _bias_add(node, graph)
            assert found is not None
            values[found[1]] = graph.initializers[found[1]] + shift
        elif len(node.input) >= 3 and node.input[2]:
            name = node.input[2]
            if len(graph.consumers(name)) > 1:
                name = f"{node.name}_corrected_bias"
                changed.graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.float32), name))
            values[name] = np.asarray(graph.initializers[node.input[2]] + shift, np.float32)
            node.input[2] = name
        else:
            name = f"{node.name}_corrected_bias"
            changed.graph.initializer.append(numpy_helper.from_array(shift.astype(np.float32), name))
            inputs = [*node.input[:2], name]
            del node.input[:]
            node.input.extend(inputs)
    put_constants(changed, values)
    return changed
