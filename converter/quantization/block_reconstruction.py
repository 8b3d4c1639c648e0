"""GENIE-M: weights rounded block by block, soft bits and step sizes learned together, with QDrop.

Jeon, Lee, Kim, CVPR 2023, arXiv 2212.04780; code SamsungLabs/Genie, quantizer.py and reconstruct.py. A weight is
    s * clip(floor(w / s0) + h(v)),   h(v) = clip(1.2 sigmoid(v) - 0.1, 0, 1),
where the base floor(w / s0) stays frozen at the first step size s0 while the step s and the soft bits v are trained:
detaching the base from the step is what lets both be learned at once. A block learns to give the float network's
output, squared error summed over channels, plus the penalty sum 1 - |2h - 1|^b with b from 20 to 2 after a warm-up of
a fifth, which drives every h to 0 or 1. QDrop (Wei et al., ICLR 2022): each rounded activation, and each element of the
block's input from the integer network, is replaced by the float one with probability one half.

Departures: blocks are what lies between tensors that everything passes through, which finds residual and inverted
residual blocks in any graph; weights are symmetric and BatchNorm is folded, since the result is a plain ONNX file;
activations keep the ranges chosen before (the code learns their steps, too); 20,000 steps of 32 samples become what the
time allows, soft bits moving so much faster; steps are learned relative to s0, so that the largest weight moves by half
a code at most, since one absolute rate does not suit all sizes of weights; every layer has the bits it was given,
first and last included.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from onnx import NodeProto
from torch import Tensor

from converter.capacity import fitting, gradient_seconds
from converter.graph import Graph, reads_of, weight_of
from converter.quantization.bias_room import least_steps
from converter.quantization.correction import Correction, LayerChange
from converter.quantization.qdq_writer import Range, WeightGrid
from converter.quantization.rounding import limit, mse_scale, nearest
from converter.quantization.sensitivity import round_to_range
from converter.quantization.variation import Variation, relative
from converter.reconstruction import Reconstruction

__all__ = ["Block", "affordable_steps", "find_blocks", "reconstruct_blocks"]

STEPS = 20_000
LAYER_SECONDS = 2e-3  # of a step that a layer takes however small it is: its penalty and two optimizers
TRAVEL = 20.0  # 20,000 steps at the code's rate of 1e-3
FASTEST = 0.05
SCALE_RATE = 1e-2  # codes of the largest weight a step
WARM_UP = 0.2  # of the steps pass before the penalty counts, as there
HARDEST, SOFTEST = 20.0, 2.0  # exponents of the penalty, as in AdaRound (Nagel et al. 2020)
PENALTY = 1.0
DROP = 0.5
STRETCH = 1.2

Edit = Callable[[Tensor], Tensor]
Values = dict[str, Tensor]


@dataclass(frozen=True)
class Block:
    """Nodes between tensors that everything passes through: what they read, what they make."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]  # the tensor that goes on, and outputs of the graph
    nodes: tuple[NodeProto, ...]


@dataclass
class _Soft:
    """One weight on its way to the grid, as rows [O, K]."""

    node: NodeProto
    name: str
    axis: int
    bits: int
    shape: torch.Size  # of the weight with the output channels first
    rows: Tensor
    start: Tensor  # [O] the first steps s0
    least: Tensor  # [O] below which the bias would not fit 32 bits
    shift: Tensor  # [O] s = s0 (1 + shift / twice the largest code)
    base: Tensor  # [O, K]
    soft: Tensor  # [O, K]

    @classmethod
    def of(cls, node: NodeProto, name: str, axis: int, bits: int, value: Tensor, least: Tensor) -> _Soft:
        first = value.movedim(axis, 0)
        rows = first.flatten(1)
        scale = torch.maximum(mse_scale(rows, bits), least)
        real = rows / scale[:, None]
        base = real.floor()
        share = ((real - base) + 0.1).div(STRETCH).clamp(0.01, 0.99)
        soft = torch.log(share / (1 - share))
        shift = torch.zeros_like(scale).requires_grad_(True)
        return cls(node, name, axis, bits, first.shape, rows, scale, least, shift, base, soft.requires_grad_(True))

    @property
    def scale(self) -> Tensor:
        """[O] steps now."""
        return torch.maximum(self.start * (1 + self.shift.clamp(-1, 1) / (2 * limit(self.bits))), self.least)

    def bit(self) -> Tensor:
        return (STRETCH * torch.sigmoid(self.soft) - 0.1).clamp(0, 1)

    def value(self, bit: Tensor) -> Tensor:
        """The weight in its own shape."""
        top = limit(self.bits)
        rows = (self.base + bit).clamp(-top, top) * self.scale[:, None]
        return rows.reshape(self.shape).movedim(0, self.axis).contiguous()

    def hard(self) -> Tensor:
        return self.value((self.bit() >= 0.5).float()).detach()


