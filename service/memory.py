"""How much memory there really is: the machine's, or what the control group of this process leaves of it."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["RESERVE", "available", "kills"]

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
RESERVE = 256 << 20
"""Left to API and worker, which may share the group: idle they take 110 and 130 MB (resident, measured)."""


def available() -> int:
    """Bytes that the kernel lets this process and its children have together before it kills."""
    limits = [limit for limit in map(_limit, _groups()) if limit is not None]
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *limits])


def kills() -> int:
    """How often the kernel killed in this group because memory ran out; 0 where it does not say."""
    for folder in _groups():
        for line in _lines(folder / "memory.events") + _lines(folder / "memory.oom_control"):
            name, _, count = line.partition(" ")
            if name == "oom_kill" and count.isdigit():
                return int(count)
    return 0


def _groups() -> list[Path]:
    """This process's group and those around it, in either version of the hierarchy; the innermost first."""
    found = []
    for line in _lines(MEMBERSHIP):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base = ROOT
        elif "memory" in controllers.split(","):
            base = ROOT / "memory"
        else:
            continue
        inner = base / path.strip("/")
        found += [each for each in (inner, *inner.parents) if each == base or base in each.parents]
    return found


def _limit(folder: Path) -> int | None:
    for name in ("memory.max", "memory.limit_in_bytes"):
        for line in _lines(folder / name):
            if line.isdigit() and int(line) < 1 << 60:  # version 1 says "none" by a number near 2**63
                return int(line)
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
