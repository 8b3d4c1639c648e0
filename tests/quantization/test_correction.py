"""Rounded weights and shifted biases bring the integer network nearer to the float one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from converter.graph import Graph, weight_of
from converter.inputs.plans import tensors
from converter.quantization.calibration import RangeRule, observe
from converter.quantization.correction import WIDEST, Correction, Settings, apply_correction, correct
from converter.quantization.placement import place, quantized_tensors
from converter.quantization.qdq_writer import Range
from converter.quantization.sensitivity import round_to_range
from converter.reconstruction import reconstruct
from converter.sessions import Feeds
from tests.networks import NETWORKS, Prepared, biases, difference, model_of, node, prepare, residual, run, weights


def ranges_of(given: Prepared) -> dict[str, Range]:
    shared = quantized_tensors(given.graph, place(given.graph, {}).nodes)
    observed = observe(given.network, sorted(set(shared.values())), given.batches)
    return {name: observed[source].range(RangeRule.MINMAX) for name, source in shared.items()}


def corrected(given: Prepared, settings: Settings, ranges: Mapping[str, Range] | None = None) -> Correction:
    nodes = place(given.graph, {}).nodes
    ranges = ranges_of(given) if ranges is None else ranges
    return correct(given.network, given.graph, nodes, ranges, [tensors(each) for each in given.batches], settings)


def errors(given: Prepared, correction: Correction, ranges: Mapping[str, Range]) -> tuple[float, float]:
    """The outputs' relative squared error, and the largest mean error of a channel, with every tensor rounded."""
    network = reconstruct(apply_correction(given.model, correction))

    def edit(name: str) -> Callable[[Tensor], Tensor]:
        each = ranges[name].widened()
        return lambda value: round_to_range(value, each.low, each.high)

    total = power = 0.0
    means = []
    for feeds in map(tensors, given.batches):
        with torch.no_grad():
            exact = given.network.run(feeds, ["y"])["y"]
            after = network.run(feeds, ["y"], edit={name: edit(name) for name in ranges})["y"]
        assert isinstance(exact, Tensor)
        assert isinstance(after, Tensor)
        total += float((after - exact).square().sum())
        power += float(exact.square().sum())
        channel = 1 if exact.dim() != 3 else -1
        means.append((after - exact).movedim(channel, 0).flatten(1).mean(1))
    return total / power, float(torch.stack(means).mean(0).abs().max())


@pytest.mark.parametrize("name", [each for each in NETWORKS if each != "upsampled"])
def test_bias_correction_takes_the_mean_error_away(name: str) -> None:
    given = prepare(NETWORKS[name](), samples=32)
    ranges = ranges_of(given)
    at_four_bits = dict.fromkeys((found[0] for each in given.graph.nodes if (found := weight_of(each, given.graph))), 4)
    plain, shifted = (
        errors(given, corrected(given, Settings(False, each, at_four_bits), ranges), ranges) for each in (False, True)
    )
    assert shifted[1] < 0.3 * plain[1]
    assert shifted[0] < plain[0]


def test_compensation_beats_nearest_over_the_whole_network() -> None:
    given = prepare(residual(), samples=64)
    ranges = ranges_of(given)
    bits = dict.fromkeys((name for name in given.graph.initializers if name.startswith("w")), 4)
    nearest, compensated = (
        errors(given, corrected(given, Settings(each, True, bits), ranges), ranges)[0] for each in (False, True)
    )
    assert compensated < nearest


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_lies_on_its_grid_and_says_what_it_cost(name: str) -> None:
    given = prepare(NETWORKS[name]())
    result = corrected(given, Settings())
    layers = [each for each in given.graph.nodes if weight_of(each, given.graph)]
    assert {each.node for each in result.changes} == {each.name for each in layers}
    assert result.weights.keys() == result.grids.keys()
    for weight, values in result.weights.items():
        grid = result.grids[weight]
        codes = np.moveaxis(values, grid.axis, -1) / grid.scale
        assert np.abs(codes - codes.round()).max() < 2e-3
        assert np.abs(codes).max() <= 127.01
        assert values.shape == given.graph.initializers[weight].shape
    assert all(0 <= each.error < 0.02 for each in result.changes)


def test_a_layer_of_one_number_in_batches_of_one_has_an_error_of_ordinary_size() -> None:
    layers = [node("Conv", ["x", "w"], ["c"]), node("Relu", ["c"], ["r"]), node("GlobalAveragePool", ["r"], ["p"])]
    layers += [node("Flatten", ["p"], ["f"]), node("Gemm", ["f", "v"], ["y"])]
    given = prepare(model_of(layers, {"w": weights(8, 8, 3, 3), "v": weights(8, 1)}), samples=16)
    apart: list[Feeds] = [{"x": each[None]} for feeds in given.batches for each in feeds["x"]]
    alone = Prepared(given.model, given.graph, given.network, apart)
    last = corrected(alone, Settings(compensate=True, correct_bias=True), ranges_of(given)).changes[-1]
    assert 0 < last.error < 0.1
    assert 0 < last.nearest_error < 0.1


