"""Ratios in words never call a loss a gain."""

from __future__ import annotations

import pytest

from converter.findings.gains import faster, smaller


@pytest.mark.parametrize(
    ("speedup", "words"),
    [
        (3.72, "3.7 times faster"),
        (1.05, "1.05 times faster"),
        (1.01, "about as fast"),
        (0.99, "about as fast"),
        (0.95, "1.05 times slower"),
        (0.4, "2.5 times slower"),
    ],
)
def test_speed_in_words(speedup: float, words: str) -> None:
    assert faster(speedup) == words


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (3.72, "3.7 times smaller"),
        (1.02, "1.02 times smaller"),
        (1.0, "as large as before"),
        (0.999, "as large as before"),
        (0.43, "2.3 times larger"),
    ],
)
def test_size_in_words(ratio: float, words: str) -> None:
    assert smaller(ratio) == words
