"""Samples that integers are judged on, those of one hypothesis about the inputs apart from those of another.

Where several scales of an input stay open, samples of the loudest one have nearly all of the outputs' variance: what
rounding does to quiet ones, any of which may be the truth, does not show in a sum over all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from converter.capacity import places_spread
from converter.inputs.plans import InputPlan, Scaling, tensors
from converter.sessions import Feeds

__all__ = ["Judged", "divide_batch", "open_shares", "part_hypotheses"]


@dataclass(frozen=True)
class Judged:
    """Samples under one hypothesis, its number, and its share of the probability of all that are open."""

    feeds: dict[str, Tensor]
    hypothesis: int = 0
    share: float = 1.0


def open_shares(plans: Sequence[InputPlan]) -> tuple[float, ...]:
    """The probability, among what is open, of what each sample in turn was scaled as; (1.0,) where all is settled."""
    turns = [
        [1.0 if each.probability is None else each.probability for each in (plan.scaling, *plan.rivals)]
        for plan in plans
    ]
    count = math.lcm(*(len(each) for each in turns)) if turns else 1
    likely = [math.prod(each[number % len(each)] for each in turns) for number in range(count)]
    return tuple(each / sum(likely) for each in likely)


def _likely(scaling: Scaling) -> float:
    return 1.0 if scaling.probability is None else scaling.probability


def part_hypotheses(batches: Sequence[Feeds], samples: int, together: int, shares: Sequence[float]) -> list[Judged]:
    """About ``samples`` samples of the batches, at most ``together`` in a part, each part of one hypothesis.

    ``shares`` are as ``open_shares`` gives them. Batches whose inputs do not all begin with the samples stay whole.
    """
    places = places_spread(batches, samples)
    few = [batches[place] for place in places]
    lengths = [_length(each) for each in batches]
    if len(shares) == 1 or None in lengths:
        return [Judged(tensors(part)) for feeds in few for part in divide_batch(feeds, together)]
    starts = [0, *accumulate(length or 0 for length in lengths)]
    numbers = torch.cat([torch.arange(starts[place], starts[place + 1]) for place in places]) % len(shares)
    joined = {name: torch.cat([tensors(each)[name] for each in few]) for name in few[0]}
    parts = []
    for hypothesis, share in enumerate(shares):
        rows = (numbers == hypothesis).nonzero()[:, 0]
        parts += [
            Judged({name: value[some] for name, value in joined.items()}, hypothesis, share)
            for some in torch.split(rows, together)
            if len(some)
        ]
    return parts


def _length(feeds: Feeds) -> int | None:
    """How many samples a batch has, if all inputs begin with them."""
    sizes = {len(value) if value.ndim else None for value in feeds.values()}
    return sizes.pop() if len(sizes) == 1 else None


def divide_batch(feeds: Feeds, together: int) -> list[Feeds]:
    """A batch in parts of at most ``together`` samples, whole where some input has no batch axis in front."""
    length = _length(feeds)
    if length is None or length <= together:
        return [feeds]
    starts = range(0, length, together)
    return [{name: value[start : start + together] for name, value in feeds.items()} for start in starts]
