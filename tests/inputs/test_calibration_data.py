"""The owner's data calibrate in place of synthesized inputs, whatever form they come in, and tell how inputs scale."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto
from PIL import Image

from converter import Options, Result, convert
from converter.errors import InvalidOption
from converter.inputs.calibration_data import MOST_SAMPLES, read_data
from tests.networks import HEAD, biases, head, model_of, node, weights

PICTURES = np.random.default_rng(0).uniform(-3, 5, (24, 3, 16, 16)).astype(np.float32)
QUICK = Options(samples=8)


def coloured() -> ModelProto:
    """A classifier of pictures [N, 3, 16, 16]."""
    nodes = [node("Conv", ["x", "w0", "b0"], ["c0"], pads=[1] * 4), node("Relu", ["c0"], ["last"]), *HEAD]
    return model_of(nodes, {"w0": weights(16, 3, 3, 3), "b0": biases(16), **head(16)}, ("N", 3, 16, 16))


class Reader:
    """As onnxruntime's users write one: nothing but ``get_next``."""

    def __init__(self, size: int = 8) -> None:
        self.parts = iter([PICTURES[start : start + size] for start in range(0, len(PICTURES), size)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        part = next(self.parts, None)
        return None if part is None else {"x": part}


def batches() -> Iterator[dict[str, np.ndarray]]:
    yield from ({"x": PICTURES[start : start + 8]} for start in range(0, 24, 8))


def content(result: Result) -> bytes:
    data: bytes = result.model.SerializeToString(deterministic=True)
    return data


@pytest.fixture(scope="module")
def by_arrays() -> Result:
    return convert(coloured(), QUICK, calibration={"x": PICTURES})


@pytest.mark.parametrize("given", [Reader, batches])
def test_readers_batches_and_arrays_give_the_same_model(by_arrays: Result, given: Callable[[], Any]) -> None:
    assert content(convert(coloured(), QUICK, calibration=given())) == content(by_arrays)


def test_a_file_gives_the_same_model(by_arrays: Result, tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x=PICTURES)
    result = convert(coloured(), Options(samples=8, calibration=tmp_path / "own.npz"))
    assert content(result) == content(by_arrays)
    assert result.report.options["calibration"] == "own.npz"


def test_the_report_says_whose_data_they_were_and_judges_on_others(by_arrays: Result) -> None:
    section = by_arrays.report.synthesis
    assert (section.method, section.samples, section.loss) == ("own data", 24, ())
    assert "24 samples of the owner's data" in section.description
    assert "prior" in by_arrays.report.fidelity.distribution
    (given,) = by_arrays.report.inputs
    assert given.low == pytest.approx(PICTURES.min())
    assert given.high == pytest.approx(PICTURES.max())
    assert "your calibration data" in given.distribution


def test_ranges_are_those_of_the_data() -> None:
    narrow = convert(coloured(), QUICK, calibration={"x": PICTURES / 100})
    (entry,) = [each for each in narrow.report.layers if each.tensor == "x"]
    assert entry.low == pytest.approx(PICTURES.min() / 100, rel=0.02)
    assert entry.high == pytest.approx(PICTURES.max() / 100, rel=0.02)


@pytest.mark.parametrize("archived", [False, True])
def test_a_folder_of_pictures(tmp_path: Path, archived: bool) -> None:
    data = tmp_path / "set"
    data.mkdir()
    for number in range(9):
        Image.fromarray(np.full((16, 16, 3), 25 * number, np.uint8)).save(data / f"{number}.png")
    if archived:
        data = Path(shutil.make_archive(str(data), "zip", data))
    result = convert(coloured(), Options(samples=8, calibration=data))
    assert "9 samples" in result.report.synthesis.description
    assert "RGB" in result.report.synthesis.description


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"y": PICTURES}, "no array for the input 'x'"),
        ({"x": PICTURES[:, :2]}, "24x2x16x16"),
        ({"x": np.full_like(PICTURES, np.nan)}, "infinite or missing"),
        ({"x": PICTURES.tolist()}, "numpy arrays"),
        ([], "hold no batch"),
        (Path("absent.npz"), "cannot be read"),
    ],
)
def test_data_that_do_not_fit_are_refused_in_the_name_of_calibration(given: Any, words: str) -> None:
    with pytest.raises(InvalidOption, match=words) as refused:
        convert(coloured(), QUICK, calibration=given)
    assert refused.value.field == "calibration"


def test_data_given_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="twice"):
        convert(coloured(), Options(calibration=tmp_path), calibration={"x": PICTURES})


def test_of_very_many_samples_those_kept_are_spread_over_all() -> None:
    many = np.arange(5 * MOST_SAMPLES, dtype=np.float32).reshape(-1, 1, 1, 1)
    kept = read_data(coloured(), {"x": np.broadcast_to(many, (len(many), 3, 16, 16))})
    assert kept is not None
    assert 0.9 * MOST_SAMPLES < kept.samples <= MOST_SAMPLES
    assert kept.feeds[-1]["x"].max() > 0.98 * many.max()


def test_a_finished_stage_of_other_data_is_not_taken(by_arrays: Result, tmp_path: Path) -> None:
    convert(coloured(), QUICK, checkpoints=str(tmp_path), calibration={"x": PICTURES / 100})
    again = convert(coloured(), QUICK, checkpoints=str(tmp_path), calibration={"x": PICTURES})
    assert content(again) == content(by_arrays)
