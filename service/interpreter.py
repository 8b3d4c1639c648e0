"""How our own processes are started: with our code, and never with what lies in the folder they are started in."""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["SAFE", "code_paths", "python"]

SAFE = ("-P",)
"""The working folder is not searched for modules: a ``service.py`` there would otherwise run in our place.

Not ``-I``, which also ignores PYTHONPATH: from a checkout that is not installed nothing would be found.
"""


def python(*arguments: str) -> list[str]:
    """The command that runs ``arguments`` in this interpreter."""
    return [sys.executable, *SAFE, *arguments]


def code_paths(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """PYTHONPATH for such a process: whole paths of the given one alone, and where we ourselves were imported from."""
    given = [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(each)]
    own = str(Path(__file__).resolve().parents[1])
    installed = {os.path.realpath(each) for each in (*site.getsitepackages(), site.getusersitepackages())}
    if own not in installed and own not in map(os.path.realpath, given):
        given.insert(0, own)
    return {"PYTHONPATH": os.pathsep.join(given)} if given else {}
