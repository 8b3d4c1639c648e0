"""What a child left behind, taken as the work of a stranger: plain files of bounded size, no link followed."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from pydantic import ValidationError

from converter.report.schema import Report

__all__ = ["BadOutput", "is_plain_name", "opened", "read_facts", "read_report"]

REPORT_LIMIT = 64 << 20
FACTS_LIMIT = 1 << 20


class BadOutput(ValueError):
    """The child's output is not what was agreed; the message says what is wrong."""


@contextmanager
def opened(folder: Path, name: str, limit: int) -> Iterator[BufferedReader]:
    """The plain file ``name`` in ``folder``, neither of them a link, of 1 to ``limit`` bytes; raises BadOutput."""
    try:
        parent = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
        finally:
            os.close(parent)
    except OSError as problem:
        raise BadOutput(f"{name} cannot be opened: {problem.strerror}.") from problem
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
        os.close(descriptor)
        raise BadOutput(f"{name} is not a plain file.")
    with os.fdopen(descriptor, "rb") as file:
        if not 0 < facts.st_size <= limit:
            raise BadOutput(f"{name} has {facts.st_size} bytes; from 1 to {limit} are taken.")
        yield file


def read_report(folder: Path, name: str) -> Report:
    """The report as the schema wants it; raises BadOutput."""
    with opened(folder, name, REPORT_LIMIT) as file:
        text = file.read(REPORT_LIMIT + 1)
    try:
        return Report.model_validate_json(text)
    except ValidationError as problem:
        first = problem.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise BadOutput(f"{name} breaks the schema at {place}: {first['msg']}.") from problem


def read_facts(folder: Path, name: str) -> bytes:
    """The JSON object of an inspection, spelled by us; raises BadOutput."""
    with opened(folder, name, FACTS_LIMIT) as file:
        text = file.read(FACTS_LIMIT + 1)
    try:
        facts = json.loads(text)
        if not isinstance(facts, dict):
            raise BadOutput(f"{name} is no JSON object.")
        return json.dumps(facts, allow_nan=False).encode()
    except (ValueError, RecursionError) as problem:
        raise BadOutput(f"{name} is not JSON.") from problem


def is_plain_name(name: object) -> bool:
    """Whether it names a file in a folder, and not the folder or anything elsewhere."""
    return isinstance(name, str) and 0 < len(name) <= 200 and "/" not in name and "\0" not in name and name[0] != "."
