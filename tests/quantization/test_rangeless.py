"""``--precision dynamic`` and ``weights``: whole conversions, their files and what the report says of them."""

from __future__ import annotations

import numpy as np
import pytest

from converter import convert
from converter.options import Method, Options, Precision
from tests.networks import residual, transformer
from tests.quantization.test_treatments import language, operators, recurrent


def options(precision: Precision, **others: object) -> Options:
    return Options.from_dict({"method": Method.NOISE, "samples": 8, "precision": precision, **others})


@pytest.mark.parametrize("precision", [Precision.DYNAMIC, Precision.WEIGHTS])
def test_a_transformer(precision: Precision) -> None:
    result = convert(transformer(), options(precision))
    decisions = result.report.quantization
    assert decisions.precision == precision
    counts = (decisions.nodes_quantized, decisions.nodes_stored)
    assert counts == ((3, 0) if precision is Precision.DYNAMIC else (0, 3))
    assert decisions.activation_type == ("U8 at run time" if precision is Precision.DYNAMIC else "float")
    ratio, kernels = result.report.fidelity.outputs[0].sqnr_db, result.report.kernels
    assert ratio is not None
    assert ratio > 28
    assert kernels is not None
    assert kernels.integer == (3 if precision is Precision.DYNAMIC else 0)
    assert convert(transformer(), options(precision)).model.SerializeToString() == result.model.SerializeToString()


def test_what_has_no_dynamic_kernel_keeps_integer_weights_and_says_why() -> None:
    result = convert(recurrent("GRU", 1), options(Precision.DYNAMIC))
    assert result.report.size.ratio > 2
    assert operators(result.model)["GRU"] == 1
    assert convert(residual(), options(Precision.WEIGHTS)).report.size.ratio > 2


def test_a_table_and_its_layers() -> None:
    result = convert(language("matrix"), options(Precision.DYNAMIC))
    assert result.report.size.ratio > 5  # the table was in the file twice
    assert result.report.kernels is not None
    assert result.report.kernels.integer_operators["DynamicQuantizeMatMul"] == 2


def test_excluded_nodes_stay_in_float() -> None:
    result = convert(transformer(), options(Precision.DYNAMIC, exclude=["MatMul_0"]))
    assert result.report.quantization.nodes_quantized == 2
    assert [each.node for each in result.report.quantization.kept_float] == ["MatMul_0"]
    weights = {each.name: each for each in result.model.graph.initializer}
    assert weights["w0"].data_type == 1
    assert np.prod(weights["w0"].dims) == 24 * 16
