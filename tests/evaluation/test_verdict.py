"""The verdict and its reasons: what is bad is refused, what layers in float mend is mended, conditions are said."""

from __future__ import annotations

import pytest
from onnx import TensorProto, helper, numpy_helper

from converter.evaluation.diagnosis import diagnose, touching
from converter.evaluation.verdict import Evidence, reach_verdict
from converter.findings import (
    Advice,
    Cause,
    Decisions,
    Expectation,
    Fidelity,
    Histogram,
    Interval,
    Latency,
    Layer,
    OutputFidelity,
    OutputGroup,
    Prediction,
    PredictionUnder,
    Proportion,
    Quartiles,
    Scale,
    Size,
)
from converter.graph import Graph
from tests.networks import weights


@pytest.fixture(scope="module")
def graph() -> Graph:
    """x -> conv1 -> relu -> depthwise -> gate(Sigmoid) * -> y."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w2"], ["d"], name="depthwise", pads=[1, 1, 1, 1], group=8),
        helper.make_node("Sigmoid", ["d"], ["g"], name="sigmoid"),
        helper.make_node("Mul", ["d", "g"], ["y"], name="mul"),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "gated",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 8, 8])],
            [
                numpy_helper.from_array(weights(8, 3, 3, 3), "w1"),
                numpy_helper.from_array(weights(8, 1, 3, 3), "w2"),
            ],
        ),
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 17)],
    )
    return Graph(model)


def classifier(low: float, middle: float, **changes: object) -> Evidence:
    decisions = Decisions(
        output="y",
        classes=10,
        probabilities=False,
        agreement=Proportion(value=1, successes=64, n=64, interval=Interval(low=0.9, high=1)),
        mean_kl=0,
        margins=Histogram(edges=(0, 1), all=(64,), flipped=(0,)),
        distinct_classes=9,
    )
    output = OutputFidelity(name="y", shape=(1, 10), samples=64, sqnr_db=30, max_abs_error=1)
    expected = Expectation(interval=Interval(low=low, high=0.999, confidence=0.9), middle=middle)
    change = Expectation(interval=Interval(low=-0.01, high=0.0, confidence=0.9), middle=0)
    known: dict[str, object] = {
        "fidelity": Fidelity(distribution="", samples=64, outputs=(output,), decisions=decisions),
        "predicted": Prediction(agreement=expected, accuracy_change=change, basis=""),
        "validation": None,
        "latency": None,
        "size": Size.of(400, 100),
        "shares": {},
        "work": {"conv1": 900, "depthwise": 100},
    }
    return Evidence(**(known | changes))  # type: ignore[arg-type]


def test_what_is_expected_to_agree_is_used(graph: Graph) -> None:
    verdict = reach_verdict(classifier(0.97, 0.99), graph)
    assert (verdict.advice, verdict.sentence, verdict.conditions) == (Advice.USE, "Use it.", ())


@pytest.mark.parametrize(
    ("size", "speedup", "sentence"),
    [
        (1.07, None, "Use it; but it gains little: the file is 1.07 times smaller, its time was not measured."),
        (1.07, 1.01, "Use it; but it gains little: the file is 1.07 times smaller, about as fast on this processor."),
        (1.1, 0.8, "Use it; but it gains little: the file is 1.10 times smaller, 1.2 times slower on this processor."),
        (1.07, 1.5, "Use it."),
        (3.6, 0.8, "Use it."),
    ],
)
def test_a_file_that_gains_little_is_not_recommended_without_saying_so(
    graph: Graph, size: float, speedup: float | None, sentence: str
) -> None:
    each = Quartiles(median_ms=1, lower_ms=1, upper_ms=1)
    latency = speedup and Latency(
        float32=each, int8=each, speedup=speedup, slower=speedup < 1, pairs=9, threads=1, cpu="any"
    )
    given = Size.of(round(1000 * size), 1000)
    verdict = reach_verdict(classifier(0.97, 0.99, size=given, latency=latency), graph)
    assert (verdict.advice, verdict.sentence) == (Advice.USE, sentence)


def test_what_nobody_stated_is_a_condition(graph: Graph) -> None:
    known = classifier(0.97, 0.99)
    under = (PredictionUnder(input="x", name="0..255"), PredictionUnder(input="mask", name="ones"))
    guessed = known.predicted.model_copy(update={"hypotheses": under, "guessed": ("x",)})
    verdict = reach_verdict(classifier(0.97, 0.99, predicted=guessed), graph)
    assert verdict.conditions == ("the input x is prepared as 0..255",)
    assert verdict.sentence == "Use it, if the input x is prepared as 0..255."


def test_open_preparations_of_one_input_are_one_condition(graph: Graph) -> None:
    known = classifier(0.97, 0.99)
    under = tuple(PredictionUnder(input="x", name=name) for name in ("0..1", "-1..1", "0..255"))
    guessed = known.predicted.model_copy(update={"hypotheses": under, "guessed": ("x",)})
    (condition,) = reach_verdict(classifier(0.97, 0.99, predicted=guessed), graph).conditions
    assert condition == "the input x is prepared in one of the ways tried: 0..1, -1..1 or 0..255"


@pytest.mark.parametrize(("probability", "advice"), [(0.2, Advice.USE), (0.7, Advice.DO_NOT_USE)])
def test_the_worst_preparation_decides_where_it_is_likely(graph: Graph, probability: float, advice: Advice) -> None:
    known = classifier(0.4, 0.6)  # the headline: the worst of both
    good, bad = (
        Expectation(interval=Interval(low=middle - 0.05, high=middle + 0.02, confidence=0.9), middle=middle)
        for middle in (0.97, 0.6)
    )
    under = (
        PredictionUnder(input="x", name="0..1", agreement=good, probability=1 - probability),
        PredictionUnder(input="x", name="0..255", agreement=bad, probability=probability),
    )
    guessed = known.predicted.model_copy(update={"hypotheses": under, "guessed": ("x",)})
    verdict = reach_verdict(classifier(0.4, 0.6, predicted=guessed), graph)
    assert verdict.advice is advice
    assert verdict.conditions == ("the input x is prepared as 0..1",)


def test_what_is_expected_to_differ_is_refused(graph: Graph) -> None:
    verdict = reach_verdict(classifier(0.5, 0.7), graph)
    assert verdict.advice is Advice.DO_NOT_USE
    assert "30% of real inputs" in verdict.sentence


def test_layers_in_float_are_advised_where_they_mend_it(graph: Graph) -> None:
    asked = classifier(0.97, 0.985, min_agreement=0.98, shares={"d": 0.85, "r": 0.05})
    verdict = reach_verdict(asked, graph)
    assert verdict.advice is Advice.USE_WITH_FLOAT
    assert verdict.remedy is not None
    assert verdict.remedy.option == "--exclude depthwise --exclude sigmoid --exclude mul"
    assert verdict.remedy.work_in_float == pytest.approx(0.1)
    assert verdict.remedy.agreement is not None
    assert verdict.remedy.agreement.interval.low > 0.98


def test_layers_in_float_are_not_advised_where_the_error_is_everywhere(graph: Graph) -> None:
    asked = classifier(0.9, 0.95, min_agreement=0.98, shares={"d": 0.15, "r": 0.05})
    assert reach_verdict(asked, graph).advice is Advice.DO_NOT_USE


@pytest.mark.parametrize("group", [3.0, 14.9])
def test_ruined_scores_beside_fine_boxes_are_refused(graph: Graph, group: float) -> None:
    parts = tuple(
        OutputGroup(name=name, axis=1, first=0, last=3, typical=1, sqnr_db=ratio)
        for name, ratio in (("boxes", 25.0), ("scores", group))
    )
    output = OutputFidelity(name="y", shape=(1, 84, 100), samples=64, sqnr_db=24.9, max_abs_error=1, groups=parts)
    unknown = Prediction(basis="", reason="no classes")
    fidelity = Fidelity(distribution="", samples=64, outputs=(output,))
    verdict = reach_verdict(classifier(0, 0, fidelity=fidelity, predicted=unknown), graph)
    assert verdict.advice is Advice.DO_NOT_USE
    assert "scores" in verdict.sentence


def layer(tensor: str, kind: str = "activation", **changes: object) -> Layer:
    known = {"tensor": tensor, "kind": kind, "node": "n", "operator": "Conv", "bits": 8, "type": "uint8"}
    return Layer.model_validate(known | {"sqnr_alone_db": 40.0} | changes)


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        (layer("x"), Cause.SENSITIVE),
        (layer("x", sqnr_alone_db=22.0), Cause.OUTLIERS),
        (layer("x", low=0.0, high=1.0, observed_low=0.0, observed_high=1.5), Cause.SATURATION),
        (layer("r"), Cause.DEPTHWISE),
        (layer("w2", "weight"), Cause.DEPTHWISE),
        (layer("w1", "weight", scale=Scale(count=8, minimum=1e-3, median=1e-3, maximum=1.0)), Cause.OUTLIERS),
        (layer("d"), Cause.GATE),
    ],
)
def test_the_cause_is_told_from_grid_and_place(graph: Graph, found: Layer, cause: Cause) -> None:
    (culprit,) = diagnose(graph, [found], {found.tensor: 0.5})
    assert culprit.cause is cause
    assert culprit.option.startswith("--exclude ")


def test_what_costs_little_is_no_culprit(graph: Graph) -> None:
    assert diagnose(graph, [layer("x"), layer("d")], {"x": 0.04, "d": 0.9})[0].tensor == "d"
    assert len(diagnose(graph, [layer("x"), layer("d")], {"x": 0.04, "d": 0.9})) == 1


def test_a_tensor_behind_a_rectifier_needs_its_maker_in_float(graph: Graph) -> None:
    assert touching("r", graph) == ["conv1", "depthwise"]
