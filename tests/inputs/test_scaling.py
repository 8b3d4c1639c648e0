"""A network tells for which scale of its inputs it was built."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from converter.graph import Graph
from converter.inputs.conventions import IMAGENET, UNKNOWN, candidates, describe_origin, prior
from converter.inputs.plans import SURE, InputKind, InputPlan
from converter.inputs.priors import draw_pictures
from converter.inputs.recognition import describe_inputs
from converter.inputs.scaling import hear_hypotheses, settle_scalings
from converter.inputs.testimony import Moments, Witness
from converter.normalization import normalize
from converter.options import InputSpec
from converter.reconstruction import reconstruct
from converter.specifications import ChannelOrder
from tests.digits import Digits
from tests.networks import biases, model_of, node, weights

Array = NDArray[np.float32]


def settle(model: ModelProto, spec: str = "", seed: int = 0) -> InputPlan:
    normalized = normalize(model)
    graph = Graph(normalized.model)
    plans = describe_inputs(graph, {graph.inputs[0].name: InputSpec.parse(spec)} if spec else {})
    (plan,) = settle_scalings(reconstruct(normalized.model), graph, plans, normalized.batch_norms, seed)
    return plan


def filters(count: int = 24, seed: int = 0) -> Array:
    """Smooth and edge-like filters [count, 3, 5, 5], most of them blind to the mean, as trained ones are."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[-2:3, -2:3] / 2
    made = []
    for _ in range(count):
        angle, phase = generator.uniform(0, np.pi), generator.uniform(0, np.pi)
        wave = np.cos((x * np.cos(angle) + y * np.sin(angle)) * np.pi + phase) * np.exp(-(x**2) - y**2)
        made.append(generator.uniform(0.6, 1.4, 3)[:, None, None] * wave)
    return np.array(made, np.float32)


def built_for(scale: float, offset: float, *, batch_norm: bool, seed: int = 0) -> ModelProto:
    """A first layer whose responses to pictures * scale + offset are standardised, as training leaves them."""
    weight = filters(seed=seed)
    pictures = draw_pictures(64, 3, 32, 32, np.random.default_rng(99)) * scale + offset
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (5, 5), (2, 3))[:, :, ::3, ::3]
    responses = np.einsum("nchwij,ocij->onhw", windows, weight).reshape(len(weight), -1)
    mean, deviation = responses.mean(1), responses.std(1)
    generator = np.random.default_rng(seed + 1)
    gain, shift = generator.uniform(0.7, 1.4, len(weight)), generator.normal(0, 0.2, len(weight))
    tail = [
        node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "w2"], ["d"]),
        node("GlobalAveragePool", ["d"], ["g"]),
        node("Flatten", ["g"], ["y"]),
    ]
    if batch_norm:
        first = [node("Conv", ["x", "w"], ["a"]), node("BatchNormalization", ["a", "g_", "b_", "m_", "v_"], ["c"])]
        constants = {"w": weight, "g_": gain, "b_": shift, "m_": mean, "v_": deviation**2}
    else:
        first = [node("Conv", ["x", "w", "b"], ["c"])]
        factor = gain / deviation
        constants = {"w": weight * factor[:, None, None, None], "b": shift - mean * factor}
    return model_of(
        [*first, *tail],
        {name: np.asarray(value, np.float32) for name, value in constants.items()} | {"w2": weights(5, 24, 1, 1)},
        shape=("N", 3, 32, 32),
    )


SCALES = {"0..255": (255.0, 0.0), "0..1": (1.0, 0.0), "normalized": (4.4, -2.0)}


