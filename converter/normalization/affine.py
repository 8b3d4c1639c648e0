"""Batch normalization and other per-channel multiplications and additions, folded into the weights beside them.

A folded normalization leaves behind what it knew: its input had, over the training data, the recorded mean and
variance per channel, so its output has mean beta and standard deviation |gamma| sqrt(var / (var + eps)).  After
folding that output is the convolution's own, and the statistics are recorded under its name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from converter.graph import Graph, attribute, copied
from converter.normalization.rewriting import Change, Rewriting

__all__ = ["BatchNormStatistics", "fold_affine"]

Vector = NDArray[np.float64]
# The reach of the widest channel over the deviation of the narrowest, from which 8 bits on one grid leave the narrowest
# two steps to its deviation; a table's columns may differ by thousands.
UNEVEN = 64.0


@dataclass(frozen=True, eq=False)
class BatchNormStatistics:
    """The distribution per channel (axis 1) that training left in one tensor of the normalized model.

    ``mean`` and ``std`` describe ``tensor`` itself.  If ``folded``, that tensor is what the normalization put out, and
    mean = beta, std = |gamma| sqrt(var / (var + eps)), moved along by whatever was folded after it.  If not, it is what
    the normalization reads, and mean and std are the running ones.  The normalization's own parameters are kept
    beside: (x - running_mean) / sqrt(running_variance + epsilon) * gamma + beta.
    """

    tensor: str
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    gamma: NDArray[np.float32]
    beta: NDArray[np.float32]
    running_mean: NDArray[np.float32]
    running_variance: NDArray[np.float32]
    epsilon: float
    folded: bool


@dataclass(frozen=True, eq=False)
class Affine:
    """y = scale * x + shift per channel (axis 1), and the statistics of y if the node was a normalization."""

    scale: Vector
    shift: Vector
    statistics: BatchNormStatistics | None = None


def fold_affine(model: ModelProto) -> tuple[ModelProto, Change, tuple[BatchNormStatistics, ...]]:
    """BN, Mul, Add, Sub and Div per channel are in the weights where they can be; other BN is a convolution."""
    folding = _Folding(Rewriting(model), Graph(model))
    for node in folding.rewriting.nodes:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and folding.rewriting.is_present(node):
            folding.absorb_what_follows(node)
    for node in folding.rewriting.nodes:
        if node.op_type == "BatchNormalization" and folding.rewriting.is_present(node):
            folding.settle_alone(node)
    model = folding.rewriting.finish()
    change = Change("fold_affine", folding.count, "Normalizations, factors and terms folded into weights")
    return model, change, tuple(folding.statistics.values())


class _Folding:
    def __init__(self, rewriting: Rewriting, graph: Graph) -> None:
        self.rewriting = rewriting
        self.graph = graph
        self.count = 0
        self.statistics: dict[str, BatchNormStatistics] = {}

    def rank(self, tensor: str) -> int | None:
        shape = self.graph.shapes.get(tensor)
        return None if shape is None else len(shape)

    # a weighted node and the affine nodes after it

    def absorb_what_follows(self, node: NodeProto) -> None:
        """The chain of affine nodes after the weighted node is in its weights and bias."""
        linear = _Linear.of(node, self)
        if linear is None:
            return
        chain: list[NodeProto] = []
        last = node
        total = Affine(np.ones(linear.channels), np.zeros(linear.channels))
        while (following := self.rewriting.sole_reader(last.output[0])) is not None:
            affine = self.affine_of(following, last.output[0], linear.channels, linear.rank, linear.axis)
            if affine is None:
                break
            statistics = affine.statistics or _moved(total.statistics, affine)
            total = Affine(affine.scale * total.scale, affine.scale * total.shift + affine.shift, statistics)
            chain.append(following)
            last = following
        if not chain or (linear.bias_is_apart and all(each.op_type == "Add" for each in chain)):
            return  # MatMul + Add stays as it is
        if not np.isfinite(total.scale).all() or not np.isfinite(total.shift).all():
            return
        for each in chain:
            self.rewriting.remove(each)
        linear.apply(total, last.output[0], self.rewriting)
        self.count += len(chain)
        if total.statistics is not None:
            self.statistics[last.output[0]] = replace(total.statistics, tensor=last.output[0])

    def affine_of(self, node: NodeProto, tensor: str, channels: int, rank: int, axis: int) -> Affine | None:
        """The node as scale and shift of ``tensor`` per channel, if it is that."""
        if node.op_type == "BatchNormalization":
            fits = axis == 1 and node.input[0] == tensor and list(node.input).count(tensor) == 1
            affine = self.normalization_of(node) if fits else None
            return affine if affine is not None and affine.scale.size == channels else None
        if node.op_type not in ("Add", "Sub", "Mul", "Div") or list(node.input).count(tensor) != 1:
            return None
        place = list(node.input).index(tensor)
        other = self.rewriting.constant_input(node, 1 - place)
        if other is None or other.dtype != np.float32:
            return None
        vector = per_channel(other.astype(np.float64), channels, rank, axis)
        if vector is None:
            return None
        one, zero = np.ones(channels), np.zeros(channels)
        match node.op_type, place:
            case "Add", _:
                return Affine(one, vector)
            case "Sub", 0:
                return Affine(one, -vector)
            case "Sub", 1:
                return Affine(-one, vector)
            case "Mul", _:
                return Affine(vector, zero)
            case "Div", 0 if (vector != 0).all():
                return Affine(1 / vector, zero)
        return None

    def normalization_of(self, node: NodeProto) -> Affine | None:
        """A BatchNormalization with constant parameters as scale, shift and what its output looks like."""
        parameters = [self.rewriting.constant_input(node, index) for index in range(1, 5)]
        if any(each is None or each.ndim != 1 for each in parameters):
            return None
        gamma, beta, mean, variance = (np.asarray(each, np.float64) for each in parameters)
        epsilon = float(attribute(node, "epsilon", 1e-5))
        if not (variance + epsilon > 0).all() or len({each.size for each in (gamma, beta, mean, variance)}) > 1:
            return None
        scale = gamma / np.sqrt(variance + epsilon)
        statistics = BatchNormStatistics(
            tensor=node.output[0],
            mean=beta.astype(np.float32),
            std=np.abs(scale * np.sqrt(np.maximum(variance, 0))).astype(np.float32),
            gamma=gamma.astype(np.float32),
            beta=beta.astype(np.float32),
            running_mean=mean.astype(np.float32),
            running_variance=variance.astype(np.float32),
            epsilon=epsilon,
            folded=True,
        )
        return Affine(scale, beta - mean * scale, statistics)

    # a normalization with no weighted node before it

    def settle_alone(self, node: NodeProto) -> None:
        """The normalization is in the weights after it, or a convolution of its own, or stays with its statistics."""
        affine = self.normalization_of(node)
        if affine is None or affine.statistics is None:
            return
        uneven = any(each.name == node.input[0] for each in self.graph.inputs) and _is_uneven(affine.statistics)
        if not uneven and self.push_forward(node, affine):
            self.count += 1
            self.statistics[node.input[0]] = _of_input(affine.statistics, node.input[0])
            return
        rank = self.rank(node.input[0])
        if rank is None or rank not in (3, 4, 5):
            self.statistics[node.input[0]] = _of_input(affine.statistics, node.input[0])
            return
        channels = affine.scale.size
        weight = affine.scale.astype(np.float32).reshape(channels, *[1] * (rank - 1))  # C 1 1 1
        inputs = [
            node.input[0],
            self.rewriting.add_constant(f"{node.output[0]}_weight", weight),
            self.rewriting.add_constant(f"{node.output[0]}_bias", affine.shift.astype(np.float32)),
        ]
        convolution = helper.make_node(
            "Conv", inputs, [node.output[0]], name=node.name, group=channels, kernel_shape=[1] * (rank - 2)
        )
        self.rewriting.replace(node, convolution)
        self.count += 1
        self.statistics[node.output[0]] = affine.statistics

    def push_forward(self, node: NodeProto, affine: Affine) -> bool:
        """The normalization is part of the one unpadded convolution or Gemm that reads it."""
        reader = self.rewriting.sole_reader(node.output[0])
        if reader is None or reader.input[0] != node.output[0] or list(reader.input).count(node.output[0]) != 1:
            return False
        weight = self.rewriting.constant_input(reader, 1)
        has_bias = len(reader.input) > 2 and reader.input[2] != ""
        bias = self.rewriting.constant_input(reader, 2) if has_bias else None
        if weight is None or (has_bias and bias is None):
            return False
        wide = weight.astype(np.float64)
        if reader.op_type == "Conv":
            padding = attribute(reader, "auto_pad", "NOTSET")
            padded = padding not in ("NOTSET", "VALID") or (padding == "NOTSET" and any(attribute(reader, "pads", [])))
            group = attribute(reader, "group", 1)
            if padded or wide.ndim < 3 or group < 1 or wide.shape[1] * group != affine.scale.size:
                return False
            if wide.shape[0] % group or (bias is not None and bias.shape != wide.shape[:1]):
                return False
            outputs, per_group = wide.shape[:2]
            first = np.repeat(np.arange(group), outputs // group) * per_group  # O, first input channel of each output
            channel = first[:, None] + np.arange(per_group)  # O I/G
            spread = (slice(None), slice(None), *[None] * (wide.ndim - 2))
            added = (wide * affine.shift[channel][spread]).reshape(outputs, -1).sum(axis=1)
            wide = wide * affine.scale[channel][spread]
        elif reader.op_type == "Gemm" and _is_plain_gemm(reader) and wide.ndim == 2:
            matrix = wide if attribute(reader, "transB", 0) else wide.T  # O I
            if matrix.shape[1] != affine.scale.size or (bias is not None and bias.size not in (1, matrix.shape[0])):
                return False
            added = matrix @ affine.shift
            scaled = matrix * affine.scale
            wide = scaled if attribute(reader, "transB", 0) else scaled.T
        else:
            return False
        if bias is not None:
            added = added + bias.astype(np.float64).reshape(-1)
        name = self.rewriting.set_constant(reader.input[1], wide.astype(np.float32), reader)
        bias_name = self.rewriting.add_constant(f"{reader.output[0]}_bias", added.astype(np.float32))
        self.rewriting.remove(node)
        self.rewriting.set_inputs(reader, [node.input[0], name, bias_name])
        return True


@dataclass
class _Linear:
    """A weighted node as seen from its output: channels, their axis, and how scale and shift enter it."""

    node: NodeProto
    channels: int
    rank: int
    axis: int
    weight: NDArray[np.float32]
    bias_is_apart: bool = False

    @staticmethod
    def of(node: NodeProto, folding: _Folding) -> _Linear | None:
        """The node if its weight and bias are constant float32 tensors."""
        if len(node.input) < 2:
            return None
        weight = folding.rewriting.constant_input(node, 1)
        has_bias = len(node.input) > 2 and node.input[2] != ""
        if weight is None or weight.dtype != np.float32:
            return None
        if has_bias and not folding.rewriting.is_constant(node.input[2]):
            return None
        linear = _Linear._view(node, weight, folding)
        if linear is None or not has_bias:
            return linear
        bias = folding.rewriting.constant_shape(node.input[2])
        return linear if bias in ((linear.channels,), (1, linear.channels), (1,), ()) else None

    @staticmethod
    def _view(node: NodeProto, weight: NDArray[np.float32], folding: _Folding) -> _Linear | None:
        group = attribute(node, "group", 1)
        match node.op_type:
            case "Conv" if weight.ndim > 2:
                return _Linear(node, weight.shape[0], weight.ndim, 1, weight)
            case "ConvTranspose" if weight.ndim > 2 and group > 0 and weight.shape[0] % group == 0:
                return _Linear(node, weight.shape[1] * group, weight.ndim, 1, weight)
            case "Gemm" if _is_plain_gemm(node) and weight.ndim == 2:
                channels = weight.shape[0] if attribute(node, "transB", 0) else weight.shape[1]
                return _Linear(node, channels, 2, 1, weight)
            case "MatMul" if weight.ndim == 2:
                rank = folding.rank(node.input[0])
                if rank is not None and rank >= 2:
                    return _Linear(node, weight.shape[1], rank, rank - 1, weight, bias_is_apart=True)
        return None

    def apply(self, affine: Affine, result: str, rewriting: Rewriting) -> None:
        """The node computes scale * (what it did) + shift, under the name of the last node of the chain."""
        node, scale = self.node, affine.scale
        wide = self.weight.astype(np.float64)
        match node.op_type:
            case "Conv":
                wide *= scale.reshape(-1, *[1] * (wide.ndim - 1))
            case "ConvTranspose":  # I O/G k k: the output channels of group g belong to the g-th share of the inputs
                group = attribute(node, "group", 1)
                inputs, per_group = wide.shape[:2]
                shares = wide.reshape(group, inputs // group, per_group, -1)
                wide = (shares * scale.reshape(group, 1, per_group, 1)).reshape(wide.shape)
            case "Gemm" if attribute(node, "transB", 0):
                wide *= scale[:, None]
            case _:
                wide *= scale
        weight = node.input[1]
        if not (scale == 1).all():
            weight = rewriting.set_constant(weight, wide.astype(np.float32), node)
        if self.bias_is_apart:
            self._apply_apart(weight, affine, result, rewriting)
            return
        old = rewriting.constant_input(node, 2)
        shift = affine.shift + (0.0 if old is None else scale * old.astype(np.float64).reshape(-1))
        bias = rewriting.add_constant(f"{result}_bias", np.broadcast_to(shift, (self.channels,)).astype(np.float32))
        rewriting.set_inputs(node, [node.input[0], weight, bias])
        rewriting.set_output(node, result)

    def _apply_apart(self, weight: str, affine: Affine, result: str, rewriting: Rewriting) -> None:
        node = self.node
        rewriting.set_inputs(node, [node.input[0], weight])
        if not affine.shift.any():
            rewriting.set_output(node, result)
            return
        bias = rewriting.add_constant(f"{result}_bias", affine.shift.astype(np.float32))
        product = node.output[0]
        added = helper.make_node("Add", [product, bias], [result], name=f"{node.name}_bias")
        rewriting.replace(node, copied(node), added)


def _is_plain_gemm(node: NodeProto) -> bool:
    return bool(attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0)


def per_channel(array: Vector, channels: int, rank: int, axis: int) -> Vector | None:
    """The constant as one number per channel, if broadcasting makes it that and nothing wider."""
    if array.ndim > rank:
        return None
    shape = (1,) * (rank - array.ndim) + array.shape
    if any(size != 1 for place, size in enumerate(shape) if place != axis) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(array.reshape(-1), (channels,)).copy()


def _is_uneven(statistics: BatchNormStatistics) -> bool:
    """Whether the channels that a normalization reads are so unlike that no integer grid holds them side by side."""
    reach = np.abs(statistics.running_mean) + 2 * np.sqrt(np.maximum(statistics.running_variance, 0))
    return bool(reach.max() > UNEVEN * np.sqrt(np.maximum(statistics.running_variance, 1e-12)).min())


def _moved(statistics: BatchNormStatistics | None, affine: Affine) -> BatchNormStatistics | None:
    if statistics is None:
        return None
    mean = affine.scale * statistics.mean + affine.shift
    std = np.abs(affine.scale) * statistics.std
    return replace(statistics, mean=mean.astype(np.float32), std=std.astype(np.float32))


def _of_input(statistics: BatchNormStatistics, tensor: str) -> BatchNormStatistics:
    std = np.sqrt(np.maximum(statistics.running_variance, 0))
    return replace(statistics, tensor=tensor, mean=statistics.running_mean, std=std, folded=False)
