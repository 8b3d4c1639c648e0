"""Whether the graph is one: every name defined once and before its use, in every body."""

from __future__ import annotations

import math
from graphlib import CycleError, TopologicalSorter

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from converter.admission.operators import name_of
from converter.admission.widening import tensors
from converter.admission.wire import check_tensor_size, check_total, shorten
from converter.errors import InvalidModel, TooLarge, UnsupportedModel
from converter.graph import captures, subgraphs, walk
from converter.limits import NEWEST_IR, NEWEST_OPSET, OLDEST_OPSET, Limits

__all__ = ["check_graph", "check_interface", "check_sizes", "check_versions", "name_apart"]

ELEMENT_TYPES = {
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.DOUBLE,
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT16,
    TensorProto.UINT16,
    TensorProto.INT32,
    TensorProto.UINT32,
    TensorProto.INT64,
    TensorProto.UINT64,
    TensorProto.BOOL,
}
AGAIN = "Export the model again."


def check_versions(model: ModelProto) -> tuple[str, ...]:
    """Opset and IR are ones that are read; a newer IR than onnxruntime reads is lowered, with a note."""
    if not model.HasField("graph") or not model.graph.node:
        raise InvalidModel(
            "The file has no graph with nodes in it; it may not be ONNX at all (TensorFlow's .pb looks alike).",
            field="graph",
            remedy="Give a model exported to ONNX.",
        )
    versions = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    if not versions:
        raise InvalidModel("The model does not say which opset it uses.", field="opset_import", remedy=AGAIN)
    if len(set(versions)) > 1:
        raise InvalidModel("The model names two different opsets.", field="opset_import", remedy=AGAIN)
    version = versions[0]
    if not OLDEST_OPSET <= version <= NEWEST_OPSET:
        kind = UnsupportedModel if 0 < version <= 1000 else InvalidModel
        raise kind(
            f"The model uses opset {version}; zsq reads {OLDEST_OPSET} to {NEWEST_OPSET}.",
            field="opset_import",
            remedy="Export it with opset 17, or bring it there with onnx.version_converter.convert_version.",
        )
    if not 3 <= model.ir_version <= 1000:
        raise InvalidModel(
            f"The model has IR version {model.ir_version}; ONNX files with weights begin at 3.",
            field="ir_version",
            remedy=AGAIN,
        )
    if model.training_info:
        raise UnsupportedModel(
            "The model contains a training graph.", field="training_info", remedy="Export the inference graph alone."
        )
    if model.ir_version > NEWEST_IR:
        newer, model.ir_version = model.ir_version, NEWEST_IR
        model.ClearField("configuration")
        return (f"IR version {newer} was lowered to {NEWEST_IR}, the newest that onnxruntime reads.",)
    return ()


def check_sizes(model: ModelProto, limits: Limits) -> None:
    """Nodes, nesting of bodies and every tensor are within the limits."""
    count = 0
    pending = [(model.graph, 0)]
    while pending:
        graph, depth = pending.pop()
        count += len(graph.node)
        if count > limits.nodes:
            raise TooLarge(
                f"The model has more than {limits.nodes:,} nodes.", field="node", remedy="Simplify the graph first."
            )
        if depth > limits.subgraph_depth:
            raise TooLarge(
                f"Bodies of If, Loop and Scan are nested deeper than {limits.subgraph_depth} levels.",
                field="graph",
                remedy="Flatten the control flow.",
            )
        if graph.sparse_initializer:
            name = shorten(graph.sparse_initializer[0].values.name)
            raise UnsupportedModel(
                f"The tensor {name!r} is a sparse initializer.",
                tensor=name,
                field="sparse_initializer",
                remedy="Store the weights densely.",
            )
        pending.extend((body, depth + 1) for node in graph.node for body in subgraphs(node))
    total = 0
    for tensor in tensors(model):
        raw = len(tensor.raw_data) if tensor.HasField("raw_data") else None
        external = tensor.data_location == TensorProto.EXTERNAL
        total += check_tensor_size(tensor.name, list(tensor.dims), tensor.data_type, raw, external, limits)
        check_total(total, limits)
        _check_elements(tensor, raw, external)


def _check_elements(tensor: TensorProto, raw: int | None, external: bool) -> None:
    name = shorten(tensor.name)
    if tensor.data_type not in ELEMENT_TYPES:
        known = tensor.data_type in TensorProto.DataType.values()
        kind = TensorProto.DataType.Name(tensor.data_type) if known else str(tensor.data_type)
        raise UnsupportedModel(
            f"The tensor {name!r} has the element type {kind}.",
            tensor=name,
            field="data_type",
            remedy="Give the FP32 model.",
        )
    if raw is None and not external:
        held = max(map(len, (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data,
                             tensor.uint64_data)))  # fmt: skip
        if held != math.prod(tensor.dims):
            raise InvalidModel(
                f"The tensor {name!r} declares {math.prod(tensor.dims):,} elements but holds {held:,}.",
                tensor=name,
                field="dims",
                remedy="The file is damaged; export or download it again.",
            )


