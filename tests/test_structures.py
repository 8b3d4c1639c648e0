"""Whatever structure a model has, it converts to a valid model of the same face, or a reason is given."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from converter import Options, convert
from converter.sessions import open_session
from tests.structures import STRUCTURES, export

QUICK = Options(samples=8, time_budget=1.0)


def face(model: ModelProto) -> list[tuple[str, int, tuple[str | int, ...]]]:
    return [
        (
            each.name,
            each.type.tensor_type.elem_type,
            tuple(dim.dim_param or dim.dim_value for dim in each.type.tensor_type.shape.dim),
        )
        for each in (*model.graph.input, *model.graph.output)
    ]


@pytest.mark.parametrize("name", STRUCTURES)
def test_it_converts(name: str) -> None:
    structure = STRUCTURES[name]
    model = export(structure)
    made = convert(model, QUICK)
    onnx.checker.check_model(made.model, full_check=True)
    assert [each[:2] for each in face(made.model)] == [each[:2] for each in face(model)]
    feeds = {f"x{number}": value.numpy() for number, value in enumerate(structure.inputs)}
    expected, found = (open_session(each).run(None, feeds) for each in (model, made.model))
    for before, after in zip(expected, found, strict=True):
        assert before.shape == after.shape
        assert before.dtype == after.dtype
        assert np.isfinite(after).all()
    failures = [each.message for each in made.report.warnings if each.kind == "left-out"]
    failures += [each.sentence for each in made.report.quantization.steps if "was left out" in each.sentence]
    assert not [*failures, *made.report.synthesis.notes]
    decisions = made.report.quantization
    assert decisions.nodes_quantized or decisions.kept_float
