"""How much of the optimization the time budget has room for, told from the network's size and never from a clock."""

from __future__ import annotations

from dataclasses import dataclass

from converter.capacity import fitting
from converter.options import Options

__all__ = ["Allowance", "allow"]

JUDGED = 8  # samples whose gradients weigh the damage
EQUALIZED = 32  # samples that tell each channel's range
# Passes of a sample forward through the network,
JUDGING = 18  # whole and with bars: one forward and two backward for gradients, one exact, three for choices tried;
EQUALIZING = 1.5  # with the largest value of each channel looked for;
FITTING = 3  # float, integer and integer to nearest, layer by layer.
JUDGING_SHARE, EQUALIZING_SHARE, FITTING_SHARE = 0.4, 0.2, 0.3  # of the time budget
FEWEST_EQUALIZED = 2


@dataclass(frozen=True)
class Allowance:
    """Samples that each step may take."""

    judged: int
    equalized: int
    fitted: int


def allow(forward: float, fitted: int, options: Options) -> Allowance:
    """What fits ``options.time_budget`` where a forward pass of one sample takes so many seconds and memory has room
    to fit weights on ``fitted`` samples.

    Each step takes one or two samples rather than none: without a choice of float nodes, PicoDet's integers
    for a budget of 5 s carried 26 dB more error than signal; with one, 22 dB less.
    """
    budget = options.time_budget
    return Allowance(
        fitting(JUDGING * forward, JUDGING_SHARE * budget, JUDGED),
        fitting(EQUALIZING * forward, EQUALIZING_SHARE * budget, EQUALIZED, FEWEST_EQUALIZED),
        fitting(FITTING * forward, FITTING_SHARE * budget, fitted),
    )
