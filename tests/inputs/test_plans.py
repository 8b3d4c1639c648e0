"""What each input is, found from the graph, and what the owner states about it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from converter.errors import InvalidOption, UnsupportedModel
from converter.graph import Graph
from converter.inputs.drawing import draw
from converter.inputs.plans import InputKind, InputPlan, Scaling, assemble, batch_limit, picture_bounds
from converter.inputs.recognition import describe_inputs
from converter.options import InputSpec

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
Shape = tuple[int | str | None, ...] | None
node = helper.make_node


def model_of(
    inputs: dict[str, tuple[int, Shape]],
    nodes: list[NodeProto] | None = None,
    outputs: dict[str, tuple[int, Shape]] | None = None,
    **constants: NDArray[np.generic],
) -> ModelProto:
    """A graph with these inputs; without nodes each is passed on."""
    first = next(iter(inputs))
    graph = helper.make_graph(
        nodes or [node("Identity", [first], ["y"])],
        "small",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [
            helper.make_tensor_value_info(name, kind, shape)
            for name, (kind, shape) in (outputs or {"y": (FLOAT, None)}).items()
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def plan_of(shape: Shape, spec: str = "", element_type: int = FLOAT, reader: str = "Relu") -> InputPlan:
    model = model_of({"x": (element_type, shape)}, [node(reader, ["x"], ["y"])])
    specs = {"x": InputSpec.parse(spec)} if spec else {}
    (plan,) = describe_inputs(Graph(model), specs)
    return plan


@pytest.mark.parametrize(
    ("shape", "kind", "sample"),
    [
        (("N", 3, 32, 32), InputKind.PICTURE, (3, 32, 32)),
        (("N", 3, "h", "w"), InputKind.PICTURE, (3, 224, 224)),
        ((1, 1, 28, 28), InputKind.PICTURE, (1, 28, 28)),
        ((1, 224, 224, 3), InputKind.PICTURE, (224, 224, 3)),
        (("N", 64, 14, 14), InputKind.MAP, (64, 14, 14)),
        ((1, 1, 49, 10), InputKind.SPECTRUM, (1, 49, 10)),
        (("N", 1, 16000), InputKind.SIGNAL, (1, 16000)),
        (("N", "samples"), InputKind.SIGNAL, (16000,)),
        (("N", 100, 80), InputKind.FEATURES, (100, 80)),
        (("N", 20), InputKind.FEATURES, (20,)),
        ((16,), InputKind.FEATURES, ()),
    ],
)
def test_kinds_of_float_inputs(shape: Shape, kind: InputKind, sample: tuple[int, ...]) -> None:
    plan = plan_of(shape, reader="Transpose" if shape and shape[-1] == 3 else "Relu")
    assert (plan.kind, plan.shape) == (kind, sample)
    assert plan.channels_last == (sample == (224, 224, 3))
    assert plan.fixed_batch == (shape[0] if shape and isinstance(shape[0], int) else None)
    feeds = assemble([plan], {"x": draw(plan, 2, np.random.default_rng(0))})
    assert feeds["x"].shape == (2, *sample)
    assert feeds["x"].dtype == np.float32
    assert np.isfinite(feeds["x"]).all()


def test_tokens_are_rows_of_the_table_that_they_index() -> None:
    model = model_of(
        {"ids": (INT64, ("N", "S")), "mask": (INT64, ("N", "S"))},
        [
            node("Unsqueeze", ["ids", "one"], ["column"]),
            node("Cast", ["column"], ["short"], to=TensorProto.INT32),
            node("Gather", ["table", "short"], ["e"]),
            node("Cast", ["mask"], ["m"], to=FLOAT),
            node("ReduceSum", ["m"], ["count"]),
            node("ReduceSum", ["e"], ["y"]),
        ],
        table=np.zeros((77, 4), np.float32),
        one=np.array([1]),
    )
    ids, mask = describe_inputs(Graph(model), {})
    assert (ids.kind, ids.tokens, ids.shape) == (InputKind.TOKENS, (0, 77), (64,))
    assert mask.kind is InputKind.MASK
    generator = np.random.default_rng(0)
    feeds = assemble([ids, mask], {plan.name: draw(plan, 5, generator) for plan in (ids, mask)})
    assert feeds["ids"].dtype == np.int64
    assert 0 <= feeds["ids"].min() <= feeds["ids"].max() < 77
    ends = feeds["mask"].sum(1)
    assert ends[0] == 64
    assert ends[1] < 64
    assert (feeds["mask"][1, : ends[1]] == 1).all()
    assert (feeds["ids"][1, ends[1] :] == 0).all()


def test_tokens_that_the_owner_states() -> None:
    plan = plan_of(("N", 12), "tokens=5:9", INT64, "Neg")
    assert (plan.kind, plan.tokens, plan.shape) == (InputKind.TOKENS, (5, 9), (12,))
    drawn = draw(plan, 100, np.random.default_rng(0))
    assert set(np.unique(drawn)) == {5, 6, 7, 8}


def test_states_start_at_zero_and_carry_their_batch_where_the_model_has_it() -> None:
    model = model_of(
        {"x": (FLOAT, ("N", 16)), "h0": (FLOAT, (2, "N", 8))},
        [node("Identity", ["x"], ["y"]), node("Identity", ["h0"], ["hn"])],
        {"y": (FLOAT, None), "hn": (FLOAT, (2, "N", 8))},
    )
    x, state = describe_inputs(Graph(model), {})
    assert x.kind is InputKind.FEATURES
    assert (state.kind, state.batch_axis, state.shape) == (InputKind.STATE, 1, (2, 8))
    generator = np.random.default_rng(0)
    feeds = assemble([x, state], {plan.name: draw(plan, 3, generator) for plan in (x, state)})
    assert feeds["h0"].shape == (2, 3, 8)
    assert not feeds["h0"].any()
    assert batch_limit([x, state], 8) == 8


def test_a_state_without_a_batch_axis_allows_one_sample() -> None:
    model = model_of(
        {"x": (FLOAT, ("N", 16)), "state": (FLOAT, (2, 1, 8)), "sr": (INT64, ())},
        [node("Identity", ["x"], ["y"]), node("Identity", ["state"], ["next"])],
        {"y": (FLOAT, None), "next": (FLOAT, (2, 1, 8))},
    )
    x, state, rate = describe_inputs(Graph(model), {})
    assert (state.kind, state.batch_axis) == (InputKind.STATE, None)
    assert batch_limit([x, state], 8) == 1
    assert (rate.kind, rate.value) == (InputKind.CONSTANT, 16_000)
    assert "sampling rate" in rate.reason
    generator = np.random.default_rng(0)
    feeds = assemble([x, state, rate], {plan.name: draw(plan, 1, generator) for plan in (x, state, rate)})
    assert feeds["state"].shape == (2, 1, 8)
    assert feeds["sr"].shape == ()


def test_a_fixed_batch_limits_the_batches() -> None:
    assert batch_limit([plan_of((4, 3, 8, 8))], 8) == 4
    assert batch_limit([plan_of((100, 3, 8, 8))], 8) == 100
    assert batch_limit([plan_of(("N", 3, 8, 8))], 8) == 8


@pytest.mark.parametrize(
    ("spec", "low", "high"),
    [
        ("range=0:255", 0.0, 255.0),
        ("range=-1:1", -1.0, 1.0),
        ("mean=0.5:std=0.5", -1.0, 1.0),
        ("mean=127.5:std=127.5", -1.0, 1.0),
        ("range=0:255:mean=128:std=64", -2.0, 127 / 64),
        ("range=-1:1:mean=0:std=1", -1.0, 1.0),
        ("mean=0.5,0.4,0.3:std=0.25,0.2,0.1", -3.0, 7.0),
        ("std=0.25", 0.0, 4.0),
    ],
)
def test_what_the_owner_states_of_a_picture_is_what_it_gets(spec: str, low: float, high: float) -> None:
    plan = plan_of(("N", 3, 8, 8), spec)
    assert plan.settled
    bounds = picture_bounds(plan)
    assert bounds == pytest.approx((low, high))
    black, white = (plan.prepare(np.full((1, 3, 8, 8), value, np.float32)) for value in (0, 1))
    assert black.min() == pytest.approx(low)
    assert white.max() == pytest.approx(high)


def test_what_the_owner_states_of_features() -> None:
    plan = plan_of(("N", 20), "range=10:40")
    drawn = assemble([plan], {"x": draw(plan, 2000, np.random.default_rng(0))})["x"]
    assert drawn.mean() == pytest.approx(25, abs=1)
    assert 3 < drawn.std() < 8
    stated = plan_of(("N", 2), "mean=1,100:std=0.1,20")
    drawn = assemble([stated], {"x": draw(stated, 4000, np.random.default_rng(0))})["x"]
    assert drawn.mean(0) == pytest.approx([1, 100], rel=0.05)
    assert plan.settled
    assert stated.settled


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        (("N", 3, "h", "w"), "shape=1x3x32"),
        (("N", 3, "h", "w"), "shape=1x4x32x32"),
        (("N", 3, 8, 8), "mean=1,2:std=1,1"),
        (("N", 3, 8, 8), "mean=1,2,3:std=1,1"),
    ],
)
def test_what_does_not_fit_is_refused(shape: Shape, spec: str) -> None:
    with pytest.raises(InvalidOption):
        plan_of(shape, spec)


def test_an_open_size_is_what_the_owner_states() -> None:
    plan = plan_of(("N", 3, "h", "w"), "shape=2x3x48x40")
    assert plan.shape == (3, 48, 40)
    assert not plan.free_size
    assert plan_of(("N", 3, "h", "w")).free_size


def test_an_input_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(InvalidOption, match="'z'") as refused:
        describe_inputs(Graph(model_of({"x": (FLOAT, ("N", 4))})), {"z": InputSpec()})
    assert "x" in (refused.value.remedy or "")


def test_texts_cannot_be_made_up() -> None:
    with pytest.raises(UnsupportedModel):
        describe_inputs(Graph(model_of({"x": (TensorProto.STRING, ("N",))})), {})


@pytest.mark.parametrize("spec", ["", "range=0:255", "mean=0.5,0.4,0.3:std=0.25,0.2,0.1"])
def test_noise_is_what_the_network_gets_whatever_its_scale(spec: str) -> None:
    plan = plan_of(("N", 3, 16, 16), spec)
    noise = assemble([plan], {"x": draw(plan, 50, np.random.default_rng(0), noise=True)})["x"]
    assert noise.mean() == pytest.approx(0, abs=0.02)
    assert noise.std() == pytest.approx(1, abs=0.02)


def test_scalings_that_could_not_be_told_apart_take_turns() -> None:
    one, other = Scaling("one", (1.0,), (0.0,)), Scaling("other", (2.0, 4.0, 6.0), (-1.0, -2.0, -3.0))
    plan = InputPlan("x", InputKind.PICTURE, np.dtype(np.float32), (3, 2, 2), scaling=one, rivals=(other,))
    raw = np.ones((4, 3, 2, 2), np.float32)
    prepared = plan.prepare(raw, start=1)
    np.testing.assert_array_equal(prepared[[1, 3]], raw[:2])
    np.testing.assert_array_equal(prepared[0, :, 0, 0], [1, 2, 3])
    np.testing.assert_array_equal(prepared[0], prepared[2])
    assert picture_bounds(plan) == (-3.0, 3.0)
    whole = assemble([plan], {"x": raw})["x"]
    parts = [assemble([plan], {"x": raw}, slice(start, start + 1))["x"] for start in range(4)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def test_only_pictures_have_bounds() -> None:
    assert picture_bounds(plan_of(("N", 20))) is None


def test_features_of_near_spreads_are_one_question() -> None:
    """Numbers of any spread are told apart by half an octave and half a deviation, and few alternatives are named."""

    def likely(mean: float, deviation: float, probability: float) -> Scaling:
        return Scaling(f"mean {mean}, deviation {deviation}", (deviation,), (mean,), probability=probability)

    first = [(0, 1, 0.3), (0.2, 1.2, 0.2), (0, 4, 0.15), (0, 5, 0.1), (3, 1, 0.1), (0, 32, 0.1), (0, 64, 0.05)]
    found = tuple(likely(*each) for each in first)
    plan = InputPlan("x", InputKind.FEATURES, np.dtype(np.float32), (8,), scaling=found[0], considered=found)
    assert plan.confidence == pytest.approx(0.5)
    assert plan.doubtful == (found[0], found[2], found[4], found[5])
    assert plan.others == (found[2], found[4], found[5])
    sure = InputPlan("x", InputKind.FEATURES, np.dtype(np.float32), (8,), considered=(likely(0, 1, 0.95), found[2]))
    assert sure.others == ()
