"""Nodes that their owner keeps in float stay in float, by name, pattern or operator type, and the report says why."""

from __future__ import annotations

import pytest
from onnx import ModelProto

from converter import Options, Result, convert
from converter.errors import InvalidOption
from converter.exclusions import excluded_nodes
from converter.graph import Graph
from converter.normalization import normalize
from tests.networks import depthwise, residual


def excluded(model: ModelProto, exclude: tuple[str, ...] = (), include: tuple[str, ...] = ()) -> set[str]:
    graph = Graph(normalize(model).model)
    return set(excluded_nodes(model, graph, exclude, include))


def layers(model: ModelProto, operator: str = "Conv") -> list[str]:
    return [node.name for node in normalize(model).model.graph.node if node.op_type == operator]


def test_a_node_by_its_name_by_a_pattern_and_by_its_operator() -> None:
    first, *others = layers(residual())
    assert excluded(residual(), (first,)) == {first}
    assert excluded(residual(), ("Conv",)) == {first, *others}
    assert excluded(residual(), (f"{first[:-1]}?",)) >= {first}
    assert excluded(residual(), ("*",)) == {node.name for node in normalize(residual()).model.graph.node}


def test_only_what_is_included_may_become_integers_and_what_has_no_arithmetic_follows() -> None:
    first, *others = layers(residual())
    left_out = excluded(residual(), include=(first,))
    assert set(others) <= left_out
    assert first not in left_out
    assert not left_out & set(layers(residual(), "Relu"))
    assert excluded(residual(), (first,), (first,)) >= {first, *others}


@pytest.mark.parametrize("field", ["exclude", "include"])
def test_a_pattern_that_fits_nothing_is_refused(field: str) -> None:
    with pytest.raises(InvalidOption, match="fits 'head/\\*'") as refused:
        convert(residual(), Options.from_dict({"samples": 8, field: ["head/*"]}))
    assert refused.value.field == field
    assert refused.value.remedy


def integer_layers(result: Result) -> set[str]:
    """The layers whose weights are stored as integers."""
    graph = Graph(result.model)
    makers = ((node, graph.producer(node.input[1])) for node in graph.nodes if node.op_type == "Conv")
    return {node.name for node, maker in makers if maker is not None and maker.op_type == "DequantizeLinear"}


def test_excluded_layers_are_float_in_the_file_and_in_the_report() -> None:
    options = Options(samples=8, skip=frozenset({"float-fallback"}))  # type: ignore[arg-type]
    whole = convert(depthwise(), options)
    chosen = sorted(integer_layers(whole))[1]
    result = convert(depthwise(), Options(samples=8, skip=options.skip, exclude=(chosen,)))
    assert integer_layers(whole) - integer_layers(result) == {chosen}
    (kept,) = [each for each in result.report.quantization.kept_float if each.node == chosen]
    assert kept.reason == f"excluded by {chosen!r}"
