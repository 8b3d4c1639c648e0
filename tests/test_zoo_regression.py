"""A few zoo models converted from the command line, scored on real data: what once was reached stays reached.

The bars are agreement with FP32 on the first samples, some points below what was measured, so that another processor's
rounding does not fail them; the exact figures are in tests/bench/RESULTS.md.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from converter import Options, reconstruct
from converter.admission import admit
from converter.inputs.description import describe_task
from converter.normalization import normalize
from tests.bench.evaluator import open_zoo
from tests.bench.zoo import Conversion, convert, score

pytestmark = pytest.mark.zoo

FLAGS = ["--seed", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("zoo")


def converted(name: str, folder: Path) -> Conversion:
    done = convert(open_zoo().specs[name].file, folder / f"{name}.int8.onnx", FLAGS)
    assert done.failure is None
    return done


@pytest.mark.parametrize(
    ("name", "samples", "agreement"),
    [
        ("cifar10_resnet20", 500, 97.0),
        ("cifar10_resnet8_mlperftiny", 500, 95.0),  # pictures of 0..255: its preprocessing has to be found out
        ("kws_dscnn", 500, 98.0),
        ("vww_mobilenetv1_025_96", 123, 96.0),
    ],
)
def test_classifiers_agree_with_fp32(name: str, samples: int, agreement: float, folder: Path) -> None:
    row = score(open_zoo(), name, converted(name, folder), samples, timed=False)
    assert row.failure is None
    assert row.fidelity is not None
    assert row.fidelity >= agreement


@pytest.mark.parametrize(("precision", "agreement"), [("w4a8", 91.0), ("w4a4", 80.0), ("mixed", 94.0)])
def test_fewer_bits_run_and_agree_with_fp32(precision: str, agreement: float, folder: Path) -> None:
    name = "cifar10_resnet20"
    flags = [*FLAGS, "--precision", precision]
    made = convert(open_zoo().specs[name].file, folder / f"{name}.{precision}.onnx", flags)
    assert made.failure is None
    row = score(open_zoo(), name, made, 500, timed=False)
    assert row.failure is None
    assert row.fidelity is not None
    assert row.fidelity >= agreement


def test_the_scale_of_a_detector_is_found_whatever_the_seed() -> None:
    plain = admit(open_zoo().specs["coco_nanodet_m_320"].file).model
    normalized = normalize(plain)
    network = reconstruct(normalized.model)
    for seed in range(4):
        (plan,) = describe_task(plain, normalized, network, Options(seed=seed)).plans
        assert plan.scaling.name == "ImageNet mean and deviation"


def test_super_resolution_keeps_its_signal(folder: Path) -> None:
    row = score(open_zoo(), "superres_espcn_x3", converted("superres_espcn_x3", folder), 5, timed=False)
    assert row.fp32 is not None
    assert row.int8 is not None
    assert row.fp32 - row.int8 <= 0.2  # dB of PSNR


def test_a_second_run_gives_the_same_bytes(folder: Path) -> None:
    first, second = folder / "first.onnx", folder / "second.onnx"
    for target in (first, second):
        assert convert(open_zoo().specs["kws_dscnn"].file, target, FLAGS).failure is None
    assert first.read_bytes() == second.read_bytes()
