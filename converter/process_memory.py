"""How a process that converts takes memory and gives it back: in huge pages, and at once when it is freed, so that one
stage's peak is not the next one's floor.
"""

from __future__ import annotations

import ctypes
import os

__all__ = ["prepare_process", "return_freed_memory"]

MMAP_THRESHOLD = -3  # mallopt's name for it in glibc's malloc.h
LARGE = 4 << 20


def return_freed_memory() -> None:
    """What the C library keeps of freed memory is the system's again, where it has a call for that (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def prepare_process() -> None:
    """From now on large tensors lie on huge pages and, from 4 MiB, are the system's again when they are freed.

    For a process that does nothing but convert, before it loads torch, which reads its switch then. Without huge pages
    the system took a quarter of a conversion of SqueezeNet, page by page; without separate blocks, holes between
    tensors add half a gigabyte to the peak of a conversion of ResNet-50's size (tests/bench/RESULTS.md). Where the C
    library is not glibc, or the system has no huge pages, nothing changes. Threads that wait for others sleep: beside
    other work, two that spin take more than twice the time of one.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    choose = getattr(ctypes.CDLL(None), "mallopt", None)
    if choose is not None:
        choose(MMAP_THRESHOLD, LARGE)
