"""A pass puts nodes beside others, and whoever asks afterwards sees them at once."""

from __future__ import annotations

from onnx import TensorProto, helper

from converter.normalization.rewriting import Rewriting


def test_nodes_inserted_on_both_sides_stand_where_they_were_put() -> None:
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Relu", ["x"], ["h"], "first"), helper.make_node("Neg", ["h"], ["y"], "second")]
    inputs, outputs = [value("x", TensorProto.FLOAT, [2])], [value("y", TensorProto.FLOAT, [2])]
    rewriting = Rewriting(helper.make_model(helper.make_graph(nodes, "g", inputs, outputs)))
    second = rewriting.nodes[1]
    before = helper.make_node("Abs", ["h"], ["a"], "before")
    rewriting.set_inputs(second, ["a"])
    rewriting.set_output(second, "b")
    rewriting.insert(second, before=[before], after=[helper.make_node("Exp", ["b"], ["y"], "after")])
    assert rewriting.maker("a") is before
    assert rewriting.is_present(second)
    made = rewriting.maker("y")
    assert made is not None
    assert made.name == "after"
    assert [node.name for node in rewriting.finish().graph.node] == ["first", "before", "second", "after"]
