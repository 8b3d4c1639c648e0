"""A residual stream from a float layer keeps its codes and gains the integer layout."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto

from converter.quantization.calibration import RangeRule, observe
from converter.quantization.channels_last import keep_channels_last
from converter.quantization.placement import place, quantized_tensors
from converter.quantization.qdq_writer import Plan, quantize
from converter.sessions import open_session
from tests.networks import Prepared, concatenated, prepare, residual


def plan_of(given: Prepared, in_float: dict[str, str]) -> Plan:
    nodes = place(given.graph, in_float).nodes
    shared = quantized_tensors(given.graph, nodes)
    observed = observe(given.network, sorted(set(shared.values())), given.batches)
    return Plan(nodes, {name: observed[source].range(RangeRule.MINMAX) for name, source in shared.items()})


def stem(given: Prepared) -> dict[str, str]:
    return {given.graph.nodes[0].name: "the stem stays in float"}


def answers(model: ModelProto, given: Prepared) -> list[np.ndarray]:
    return [np.asarray(each) for each in open_session(model).run(None, dict(given.batches[0]))]


def test_the_stream_enters_through_one_identity_and_every_code_stays() -> None:
    given = prepare(residual())
    plan = plan_of(given, stem(given))
    changed, wider = keep_channels_last(given.model, plan)
    added = wider.nodes - plan.nodes
    assert len(added) == 1
    plain, kept = quantize(given.model, plan, None), quantize(changed, wider, None)
    for one, other in zip(answers(plain, given), answers(kept, given), strict=True):
        np.testing.assert_array_equal(one, other)


def test_only_the_sum_reads_the_identity() -> None:
    given = prepare(residual())
    changed, _ = keep_channels_last(given.model, plan_of(given, stem(given)))
    identity = next(node for node in changed.graph.node if node.name.endswith("_channels_last"))
    readers = [node.op_type for node in changed.graph.node if identity.output[0] in node.input]
    assert readers == ["Add"]
    assert [node.name for node in changed.graph.node].index(identity.name) > 0


def test_four_bits_have_no_integer_layout() -> None:
    given = prepare(residual())
    plan = plan_of(given, stem(given))
    coarse = replace(plan, ranges={name: replace(each, levels=16) for name, each in plan.ranges.items()})
    changed, same = keep_channels_last(given.model, coarse)
    assert changed is given.model
    assert same is coarse


@pytest.mark.parametrize("in_float", [True, False])
def test_nothing_changes_where_no_sum_is_entered(in_float: bool) -> None:
    given = prepare(concatenated())
    plan = plan_of(given, stem(given) if in_float else {})
    changed, same = keep_channels_last(given.model, plan)
    assert changed is given.model
    assert same is plan


def test_an_integer_stem_needs_no_identity() -> None:
    given = prepare(residual())
    plan = plan_of(given, {})
    assert keep_channels_last(given.model, plan) == (given.model, plan)


def test_a_stream_that_is_not_rounded_is_left_alone() -> None:
    given = prepare(residual())
    plan = plan_of(given, stem(given))
    without = replace(plan, ranges={name: each for name, each in plan.ranges.items() if name not in ("s0", "c0")})
    assert keep_channels_last(given.model, without) == (given.model, without)
