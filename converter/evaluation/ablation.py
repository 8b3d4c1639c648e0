"""Which quantized tensor costs the outputs how much: the float model with one tensor at a time on its integer grid.

One graph holds both versions of every tensor and an input that says which one is switched, so that a session is built
once and not once a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from converter.evaluation.grids import Grid, read_grids
from converter.graph import Array, Graph, copied, opset, set_nodes
from converter.sessions import Feeds, open_session, output_names, serialize

__all__ = ["contributions", "switchable"]

SWITCH = "zsq_switch"
WORK = 30_000_000_000  # multiply-adds: two to four seconds of one core at the 10 billion a second that Conv reaches
LEAST_TENSORS = 24  # are tried of however large a model


def switchable(float32: ModelProto, int8: ModelProto, tensors: Sequence[Grid]) -> ModelProto:
    """The float model with a further int64 input: k >= 0 puts tensor k, and only that, on its integer grid."""
    model = copied(float32)
    if opset(model) < 13:
        raise ValueError("a grid per channel needs opset 13")
    codes = {tensor.name: tensor for tensor in int8.graph.initializer}
    graph = model.graph
    outputs = {value.name for value in graph.output}
    taken: dict[str, str] = {}
    added: dict[str, list[NodeProto]] = {}
    for index, tensor in enumerate(tensors):
        name, prefix = tensor.name, f"zsq_{index}"
        grid = (f"{prefix}_scale", f"{prefix}_zero")
        graph.initializer.append(numpy_helper.from_array(tensor.scale, grid[0]))
        zero = tensor.zero_point.astype(helper.tensor_dtype_to_np_dtype(tensor.element_type))
        graph.initializer.append(numpy_helper.from_array(zero, grid[1]))
        graph.initializer.append(numpy_helper.from_array(np.array(index, np.int64), f"{prefix}_index"))
        plain = f"{name}_zsq_plain" if name in outputs else name
        nodes = []
        if tensor.kind == "activation":
            nodes.append(helper.make_node("QuantizeLinear", [plain, *grid], [f"{prefix}_codes"], axis=tensor.axis))
        else:
            graph.initializer.append(codes[tensor.codes])
            graph.initializer[-1].name = f"{prefix}_codes"
        nodes += [
            helper.make_node("DequantizeLinear", [f"{prefix}_codes", *grid], [f"{prefix}_rounded"], axis=tensor.axis),
            helper.make_node("Equal", [SWITCH, f"{prefix}_index"], [f"{prefix}_on"]),
            helper.make_node("Where", [f"{prefix}_on", f"{prefix}_rounded", plain], [f"{prefix}_chosen"]),
        ]
        if plain != name:
            nodes.append(helper.make_node("Identity", [f"{prefix}_chosen"], [name]))
        taken[name] = f"{prefix}_chosen"
        added[plain] = nodes
    given = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    rewired = [node for name, nodes in added.items() if name in given for node in nodes]
    for source in float32.graph.node:
        node = copied(source)
        node.input[:] = [taken.get(name, name) for name in source.input]
        node.output[:] = [f"{name}_zsq_plain" if f"{name}_zsq_plain" in added else name for name in source.output]
        rewired += [node, *(each for name in node.output for each in added.get(name, ()))]
    set_nodes(graph, rewired)
    graph.input.append(helper.make_tensor_value_info(SWITCH, 7, []))
    return model


def contributions(
    float32: ModelProto,
    int8: ModelProto,
    feeds: Sequence[Feeds],
    *,
    multiply_adds: int = 0,
    suspects: Sequence[str] = (),
    threads: int = 1,
) -> dict[str, float]:
    """The share of each weight and activation in the error of the outputs, each quantized alone and errors added up.

    Every output weighs the same. How many tensors are tried and on how many of the feeds follows from ``multiply_adds``
    of one of them, never from a clock; where not all can be, those first in ``suspects`` are, and the whole is the INT8
    model's own error if that is more than what was found.
    """
    tensors = [tensor for tensor in read_grids(Graph(float32), Graph(int8)) if tensor.kind != "bias"]
    if not tensors or not feeds or opset(float32) < 13:
        return {}
    runs = max(1, WORK // max(multiply_adds, 1))  # that fit into the work
    tried = _foremost(tensors, suspects, max(LEAST_TENSORS, runs))
    feeds = feeds[: max(1, min(len(feeds), runs // len(tried)))]
    session = open_session(serialize(switchable(float32, int8, tried)), threads)
    names = output_names(session)
    wanted = {entry.name for entry in session.get_inputs()}
    errors = dict.fromkeys((tensor.name for tensor in tried), 0.0)
    whole = 0.0
    after = open_session(int8, threads) if len(tried) < len(tensors) else None
    for feed in feeds:
        given = {name: value for name, value in feed.items() if name in wanted}
        clean = session.run(names, {**given, SWITCH: np.array(-1, np.int64)})
        for index, tensor in enumerate(tried):
            actual = session.run(names, {**given, SWITCH: np.array(index, np.int64)})
            errors[tensor.name] += sum(_relative_error(x, y) for x, y in zip(clean, actual, strict=True))
        if after is not None:
            whole += sum(_relative_error(x, y) for x, y in zip(clean, after.run(names, feed), strict=True))
    total = max(whole, sum(errors.values()))
    return {name: error / total for name, error in errors.items()} if total > 0 else {}


def _foremost(tensors: Sequence[Grid], suspects: Sequence[str], most: int) -> list[Grid]:
    """At most so many tensors, the suspects first, in the order of the model."""
    rank = {name: place for place, name in enumerate(suspects)}
    chosen = sorted(tensors, key=lambda tensor: rank.get(tensor.name, len(rank)))[:most]
    kept = {tensor.name for tensor in chosen}
    return [tensor for tensor in tensors if tensor.name in kept]


def _relative_error(expected: Array, actual: Array) -> float:
    x, y = np.asarray(expected, np.float64).ravel(), np.asarray(actual, np.float64).ravel()
    power = float(x @ x)
    if x.shape != y.shape or not np.isfinite(power) or power == 0:
        return 0.0
    error = float((y - x) @ (y - x)) / power
    return error if np.isfinite(error) else 0.0
