"""Sections of ``RESULTS.md``: each benchmark replaces its own and leaves the others as they are."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["RESULTS", "origin", "publish", "table", "write_section"]

RESULTS = Path(__file__).with_name("RESULTS.md")
PREFACE = "# Results\n\nEvery section is written by the command that it names; figures are of that date and machine.\n"
PACKAGES = ("zsq", "torch", "onnx", "onnxruntime", "numpy")


def write_section(title: str, body: str, path: Path = RESULTS) -> None:
    """The file has exactly one section of this title, with this body; other sections are as they were."""
    text = path.read_text() if path.exists() else PREFACE
    section = f"## {title}\n\n{body.strip()}\n"
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    found = pattern.search(text)
    if found:
        text = text[: found.start()] + section + ("\n" if found.end() < len(text) else "") + text[found.end() :]
    else:
        text = text.rstrip("\n") + "\n\n" + section
    partial = path.with_suffix(f".{os.getpid()}.part")
    partial.write_text(text)
    partial.replace(path)


def publish(title: str, module: str, arguments: Sequence[str], *paragraphs: str, dry: bool = False) -> None:
    """The last paragraph is printed and, unless ``dry``, all are the section, after the command that made them."""
    print(paragraphs[-1])
    if not dry:
        write_section(title, "\n\n".join([origin(["python", "-m", f"tests.bench.{module}", *arguments]), *paragraphs]))


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def origin(command: Sequence[str]) -> str:
    """One paragraph: when, with what command (no folders of this machine), with which versions, on what machine."""
    command = [Path(each).name if Path(each).is_absolute() else each for each in command]
    versions = ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, `{' '.join(command)}`. "
        f"Python {platform.python_version()}, {versions}. {_processor()}, {os.cpu_count()} cores, {sys.platform}."
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(absent)"


def _processor() -> str:
    try:
        names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    return names[0] if names else platform.machine()
