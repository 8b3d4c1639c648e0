"""What a child leaves is opened only if it is a plain file of the agreed size in the agreed folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.outputs import BadOutput, is_plain_name, opened, read_report


def test_a_plain_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    with opened(tmp_path, "a", 3) as file:
        assert file.read() == b"abc"


def test_everything_else_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(secret)
    (folder / "hard").hardlink_to(secret)
    (folder / "inner").mkdir()
    (folder / "empty").touch()
    (folder / "large").write_bytes(b"x" * 11)
    os.mkfifo(folder / "pipe")
    for name in ("link", "hard", "inner", "empty", "large", "pipe", "absent"):
        with pytest.raises(BadOutput), opened(folder, name, 10):
            pass
    moved = tmp_path / "moved"
    moved.symlink_to(tmp_path)
    with pytest.raises(BadOutput), opened(moved, "secret", 10):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema_version": "9"}', "null", "\xff", "[" * 100_000])
def test_a_report_that_breaks_the_schema_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "report.json").write_text(text, encoding="latin-1")
    with pytest.raises(BadOutput):
        read_report(tmp_path, "report.json")


def test_plain_names() -> None:
    assert is_plain_name("synthesis.npz")
    for name in ("", "a/b", "..", ".hidden", "a\0b", "x" * 201, 3, None, ["a"]):
        assert not is_plain_name(name)