@pytest.mark.parametrize("batch_norm", [True, False], ids=["statistics", "weights alone"])
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("seed", [0, 1])
def test_networks_for_different_scales_are_told_apart(scale: str, batch_norm: bool, seed: int) -> None:
    """A single layer's weights tell no more than the family; with its statistics they tell the scaling."""
    plan = settle(built_for(*SCALES[scale], batch_norm=batch_norm, seed=seed))
    true = {"ImageNet mean and deviation", "-1..1"} if scale == "normalized" else {scale}
    if batch_norm:
        assert plan.scaling.name in true
    else:
        assert (max(plan.scaling.scale) > 16) == (scale == "0..255")
        assert true & {each.name for each in plan.doubtful}


def test_every_hypothesis_has_a_probability_and_the_likeliest_is_taken() -> None:
    plan = settle(built_for(255.0, 0.0, batch_norm=True))
    assert plan.settled
    assert {each.name for each in plan.considered} == {each.name for each in candidates(plan)}
    probabilities = [each.probability for each in plan.considered if each.probability is not None]
    assert sum(probabilities) == pytest.approx(1)
    assert probabilities == sorted(probabilities, reverse=True)
    assert plan.considered[0] == plan.scaling
    assert all(each.why for each in plan.considered)


def test_what_cannot_be_told_apart_stays_open() -> None:
    """A network that gets almost nothing of the mean and standardises itself leaves two scalings in question."""
    between = settle(built_for(2.4, -1.1, batch_norm=True))
    found = {each.name.removesuffix(", BGR") for each in between.doubtful}
    assert {"-1..1", "ImageNet mean and deviation"} <= found
    assert between.confidence < SURE


def test_twins_that_no_grid_tells_apart_are_one_question() -> None:
    """With blue or red first, the means of a picture's channels hardly differ."""
    plan = settle(built_for(4.4, -2.0, batch_norm=True))
    twins = [each for each in plan.considered if each.is_alike(plan.scaling)]
    assert {each.order for each in twins} == {ChannelOrder.RGB, ChannelOrder.BGR}
    assert plan.confidence == pytest.approx(sum(each.probability or 0 for each in twins))


def test_what_to_type_means_the_same_preprocessing() -> None:
    plan = settle(built_for(1.0, 0.0, batch_norm=True))
    for scaling in candidates(plan):
        stated = settle(built_for(1.0, 0.0, batch_norm=True), plan.specification(scaling)).scaling
        assert np.broadcast_to(stated.scale, 3) == pytest.approx(np.broadcast_to(scaling.scale, 3), rel=1e-3)
        assert np.broadcast_to(stated.offset, 3) == pytest.approx(
            np.broadcast_to(scaling.offset, 3), rel=1e-3, abs=1e-3
        )


@pytest.mark.parametrize("shape", [("N", 1, 4000), ("N", 40, 100)], ids=["sound", "spectrum"])
def test_what_to_type_means_the_same_of_what_is_no_picture(shape: tuple[int | str, ...]) -> None:
    """Signals and spectra have no range of their own: a mean and a deviation, or sound as it is usual."""
    model = model_of([node("Conv", ["x", "w"], ["y"])], {"w": weights(8, int(shape[1]), 25)}, shape)
    plan = settle(model)
    for scaling in candidates(plan):
        stated = settle(model, plan.specification(scaling))
        assert stated.kind is plan.kind
        assert stated.scaling.scale == pytest.approx(scaling.scale, rel=1e-4)
        assert stated.scaling.offset == pytest.approx(scaling.offset, rel=1e-4)


