"""Why the tensors that cost the outputs most cost so much, and what to type against it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from onnx import NodeProto

from converter.families import RECTIFIERS, RENAMING, SIGMOIDS, SOFTMAXES
from converter.findings import Cause, Culprit, Layer
from converter.graph import Graph, attribute

__all__ = ["diagnose", "exclude_option", "touching", "worst_first"]

MOST_CULPRITS = 8
LEAST_SHARE = 0.05  # of the outputs' error; below it nothing that is done about one tensor would be seen
CUT = 1.05  # observed beyond the range by more than this factor is no matter of rounding
UNEVEN = 16.0  # largest over median scale of a weight's channels: four of the eight bits of the others are not used
COARSE_DB = 30.0  # 8 bits spread evenly give 50 dB, a normal variable's range of 4 deviations 40: this lost ten more
NEAR = 4  # steps through the graph within which an attention's Softmax stands


def diagnose(graph: Graph, layers: Sequence[Layer], shares: Mapping[str, float]) -> tuple[Culprit, ...]:
    """The tensors with the largest shares of the outputs' error, the worst first, each with its cause."""
    known = {layer.tensor: layer for layer in layers if layer.kind != "bias"}
    found = []
    for name in [name for name in worst_first(shares, graph) if name in known][:MOST_CULPRITS]:
        if shares[name] < LEAST_SHARE:
            break
        cause, why = _cause(known[name], graph)
        nodes = touching(name, graph)
        if not nodes:
            continue
        found.append(
            Culprit(
                tensor=name,
                node=known[name].node,
                operator=known[name].operator,
                share=min(1.0, shares[name]),
                cause=cause,
                why=why,
                option=exclude_option(nodes),
            )
        )
    return tuple(found)


def worst_first(shares: Mapping[str, float], graph: Graph) -> list[str]:
    """The tensors by their shares; one that another was only renamed to is left to that one."""

    def renamed(name: str) -> bool:
        producer = graph.producer(name)
        return producer is not None and producer.op_type in RENAMING and producer.input[0] in shares

    return sorted((name for name in shares if not renamed(name)), key=lambda name: (-shares[name], name))


def touching(tensor: str, graph: Graph) -> list[str]:
    """The nodes to leave in float so that the tensor is not rounded: those that read it, and the one that makes it."""
    nodes: list[NodeProto] = []
    producer = graph.producer(tensor)
    while producer is not None:
        nodes.insert(0, producer)
        if producer.op_type not in RECTIFIERS | RENAMING:
            break
        producer = graph.producer(producer.input[0])
    pending = list(graph.consumers(tensor))
    while pending:
        reader = pending.pop(0)
        if reader.op_type in RENAMING:
            pending += graph.consumers(reader.output[0])
        elif reader not in nodes:
            nodes.append(reader)
    passing = RECTIFIERS | RENAMING
    return list(dict.fromkeys(node.name for node in nodes if node.name and node.op_type not in passing))


def exclude_option(nodes: Sequence[str]) -> str:
    """What to type so that these nodes stay float."""
    return " ".join(f"--exclude {shlex.quote(node)}" for node in nodes)


def _cause(layer: Layer, graph: Graph) -> tuple[Cause, str]:
    """The first cause, in order of how sure its sign is, that shows; what shows none is sensitive."""
    readers = graph.consumers(layer.tensor)
    producer = graph.producer(layer.tensor)
    around = [*readers, *([producer] if producer is not None else [])]
    if layer.kind == "weight":
        scale = layer.scale
        uneven = scale is not None and scale.count > 1 and scale.maximum > UNEVEN * max(scale.median, 1e-30)
        if any(_is_depthwise(node, graph) for node in readers):
            return Cause.DEPTHWISE, "each channel of a depthwise layer has one small filter, whose errors do not cancel"
        if uneven:
            return Cause.OUTLIERS, "a few channels have far larger weights than the others"
        return Cause.SENSITIVE, "the outputs follow small changes of these weights closely"
    if _is_cut(layer):
        return Cause.SATURATION, "values beyond its range are cut off"
    if any(node.op_type == "Concat" for node in around):
        return Cause.SHARED_SCALE, "tensors of different size share one scale where they are joined"
    if any(node.op_type == "Mul" and _is_gate(node, graph) for node in around):
        return Cause.GATE, "it is multiplied with a gate, which scales its error by what the gate lets through"
    if any(_near_softmax(node, graph, NEAR) for node in around):
        return Cause.ATTENTION, "it feeds an attention, whose Softmax turns small errors into other weights"
    if any(_is_depthwise(node, graph) for node in around):
        return Cause.DEPTHWISE, "channels of very different size share one scale between depthwise layers"
    if layer.sqnr_alone_db is not None and layer.sqnr_alone_db < COARSE_DB:
        return Cause.OUTLIERS, "few values are far larger than the rest, and the step of all is theirs"
    return Cause.SENSITIVE, "the outputs follow small changes of it closely"


def _is_cut(layer: Layer) -> bool:
    ends = ((layer.observed_high, layer.high), (layer.observed_low, layer.low))
    return any(
        seen is not None and end is not None and abs(seen) > CUT * abs(end) and seen * end > 0 for seen, end in ends
    )


def _is_depthwise(node: NodeProto, graph: Graph) -> bool:
    if node.op_type != "Conv" or len(node.input) < 2:
        return False
    group = int(attribute(node, "group", 1))
    return group > 1 and node.input[1] in graph.initializers and graph.initializers.shape(node.input[1])[1] == 1


def _is_gate(node: NodeProto, graph: Graph) -> bool:
    makers = (graph.producer(name) for name in node.input)
    return any(maker is not None and maker.op_type in SIGMOIDS for maker in makers)


def _near_softmax(node: NodeProto, graph: Graph, steps: int) -> bool:
    if node.op_type in SOFTMAXES:
        return any(reader.op_type == "MatMul" for reader in graph.consumers(node.output[0]))
    if steps == 0 or node.op_type not in ("MatMul", "Add", "Mul", "Div", "Where", "Transpose", "Reshape", "Softmax"):
        return False
    return any(_near_softmax(reader, graph, steps - 1) for name in node.output for reader in graph.consumers(name))
