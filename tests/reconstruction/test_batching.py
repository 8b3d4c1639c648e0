"""Batches through graphs that were traced with one sample: always what single runs give, together where that is so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Size, Tensor

from converter.reconstruction import Reconstruction, reconstruct
from converter.reconstruction.batching import Grown, NotBatched, grown


def single_sample_module(
    nodes: Sequence[NodeProto], inputs: Mapping[str, Sequence[int | str]], weights: Mapping[str, NDArray[Any]]
) -> Reconstruction:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return reconstruct(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10))


def test_how_a_shape_exceeds_that_of_one_sample() -> None:
    assert grown(Size([1, 4]), Size([1, 4])) is None
    assert grown(Size([3, 4]), Size([1, 4])) == Grown(0, 3, Size([1, 4]))
    assert grown(Size([2, 12]), Size([2, 4])) == Grown(1, 3, Size([2, 4]))
    for shape in ([3, 5], [3], [1, 2]):
        with pytest.raises(NotBatched):
            grown(Size(shape), Size([1, 4]))


def check_batch(module: Reconstruction, batch: Tensor) -> bool:
    """Whether the samples went through together; the results are those of single runs in any case."""
    singles = [module(sample[None]) for sample in batch]
    assert torch.allclose(module(batch), torch.cat(singles), atol=1e-6)
    return any(plan is not None for plan in module.single_samples.together.values())


def reshaped(*nodes: NodeProto, **weights: NDArray[Any]) -> Reconstruction:
    """A module from x, declared for one sample of 4 by 6, to y."""
    return single_sample_module(nodes, {"x": [1, 4, 6]}, weights)


BATCH = torch.arange(72.0).reshape(3, 4, 6) ** 2


def test_a_batch_of_one_written_into_a_reshape_does_not_bind() -> None:
    module = reshaped(
        helper.make_node("Reshape", ["x", "heads"], ["h"]),
        helper.make_node("Transpose", ["h"], ["t"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["t", "flat"], ["y"]),
        heads=np.array([1, 4, 6]),
        flat=np.array([1, 24]),
    )
    singles = torch.cat([module(sample[None]) for sample in BATCH])
    assert torch.equal(module(BATCH), singles)
    assert module.run({"h": BATCH}, ["y"])["y"].shape == (3, 24)


def test_a_batch_goes_through_together() -> None:
    windows = reshaped(
        helper.make_node("Reshape", ["x", "windows"], ["w"]),
        helper.make_node("Softmax", ["w"], ["s"], axis=-1),
        helper.make_node("Reshape", ["s", "back"], ["y"]),
        windows=np.array([8, 3]),
        back=np.array([1, 4, 6]),
    )
    assert check_batch(windows, BATCH)


def test_samples_that_would_mix_go_one_after_the_other() -> None:
    over_everything = reshaped(
        helper.make_node("Reshape", ["x", "flat"], ["f"]),
        helper.make_node("Softmax", ["f"], ["s"], axis=0),
        helper.make_node("Reshape", ["s", "back"], ["y"]),
        flat=np.array([24]),
        back=np.array([1, 24]),
    )
    assert not check_batch(over_everything, BATCH / BATCH.max())
    first_sample = reshaped(helper.make_node("Gather", ["x", "zero"], ["y"], axis=0), zero=np.array(0))
    assert not check_batch(first_sample, BATCH)


def test_what_is_the_same_for_all_samples_is_repeated_when_concatenated() -> None:
    token = np.ones((1, 1, 6), np.float32)
    module = reshaped(helper.make_node("Concat", ["token", "x"], ["y"], axis=1), token=token)
    assert check_batch(module, BATCH)


def test_initial_states_are_the_same_for_all_samples() -> None:
    weights = {
        "w": np.random.default_rng(0).standard_normal((1, 8, 6)).astype(np.float32),
        "r": np.random.default_rng(1).standard_normal((1, 8, 2)).astype(np.float32),
        "h": np.array([[[0.5, -1]]], np.float32),
    }
    module = reshaped(
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["t", "w", "r", "", "", "h", "h"], ["", "y"], hidden_size=2),
        **weights,
    )
    assert check_batch(module, BATCH / BATCH.max())


def test_samples_come_along_the_first_axis_wherever_they_went() -> None:
    module = reshaped(
        helper.make_node("Transpose", ["x"], ["t"], perm=[2, 0, 1]),
        helper.make_node("Reshape", ["t", "shape"], ["y"]),
        shape=np.array([6, 4]),
    )
    assert module(BATCH).shape == (18, 4)
    assert check_batch(module, BATCH)


def test_edits_of_a_batch_see_samples_on_an_axis_of_their_own() -> None:
    seen: list[tuple[int, ...]] = []

    def note(x: Tensor) -> Tensor:
        seen.append(tuple(x.shape))
        return x

    module = reshaped(
        helper.make_node("Transpose", ["x"], ["t"], perm=[2, 0, 1]),
        helper.make_node("Reshape", ["t", "shape"], ["y"]),
        shape=np.array([6, 4]),
    )
    result = module.run({"x": BATCH}, ["y"], edit={"y": note})["y"]
    assert result.shape == (18, 4)
    assert set(seen) == {(6, 4)}


def test_an_open_batch_that_the_graph_does_not_mean_is_served_too() -> None:
    nodes = [helper.make_node("Reshape", ["x", "flat"], ["y"])]
    module = single_sample_module(nodes, {"x": ["N", 4, 6]}, {"flat": np.array([1, 24])})
    for _ in range(2):
        assert torch.equal(module(BATCH), BATCH.flatten(1))
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        module(BATCH[:, :3])


def test_different_numbers_of_samples_are_an_error() -> None:
    module = single_sample_module([helper.make_node("Add", ["a", "b"], ["y"])], {"a": [1, 2], "b": [1, 2]}, {})
    with pytest.raises(ValueError, match="different numbers"):
        module(torch.ones(3, 2), torch.ones(2, 2))


def test_gradients_pass_through_batches() -> None:
    x = torch.ones(3, 4, 6, requires_grad=True)
    module = reshaped(helper.make_node("Reshape", ["x", "flat"], ["y"]), flat=np.array([1, 24]))
    module(x).square().sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.full((3, 4, 6), 2.0))
