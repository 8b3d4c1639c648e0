"""Latency: turns, quartiles, and what counts as slower; no test depends on how fast anything is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from converter.evaluation.latency import LEAST_PAIRS, MOST_PAIRS, Processor, measure_latency, processor, summarize

CPU = Processor("a processor", True)


def doubling() -> ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"], name="add")],
        "doubling",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


FEED = {"x": np.ones((1, 4), np.float32)}


def test_medians_and_quartiles_in_milliseconds() -> None:
    latency = summarize([0.004, 0.002, 0.003], [0.001, 0.001, 0.001], threads=1, cpu=CPU, shapes={"x": (1, 4)})
    assert latency.float32.median_ms == pytest.approx(3)
    assert latency.float32.lower_ms == pytest.approx(2.5)
    assert latency.float32.upper_ms == pytest.approx(3.5)
    assert latency.speedup == pytest.approx(3)
    assert not latency.slower
    assert latency.cpu == "a processor"


@pytest.mark.parametrize(("int8", "slower"), [(0.0005, False), (0.001, False), (0.00101, False), (0.0011, True)])
def test_slower_is_said_when_it_can_be_noticed(int8: float, slower: bool) -> None:
    assert summarize([0.001] * 5, [int8] * 5, threads=1, cpu=CPU, shapes={}).slower is slower


def test_five_pairs_are_run_when_there_is_no_time() -> None:
    latency = measure_latency(doubling(), doubling(), FEED, seconds=0)
    assert latency.pairs == LEAST_PAIRS
    assert latency.shapes == {"x": (1, 4)}


def test_the_number_of_pairs_is_bounded() -> None:
    moments = iter(range(10_000_000))
    latency = measure_latency(doubling(), doubling(), FEED, seconds=1e12, clock=lambda: next(moments) * 1e-3)
    assert latency.pairs == MOST_PAIRS
    assert latency.speedup == pytest.approx(1)


def test_inputs_that_a_model_does_not_have_are_left_out() -> None:
    assert measure_latency(doubling(), doubling(), {**FEED, "other": np.ones(3)}, seconds=0).shapes == {"x": (1, 4)}


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("model name\t: AMD EPYC\nflags\t\t: fpu avx512_vnni sse\n", Processor("AMD EPYC", True)),
        ("model name\t: Old\nflags\t\t: fpu sse2\n", Processor("Old", False)),
        ("Hardware\t: BCM2835\nFeatures\t: asimd\n", Processor("BCM2835", None)),
        ("", Processor("unknown processor", None)),
    ],
)
def test_the_processor_is_read_as_linux_describes_it(tmp_path: Path, lines: str, expected: Processor) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text(lines)
    assert processor(file) == expected


def test_without_the_file_the_processor_is_unknown(tmp_path: Path) -> None:
    assert processor(tmp_path / "none") == Processor("unknown processor", None)
