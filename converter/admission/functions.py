"""Model-local functions, written out in place once it is known how much that makes."""

from __future__ import annotations

from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, inliner

from converter.admission.wire import shorten
from converter.errors import InvalidModel, TooLarge
from converter.graph import subgraphs
from converter.limits import Limits

__all__ = ["expanded_size", "inline_functions", "write_out"]

Key = tuple[str, str, str]
Extent = tuple[int, int]  # nodes, levels of calls


def inline_functions(model: ModelProto, limits: Limits) -> ModelProto:
    """The same model without model-local functions."""
    if not model.functions:
        return model
    if len(model.functions) > limits.functions:
        raise TooLarge(
            f"The model has {len(model.functions):,} functions; at most {limits.functions:,} are accepted.",
            field="functions",
            remedy="Export the model without model-local functions.",
        )
    size, depth = expanded_size(model)
    if depth > limits.function_depth:
        raise TooLarge(
            f"The model's functions call each other {depth} levels deep; at most {limits.function_depth} are accepted.",
            field="functions",
            remedy="Export the model without model-local functions.",
        )
    if size > limits.nodes:
        shown = f"{size:,}" if size < 10**12 else "more than a million million"
        raise TooLarge(
            f"Writing out the model's functions makes {shown} nodes; at most {limits.nodes:,} are accepted.",
            field="functions",
            remedy="Export the model without model-local functions.",
        )
    return write_out(model)


def write_out(model: ModelProto) -> ModelProto:
    """The model with every call of its functions replaced by their bodies; weights are moved, not copied."""
    weights = [tensor.raw_data for tensor in model.graph.initializer]
    for tensor in model.graph.initializer:  # the inliner copies the model; weights need not take part
        tensor.ClearField("raw_data")
    try:
        inlined = inliner.inline_local_functions(model, convert_version=True)
    except Exception as problem:  # boundary: onnx raises errors of several modules that share no class
        raise InvalidModel(
            f"The model's functions cannot be written out: {shorten(str(problem), 200)}.",
            field="functions",
            remedy="Export the model without model-local functions.",
        ) from None
    for tensor, data in zip(inlined.graph.initializer, weights, strict=True):
        if data:
            tensor.raw_data = data
    return inlined


def expanded_size(model: ModelProto) -> tuple[int, int]:
    """Nodes with every function call written out, and levels of calls within calls, without writing out any."""
    functions = {_key(function): function for function in model.functions}
    if len(functions) != len(model.functions):
        raise InvalidModel("A model-local function is defined twice.", field="functions", remedy="Export again.")
    extents: dict[Key, Extent] = {}
    for start in functions:
        _measure(start, functions, extents)
    return _extent(_all_nodes(list(model.graph.node)), extents)


def _measure(start: Key, functions: dict[Key, FunctionProto], extents: dict[Key, Extent]) -> None:
    """``extents`` holds the function and all that it calls; done without recursion, for chains can be long."""
    path = [start]
    on_path = {start}
    while path:
        current = path[-1]
        nodes = _all_nodes(list(functions[current].node))
        called = {_called(node) for node in nodes} & functions.keys()
        waiting = sorted(called - extents.keys())
        if not waiting:
            size, depth = _extent(nodes, extents)
            extents[current] = (size, depth + 1)
            on_path.discard(path.pop())
        elif not on_path.isdisjoint(waiting):
            name = shorten(current[1])
            raise InvalidModel(
                f"The model-local function {name!r} calls itself.",
                operator=name,
                field="functions",
                remedy="ONNX functions cannot be recursive; export the model again.",
            )
        else:
            path.append(waiting[0])
            on_path.add(waiting[0])


def _extent(nodes: list[NodeProto], extents: dict[Key, Extent]) -> Extent:
    found = [extents.get(_called(node), (1, 0)) for node in nodes]
    return sum(size for size, _ in found), max((depth for _, depth in found), default=0)


def _all_nodes(nodes: list[NodeProto]) -> list[NodeProto]:
    found: list[NodeProto] = []
    pending = list(nodes)
    while pending:
        node = pending.pop()
        found.append(node)
        if any(each.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for each in node.attribute):
            pending.extend(inner for body in subgraphs(node) for inner in body.node)
    return found


def _key(function: FunctionProto) -> Key:
    return function.domain, function.name, function.overload


def _called(node: NodeProto) -> Key:
    return node.domain, node.op_type, node.overload