def test_a_file_that_divides_by_255_first_gets_pixels() -> None:
    """The graph's own beginning is a witness, and the network behind it has others."""
    model = built_for(1.0, 0.0, batch_norm=True)
    model.graph.node.insert(0, node("Div", ["pixels", "byte"], ["x"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array(255, np.float32), "byte"))
    model.graph.input[0].name = "pixels"
    assert settle(model).scaling.name == "0..255"


@pytest.mark.parametrize(
    ("producer", "key", "likeliest"),
    [("pytorch", "author", "ImageNet mean and deviation"), ("pytorch", "Ultralytics", "0..1"), ("", "", "")],
)
def test_who_made_a_file_tells_what_is_usual(producer: str, key: str, likeliest: str) -> None:
    model = built_for(1.0, 0.0, batch_norm=True)
    before = prior(plan_of(model), candidates(plan_of(model)), UNKNOWN)
    model.producer_name = producer
    if key:
        model.metadata_props.add(key="author", value=key)
    odds = prior(plan_of(model), candidates(plan_of(model)), describe_origin(model))
    assert odds == before if not producer else max(odds, key=lambda each: odds[each]) == likeliest


def plan_of(model: ModelProto) -> InputPlan:
    return describe_inputs(Graph(model), {})[0]


def test_what_the_owner_states_is_not_asked_of_the_network() -> None:
    plan = settle(built_for(255.0, 0.0, batch_norm=True), "range=0:1")
    assert plan.scaling.scale == (1.0,)
    assert plan.considered == ()
    assert plan.rivals == ()


def perceptron(spread: float, *, batch_norm: bool) -> ModelProto:
    """A product that makes unit deviation of features of this spread, with or without statistics that say so."""
    wide = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32) / np.float32(40**0.5 * spread)
    constants = {"w": wide, "w2": np.random.default_rng(1).standard_normal((64, 8)).astype(np.float32) / np.float32(6)}
    constants |= {"g": np.ones(64, np.float32), "b": np.zeros(64, np.float32)}
    norm = [node("BatchNormalization", ["m", "g", "b", "b", "g"], ["n"])] if batch_norm else []
    last = [node("Relu", ["n" if batch_norm else "m"], ["r"]), node("Gemm", ["r", "w2"], ["y"])]
    return model_of([node("Gemm", ["x", "w"], ["m"]), *norm, *last], constants, shape=("N", 40))


@pytest.mark.parametrize("spread", [1 / 64, 1.0, 32.0])
def test_features_get_the_spread_that_statistics_tell(spread: float) -> None:
    plan = settle(perceptron(spread, batch_norm=True))
    assert plan.kind is InputKind.FEATURES
    assert spread / 2 <= plan.scaling.scale[0] <= spread * 2


@pytest.mark.parametrize("spread", [1 / 64, 32.0])
def test_without_a_normalization_features_stay_in_doubt(spread: float) -> None:
    """A first layer is what its initialization made it: it speaks for a spread, and nothing is settled by that."""
    plan = settle(perceptron(spread, batch_norm=False))
    chances = {each.scale[0]: each.probability or 0.0 for each in plan.considered if each.offset == (0.0,)}
    assert chances[spread] > 2 * chances[1 / spread]
    assert plan.confidence < 0.6
    assert len(plan.doubtful) > 1


@pytest.mark.parametrize("spread", [1 / 16, 8.0])
@pytest.mark.parametrize("behind", [False, True], ids=["on the input", "behind a rectifier"])
def test_what_batch_norm_knows_of_features_is_read_wherever_it_is(spread: float, behind: bool) -> None:
    """On the input itself, which no layer makes, and behind the first rectifier."""
    rectified = np.maximum(np.random.default_rng(0).standard_normal(100_000) * spread, 0)
    mean, variance = (rectified.mean(), rectified.var()) if behind else (0, spread**2)
    statistics = {"m": np.full(12, mean), "v": np.full(12, variance), "g": np.ones(12), "b": np.zeros(12)}
    first = [node("MatMul", ["x", "w0"], ["f"]), node("Relu", ["f"], ["r"])] if behind else []
    model = model_of(
        [
            *first,
            node("BatchNormalization", ["r" if behind else "x", "g", "b", "m", "v"], ["n"]),
            node("Gemm", ["n", "w"], ["y"]),
        ],
        {name: np.asarray(each, np.float32) for name, each in statistics.items()}
        | {"w0": np.eye(12, dtype=np.float32), "w": weights(12, 8)},
        shape=("N", 12),
    )
    normalized = normalize(model)
    graph = Graph(normalized.model)
    plans = describe_inputs(graph, {})
    tried = candidates(plans[0])
    heard = hear_hypotheses(reconstruct(normalized.model), graph, plans, 0, tried, normalized.batch_norms, 0)
    off = [each.testimony[Witness.STATISTICS] for each in heard]
    nearest = tried[int(np.argmin([math.inf if each is None else each for each in off]))]
    assert spread / 2 <= nearest.scale[0] <= 2 * spread


