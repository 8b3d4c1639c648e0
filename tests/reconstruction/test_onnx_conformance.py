"""The ONNX backend tests that an FP32 inference model could contain, with every exclusion and its reason."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

from converter.errors import UnsupportedModel
from converter.reconstruction import reconstruct

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
TYPES = {np.dtype(name) for name in ("float32", "int64", "int32", "bool")}
NOT_INFERENCE = {"NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss", "Gradient", "Adam", "Adagrad", "Momentum"}
RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}

REFUSED = {
    "test_convtranspose_autopad_same": "the kernel is not known before a run, nor whether the windows leave gaps",
    "test_resize_downsample_scales_cubic_align_corners": "onnxruntime rounds the length first, onnx does not",
    "test_resize_downsample_scales_linear_align_corners": "onnxruntime rounds the length first, onnx does not",
    "test_training_dropout_zero_ratio": "the ratio is not known before a run, nor whether the result is random",
    "test_training_dropout_zero_ratio_mask": "the ratio is not known before a run, nor whether the result is random",
}


@dataclass(frozen=True)
class Case:
    name: str
    model: ModelProto
    inputs: Sequence[NDArray[Any]]
    outputs: Sequence[NDArray[Any]]
    rtol: float


@cache
def cases() -> dict[str, Case]:
    with warnings.catch_warnings():  # onnx computes some expected values past the range of their types
        warnings.simplefilter("ignore")
        return {case.name: case for kind in KINDS for case in load(kind) if is_relevant(case)}


def load(kind: str) -> Iterator[Case]:
    for test in load_model_tests(kind=kind):
        if test.model is not None:
            for inputs, outputs in test.data_sets or []:
                yield Case(test.name, test.model, inputs, outputs, test.rtol)
            continue
        folder = Path(test.model_dir or "")
        model = onnx.load(str(folder / "model.onnx"))
        for data in folder.glob("test_data_set_*"):
            inputs, outputs = ([read(path) for path in ordered(data, side)] for side in ("input", "output"))
            yield Case(test.name, model, inputs, outputs, test.rtol)


def ordered(data: Path, side: str) -> list[Path]:
    return sorted(data.glob(f"{side}_*.pb"), key=lambda path: int(path.stem.rpartition("_")[2]))


def read(path: Path) -> NDArray[Any]:
    tensor = TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(tensor)


def is_relevant(case: Case) -> bool:
    operators = {node.op_type for node in case.model.graph.node}
    if {each.domain for each in case.model.opset_import} - {"", "ai.onnx"} or operators & (NOT_INFERENCE | RANDOM):
        return False
    if case.name.startswith(("test_nllloss", "test_sce_", "test_bernoulli")):
        return False
    if case.name.startswith("test_training_dropout") and "zero_ratio" not in case.name:
        return False
    values = [*case.inputs, *case.outputs]
    if not all(isinstance(value, np.ndarray | np.generic) and value.dtype in TYPES for value in values):
        return False
    return any(value.dtype == np.float32 for value in values)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        found = cases()
        metafunc.parametrize("case", found.values(), ids=found.keys())


def test_case(case: Case) -> None:
    if case.name in REFUSED:
        with pytest.raises(UnsupportedModel), torch.no_grad():
            reconstruct(case.model)(*(torch.tensor(value) for value in case.inputs))
        return
    module = reconstruct(case.model)
    with torch.no_grad():
        result = module(*(torch.from_numpy(np.array(value)) for value in case.inputs))
    results = result if isinstance(result, tuple) else (result,)
    assert len(results) == len(case.outputs)
    for got, wanted in zip(results, case.outputs, strict=True):
        assert got.numpy().dtype == wanted.dtype
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got.numpy(), wanted, rtol=case.rtol, atol=1e-5)


def test_every_exclusion_is_a_case() -> None:
    assert set(REFUSED) <= set(cases())


def test_there_are_as_many_cases_as_were_measured() -> None:
    assert len(cases()) >= 1_200
