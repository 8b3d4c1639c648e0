"""What nobody can tell of an input is said where it is read, with what to type."""

from __future__ import annotations

from converter import Options, convert, inspect
from converter.options import InputSpec
from tests.networks import model_of, node, weights


def test_the_scale_of_features_that_nothing_tells_is_asked_for() -> None:
    """Whoever reads the report or looks before learns how sure it is, and what to type."""
    layers = [node("Gemm", ["x", "w"], ["m"]), node("Relu", ["m"], ["r"]), node("Gemm", ["r", "w2"], ["y"])]
    model = model_of(layers, {"w": weights(30, 32), "w2": weights(32, 4)}, ("N", 30))
    warnings = convert(model, Options(samples=8)).report.warnings
    (caution,) = (each for each in warnings if each.kind == "preprocessing-undecided")
    assert "--input 'x=mean=" in caution.message
    assert "the mean and deviation that all numbers of your inputs have" in caution.message
    assert "% sure" in str(inspect(model))
    told = convert(model, Options(samples=8, inputs={"x": InputSpec.parse("mean=3;std=2")})).report
    assert "preprocessing-undecided" not in {each.kind for each in told.warnings}
