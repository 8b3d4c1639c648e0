"""Nodes go back to float where that saves damage, and never beyond the price."""

from __future__ import annotations

import math

import numpy as np
import pytest

from converter.graph import Graph, weight_of
from converter.inputs.sizes import sizes
from converter.quantization.float_fallback import (
    FEW_WEIGHTS,
    FLOAT_WEIGHTS,
    SLACK,
    Floor,
    choose_precision,
    integer_cost,
)
from converter.quantization.placement import Placement, place, quantized_tensors
from tests.networks import HEAD, NETWORKS, Prepared, head, model_of, node, prepare, residual, weights


def elements_of(given: Prepared) -> dict[str, int]:
    return sizes(given.network, given.graph, given.batches[0])


def damages(graph: Graph, seed: int) -> dict[str, float]:
    """Very unequal damages for every tensor that could be rounded."""
    generator = np.random.default_rng(seed)
    shared = quantized_tensors(graph, place(graph, {}).nodes)
    drawn = {source: float(np.exp(generator.normal(0, 3))) for source in sorted(set(shared.values()))}
    return {name: drawn[source] for name, source in shared.items()}


def harm(graph: Graph, placement: Placement, damage: dict[str, float]) -> float:
    return sum(damage.get(name, 0.0) for name in set(quantized_tensors(graph, placement.nodes).values()))


def float_weights(graph: Graph, placement: Placement) -> int:
    found = ((each.name, weight_of(each, graph)) for each in graph.nodes)
    return sum(
        math.prod(graph.initializers.shape(weight[0]))
        for name, weight in found
        if weight and name not in placement.nodes
    )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(3))
def test_the_price_is_never_exceeded_and_damage_never_grows(name: str, seed: int) -> None:
    given = prepare(NETWORKS[name](), samples=8)
    graph, elements = given.graph, elements_of(given)
    damage, everything = damages(graph, seed), place(graph, {})
    chosen = choose_precision(graph, damage, elements, {})
    assert integer_cost(graph, chosen, elements) <= integer_cost(graph, everything, elements) * (1 + SLACK) + 1e-9
    assert harm(graph, chosen, damage) <= harm(graph, everything, damage)
    whole = sum(
        math.prod(graph.initializers.shape(found[0])) for each in graph.nodes if (found := weight_of(each, graph))
    )
    assert float_weights(graph, chosen) <= float_weights(graph, everything) + max(
        FLOAT_WEIGHTS * whole, min(FEW_WEIGHTS, whole / 4)
    )
    assert chosen.nodes <= everything.nodes
    for node_name in everything.nodes - chosen.nodes:
        assert chosen.kept_float[node_name]


def test_without_damage_everything_runs_on_integers() -> None:
    given = prepare(residual())
    everything = place(given.graph, {})
    none = dict.fromkeys(quantized_tensors(given.graph, everything.nodes), 0.0)
    assert choose_precision(given.graph, none, elements_of(given), {}).nodes == everything.nodes


def test_a_free_removal_is_taken() -> None:
    """A depthwise layer of few channels is faster in float; where its rounding hurts, nothing speaks for integers."""
    model = model_of(
        [
            node("Conv", ["x", "w0"], ["c0"], name="thin", group=8, pads=[1] * 4),
            node("Relu", ["c0"], ["r0"]),
            node("Conv", ["r0", "w1"], ["c1"], name="dense", pads=[1] * 4),
            node("Relu", ["c1"], ["last"]),
            *HEAD,
        ],
        {"w0": weights(8, 1, 3, 3), "w1": weights(64, 8, 3, 3), **head(64)},
    )
    given = prepare(model)
    everything, elements = place(given.graph, {}), elements_of(given)
    damage = {name: 1.0 if name == "x" else 1e-6 for name in quantized_tensors(given.graph, everything.nodes)}
    chosen = choose_precision(given.graph, damage, elements, {})
    assert {"thin", "dense"} <= everything.nodes
    assert "thin" not in chosen.nodes
    assert "dense" in chosen.nodes
    assert integer_cost(given.graph, chosen, elements) < integer_cost(given.graph, everything, elements)


def test_what_is_kept_in_float_beforehand_stays_there() -> None:
    given = prepare(residual())
    first = next(each for each in given.graph.nodes if each.op_type == "Conv")
    chosen = choose_precision(
        given.graph, damages(given.graph, 0), elements_of(given), {first.name: "the owner's wish"}
    )
    assert first.name not in chosen.nodes
    assert chosen.kept_float[first.name] == "the owner's wish"


def test_the_reason_names_the_tensor_and_its_share() -> None:
    given = prepare(residual())
    shared = quantized_tensors(given.graph, place(given.graph, {}).nodes)
    for tensor in sorted(set(shared.values())):
        damage = {name: 99.0 if source == tensor else 1e-3 for name, source in shared.items()}
        chosen = choose_precision(given.graph, damage, elements_of(given), {})
        for reason in chosen.kept_float.values():
            if "damage" in reason:
                assert tensor in reason
                assert "%" in reason


def test_the_same_damage_gives_the_same_choice() -> None:
    given = prepare(NETWORKS["gated"]())
    damage = damages(given.graph, 5)
    reversed_ = dict(reversed(damage.items()))
    one, other = (choose_precision(given.graph, each, elements_of(given), {}) for each in (damage, reversed_))
    assert one == other


def test_nodes_become_float_until_the_error_is_acceptable() -> None:
    """What the usual shares of time and weights would not allow, an error above the floor does."""
    given = prepare(residual(), samples=8)
    graph = given.graph
    elements = {name: 4096 * size for name, size in elements_of(given).items()}  # large enough to gain by integers
    damage = damages(graph, 0)
    everything = place(graph, {})
    whole = harm(graph, everything, damage)

    def measure(placement: Placement) -> float:
        return harm(graph, placement, damage) / whole

    usual = choose_precision(graph, damage, elements, {}, 0)
    acceptable = measure(usual) / 2
    kept = choose_precision(graph, damage, elements, {}, 0, Floor(acceptable, measure))
    layers = [each for each in graph.nodes if each.name in kept.nodes and weight_of(each, graph)]
    assert measure(kept) <= acceptable or len(layers) == 1  # one stays, or nothing would be on integers
    assert len(kept.nodes) < len(usual.nodes)
    assert layers
    assert choose_precision(graph, damage, elements, {}, 0, Floor(1.0, measure)).nodes == usual.nodes