def test_fewer_bits_where_they_are_wanted() -> None:
    given = prepare(residual())
    result = corrected(given, Settings(bits={"w1": 4}))
    for name in ("w1", "w2"):
        codes = result.weights[name] / result.grids[name].scale.reshape(-1, 1, 1, 1)
        assert np.abs(codes).max() <= (7 if name == "w1" else 127) + 1e-2
    assert result.grids["w1"].bits == 4
    error = {each.weight: each.error for each in result.changes}
    assert error["w1"] > error["w2"]


def test_the_corrected_model_computes_nearly_the_same_in_float() -> None:
    for name in ("residual", "gated", "transformer"):
        given = prepare(NETWORKS[name]())
        made = apply_correction(given.model, corrected(given, Settings()))
        assert [each.name for each in made.graph.node] == [each.name for each in given.model.graph.node]
        assert difference(run(given.model, given.batches[0]), run(made, given.batches[0])) < 0.1


def test_a_layer_without_a_bias_gets_one() -> None:
    given = prepare(NETWORKS["pooled"]())
    result = corrected(given, Settings())
    made = apply_correction(given.model, result)
    nodes = {each.name: each for each in made.graph.node}
    bare = [each.name for each in given.graph.nodes if each.op_type == "Conv" and len(each.input) == 2]
    assert bare
    for name in bare:
        (added,) = list(nodes[name].input)[2:]
        np.testing.assert_allclose(Graph(made).initializers[added], result.biases[name], rtol=1e-6)


def test_a_bias_that_two_layers_share_is_shifted_for_each_alone() -> None:
    model = model_of(
        [
            node("Conv", ["x", "w0", "b"], ["c0"]),
            node("Relu", ["c0"], ["r0"]),
            node("Conv", ["r0", "w1", "b"], ["y"]),
        ],
        {"w0": weights(16, 8, 1, 1), "w1": weights(16, 16, 1, 1), "b": biases(16)},
    )
    given = prepare(model)
    result = corrected(given, Settings())
    made = Graph(apply_correction(given.model, result))
    assert len(result.biases) == 2
    for each in made.nodes:
        if each.op_type == "Conv":
            shift = made.initializers[each.input[2]] - given.graph.initializers["b"]
            np.testing.assert_allclose(shift, result.biases[each.name], atol=1e-6)


def test_a_weight_that_two_layers_share_is_rounded_once() -> None:
    model = model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"]),
            node("Relu", ["c0"], ["r0"]),
            node("Conv", ["r0", "w1"], ["c1"]),
            node("Relu", ["c1"], ["r1"]),
            node("Conv", ["r1", "w1"], ["y"]),
        ],
        {"w0": weights(16, 8, 1, 1), "b0": biases(16), "w1": weights(16, 16, 1, 1)},
    )
    given = prepare(model)
    result = corrected(given, Settings())
    assert sorted(each.weight for each in result.changes) == ["w0", "w1"]


def test_biases_fit_32_bits_where_steps_are_tiny() -> None:
    """A nearly dead channel with a bias: in units of its own tiny step the bias would not fit."""
    thin = weights(4, 8, 1, 1)
    thin[2] *= 1e-9
    model = model_of([node("Conv", ["x", "w", "b"], ["y"])], {"w": thin, "b": np.ones(4, np.float32)})
    given = prepare(model)
    ranges = ranges_of(given)
    result = corrected(given, Settings(), ranges)
    step = (ranges["x"].high - ranges["x"].low) / 255
    assert (1.0 / (result.grids["w"].scale * step)).max() <= 2**30 * 1.001


def test_nothing_is_done_to_nodes_in_float() -> None:
    given = prepare(residual())
    first = next(each for each in given.graph.nodes if each.op_type == "Conv")
    nodes = place(given.graph, {first.name: "a test"}).nodes
    result = correct(given.network, given.graph, nodes, {}, [tensors(each) for each in given.batches], Settings())
    assert first.input[1] not in result.weights
    assert first.name not in result.biases


def test_progress_ends_at_one() -> None:
    given = prepare(residual(), samples=8)
    shares: list[float] = []
    batches = [tensors(each) for each in given.batches]
    correct(given.network, given.graph, place(given.graph, {}).nodes, {}, batches, Settings(), shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize(("further", "too_wide"), [(0, False), (1, True)])
def test_a_layer_too_wide_for_errors_that_compensate_is_known(further: int, too_wide: bool) -> None:
    model = model_of(
        [node("Gemm", ["x", "w0", "b0"], ["y"], transB=1)],
        {"w0": weights(5, WIDEST + further), "b0": biases(5)},
        ("N", WIDEST + further),
    )
    (change,) = corrected(prepare(model), Settings(True, True)).changes
    assert change.too_wide == too_wide
    assert not corrected(prepare(model), Settings(False, True)).changes[0].too_wide