def check_interface(model: ModelProto, limits: Limits) -> None:
    """Inputs and outputs are tensors of a possible shape; sizes of 0 and beyond the limit are refused by name."""
    initialized = {tensor.name for tensor in model.graph.initializer}
    for kind, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            if value.name not in initialized:
                _check_value(kind, value, limits)
    if not model.graph.output:
        raise InvalidModel("The graph has no outputs.", field="output", remedy=AGAIN)
    if all(value.name in initialized for value in model.graph.input):
        raise UnsupportedModel(
            "The graph has no inputs, so there is nothing that it computes from.", field="input", remedy=AGAIN
        )


def _check_value(kind: str, value: ValueInfoProto, limits: Limits) -> None:
    name = shorten(value.name)
    what = value.type.WhichOneof("value")
    if not value.name or (what is None and kind == "input"):
        raise InvalidModel(f"An {kind} has no name or type.", tensor=name, field=kind, remedy=AGAIN)
    if what is None:
        return  # an output's type follows from the graph
    element_type = value.type.tensor_type.elem_type
    if what != "tensor_type" or element_type not in ELEMENT_TYPES:
        found = "STRING tensor" if element_type == TensorProto.STRING else what.removesuffix("_type")
        raise UnsupportedModel(
            f"The {kind} {name!r} is a {found}; zsq converts models from number tensors to number tensors.",
            tensor=name,
            field=kind,
            remedy="Move what handles it out of the model.",
        )
    sizes = []
    for dim in value.type.tensor_type.shape.dim:
        if not dim.HasField("dim_value"):
            continue
        if dim.dim_value < 0:
            dim.ClearField("dim_value")  # some exporters write -1 for "any"
        elif dim.dim_value == 0 and kind == "input":
            raise InvalidModel(
                f"The input {name!r} has an axis of size 0.",
                tensor=name,
                field=kind,
                remedy="Export with a real size or a named dynamic axis.",
            )
        else:
            sizes.append(dim.dim_value)
    if math.prod(sizes) > limits.tensor_elements:
        raise TooLarge(
            f"The {kind} {name!r} has {math.prod(sizes):,} elements; at most {limits.tensor_elements:,} are accepted.",
            tensor=name,
            field=kind,
            remedy="Export with a smaller or dynamic shape.",
        )


def check_graph(graph: GraphProto, outer: frozenset[str] = frozenset()) -> None:
    """Every name is made once, every input is made before it is used; nodes in disorder are put in order."""
    inputs = {value.name for value in graph.input}
    initialized = {tensor.name for tensor in graph.initializer}
    _check_unique([value.name for value in graph.input], "inputs")
    _check_unique([tensor.name for tensor in graph.initializer], "initializers")
    made: dict[str, NodeProto] = {}
    for node in graph.node:
        for name in filter(None, node.output):
            if name in made or name in inputs or name in initialized:
                raise InvalidModel(
                    f"The tensor {shorten(name)!r} is made twice, the second time by node {name_of(node)!r}.",
                    tensor=shorten(name),
                    node=name_of(node),
                    remedy=AGAIN,
                )
            made[name] = node
    given = outer | inputs | initialized
    _order(graph, made, given)
    for value in graph.output:
        if value.name not in made and value.name not in given:
            raise InvalidModel(
                f"The output {shorten(value.name)!r} is made by no node.",
                tensor=shorten(value.name),
                field="output",
                remedy=AGAIN,
            )
    known = set(given)
    for node in graph.node:
        for body in subgraphs(node):
            check_graph(body, frozenset(known))
        known.update(node.output)


def name_apart(model: ModelProto) -> tuple[str, ...]:
    """No two nodes have the same name, which onnxruntime insists on; says so if that needed a change."""
    taken = {node.name for node, _ in walk(model.graph)}
    seen: set[str] = set()
    count = 0
    for node, _ in walk(model.graph):
        if node.name and node.name in seen:
            number = 1
            while f"{node.name}_{number}" in taken:
                number += 1
            node.name = f"{node.name}_{number}"
            taken.add(node.name)
            count += 1
        seen.add(node.name)
    return (f"Nodes renamed because another had the same name: {count}.",) if count else ()


def _check_unique(names: list[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen or not name:
            raise InvalidModel(
                f"Two {what} have the name {shorten(name)!r}." if name else f"One of the {what} has no name.",
                tensor=shorten(name),
                remedy=AGAIN,
            )
        seen.add(name)


def _order(graph: GraphProto, made: dict[str, NodeProto], given: frozenset[str]) -> None:
    """The nodes stand in an order of computation; raises on cycles and on tensors that nothing makes."""
    place = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs: dict[int, set[int]] = {}
    for index, node in enumerate(graph.node):
        reads = [name for name in (*node.input, *sorted(captures(node))) if name and name not in given]
        for name in reads:
            if name not in made:
                raise InvalidModel(
                    f"The node {name_of(node)!r} ({shorten(node.op_type)}) reads {shorten(name)!r}, which is no "
                    "input and no initializer, and no node makes it.",
                    node=name_of(node),
                    operator=shorten(node.op_type),
                    tensor=shorten(name),
                    remedy="The file is incomplete; export the model again.",
                )
        needs[index] = {place[name] for name in reads}
    if all(before < index for index, reads_from in needs.items() for before in reads_from):
        return
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as cycle:
        around = [name_of(graph.node[index]) for index in cycle.args[1][:4]]
        raise InvalidModel(
            f"The graph goes in a circle through the nodes {', '.join(around)}.", node=around[0], remedy=AGAIN
        ) from None
    nodes = [graph.node[index] for index in order]
    del graph.node[:]
    graph.node.extend(nodes)
