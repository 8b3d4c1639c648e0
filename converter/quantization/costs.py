"""What a node costs in float and in integers: estimates, so that the same model always gives the same integer model.

Fitted to onnxruntime 1.31's own profile of 15 zoo models, float and all-integer, on one thread of an x64 core with VNNI
(`python -m tests.bench.costs`, tests/bench/RESULTS.md); only ratios matter. Float convolutions run on blocks of 16
channels, integer ones on rows of channels, which is why counts that are no multiples of 16 cost one or the other dear.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnx import NodeProto

from converter.families import RECTIFIERS, RENAMING
from converter.graph import Graph, attribute, multiply_adds, weight_of

__all__ = ["crossing_cost", "node_cost"]

CALL = 1.0  # microseconds of calling any kernel
FLOAT_RATE, FLOAT_RATE_COLOURS, INTEGER_RATE = 100e3, 45e3, 400e3  # multiply-adds a microsecond
BLOCK = 16  # channels that float convolutions take together
KEEPING = 0.4e-3  # an element: see converter.quantization.channels_last
NARROW = 16  # rows of a Gemm up to which reading its weights decides: bytes a microsecond
READ_RATE = 50e3
POOLING = frozenset({"MaxPool", "AveragePool"})
COPYING = frozenset({"Transpose", "Split", "Slice"})  # as fast as memory, on codes of a byte
BLOCKED = frozenset(
    {"Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "Add", "Concat", "Relu", "Clip", "LeakyRelu", "Sigmoid"}
)  # float operators that read and write blocks of channels


def node_cost(node: NodeProto, graph: Graph, elements: Mapping[str, int], integer: bool) -> float:
    """Microseconds, roughly, of one node for one sample."""
    if node.op_type in RECTIFIERS:
        return 0.0  # fused into the layer before it, in integers and in float
    found = weight_of(node, graph)
    if found is None:
        return _plain_cost(node, graph, elements, integer)
    shape = graph.initializers.shape(found[0])
    if node.op_type != "Conv":
        macs, weights = multiply_adds(node, graph, elements), math.prod(shape)
        reading = weights * (1 if integer else 4) / READ_RATE if macs < NARROW * weights else 0.0
        return CALL + max(macs / (INTEGER_RATE if integer else FLOAT_RATE), reading)
    group, stride = int(attribute(node, "group", 1)), max([int(each) for each in attribute(node, "strides", [1])])
    places: int = elements.get(node.output[0], 0) // shape[0]
    cost = CALL if integer else CALL + _reorder_cost(node, graph, elements)
    if shape[1] == 1 and group > 1:
        return cost + _depthwise_cost(shape[0], places, math.prod(shape[2:]), stride, integer)
    return cost + _dense_cost(shape, places, group, integer)


def _plain_cost(node: NodeProto, graph: Graph, elements: Mapping[str, int], integer: bool) -> float:
    """Nodes without weights cost about the same in both, but float sums and LeakyRelu disappear into convolutions."""
    if node.op_type in RENAMING:
        return CALL
    if node.op_type in ("Add", "LeakyRelu") and not integer:
        producers = [graph.producer(name) for name in node.input]
        if any(each is not None and each.op_type == "Conv" for each in producers):
            return 0.0
    size = sum(elements.get(name, 0) for name in node.output)
    if node.op_type in POOLING:
        ragged = _channels(node.input[0], graph) % BLOCK > 0
        return CALL + size * ((0.5e-3 if ragged else 0.25e-3) if integer else (2.4e-3 if ragged else 0.3e-3))
    share = 0.1e-3 if node.op_type in COPYING else 0.25e-3
    return CALL + size * (share if integer else 0.15e-3)


def _reorder_cost(node: NodeProto, graph: Graph, elements: Mapping[str, int]) -> float:
    """What a float convolution costs beside its kernel: its neighbours may not take blocks of channels."""
    producer = graph.producer(node.input[0])
    cost = 0.0
    if producer is not None and producer.op_type not in BLOCKED:
        cost += CALL + elements.get(node.input[0], 0) * 0.15e-3
    ragged = _channels(node.output[0], graph) % BLOCK > 0  # only convolutions take these in blocks
    readers = _readers(node.output[0], graph)
    if any(reader.op_type not in BLOCKED or (ragged and reader.op_type != "Conv") for reader in readers):
        cost += CALL + elements.get(node.output[0], 0) * (0.4e-3 if ragged else 0.25e-3)
    return cost


def _readers(tensor: str, graph: Graph) -> list[NodeProto]:
    """The nodes that read a layer's result after the activations that are fused into it."""
    found = []
    for reader in graph.consumers(tensor):
        found += _readers(reader.output[0], graph) if reader.op_type in RECTIFIERS | {"LeakyRelu"} else [reader]
    return found


def _channels(tensor: str, graph: Graph) -> int:
    """The channels of a picture-like tensor, or a number that fills blocks where they are unknown."""
    shape = graph.shapes.get(tensor) or ()
    return shape[1] if len(shape) == 4 and isinstance(shape[1], int) else BLOCK


def _dense_cost(shape: tuple[int, ...], places: int, group: int, integer: bool) -> float:
    filters, channels, kernel = shape[0], shape[1] * group, math.prod(shape[2:])
    macs = places * filters * shape[1] * kernel
    if not integer:
        padded = macs * _padded(filters) / filters
        if channels < 8:
            return padded / (FLOAT_RATE if channels == 1 else FLOAT_RATE_COLOURS * (1.6 if filters >= 4 * BLOCK else 1))
        return padded * _padded(channels) / channels / FLOAT_RATE + places * filters * 0.05e-3
    tail = 0.012 if filters % 4 else 0.003 if filters % BLOCK else 0.0005
    gathering = 0.03e-3 * channels if kernel == 1 else kernel * (1.3e-3 if channels < BLOCK else 0.6e-3)
    ragged = 0.25e-3 * filters if shape[1] * kernel % 4 else 0.0  # dot products go by four
    return macs / INTEGER_RATE + places * (filters * 0.05e-3 + tail + gathering + ragged)


def _depthwise_cost(channels: int, places: int, kernel: int, stride: int, integer: bool) -> float:
    taps = kernel / 9
    if integer:
        return places * ((0.012 + 0.8e-3 * channels * taps) if channels % BLOCK else 0.005 + 0.25e-3 * channels * taps)
    if channels % 4:
        return places * channels * (2.5e-3 if stride > 1 else 1.3e-3)
    return places * channels * 0.2e-3 * math.pow(taps, 0.7) * (1.5 if stride > 1 else 1)


def _padded(channels: int) -> int:
    return -(-channels // BLOCK) * BLOCK


def crossing_cost(tensor: str, graph: Graph, elements: Mapping[str, int], inwards: bool) -> float:
    """Microseconds of bringing one sample of a tensor from float to integers (inwards) or back, its layout included."""
    size = elements.get(tensor, 0)
    if len(graph.shapes.get(tensor) or ()) != 4:
        return CALL + size * 0.18e-3
    if graph.producer(tensor) is None:
        return 2 * CALL + size * 0.28e-3
    summed = inwards and any(reader.op_type == "Add" for reader in graph.consumers(tensor))
    return 2 * CALL + size * 0.45e-3 + (CALL + size * KEEPING if summed else 0.0)
