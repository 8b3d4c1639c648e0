"""What each quantized tensor costs: its own grid alone, and in its place with every error before it.

Both models run on the same inputs and the intermediates are compared, tensor by tensor. The integers themselves are
fetched from the INT8 model, so that the kernels around them stay the ones that will run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, helper

from converter.evaluation.fidelity import decibels
from converter.evaluation.grids import Grid, read_grids
from converter.findings import Layer, Scale
from converter.graph import Array, Graph, skeleton
from converter.sessions import Feeds, open_session, split

__all__ = ["layer_fidelity"]

GROUP_BYTES = 32 << 20  # of float intermediates fetched in one run
MOST_VALUES = 1 << 17  # of one tensor and batch that errors are summed over


@dataclass
class _Noise:
    """Sums over all values of one tensor."""

    signal: float = 0.0
    alone: float = 0.0
    in_place: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add_activation(self, tensor: Grid, expected: Array, codes: Array) -> None:
        """Counts in one batch; of a large tensor evenly spread values stand for all, but for the extremes."""
        if expected.size:
            self.low = min(self.low, float(expected.min()))
            self.high = max(self.high, float(expected.max()))
        if expected.shape != codes.shape:
            self.in_place = math.nan
        elif tensor.scale.size == 1 and expected.size > MOST_VALUES:
            apart = (
                expected.size // MOST_VALUES | 1
            )  # odd, so as not to pick the same channel or column again and again
            expected, codes = expected.ravel()[::apart], codes.ravel()[::apart]
        self.signal += _power(expected)
        self.alone += _power(tensor.round(expected) - expected)
        if expected.shape == codes.shape:
            self.in_place += _power(tensor.decode(codes) - expected)

    def add_constant(self, tensor: Grid, expected: Array, codes: Array) -> None:
        """Counts in a weight by the integers in the file, which may be better than the nearest ones."""
        if expected.shape == codes.shape:
            self.signal = _power(expected)
            self.alone = self.in_place = _power(tensor.decode(codes) - expected)
            self.low, self.high = float(expected.min(initial=0)), float(expected.max(initial=0))


def _power(values: Array) -> float:
    flat = values.ravel()
    return float(np.dot(flat, flat))


def layer_fidelity(
    float32: ModelProto, int8: ModelProto, feeds: Iterable[Feeds], *, threads: int = 1
) -> tuple[Layer, ...]:
    """One Layer for every quantized tensor, measured on all feeds; method, contribution and steps are left open.

    Where the intermediates of a batch are too many bytes to hold, parts of it run, or groups of tensors.
    """
    before, after = Graph(float32), Graph(int8)
    tensors = read_grids(before, after)
    activations = [tensor for tensor in tensors if tensor.kind == "activation"]
    noise = {tensor.name: _Noise() for tensor in tensors}
    for tensor in tensors:
        if tensor.kind != "activation" and tensor.name in before.initializers:
            values, codes = before.initializers[tensor.name], after.initializers[tensor.codes]
            noise[tensor.name].add_constant(tensor, values, codes)
    batches = list(feeds)
    if batches:
        sizes = _bytes(float32, batches[0], activations)
        share = _share(before, batches[0], sum(sizes.values()))
        for group in _groups(activations, sizes, share):
            _measure(float32, int8, group, batches, share, noise, threads)
    return tuple(_layer(tensor, noise[tensor.name]) for tensor in tensors)


def _share(graph: Graph, feed: Feeds, size: int) -> float:
    """The part of a batch to run at once: what the model's fixed batch is of it, or what fits into GROUP_BYTES."""
    given = next((value for value in graph.inputs if value.name in feed and feed[value.name].ndim), None)
    if given is None or not given.shape:
        return 1.0
    count, declared = max(len(feed[given.name]), 1), given.shape[0]
    if isinstance(declared, int):
        return min(1.0, declared / count)
    return min(1.0, max(1 / count, GROUP_BYTES / max(size, 1)))


def _bytes(model: ModelProto, feed: Feeds, tensors: Sequence[Grid]) -> dict[str, int]:
    """The bytes of each tensor for this feed; a guess where shape inference does not tell."""
    light = skeleton(model)
    for value in light.graph.input:
        if value.name in feed:
            element_type = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, element_type, feed[value.name].shape))
    shapes = Graph(light).shapes
    known = {tensor.name: [d for d in shapes.get(tensor.name, (None,)) if isinstance(d, int)] for tensor in tensors}
    complete = {name: len(sizes) == len(shapes.get(name, (None,))) for name, sizes in known.items()}
    return {name: 4 * math.prod(sizes) if complete[name] else GROUP_BYTES // 8 for name, sizes in known.items()}


def _groups(tensors: Sequence[Grid], sizes: Mapping[str, int], share: float) -> Iterable[Sequence[Grid]]:
    """Neighbouring tensors whose values for this share of a batch stay together below GROUP_BYTES."""
    group: list[Grid] = []
    held = 0.0
    for tensor in tensors:
        size = sizes[tensor.name] * share
        if group and held + size > GROUP_BYTES * 1.01:
            yield group
            group, held = [], 0.0
        group.append(tensor)
        held += size
    if group:
        yield group


def _measure(
    float32: ModelProto,
    int8: ModelProto,
    group: Sequence[Grid],
    batches: Sequence[Feeds],
    share: float,
    noise: Mapping[str, _Noise],
    threads: int,
) -> None:
    inputs = {value.name for value in float32.graph.input}
    outputs = {value.name for value in float32.graph.output}
    expected_names = [tensor.name for tensor in group]
    inner = [name for name in expected_names if name not in inputs | outputs]
    before = open_session(float32, threads, also=inner)
    codes = [tensor.readable for tensor in group]
    after = open_session(int8, threads, also=codes)
    fetched = [name for name in expected_names if name not in inputs]
    for feed, _ in split(before, batches, share):
        values = dict(zip(fetched, before.run(fetched, feed), strict=True)) if fetched else {}
        for tensor, integers in zip(group, after.run(codes, feed), strict=True):
            expected = np.asarray(feed.get(tensor.name, values.get(tensor.name)))
            noise[tensor.name].add_activation(tensor, expected, tensor.encode(np.asarray(integers)))


def _layer(tensor: Grid, noise: _Noise) -> Layer:
    name, bits, smallest, largest = tensor.limits
    scales = tensor.scale.ravel()
    zero = tensor.zero_point.ravel()
    bounded = tensor.kind != "bias" and scales.size > 0
    return Layer(
        tensor=tensor.name,
        kind=tensor.kind,
        node=tensor.node,
        operator=tensor.operator,
        bits=bits,
        type=name,
        scale=Scale(
            count=scales.size,
            minimum=float(scales.min()),
            median=float(np.median(scales)),
            maximum=float(scales.max()),
        )
        if scales.size
        else None,
        zero_point=int(zero[0]) if zero.size and (zero == zero[0]).all() else None,
        low=float(((smallest - zero) * scales).min()) if bounded else None,
        high=float(((largest - zero) * scales).max()) if bounded else None,
        observed_low=noise.low if math.isfinite(noise.low) else None,
        observed_high=noise.high if math.isfinite(noise.high) else None,
        sqnr_alone_db=decibels(noise.signal, noise.alone),
        sqnr_in_place_db=decibels(noise.signal, noise.in_place),
    )
