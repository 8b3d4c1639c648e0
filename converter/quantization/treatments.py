"""What each node's numbers become, node by node, and the file in which that is so.

Four treatments live side by side in one model: static integers (written before by onnxruntime's quantizer), dynamic
ones, weights alone, and float. Each is a plain choice for a whole model too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from onnx import ModelProto, helper

from converter.families import PRODUCTS
from converter.graph import Graph, attribute, copied
from converter.normalization.constants import remove_unused
from converter.normalization.rewriting import Rewriting
from converter.quantization.dynamic_nodes import cannot_be_dynamic, write_dynamic
from converter.quantization.integer_weights import stored_weights
from converter.quantization.qdq_writer import WeightGrid
from converter.quantization.stored_nodes import write_stored
from converter.quantization.weight_storage import Storage

__all__ = ["STORED", "Treated", "Treatment", "treat", "uniform"]


class Treatment(StrEnum):
    """How a node computes: on integers of fixed ranges, on integers of ranges found at run time, or in float."""

    STATIC = "static"
    DYNAMIC = "dynamic"
    WEIGHTS = "weights"  # stored as integers, computed with in float
    WIDE_WEIGHTS = "wide-weights"  # the same with 16 bits
    FLOAT = "float"


STORED = frozenset({Treatment.WEIGHTS, Treatment.WIDE_WEIGHTS})


@dataclass(frozen=True)
class Treated:
    """The model, what each node became that is not float, and why a node became less than was asked for."""

    model: ModelProto
    nodes: Mapping[str, Treatment]
    reasons: Mapping[str, str]


def treat(
    model: ModelProto,
    wanted: Mapping[str, Treatment],
    grids: Mapping[str, WeightGrid] = MappingProxyType({}),
) -> Treated:
    """The model with the nodes that ``wanted`` names dynamic or with weights as integers, and every other as it is.

    ``model`` is a float model, or one whose static nodes onnxruntime's quantizer has written already. A node that
    cannot be dynamic gets integer weights, one that has none stays float; the reasons say why. ``grids`` are those that
    weights lie on already.
    """
    changed = copied(model)
    graph = Graph(changed)
    settled, reasons = _settle(graph, wanted)
    rewriting = Rewriting(changed)
    tables = [node.input[0] for node in graph.nodes if node.op_type == "Gather" and node.name in settled]
    multiplied = [node for node in graph.nodes if node.op_type in PRODUCTS and node.name in settled]
    dynamic = [node for node in multiplied if settled[node.name] is Treatment.DYNAMIC]
    products = {node.input[1]: 0 for node in dynamic if not attribute(node, "transB", 0)}
    matrices = dict.fromkeys(node.input[1] for node in multiplied)
    wide = {
        name
        for node in graph.nodes
        if settled.get(node.name) is Treatment.WIDE_WEIGHTS
        for name in stored_weights(node, graph)
    }
    storage = Storage(rewriting, dict.fromkeys(tables), matrices, products, grids, wide)
    quantized: dict[str, tuple[str, str, str]] = {}
    unpacked: dict[str, str] = {}
    for node in rewriting.nodes:
        match settled.get(node.name):
            case Treatment.DYNAMIC:
                rewriting.replace(node, *write_dynamic(node, storage, quantized))
            case Treatment.WEIGHTS | Treatment.WIDE_WEIGHTS:
                rewriting.replace(node, *write_stored(node, graph, storage, unpacked))
    finished, _ = remove_unused(rewriting.finish())
    if any(node.domain == "com.microsoft" for node in finished.graph.node):
        known = {entry.domain for entry in finished.opset_import}
        finished.opset_import.extend([helper.make_opsetid("com.microsoft", 1)] if "com.microsoft" not in known else [])
    return Treated(finished, settled, reasons)


def _settle(graph: Graph, wanted: Mapping[str, Treatment]) -> tuple[dict[str, Treatment], dict[str, str]]:
    """What each node can become of what it should, and why some cannot."""
    settled: dict[str, Treatment] = {}
    reasons: dict[str, str] = {}
    for node in graph.nodes:
        treatment = wanted.get(node.name, Treatment.FLOAT)
        if treatment is not Treatment.DYNAMIC and treatment not in STORED:
            continue
        if treatment is Treatment.DYNAMIC and (reason := cannot_be_dynamic(node, graph)):
            treatment = Treatment.WEIGHTS
            reasons[node.name] = reason
        if treatment in STORED and not stored_weights(node, graph):
            reasons[node.name] = "it has no constant weights that would be smaller in 8 bits"
            continue
        settled[node.name] = treatment
    while alone := _read_in_float(graph, settled):  # a weight that someone reads in float would be in the file twice
        reasons |= alone
        settled = {name: each for name, each in settled.items() if name not in alone}
    return settled, reasons


def _read_in_float(graph: Graph, settled: Mapping[str, Treatment]) -> dict[str, str]:
    """The nodes with integer weights that another reader wants as they are, and who that is."""
    found: dict[str, str] = {}
    for node in graph.nodes:
        if settled.get(node.name) not in STORED:
            continue
        what = "table" if node.op_type == "Gather" else "weights"
        for name in stored_weights(node, graph):
            others = [each.name for each in graph.consumers(name) if each.name not in settled]
            if others or name in graph.output_names:
                found[node.name] = f"{others[0] if others else 'an output'} reads its {what} in float"
    return found


def uniform(graph: Graph, treatment: Treatment) -> dict[str, Treatment]:
    """The treatment for every node that it can be for; integer weights for the others that have weights."""
    return {
        node.name: Treatment.WEIGHTS if treatment is Treatment.DYNAMIC and cannot_be_dynamic(node, graph) else treatment
        for node in graph.nodes
        if stored_weights(node, graph)
    }
