"""What is usual of networks that give pictures back, and of inputs that are no pictures."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from converter.inputs.conventions import UNKNOWN, Convention, candidates, describe_origin, prior
from converter.inputs.plans import InputKind, InputPlan


def ending_in(last: str, channels: int) -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Abs", ["x"], ["a"]), helper.make_node(last, ["a"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", channels, 32, 32])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize(
    ("last", "channels", "expected"),
    [
        ("Sigmoid", 3, {Convention.RETURNED}),
        ("Tanh", 3, {Convention.SQUASHED}),
        ("Tanh", 1, {Convention.SQUASHED}),
        ("Sigmoid", 8, set()),
    ],
)
def test_what_gives_pictures_back_has_conventions_of_its_own(
    last: str, channels: int, expected: set[Convention]
) -> None:
    assert describe_origin(ending_in(last, channels)).conventions == {Convention.ANY, *expected}


@pytest.mark.parametrize(
    ("kind", "shape", "usual"),
    [
        (InputKind.SPECTRUM, (98, 80), "Kaldi's filter banks of 16-bit sound"),
        (InputKind.SPECTRUM, (49, 10), "cepstra of decibels"),
        (InputKind.FEATURES, (30,), "0..1, least to greatest"),
        (InputKind.FEATURES, (48, 40), "decibels below the loudest, 80 at most"),
        (InputKind.EMBEDDINGS, (12, 256), "vectors of length one"),
        (InputKind.MAP, (64, 14, 14), "rectified, deviation 1"),
    ],
)
def test_what_is_no_picture_has_usual_means_and_deviations_too(
    kind: InputKind, shape: tuple[int, ...], usual: str
) -> None:
    """Every hypothesis has a name of its own and odds, conventions better ones than any power of two."""
    plan = InputPlan("x", kind, np.dtype(np.float32), shape)
    found = candidates(plan)
    odds = prior(plan, found, UNKNOWN)
    assert len({each.name for each in found}) == len(found) == len(odds)
    assert odds[usual] > odds["mean 0, deviation 32"]
    assert max(odds, key=lambda each: odds[each]) in ("mean 0, deviation 1", "cepstra of natural logarithms")


def test_logarithms_of_power_follow_from_each_other() -> None:
    """Decibels are 4.34 natural logarithms, and 16-bit numbers 90.3 decibels louder than those of -1..1."""
    found = {each.name: each for each in candidates(InputPlan("x", InputKind.SPECTRUM, np.dtype(np.float32), (98, 80)))}
    decibels, kaldi = found["decibels"], found["Kaldi's filter banks of 16-bit sound"]
    tenths = found["tenths of decibels of 16-bit sound, and two"]
    assert decibels.scale[0] == pytest.approx(4.343 * kaldi.scale[0], rel=1e-3)
    assert tenths.offset[0] == pytest.approx((decibels.offset[0] + 90.309) / 10 + 2, rel=1e-3)
