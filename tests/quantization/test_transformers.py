"""Transformers in the forms that exporters write end on integers, and stay what they were."""

from __future__ import annotations

import numpy as np
import pytest

from converter import convert
from converter.options import Method, Options, Precision
from converter.sessions import Feeds
from tests.networks import run
from tests.quantization.test_treatments import decibels
from tests.transformers import HEADS, SIZE, WORDS, decoder, encoder

QUICK = Options(method=Method.NOISE, samples=8)
PRODUCTS = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm")


def sentence(count: int, length: int, masked: int) -> Feeds:
    generator = np.random.default_rng(2)
    mask = np.ones((count, length), np.int64)
    mask[:, length - masked :] = 0
    return {"input_ids": generator.integers(0, WORDS, (count, length)), "attention_mask": mask}


@pytest.mark.parametrize("sentinel", [-1e4, -1e9, float(np.finfo(np.float32).min)])
@pytest.mark.parametrize("sizes", [("N", "L"), (1, 12)])
def test_an_encoder_with_a_mask_of_sentinels(sentinel: float, sizes: tuple[str | int, str | int]) -> None:
    model = encoder(sentinel, *sizes)
    result = convert(model, QUICK)
    kernels = result.report.kernels
    assert kernels is not None
    assert sum(kernels.integer_operators.get(each, 0) for each in PRODUCTS) == 7
    assert result.report.size.ratio > 3
    feeds = sentence(1, 12, 3)
    assert decibels(run(model, feeds), run(result.model, feeds)) > 25


def test_a_static_plan_keeps_sentinels_out_of_its_ranges() -> None:
    model = encoder(-1e9)
    result = convert(model, Options(method=Method.NOISE, samples=8, precision=Precision.W4A8))
    assert all(abs(each.observed_low or 0) < 1e6 for each in result.report.layers if each.kind == "activation")
    feeds = sentence(2, 12, 3)
    assert decibels(run(model, feeds), run(result.model, feeds)) > 5  # of 4-bit weights


def test_a_decoder_with_its_cache_multiplies_on_integers() -> None:
    model = decoder()
    result = convert(model, QUICK)
    kernels = result.report.kernels
    assert kernels is not None
    assert sum(kernels.integer_operators.get(each, 0) for each in PRODUCTS) == 7
    generator = np.random.default_rng(4)
    past = [generator.standard_normal((1, HEADS, 5, SIZE)).astype(np.float32) for _ in range(2)]
    feeds = {"input_ids": np.array([[7]]), "past_key": past[0], "past_value": past[1]}
    assert decibels(run(model, feeds), run(result.model, feeds)) > 25
