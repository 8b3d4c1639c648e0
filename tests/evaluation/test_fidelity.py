"""Fidelity: what is measured on outputs and decisions, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from converter.errors import InvalidOption
from converter.evaluation.fidelity import (
    bootstrap_sqnr,
    compare,
    decibels,
    kl_divergence,
    measure_fidelity,
    probabilities,
    wilson,
)
from converter.graph import Graph
from converter.options import OutputKind
from converter.scores import class_output


def linear(weight: np.ndarray, *, ending: str | None = None, batch: int | str = "N", output: str = "y") -> ModelProto:
    """x [batch, inputs] -> Gemm -> optional ending -> output."""
    inputs, classes = weight.shape
    last = "scores" if ending else output
    nodes = [helper.make_node("Gemm", ["x", "w"], [last], name="gemm")]
    if ending:
        nodes.append(helper.make_node(ending, ["scores"], [output], name="ending"))
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, inputs])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, classes])],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def batches(count: int = 64, inputs: int = 6, size: int = 8, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    generator = np.random.default_rng(seed)
    for _ in range(count // size):
        yield {"x": generator.standard_normal((size, inputs)).astype(np.float32)}


@pytest.fixture
def weight() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((6, 5))


def test_a_model_equals_itself(weight: np.ndarray) -> None:
    model = linear(weight)
    fidelity = measure_fidelity(model, model, batches(), "normal numbers")
    (output,) = fidelity.outputs
    assert (output.sqnr_db, output.sqnr_interval, output.max_abs_error) == (None, None, 0)
    assert output.cosine == pytest.approx(1)
    assert fidelity.decisions is not None
    assert fidelity.decisions.agreement.value == 1
    assert fidelity.decisions.mean_kl == 0
    assert fidelity.samples == 64


def test_the_ratio_is_that_of_powers_over_all_samples(weight: np.ndarray) -> None:
    other = weight + 0.01 * np.random.default_rng(2).standard_normal(weight.shape)
    (output,) = compare(linear(weight), linear(other), batches()).outputs
    x = np.concatenate([feed["x"] for feed in batches()]).astype(np.float64)
    expected, actual = x @ weight.astype(np.float32), x @ other.astype(np.float32)
    ratio = 10 * math.log10((expected**2).sum() / ((actual - expected) ** 2).sum())
    assert output.sqnr_db == pytest.approx(ratio, abs=1e-3)
    assert output.max_abs_error == pytest.approx(np.abs(actual - expected).max(), rel=1e-4)
    assert output.sqnr_interval is not None
    assert output.sqnr_interval.low < ratio < output.sqnr_interval.high


def test_less_error_gives_a_higher_ratio(weight: np.ndarray) -> None:
    noise = np.random.default_rng(2).standard_normal(weight.shape)
    ratios = [
        compare(linear(weight), linear(weight + amount * noise), batches()).outputs[0].sqnr_db
        for amount in (0.3, 0.1, 0.03, 0.01)
    ]
    assert all(ratio is not None for ratio in ratios)
    assert ratios == sorted(ratios, key=lambda ratio: ratio or 0)


def test_decisions_count_the_samples_whose_first_class_changed(weight: np.ndarray) -> None:
    other = weight[:, [1, 0, 2, 3, 4]]
    decisions = measure_fidelity(linear(weight), linear(other), batches(), "normal numbers").decisions
    assert decisions is not None
    x = np.concatenate([feed["x"] for feed in batches()])
    same = int(((x @ weight).argmax(1) == (x @ other).argmax(1)).sum())
    assert decisions.agreement.successes == same
    assert sum(decisions.margins.all) == 64
    assert sum(decisions.margins.flipped) == 64 - same
    assert decisions.mean_kl > 0
    assert not decisions.probabilities


def test_probabilities_are_taken_as_they_are(weight: np.ndarray) -> None:
    plain = measure_fidelity(linear(weight), linear(weight * 0.9), batches(), "").decisions
    soft = measure_fidelity(
        linear(weight, ending="Softmax"), linear(weight * 0.9, ending="Softmax"), batches(), ""
    ).decisions
    assert plain is not None
    assert soft is not None
    assert soft.probabilities
    assert soft.mean_kl == pytest.approx(plain.mean_kl, rel=1e-3)


@pytest.mark.parametrize(
    ("ending", "reason"), [("Softmax", "Softmax"), ("LogSoftmax", "LogSoftmax"), (None, "Gemm"), ("Identity", "Gemm")]
)
def test_class_scores_are_recognized_by_what_makes_them(weight: np.ndarray, ending: str | None, reason: str) -> None:
    found = class_output(Graph(linear(weight, ending=ending)))
    assert found is not None
    assert reason in found.reason


@pytest.mark.parametrize("ending", ["Tanh", "Sigmoid", "Relu"])
def test_other_endings_are_no_classifiers(weight: np.ndarray, ending: str) -> None:
    assert class_output(Graph(linear(weight, ending=ending))) is None
    assert (
        measure_fidelity(linear(weight, ending=ending), linear(weight, ending=ending), batches(), "").decisions is None
    )


def test_what_favours_no_class_decides_nothing(weight: np.ndarray) -> None:
    embedding = linear(0.001 * weight)
    assert measure_fidelity(embedding, embedding, batches(), "").decisions is None
    stated = compare(embedding, embedding, batches(), kinds={"y": OutputKind.CLASSES}).decisions
    assert stated is not None
    soft = linear(0.001 * weight, ending="Softmax")
    assert measure_fidelity(soft, soft, batches(), "").decisions is not None


def test_one_column_is_no_classifier(weight: np.ndarray) -> None:
    assert class_output(Graph(linear(weight[:, :1]))) is None


def test_a_fixed_batch_is_fed_piece_by_piece(weight: np.ndarray) -> None:
    other = weight * 1.01
    whole = compare(linear(weight), linear(other), batches())
    pieces = compare(linear(weight, batch=1), linear(other, batch=1), batches())
    assert pieces.samples == whole.samples == 64
    assert pieces.outputs[0].sqnr_db == pytest.approx(whole.outputs[0].sqnr_db)


def test_infinity_in_one_model_only_is_not_hidden(weight: np.ndarray) -> None:
    broken = weight.copy()
    broken[0, 0] = np.inf
    compared = compare(linear(weight), linear(broken), batches())
    assert compared.outputs[0].not_compared == 64
    assert compared.outputs[0].sqnr_db is None
    assert compared.decisions is None


def test_whole_numbers_are_counted_not_measured() -> None:
    def argmax(axis: int) -> ModelProto:
        graph = helper.make_graph(
            [helper.make_node("ArgMax", ["x"], ["y"], name="argmax", axis=axis, keepdims=0)],
            "argmax",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
            [helper.make_tensor_value_info("y", TensorProto.INT64, ["N"])],
        )
        return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])

    (output,) = compare(argmax(1), argmax(1), batches()).outputs
    assert (output.equal_share, output.sqnr_db, output.cosine) == (1, None, None)


def test_the_same_seed_gives_the_same_interval(weight: np.ndarray) -> None:
    runs = [measure_fidelity(linear(weight), linear(weight * 1.1 + 0.01), batches(), "", seed=3) for _ in range(2)]
    assert runs[0].outputs == runs[1].outputs


@given(st.integers(1, 400), st.data())
def test_wilson_contains_the_share_and_stays_in_bounds(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    proportion = wilson(successes, n)
    interval = proportion.interval
    assert 0 <= interval.low <= proportion.value <= interval.high <= 1
    assert interval.high - interval.low > 0


def test_wilson_matches_known_values() -> None:
    interval = wilson(62, 64).interval
    assert interval.low == pytest.approx(0.8930, abs=1e-4)
    assert interval.high == pytest.approx(0.9914, abs=1e-4)


def test_more_samples_narrow_the_interval() -> None:
    widths = [wilson(9 * n, 10 * n).interval for n in (1, 4, 16)]
    assert widths[0].high - widths[0].low > widths[1].high - widths[1].low > widths[2].high - widths[2].low


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        signal, noise = generator.gamma(4, 0.25, 48), generator.gamma(4, 0.0025, 48)
        interval = bootstrap_sqnr(signal, noise, trial)
        assert interval is not None
        covered += interval.low <= 20 <= interval.high
    assert 86 <= covered <= 100


@pytest.mark.parametrize(("signal", "noise"), [(0.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf)])
def test_no_ratio_without_signal_or_error(signal: float, noise: float) -> None:
    assert decibels(signal, noise) is None


def test_divergence_is_zero_only_for_equal_rows() -> None:
    rows = probabilities(np.random.default_rng(0).standard_normal((20, 7)), already=False)
    assert kl_divergence(rows, rows) == pytest.approx(0)
    assert (kl_divergence(rows, rows[:, ::-1]) > 0).all()


def test_the_owner_says_which_output_holds_classes(weight: np.ndarray) -> None:
    squashed = linear(weight, ending="Tanh")
    assert class_output(Graph(squashed)) is None
    found = class_output(Graph(squashed), {"y": OutputKind.CLASSES})
    assert found is not None
    assert found.name == "y"
    assert compare(squashed, squashed, batches(), kinds={"y": OutputKind.CLASSES}).decisions is not None
    assert compare(linear(weight), linear(weight), batches(), kinds={"y": OutputKind.EMBEDDING}).decisions is None


@pytest.mark.parametrize(
    ("kinds", "words"), [({"z": OutputKind.CLASSES}, "no output 'z'"), ({"y": OutputKind.CLASSES}, "cannot be classes")]
)
def test_an_output_that_cannot_be_what_is_stated_is_refused(
    weight: np.ndarray, kinds: dict[str, OutputKind], words: str
) -> None:
    with pytest.raises(InvalidOption, match=words):
        class_output(Graph(linear(weight[:, :1])), kinds)
