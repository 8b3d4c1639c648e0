"""A BatchNorm that reads an input says what its numbers are, column by column, and nothing is left to guess."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from converter.graph import Graph
from converter.inputs.plans import InputPlan
from converter.inputs.recognition import describe_inputs
from converter.inputs.scaling import settle_scalings
from converter.normalization import normalize
from converter.reconstruction import reconstruct
from tests.networks import Array, model_of, node, weights

Doubles = NDArray[np.float64]
MEANS, DEVIATIONS = np.array([0.1, 14.0, 650.0, -3.0]), np.array([0.02, 3.5, 350.0, 1.0])


def settled(
    shape: tuple[int | str, ...],
    before: list[NodeProto],
    read: str,
    after: list[NodeProto],
    mean: Doubles,
    deviation: Doubles,
    **constants: Array,
) -> InputPlan:
    statistics = {"m": mean, "v": deviation**2, "g": np.full(len(mean), 2.0), "b": np.full(len(mean), 0.5)}
    model: ModelProto = model_of(
        [*before, node("BatchNormalization", [read, "g", "b", "m", "v"], ["n"]), *after],
        {name: np.asarray(each, np.float32) for name, each in statistics.items()} | constants,
        shape,
    )
    normalized = normalize(model)
    graph = Graph(normalized.model)
    (plan,) = settle_scalings(
        reconstruct(normalized.model), graph, describe_inputs(graph, {}), normalized.batch_norms, 0
    )
    return plan


@pytest.mark.parametrize("factor", [1.0, 0.01], ids=["uneven columns", "columns that fit on one grid"])
def test_columns_of_a_table_have_their_own(factor: float) -> None:
    """Whether the normalization stays, or goes into the product behind it."""
    mean = np.where(MEANS == 650, 650 * factor, MEANS)
    deviation = np.where(DEVIATIONS == 350, 350 * factor, np.maximum(DEVIATIONS, 1 - factor))
    plan = settled(("N", 4), [], "x", [node("Gemm", ["n", "w"], ["y"])], mean, deviation, w=weights(4, 8))
    assert plan.scaling.offset == pytest.approx(mean.tolist(), rel=1e-5)
    assert plan.scaling.scale == pytest.approx(deviation.tolist(), rel=1e-5)
    assert plan.confidence == 1.0
    assert plan.considered == ()


def test_bands_of_frames_have_their_own_behind_a_transposition() -> None:
    mean, deviation = np.linspace(-12, -4, 40), np.linspace(4, 2, 40)
    plan = settled(
        ("N", 30, 40),
        [node("Transpose", ["x"], ["t"], perm=[0, 2, 1])],
        "t",
        [node("Conv", ["n", "w"], ["y"], pads=[1, 1])],
        mean,
        deviation,
        w=weights(8, 40, 3),
    )
    assert plan.scaling.offset == pytest.approx(mean.tolist(), rel=1e-5)
    assert plan.prepare(np.zeros((1, 30, 40), np.float32))[0, 0] == pytest.approx(mean.tolist(), rel=1e-5)


def test_a_plane_of_one_channel_has_one_mean_and_deviation() -> None:
    plan = settled(
        ("N", 1, 76, 32),
        [],
        "x",
        [node("Conv", ["n", "w"], ["y"], pads=[1, 1, 1, 1])],
        np.array([7.5]),
        np.array([1.7]),
        w=weights(8, 1, 3, 3),
    )
    assert plan.scaling.offset == pytest.approx((7.5,))
    assert plan.scaling.scale == pytest.approx((1.7,))


def test_a_normalization_behind_a_layer_says_nothing_of_the_input() -> None:
    plan = settled(
        ("N", 4),
        [node("Gemm", ["x", "w0"], ["f"])],
        "f",
        [node("Gemm", ["n", "w"], ["y"])],
        MEANS,
        DEVIATIONS,
        w0=weights(4, 4),
        w=weights(4, 8),
    )
    assert len(plan.considered) > 10