def affordable_steps(multiply_adds: int, batch: int, layers: int, seconds: float) -> int:
    """Steps over every block with one batch each that fit into the seconds, by the network's size."""
    return fitting(gradient_seconds(multiply_adds * batch, 0, LAYER_SECONDS * layers), seconds, STEPS, least=0)


def find_blocks(graph: Graph, rounded: frozenset[str]) -> list[Block]:
    """The graph cut wherever a single tensor is all that later nodes read, each block with a node of ``rounded``."""
    last = {name: index for index, node in enumerate(graph.nodes) for name in reads_of(node)}
    live = {value.name for value in graph.inputs if value.name in last}
    blocks: list[Block] = []
    inputs, members = tuple(sorted(live)), list[NodeProto]()
    for index, node in enumerate(graph.nodes):
        members.append(node)
        live |= {name for name in node.output if last.get(name, -1) > index}
        live = {name for name in live if last[name] > index}
        if len(live) > 1 or (not live and index + 1 < len(graph.nodes)):
            continue
        if any(each.name in rounded for each in members):
            made = [name for each in members for name in each.output if name in graph.output_names or name in live]
            blocks.append(Block(inputs, tuple(dict.fromkeys(made)), tuple(members)))
            inputs, members = tuple(live), []
    return blocks


def reconstruct_blocks(
    network: Reconstruction,
    graph: Graph,
    nodes: frozenset[str],
    quantized: Mapping[str, Range],
    batches: Sequence[Mapping[str, Tensor]],
    bits: Mapping[str, int],
    steps: int,
    seed: int,
    progress: Callable[[float], None] = lambda _: None,
    settled: Correction | None = None,
) -> Correction:
    """Rounded weights of every weighted node in ``nodes``, learned block by block in ``steps`` steps each.

    Weights ``settled`` before stay as they are.
    """
    result, random = settled or Correction(), torch.Generator().manual_seed(seed)
    weighted = frozenset(node.name for node in graph.nodes if node.name in nodes and weight_of(node, graph))
    blocks = find_blocks(graph, weighted)
    exact: list[Values] = [dict(feeds) for feeds in batches]
    rounded: list[Values] = [
        {name: _round(name, value, quantized) for name, value in feeds.items()} for feeds in batches
    ]
    for index, block in enumerate(blocks):
        inner = {name for node in block.nodes for name in node.output if name}
        edits = {name: _rounding(quantized[name]) for name in inner if name in quantized}
        dropped = {name: _dropping(each, random) for name, each in edits.items()}
        softs = _softs(block, graph, weighted, bits, quantized, result)
        with torch.no_grad():
            wanted = [_floats(network.run(feeds, block.outputs)) for feeds in exact]
        if softs:
            _train(network, block, softs, dropped, exact, rounded, wanted, steps, random)
        _settle(network, graph, block, softs, edits, exact, rounded, wanted, result)
        progress((index + 1) / len(blocks))
    return result


def _softs(
    block: Block,
    graph: Graph,
    weighted: frozenset[str],
    bits: Mapping[str, int],
    quantized: Mapping[str, Range],
    result: Correction,
) -> list[_Soft]:
    """The weights of a block that are not rounded yet: one that two nodes share keeps its first rounding."""
    found: dict[str, _Soft] = {}
    for node in block.nodes:
        weight = weight_of(node, graph) if node.name in weighted else None
        if weight is not None and weight[0] not in result.weights and weight[0] not in found:
            value = torch.from_numpy(np.array(graph.initializers[weight[0]]))
            least = _least_scale(node, graph, quantized, value.shape[weight[1]])
            found[weight[0]] = _Soft.of(node, *weight, bits.get(weight[0], 8), value, least)
    return list(found.values())


def _least_scale(node: NodeProto, graph: Graph, quantized: Mapping[str, Range], channels: int) -> Tensor:
    """[O] steps below which the bias, in units of input step times weight step, would overflow 32 bits."""
    least = least_steps(node, graph, quantized)
    return torch.full((channels,), 1e-10) if least is None else least.expand(channels).clamp_min(1e-10)


