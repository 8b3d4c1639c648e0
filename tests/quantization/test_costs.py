"""Estimates of kernels' times order choices as onnxruntime's kernels do."""

from __future__ import annotations

from converter.graph import Graph
from converter.quantization.costs import crossing_cost, node_cost
from tests.networks import model_of, node, weights


def test_dense_layers_are_cheaper_in_integers_and_thin_depthwise_ones_are_not() -> None:
    def cost(filters: int, channels: int, integer: bool) -> float:
        conv = node("Conv", ["x", "w"], ["last"], name="c", pads=[1] * 4, group=filters // channels)
        graph = Graph(model_of([conv], {"w": weights(filters, channels, 3, 3)}, ("N", filters, 12, 12), ["last"]))
        return node_cost(graph.nodes[0], graph, {"last": filters * 144}, integer)

    assert cost(64, 64, True) < cost(64, 64, False)
    assert cost(8, 1, True) > cost(8, 1, False)


def convolution(filters: int, channels: int, side: int, integer: bool, group: int = 1, kernel: int = 3) -> float:
    conv = node("Conv", ["x", "w"], ["last"], name="c", pads=[kernel // 2] * 4, group=group)
    values = {"w": weights(filters, channels // group, kernel, kernel)}
    graph = Graph(model_of([conv], values, ("N", channels, side, side), ["last"]))
    return node_cost(graph.nodes[0], graph, {"last": filters * side**2, "x": channels * side**2}, integer)


def test_a_stem_on_three_colours_is_cheaper_in_float() -> None:
    assert convolution(16, 3, 112, integer=False) < convolution(16, 3, 112, integer=True)


def test_wide_layers_gain_most() -> None:
    def gain(channels: int) -> float:
        return convolution(channels, channels, 28, integer=False) / convolution(channels, channels, 28, integer=True)

    assert gain(16) < gain(64) < gain(256)


def test_channels_that_fill_no_block_cost_integers_dear() -> None:
    def price(channels: int) -> float:
        return convolution(channels, channels, 28, integer=True, group=channels) / channels

    assert price(58) > 2 * price(64)


def test_more_work_is_never_cheaper() -> None:
    for integer in (False, True):
        sides = [convolution(32, 32, side, integer) for side in (4, 8, 16, 32)]
        assert sides == sorted(sides)
        kernels = [convolution(32, 32, 16, integer, kernel=size) for size in (1, 3, 5, 7)]
        assert kernels == sorted(kernels)


def test_entering_the_integers_costs_more_where_a_sum_reads() -> None:
    def model(last: str) -> Graph:
        nodes = [
            node("Conv", ["x", "w"], ["a"], name="first", pads=[1] * 4),
            node("Conv", ["a", "v"], ["b"], name="second", pads=[1] * 4),
            node("Add", ["a", "b"], ["last"], name="sum") if last == "Add" else node("Relu", ["b"], ["last"]),
        ]
        return Graph(model_of(nodes, {"w": weights(8, 8, 3, 3), "v": weights(8, 8, 3, 3)}, ("N", 8, 9, 9), ["last"]))

    size = {"a": 648}
    assert crossing_cost("a", model("Add"), size, inwards=True) > crossing_cost("a", model("Relu"), size, inwards=True)
    assert crossing_cost("a", model("Add"), size, inwards=False) == crossing_cost("a", model("Relu"), size, False)
