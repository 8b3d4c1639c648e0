"""Which quantized tensor costs the outputs how much: the float model with one tensor at a time on its integer grid.

One graph holds both versions of every tensor and an input that says which one is switched, so that a session is built
once and not once a tensor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from converter.evaluation.grids import Grid, read_grids
from converter.graph import Array, Graph, opset
from converter.sessions import Feeds, open_session, output_names, serialize

__all__ = ["contributions", "switchable"]

SWITCH = "zsq_switch"


def switchable(float32: ModelProto, int8: ModelProto, tensors: Sequence[Grid]) -> ModelProto:
    """The float model with a further int64 input: k >= 0 puts tensor k, and only that, on its integer grid."""
    model = ModelProto()
    model.CopyFrom(float32)
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
            graph.initializer.add().CopyFrom(codes[tensor.codes])
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
        node = NodeProto()
        node.CopyFrom(source)
        node.input[:] = [taken.get(name, name) for name in source.input]
        node.output[:] = [f"{name}_zsq_plain" if f"{name}_zsq_plain" in added else name for name in source.output]
        rewired += [node, *(each for name in node.output for each in added.get(name, ()))]
    del graph.node[:]
    graph.node.extend(rewired)
    graph.input.append(helper.make_tensor_value_info(SWITCH, 7, []))
    return model


def contributions(
    float32: ModelProto,
    int8: ModelProto,
    feed: Feeds,
    *,
    seconds: float = 5.0,
    threads: int = 1,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, float]:
    """The share of each weight and activation in the error of the outputs, each quantized alone and errors added up.

    Every output weighs the same. Where ``seconds`` do not suffice for every tensor the result is empty: shares of an
    unknown whole would be wrong.
    """
    tensors = [tensor for tensor in read_grids(Graph(float32), Graph(int8)) if tensor.kind != "bias"]
    if not tensors or opset(float32) < 13:
        return {}
    session = open_session(serialize(switchable(float32, int8, tensors)), threads)
    names = output_names(session)
    wanted = {entry.name for entry in session.get_inputs()}
    given = {name: value for name, value in feed.items() if name in wanted}
    began = clock()
    clean = session.run(names, {**given, SWITCH: np.array(-1, np.int64)})
    errors: dict[str, float] = {}
    for index, tensor in enumerate(tensors):
        actual = session.run(names, {**given, SWITCH: np.array(index, np.int64)})
        errors[tensor.name] = sum(_relative_error(x, y) for x, y in zip(clean, actual, strict=True))
        if (clock() - began) / (index + 2) * (len(tensors) + 1) > seconds and index + 1 < len(tensors):
            return {}  # at this pace it would not end in time
    total = sum(errors.values())
    return {name: error / total for name, error in errors.items()} if total > 0 else {}


def _relative_error(expected: Array, actual: Array) -> float:
    x, y = np.asarray(expected, np.float64).ravel(), np.asarray(actual, np.float64).ravel()
    power = float(x @ x)
    if x.shape != y.shape or not np.isfinite(power) or power == 0:
        return 0.0
    error = float((y - x) @ (y - x)) / power
    return error if np.isfinite(error) else 0.0