def _train(
    network: Reconstruction,
    block: Block,
    softs: Sequence[_Soft],
    edits: Mapping[str, Edit],
    exact: Sequence[Values],
    rounded: Sequence[Values],
    wanted: Sequence[Values],
    steps: int,
    random: torch.Generator,
) -> None:
    rate = min(max(TRAVEL / max(steps, 1), 1e-3), FASTEST)
    on_bits = torch.optim.Adam([each.soft for each in softs], lr=rate)
    on_scales = torch.optim.Adam([each.shift for each in softs], lr=SCALE_RATE)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(on_scales, max(steps, 1))
    for step in range(steps):
        number = int(torch.randint(len(exact), (1,), generator=random))
        feeds = {name: _mix(rounded[number][name], exact[number][name], random) for name in block.inputs}
        feeds |= {each.name: each.value(each.bit()) for each in softs}
        loss = _distance(network.run(feeds, block.outputs, edit=edits), wanted[number])
        if step >= WARM_UP * steps:
            share = (step - WARM_UP * steps) / max((1 - WARM_UP) * steps, 1)
            power = HARDEST + (SOFTEST - HARDEST) * share
            penalties = [(1 - (2 * each.bit() - 1).abs().pow(power)).sum() for each in softs]
            loss = loss + PENALTY * torch.stack(penalties).sum() * share
        if not math.isfinite(loss.item()) or not loss.requires_grad:
            break
        on_bits.zero_grad()
        on_scales.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        on_bits.step()
        on_scales.step()
        cosine.step()


def _settle(
    network: Reconstruction,
    graph: Graph,
    block: Block,
    softs: Sequence[_Soft],
    edits: Mapping[str, Edit],
    exact: list[Values],
    rounded: list[Values],
    wanted: Sequence[Values],
    result: Correction,
) -> None:
    """Both streams stand behind the block, whose weights are on their grids."""
    hard = {each.name: each.hard() for each in softs}
    plain = {each.name: _nearest(each) for each in softs}
    shared = {weight[0] for node in block.nodes if (weight := weight_of(node, graph))} & set(result.weights)
    hard |= {name: torch.from_numpy(result.weights[name].copy()) for name in shared}
    varying: dict[str, Variation] = defaultdict(Variation)
    error = first = 0.0
    with torch.no_grad():
        for number, feeds in enumerate(rounded):
            after = network.run(feeds | hard, block.outputs, edit=edits)
            error += _error(after, wanted[number])
            for name, aim in wanted[number].items():
                varying[name].add(aim)
            if number == 0 and plain:  # what rounding to nearest would have cost is told from one batch
                first = _error(network.run(feeds | plain, block.outputs, edit=edits), wanted[0])
            exact[number] = network.run(exact[number], block.outputs)
            rounded[number] = after
    numbers = sum(each.numel() for each in wanted[0].values())
    samples = sum(each.count for each in varying.values()) / max(numbers, 1)
    nearest_error, error = (relative(each, varying.values()) for each in (samples * first, error))
    for each in softs:
        result.weights[each.name] = hard[each.name].numpy()
        grid = each.scale.detach().numpy().astype(np.float32)
        result.grids[each.name] = WeightGrid(grid, each.axis, each.bits)
        result.changes.append(LayerChange(each.node.name, each.name, nearest_error, error, 0.0))


def _floats(values: Values) -> Values:
    return {name: value for name, value in values.items() if value.is_floating_point()}


def _distance(values: Values, wanted: Values) -> Tensor:
    """Squared error summed over channels, averaged over samples and places."""
    total = torch.zeros(())
    for name, aim in wanted.items():
        difference = (values[name] - aim).square()
        total = total + (difference.sum(1).mean() if difference.dim() > 1 else difference.sum())
    return total


def _error(values: Values, wanted: Values) -> float:
    return sum(float((values[name] - aim).square().sum()) for name, aim in wanted.items())


def _nearest(each: _Soft) -> Tensor:
    rows = nearest(each.rows, mse_scale(each.rows, each.bits), each.bits)
    return rows.reshape(each.shape).movedim(0, each.axis).contiguous()


def _round(name: str, value: Tensor, quantized: Mapping[str, Range]) -> Tensor:
    return _rounding(quantized[name])(value) if name in quantized and value.is_floating_point() else value


def _rounding(given: Range) -> Edit:
    """Rounds to a range, with the gradient of clipping."""
    each = given.widened()

    def round_through(value: Tensor) -> Tensor:
        clipped = value.clamp(each.low, each.high)
        return clipped + (round_to_range(clipped.detach(), each.low, each.high, each.levels) - clipped.detach())

    return round_through


def _dropping(edit: Edit, random: torch.Generator) -> Edit:
    return lambda value: _mix(edit(value), value, random)


def _mix(rounded: Tensor, exact: Tensor, random: torch.Generator) -> Tensor:
    """Each element from the float network with probability one half."""
    if not exact.is_floating_point():
        return rounded
    return torch.where(torch.rand(exact.shape, generator=random) < DROP, exact, rounded)
