"""What may fail is left out with its reason; what is meant to end a conversion ends it."""

from __future__ import annotations

import pytest

from converter.attempts import Attempts, LeftOut
from converter.errors import Cancelled, InvalidOption


def test_a_failure_is_named_and_the_rest_goes_on() -> None:
    attempts = Attempts()
    found = 0
    with attempts.optional("counting", "The count"):
        found = int("3")
    with attempts.optional("counting", "The second count"):
        found = int("three")
    assert found == 3
    sentence = (
        "The second count was left out, since it failed (ValueError: invalid literal for int() with base 10: 'three')."
    )
    assert attempts.left_out == [LeftOut("counting", sentence)]
    assert not attempts.left_out[0].as_step().applied
    assert attempts.left_out[0].as_caution().place == "counting"


@pytest.mark.parametrize(
    "problem",
    [
        Cancelled("Given up."),
        InvalidOption("No such thing."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        KeyboardInterrupt(),
    ],
)
def test_an_end_that_is_meant_is_no_failure_of_a_step(problem: BaseException) -> None:
    attempts = Attempts()
    with pytest.raises(type(problem)), attempts.optional("step", "The step"):
        raise problem
    assert not attempts.left_out
