"""Every kind of input is recognized by what the graph does with it, or asked for; none is silently taken amiss."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from onnx import ModelProto

from converter.errors import InvalidOption
from converter.graph import Graph
from converter.inputs.drawing import draw_inputs
from converter.inputs.free_sizes import relate, trials
from converter.inputs.plans import InputPlan, assemble, batch_limit
from converter.inputs.recognition import describe_inputs
from converter.sessions import open_session
from converter.specifications import InputSpec
from tests.inputs.keras_models import KERAS
from tests.inputs.kind_models import MODELS as KINDS

MODELS = KINDS | KERAS


def plans_of(model: ModelProto, **specs: str) -> dict[str, InputPlan]:
    read = {name: InputSpec.parse(text) for name, text in specs.items()}
    return {plan.name: plan for plan in relate(describe_inputs(Graph(model), read))}


@pytest.mark.parametrize("name", MODELS)
def test_each_kind_is_recognized_or_asked_for(name: str) -> None:
    model, expected = MODELS[name]()
    if "ask" in expected.values():
        asked = next(each for each, kind in expected.items() if kind == "ask")
        with pytest.raises(InvalidOption) as question:
            plans_of(model)
        typed = shlex.split((question.value.remedy or "").rstrip("."))
        assert typed[typed.index("--input") + 1].startswith(f"{asked}=")
        return
    plans = plans_of(model)
    assert {each: str(plan.kind) for each, plan in plans.items()} == expected
    assert all(plan.reason for plan in plans.values())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("other", [False, True])
def test_what_is_drawn_runs_and_means_something(name: str, other: bool) -> None:
    model, expected = MODELS[name]()
    if "ask" in expected.values():
        return
    graph = Graph(model)
    plans = relate(next(trials(graph, describe_inputs(graph, {}), {})))
    feeds = assemble(plans, draw_inputs(plans, 1, np.random.default_rng(0), other=other))
    for found in open_session(model).run(None, feeds):
        assert np.isfinite(found).all()


def drawn(name: str, count: int = 8) -> dict[str, np.ndarray]:
    graph = Graph(MODELS[name]()[0])
    plans = relate(next(trials(graph, describe_inputs(graph, {}), {})))
    return draw_inputs(plans, count, np.random.default_rng(0))


def test_there_are_at_least_forty_models() -> None:
    assert len(MODELS) >= 40


def test_masks_tokens_and_segments_end_together() -> None:
    raw = drawn("bert_of_old")
    ends = raw["attention_mask"].sum(1)
    assert ends.tolist()[::2] == [64] * 4
    assert all(8 < end < 64 for end in ends[1::2])
    for ids, end in zip(raw["input_ids"], ends, strict=True):
        assert (ids[0], ids[end - 1]) == (101, 102)  # as that vocabulary begins and ends texts
        assert not ids[end:].any()
    assert set(np.unique(raw["token_type_ids"])) == {0, 1}
    assert (np.diff(raw["token_type_ids"], axis=1) >= 0).all()


def test_a_mask_that_forbids_is_false_where_there_is_something() -> None:
    padding = drawn("embeddings_with_bool_mask")["padding"]
    assert not padding[0].any()
    assert padding[1, -1]
    assert not padding[1, 0]


def test_recordings_run_along_their_own_axis() -> None:
    """Neighbours in time are alike, channels of one moment are not."""
    for name in ("recording_of_one_channel", "recording_of_many_channels"):
        signals = drawn(name)["x"]
        steps, whole = np.diff(signals, axis=1), signals - signals.mean(1, keepdims=True)
        assert float(np.square(steps).mean()) < float(np.square(whole).mean())
    leads = drawn("recording_of_many_channels")["x"][0]
    apart = np.corrcoef(leads.T)[~np.eye(12, dtype=bool)]
    assert np.abs(apart).mean() < 0.5


def test_indices_held_as_floats_are_whole_and_stated_as_tokens() -> None:
    ids = drawn("tokens_as_floats")["ids"]
    assert ids.dtype == np.float32
    assert np.array_equal(ids, np.rint(ids))
    assert ids.min() >= 0
    assert ids.max() <= 42
    assert plans_of(MODELS["tokens_as_floats"]()[0], ids="tokens=0:20")["ids"].tokens == (0, 20)


def test_lengths_are_those_of_the_sequence() -> None:
    raw = drawn("speaker")
    assert raw["input_lengths"].max() == raw["input"].shape[-1]
    assert raw["input_lengths"].min() < raw["input"].shape[-1]


def test_sizes_are_those_of_the_picture() -> None:
    raw = drawn("detector_with_size")
    np.testing.assert_array_equal(raw["im_shape"], np.full((8, 2), 32.0))
    np.testing.assert_array_equal(raw["scale_factor"], np.ones((8, 2)))


@pytest.mark.parametrize(
    ("name", "spec", "why"),
    [
        ("bert_of_old", {"attention_mask": "range=0:1"}, "range means nothing"),
        ("bert_of_old", {"input_ids": "mean=1"}, "mean means nothing"),
        ("bert_of_old", {"input_ids": "kind=picture"}, "2 axes|axes, and it has 2"),
        ("tabular", {"x": "order=bgr"}, "axes, and it has 2"),
        ("tabular", {"x": "tokens=0:5"}, "holds float32"),
        ("tabular", {"y": "range=0:1"}, "no input 'y'"),
        ("tabular", {"x": "shape=1x30"}, "does not fit"),
        ("tabular", {"x": "kind=scalar;value=1"}, "room for more"),
        ("gray picture", {"x": "order=bgr"}, "needs 3 channels"),
        ("colour picture", {"x": "mean=1,2;std=1,1"}, "one number, or one a channel"),
        ("picture_nhwc", {"x": "layout=nchw"}, "channels"),
        ("matting", {"r1i": "kind=state:z"}, "no output 'z'"),
        ("matting", {"r1i": "kind=state:y"}, "has not its type and shape"),
        ("tokens", {"ids": "tokens=0:2000"}, "a table of 1000 rows"),
        ("recurrent", {"first": "range=0:1"}, "range means nothing"),
        ("sampling_rate", {"rate": "value=0.5"}, "not whole"),
        ("picture_uint8", {"x": "range=0:1"}, "range means nothing"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_by_name(name: str, spec: dict[str, str], why: str) -> None:
    with pytest.raises(InvalidOption, match=why) as refused:
        plans_of(MODELS[name]()[0], **spec)
    assert next(iter(spec)) in refused.value.message


@pytest.mark.parametrize(
    ("name", "spec", "kind"),
    [
        ("number_of_steps", {"steps": "kind=scalar;value=3"}, "constant"),
        ("integers_without_a_table", {"x": "tokens=0:9"}, "tokens"),
        ("integers_without_a_table", {"x": "kind=mask"}, "mask"),
        ("unknown_rank", {"x": "shape=2x3x8x8"}, "picture"),
        ("unknown_rank", {"x": "shape=2x9;kind=features"}, "features"),
        ("latents", {"x": "kind=picture"}, "picture"),
        ("reference", {"reference": "kind=state:y"}, "state"),
        ("tokens", {"ids": "kind=tokens"}, "tokens"),
        ("waveform", {"x": "kind=sound"}, "signal"),
        ("hidden_states", {"h": "kind=signal"}, "signal"),
        ("colour picture", {"x": "kind=uint8;order=bgr"}, "picture"),
    ],
)
def test_what_the_owner_says_is_what_it_is(name: str, spec: dict[str, str], kind: str) -> None:
    (told,) = spec
    plan = plans_of(MODELS[name]()[0], **spec)[told]
    assert str(plan.kind) == kind
    assert plan.stated


def test_a_state_for_one_sample_binds_the_batch_to_one() -> None:
    """An LSTM whose states are declared [1, 1, 8] takes no second sample beside the first."""
    model, _ = MODELS["recurrent"]()
    for value in [*model.graph.input, *model.graph.output]:
        if value.name in ("first", "second", "next_a", "next_b"):
            value.type.tensor_type.shape.dim[1].dim_value = 1
    plans = plans_of(model)
    assert batch_limit(tuple(plans.values()), 8) == 1
