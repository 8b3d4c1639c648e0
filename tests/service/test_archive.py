"""Archives from strangers: one model with its data comes out, everything else is refused before it does harm."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from service.archive import BadArchive, unpack

LIMIT = 1 << 20


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir(exist_ok=True)
    return folder / "name.onnx"


def test_a_model_comes_out_with_its_neighbours(tmp_path: Path) -> None:
    members = {
        "deep/net/model.onnx": b"model",
        "deep/net/weights.bin": b"w",
        "deep/net/more/weights.bin": b"v",
        "readme.txt": b"not beside the model",
        "__MACOSX/deep/net/._model.onnx": b"litter",
    }
    model = out(tmp_path)
    unpack(zipped(tmp_path / "a.zip", members), model, LIMIT)
    found = {
        str(path.relative_to(model.parent)): path.read_bytes() for path in model.parent.rglob("*") if path.is_file()
    }
    assert found == {"name.onnx": b"model", "weights.bin": b"w", "more/weights.bin": b"v"}


@pytest.mark.parametrize("name", ["../up.bin", "/etc/up.bin", "a/../../up.bin", "..\\up.bin"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    source = zipped(tmp_path / "a.zip", {"model.onnx": b"m", name: b"x"})
    with pytest.raises(BadArchive, match="outside"):
        unpack(source, out(tmp_path), LIMIT)
    assert list(out(tmp_path).parent.iterdir()) == []


def test_links_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "a.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("model.onnx", b"m")
        link = zipfile.ZipInfo("weights.bin")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(BadArchive, match="plain file"):
        unpack(source, out(tmp_path), LIMIT)


def test_a_bomb_is_stopped_by_what_came_out(tmp_path: Path) -> None:
    source = zipped(tmp_path / "a.zip", {"model.onnx": b"m", "weights.bin": bytes(200 << 20)})
    assert source.stat().st_size < LIMIT
    with pytest.raises(BadArchive, match="more than"):
        unpack(source, out(tmp_path), LIMIT)
    assert sum(path.stat().st_size for path in out(tmp_path).parent.rglob("*")) <= LIMIT


@pytest.mark.parametrize("members", [{}, {"a.txt": b""}, {"a.onnx": b"", "b.onnx": b""}])
def test_exactly_one_model_is_wanted(tmp_path: Path, members: dict[str, bytes]) -> None:
    with pytest.raises(BadArchive, match="exactly one"):
        unpack(zipped(tmp_path / "a.zip", members), out(tmp_path), LIMIT)


def test_too_many_members_are_refused(tmp_path: Path) -> None:
    source = zipped(tmp_path / "a.zip", {"model.onnx": b"m"} | {f"{number}": b"" for number in range(10_001)})
    with pytest.raises(BadArchive, match="members"):
        unpack(source, out(tmp_path), LIMIT)


def test_what_is_no_archive_is_said_so(tmp_path: Path) -> None:
    source = tmp_path / "a.zip"
    source.write_bytes(b"PK\x03\x04 and nothing else")
    with pytest.raises(zipfile.BadZipFile):
        unpack(source, out(tmp_path), LIMIT)


def test_two_members_of_one_name_do_not_overwrite(tmp_path: Path) -> None:
    source = tmp_path / "a.zip"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("model.onnx", b"one")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("model.onnx", b"two")
    with pytest.raises(BadArchive, match="same name"):
        unpack(source, out(tmp_path), LIMIT)
