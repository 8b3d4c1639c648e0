"""Channels are brought to one range, and the float function stays what it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import ModelProto

from converter.graph import Graph
from converter.quantization.calibration import observe
from converter.quantization.equalization import LAYERS, NORMALIZATIONS, Equalization, Maker, equalize
from converter.quantization.placement import place, quantized_tensors
from converter.reconstruction import reconstruct
from tests.networks import (
    NETWORKS,
    Prepared,
    biases,
    clipped,
    difference,
    model_of,
    node,
    prepare,
    residual,
    run,
    squashed,
    transformer,
    weights,
)


def equalized(given: Prepared, kinds: frozenset[Maker] = LAYERS | NORMALIZATIONS) -> Equalization:
    rounded = quantized_tensors(given.graph, place(given.graph, {}).nodes)
    return equalize(given.model, given.network, given.graph, rounded, given.batches, kinds)


def changed(given: ModelProto, made: ModelProto) -> set[str]:
    before, after = Graph(given).initializers, Graph(made).initializers
    return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_stays(name: str) -> None:
    given = prepare(NETWORKS[name]())
    made = equalized(given)
    for feeds in given.batches:
        assert difference(run(given.model, feeds), run(made.model, feeds)) < 1e-5


@pytest.mark.parametrize(
    "name", ["residual", "depthwise", "shuffled", "concatenated", "parted", "gated", "transformer", "pooled"]
)
def test_channels_end_nearer_to_each_other(name: str) -> None:
    given = prepare(NETWORKS[name]())
    made = equalized(given)
    assert made.channels > 0
    assert made.layers >= 2
    assert made.largest <= 8.0
    before, after = unequal(given.model, given), unequal(made.model, given)
    assert np.mean(after) < np.mean(before)


def unequal(model: ModelProto, given: Prepared) -> list[float]:
    """How far the weakest half of the channels of each tensor with channels stays below its peak, on average."""
    found = []

    def look(value: torch.Tensor) -> torch.Tensor:
        axis = 1 if value.dim() >= 4 else -1
        peaks = value.abs().movedim(axis, 0).flatten(1).amax(1)
        found.append(float((peaks.max() / peaks.median().clamp_min(1e-6)).log()))
        return value

    names = [each.output[0] for each in given.graph.nodes if each.op_type in ("Relu", "LayerNormalization")]
    reconstruct(model).run(
        {key: torch.from_numpy(value) for key, value in given.batches[0].items()},
        names,
        edit=dict.fromkeys(names, look),
    )
    return found


def test_what_a_clip_bounds_is_not_scaled() -> None:
    given = prepare(clipped())
    made = equalized(given)
    names = {name for each in given.graph.nodes if each.op_type == "Conv" for name in each.input[1:]}
    writers = [each for each in given.graph.nodes if each.op_type == "Conv"][:2]
    touched = changed(given.model, made.model)
    assert not touched & {name for each in writers for name in each.input[1:]}
    assert touched <= names | {"wh"}


def test_neither_the_argument_of_a_sigmoid_nor_an_output_is_scaled() -> None:
    given = prepare(squashed())
    made = equalized(given)
    assert changed(given.model, made.model) == set()
    assert made.channels == 0


def test_a_tensor_that_is_an_output_too_is_not_scaled() -> None:
    model = model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"]),
            node("Relu", ["c0"], ["seen"]),
            node("Conv", ["seen", "w1"], ["y"]),
        ],
        {"w0": weights(16, 8, 1, 1), "b0": biases(16), "w1": weights(4, 16, 1, 1)},
        outputs=("y", "seen"),
    )
    given = prepare(model)
    assert changed(given.model, equalized(given).model) == set()


def test_a_weight_that_two_layers_read_is_not_scaled() -> None:
    model = model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"]),
            node("Relu", ["c0"], ["r0"]),
            node("Conv", ["r0", "w1"], ["c1"]),
            node("Relu", ["c1"], ["r1"]),
            node("Conv", ["r1", "w1"], ["y"]),
        ],
        {"w0": weights(16, 8, 1, 1), "b0": biases(16), "w1": weights(16, 16, 1, 1)},
    )
    given = prepare(model)
    made = equalized(given)
    assert "w1" not in changed(given.model, made.model)
    assert difference(run(given.model, given.batches[0]), run(made.model, given.batches[0])) < 1e-5


def test_shapes_computed_in_the_graph_do_not_stop_it() -> None:
    model = model_of(
        [
            node("Conv", ["x", "w0", "b0"], ["c0"]),
            node("Relu", ["c0"], ["r0"]),
            node("Shape", ["x"], ["s"]),
            node("Gather", ["s", "zero"], ["n"]),
            node("Concat", ["n", "rest"], ["target"], axis=0),
            node("Reshape", ["r0", "target"], ["p"]),
            node("Reshape", ["p", "back"], ["q"]),
            node("Conv", ["q", "w1"], ["y"]),
        ],
        {
            "w0": weights(16, 8, 1, 1),
            "b0": biases(16),
            "w1": weights(4, 16, 1, 1),
            "zero": np.array([0]),
            "rest": np.array([2, 8, 12, 12]),
            "back": np.array([-1, 16, 12, 12]),
        },
    )
    given = prepare(model)
    assert difference(run(given.model, given.batches[0]), run(equalized(given).model, given.batches[0])) < 1e-5


def test_channels_are_followed_through_a_reshape_whose_sizes_come_from_the_input() -> None:
    given = prepare(
        model_of(
            [
                node("Shape", ["x"], ["shape"]),
                node("Slice", ["shape", "zero", "two"], ["leading"]),
                node("Concat", ["leading", "channels"], ["sizes"], axis=0),
                node("LayerNormalization", ["x", "gain", "shift"], ["normal"], axis=-1),
                node("Reshape", ["normal", "flat"], ["rows"]),
                node("Reshape", ["rows", "sizes"], ["again"]),
                node("MatMul", ["again", "w"], ["y"]),
            ],
            {
                "zero": np.array([0]),
                "two": np.array([2]),
                "channels": np.array([8]),
                "flat": np.array([-1, 8]),
                "gain": np.geomspace(0.1, 3, 8).astype(np.float32),
                "shift": np.zeros(8, np.float32),
                "w": weights(8, 6),
            },
            ("N", "length", 8),
        )
    )
    made = equalized(given)
    assert made.channels >= 7
    assert all(difference(run(given.model, feeds), run(made.model, feeds)) < 1e-5 for feeds in given.batches)


def test_normalizations_hand_their_difficulty_to_the_next_product() -> None:
    given = prepare(transformer())
    made = equalized(given)
    assert {"gamma", "w1"} <= changed(given.model, made.model)


def test_only_the_makers_of_channels_that_were_asked_for_are_scaled() -> None:
    given = prepare(transformer())
    assert changed(given.model, equalized(given, NORMALIZATIONS).model) == {"gamma", "beta", "w1"}
    assert "gamma" not in changed(given.model, equalized(given, LAYERS).model)
    assert changed(given.model, equalized(given, frozenset()).model) == set()
    made = equalized(given, NORMALIZATIONS).model
    assert difference(run(given.model, given.batches[0]), run(made, given.batches[0])) < 1e-5


def test_ranges_of_the_equalized_model_are_no_wider() -> None:
    """A channel grows until it fills its tensor's range, not beyond."""
    given = prepare(residual())
    made = equalized(given)
    tensors = sorted(set(quantized_tensors(given.graph, place(given.graph, {}).nodes).values()))
    before = observe(given.network, tensors, given.batches)
    after = observe(reconstruct(made.model), tensors, given.batches)
    for name in tensors:
        top = max(before[name].high, -before[name].low)
        assert max(after[name].high, -after[name].low) <= top * 1.001
