"""A finished stage comes back as it was; half of one does not come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converter.checkpoints import Checkpoints, Saved
from converter.progress import Stage
from tests.networks import residual

ARRAYS: dict[str, NDArray[Any]] = {
    "calibration/x": np.arange(6, dtype=np.float32).reshape(2, 3),
    "held_out/x": np.zeros((0, 3), np.int64),
}


def saved() -> Saved:
    return Saved({"loss": [1.5, 0.25], "words": "drawn"}, ARRAYS, residual())


def test_a_finished_stage_comes_back(tmp_path: Path) -> None:
    heard: list[tuple[Stage, list[str]]] = []
    Checkpoints(tmp_path / "new", lambda stage, files: heard.append((stage, files))).save(Stage.QUANTIZATION, saved())
    found = Checkpoints(tmp_path / "new").load(Stage.QUANTIZATION)
    assert found is not None
    assert found.values == saved().values
    assert found.model == saved().model
    assert found.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found.arrays[name], array)
        assert found.arrays[name].dtype == array.dtype
    ((stage, files),) = heard
    assert stage is Stage.QUANTIZATION
    assert set(files) == {each.name for each in (tmp_path / "new").iterdir()}
    assert Checkpoints(tmp_path / "new").load(Stage.SYNTHESIS) is None


def test_without_a_folder_nothing_is_kept() -> None:
    checkpoints = Checkpoints()
    checkpoints.save(Stage.SYNTHESIS, saved())
    assert checkpoints.load(Stage.SYNTHESIS) is None


@pytest.mark.parametrize("kind", ["json", "npz", "onnx"])
@pytest.mark.parametrize("left", [0.0, 0.3, 0.9])
def test_half_a_stage_is_none(tmp_path: Path, kind: str, left: float) -> None:
    """Files that broke off, in whatever place, as a full disk or an interrupted copy leaves them."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(Stage.QUANTIZATION, saved())
    path = tmp_path / f"quantization.{kind}"
    content = path.read_bytes()
    path.write_bytes(content[: int(left * len(content))])
    found = checkpoints.load(Stage.QUANTIZATION)
    assert found is None or (kind == "onnx" and left == 0)  # an empty file is an empty model to protobuf
    if found is not None:
        assert found.model is not None
        assert len(found.model.graph.node) == 0


@pytest.mark.parametrize("kind", ["json", "npz"])
def test_a_missing_part_makes_the_stage_unfinished(tmp_path: Path, kind: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(Stage.QUANTIZATION, saved())
    (tmp_path / f"quantization.{kind}").unlink()
    assert checkpoints.load(Stage.QUANTIZATION) is None


def test_damage_in_the_middle_is_noticed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    big = np.random.default_rng(0).standard_normal(4096)
    checkpoints.save(Stage.SYNTHESIS, Saved({}, {"x": big}))
    path = tmp_path / "synthesis.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))
    assert checkpoints.load(Stage.SYNTHESIS) is None


def test_a_stage_that_was_being_written_is_unfinished(tmp_path: Path) -> None:
    (tmp_path / ".synthesis.npz.part").write_bytes(b"half")
    (tmp_path / "synthesis.npz").write_bytes(b"whole, but the last file is missing")
    assert Checkpoints(tmp_path).load(Stage.SYNTHESIS) is None


def test_saving_again_replaces(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(Stage.SYNTHESIS, Saved({"turn": 1}, ARRAYS))
    checkpoints.save(Stage.SYNTHESIS, Saved({"turn": 2}, {}))
    found = checkpoints.load(Stage.SYNTHESIS)
    assert found is not None
    assert (found.values, dict(found.arrays)) == ({"turn": 2}, {})
    assert not [each for each in tmp_path.iterdir() if each.name.endswith(".part")]