@pytest.mark.parametrize(("width", "heard"), [(8, 3), (512, 1)])
def test_only_layers_that_are_cheap_enough_are_heard_under_every_hypothesis(width: int, heard: int) -> None:
    model = model_of(
        [
            node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
            node("Conv", ["c", "w2"], ["d"], pads=[1] * 4),
            node("GlobalAveragePool", ["d"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("Gemm", ["f", "w3"], ["y"]),
        ],
        {"w": weights(4, 1, 3, 3), "w2": weights(width, 4, 3, 3), "w3": weights(width, 5)},
        shape=("N", 1, 200, 60),
    )
    graph = Graph(model)
    plans = describe_inputs(graph, {})
    assert plans[0].kind is InputKind.SPECTRUM
    every = hear_hypotheses(reconstruct(model), graph, plans, 0, candidates(plans[0]), (), 0)
    assert {len(each.peaks) for each in every} == {heard}


def test_without_a_layer_to_ask_inputs_have_unit_spread() -> None:
    model = model_of(
        [node("LSTM", ["x", "w", "r"], ["y"], hidden_size=4)],
        {"w": weights(1, 16, 6), "r": weights(1, 16, 4)},
        shape=(10, 1, 6),
    )
    assert settle(model).scaling.scale == (1.0,)


def test_a_batch_larger_than_the_samples_looked_at() -> None:
    model = built_for(255.0, 0.0, batch_norm=True)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 48
    assert settle(model).scaling.name == "0..255"


def test_the_digits_classifier_wants_the_spread_that_it_was_trained_on(digits: Digits) -> None:
    plan = settle(digits.model)
    assert 1 / 8 <= plan.scaling.scale[0] <= 2


def test_one_seed_gives_one_answer() -> None:
    model = built_for(4.4, -2.0, batch_norm=False)
    assert settle(model, seed=3) == settle(model, seed=3)


def test_inputs_of_different_channels_have_bounds_of_their_own() -> None:
    plan = settle(built_for(1.0, 0.0, batch_norm=True))
    assert replace(plan, scaling=IMAGENET).prepare(np.zeros((1, 3, 2, 2), np.float32)).shape == (1, 3, 2, 2)


def test_a_layer_that_never_answers_is_no_reason_to_fail() -> None:
    model = model_of(
        [node("Conv", ["x", "w", "b"], ["c"]), node("GlobalAveragePool", ["c"], ["y"])],
        {"w": np.zeros((4, 3, 3, 3), np.float32), "b": biases(4)},
        shape=("N", 3, 8, 8),
    )
    assert settle(model).settled


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_moments_of_channels_are_those_of_doubles(memory: torch.memory_format) -> None:
    """A channel that is large and hardly moves keeps its deviation, and one that never moves has none."""
    values = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 4, 20, 30)).astype(np.float32))
    values[:, 1] = 1000 + values[:, 1] / 100
    values[:, 2] = 1234.567
    moments = Moments()
    for part in (values[:2], values[2:]):
        moments.add(part.contiguous(memory_format=memory))
    flat = values.double().movedim(1, 0).flatten(1).numpy()
    assert moments.mean == pytest.approx(flat.mean(1), rel=1e-6, abs=1e-7)
    assert moments.deviation == pytest.approx(flat.std(1), rel=1e-3, abs=1e-4)
    assert moments.deviation[2] < 1e-4
    assert list(moments.high) == list(flat.max(1))
    assert moments.peak == np.abs(flat).max()
