"""What a ratio of FP32 to INT8 says in words, the same on the command line, on the page and in every sentence."""

from __future__ import annotations

__all__ = ["NOTICEABLE", "faster", "gains_little", "smaller", "times"]

NOTICEABLE = 0.98  # of the speed: repeats on a quiet machine differ by about two per cent
NOTABLE = 1.15  # a ratio that one digit behind the point tells from none


def times(ratio: float) -> str:
    """3.7, and 1.05 where a tenth would hide what there is."""
    return f"{ratio:.2f}" if ratio < NOTABLE else f"{ratio:.1f}"


def faster(speedup: float) -> str:
    """FP32's time over INT8's: 1.8 times faster, 1.05 times slower, or about as fast."""
    if NOTICEABLE <= speedup <= 1 / NOTICEABLE:
        return "about as fast"
    return f"{times(speedup)} times faster" if speedup > 1 else f"{times(1 / speedup)} times slower"


def smaller(ratio: float) -> str:
    """FP32's bytes over INT8's: 3.7 times smaller, 2.3 times larger, or as large as before."""
    if times(max(ratio, 1 / ratio)) == "1.00":
        return "as large as before"
    return f"{times(ratio)} times smaller" if ratio > 1 else f"{times(1 / ratio)} times larger"


def gains_little(size: float, speedup: float | None) -> bool:
    """Whether a file is neither notably smaller nor, as far as its time is known, notably faster."""
    return max(size, speedup or 0.0) < NOTABLE
