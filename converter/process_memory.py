"""Memory that was freed goes back to the system at once, so that one stage's peak is not the next one's floor."""

from __future__ import annotations

import ctypes

__all__ = ["return_freed_memory", "separate_large_blocks"]

MMAP_THRESHOLD = -3  # mallopt's name for it in glibc's malloc.h
LARGE = 4 << 20


def return_freed_memory() -> None:
    """What the C library keeps of freed memory is the system's again, where it has a call for that (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def separate_large_blocks() -> None:
    """From now on blocks of 4 MiB and more are the system's again when they are freed, where the C library can (glibc).

    For a process that does nothing but convert: without it, holes between tensors add half a gigabyte to the peak of a
    conversion of ResNet-50's size (tests/bench/RESULTS.md).
    """
    choose = getattr(ctypes.CDLL(None), "mallopt", None)
    if choose is not None:
        choose(MMAP_THRESHOLD, LARGE)
