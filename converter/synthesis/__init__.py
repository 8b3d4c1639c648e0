"""Calibration data from the network alone: one table of methods, each a function of the same problem.

A method takes a ``Problem`` and returns raw samples of every input; adding one is registering it in ``METHODS``. Every
method is seeded. How many gradient steps fit the time budget is decided from the network's size, not from a clock, so
that a slower machine takes longer and gets the same result; only far beyond the budget does the clock end a method
early.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converter.attempts import Attempts
from converter.capacity import GRADIENT_BYTES, affordable
from converter.errors import InvalidOption
from converter.inputs.calibration_data import CalibrationData
from converter.inputs.drawing import draw_inputs
from converter.inputs.plans import InputPlan, assemble, batch_limit
from converter.inputs.states import TOGETHER, settle_states
from converter.options import Effort, Method
from converter.sessions import Feeds
from converter.synthesis import genie, gznq, zeroq
from converter.synthesis.automatic import BATCH, approach_scores
from converter.synthesis.genie import synthesize_genie
from converter.synthesis.gznq import synthesize_gznq
from converter.synthesis.gzsq import synthesize_gzsq
from converter.synthesis.problem import Problem, Samples
from converter.synthesis.zeroq import synthesize_zeroq

__all__ = ["METHODS", "Problem", "Samples", "Synthesis", "batches", "expected_steps", "synthesize"]

Raw = dict[str, NDArray[Any]]
CLASS_SHARE = 0.6  # of the samples are moved towards a class; at 3/8 five classifiers lost 0.5 dB in the mean
CALIBRATION_STEPS = 40  # at most: most batches are confident long before
EXERTION = {Effort.FAST: 0.0, Effort.NORMAL: 1.0, Effort.BEST: 4.0}  # times the steps; at 0 the prior is all
LEAST_STEPS = 3  # each goes an 80th of a picture's range
USUAL_STEPS = 14  # after which a batch is confident: 6 to 17 on six networks of pictures
HELD_OUT_STEPS = 12  # fewer, so that the held-out samples' margins are between noise's and a textbook picture's


@dataclass(frozen=True)
class Synthesis:
    """Samples to calibrate with, samples held out to judge with, and in words how either came about."""

    method: Method
    plans: tuple[InputPlan, ...]
    calibration: Raw  # [N, *shape] of every input, before preprocessing
    held_out: Raw
    loss: tuple[float, ...]
    steps: int
    seconds: float
    words: str  # of the calibration samples
    distribution: str  # of those held out
    notes: tuple[str, ...] = ()  # what was left out on the way
    own: CalibrationData | None = None  # calibrates in place of samples, where the owner gave data

    def feeds(self, size: int) -> Iterator[Feeds]:
        """What to calibrate with, as the network takes it: samples in batches of at most ``size``, or the owner's data
        in batches as they came.
        """
        return batches(self.plans, self.calibration, size) if self.own is None else iter(self.own.feeds)

    @property
    def count(self) -> int:
        """The number of samples to calibrate with."""
        return len(next(iter(self.calibration.values()))) if self.own is None else self.own.samples

    @property
    def origin(self) -> str:
        """The method, or that the data are the owner's, in a word or two."""
        return str(self.method) if self.own is None else "own data"


def synthesize_noise(problem: Problem, count: int, seed: int, steps: int) -> Samples:
    """N(0, 1) on every float input, whatever its real range: what tools without data do today."""
    return Samples(draw_inputs(problem.plans, count, np.random.default_rng(seed), noise=True), (), "N(0, 1) noise")


def synthesize_auto(problem: Problem, count: int, seed: int, steps: int, *, other: bool = False) -> Samples:
    """Natural pictures (or signals, features, tokens), a share of which approaches one class each.

    With ``other`` they are drawn from the second prior, which nothing is calibrated on.
    """
    raw = draw_inputs(problem.plans, count, np.random.default_rng(seed), other=other)
    words = "drawn from the prior of natural inputs"
    if other:
        words = "drawn from another prior than calibration's (dead leaves and blends, other spectra and frequencies)"
    if not problem.scores or steps == 0 or not any(value.dtype == np.float32 for value in raw.values()):
        return Samples(raw, (), words)
    chosen = _whole_batches(max(round(count * CLASS_SHARE), 1), problem.plans)
    part = {name: torch.from_numpy(value[:chosen].copy()) for name, value in raw.items()}
    moved, loss = approach_scores(
        problem.network,
        problem.plans,
        part,
        problem.scores,
        steps,
        torch.Generator().manual_seed(seed),
        problem.deadline,
        problem.progress,
        affordable(problem.elements, BATCH, GRADIENT_BYTES),
    )
    for name, value in moved.items():
        raw[name][:chosen] = value.numpy()
    return Samples(
        raw,
        tuple(loss),
        f"{words}, {chosen} of {count} moved towards random classes or detections by up to {steps} steps",
    )


METHODS: dict[Method, Callable[[Problem, int, int, int], Samples]] = {
    Method.AUTO: synthesize_auto,
    Method.ZEROQ: synthesize_zeroq,
    Method.GZSQ: synthesize_gzsq,
    Method.GZNQ: synthesize_gznq,
    Method.GENIE: synthesize_genie,
    Method.NOISE: synthesize_noise,
}
STEPS = {Method.ZEROQ: zeroq.STEPS, Method.GZSQ: zeroq.STEPS, Method.GZNQ: gznq.STEPS, Method.GENIE: genie.STEPS}


def synthesize(
    problem: Problem,
    method: Method,
    count: int,
    seed: int,
    own: CalibrationData | None = None,
    effort: Effort = Effort.NORMAL,
    apart: int | None = None,
) -> Synthesis:
    """``count`` samples to calibrate with and ``apart`` (as many) held out, by one method; only those held out where
    the owner's data calibrate.

    Our own method takes ``effort``; those of the papers have their own number of steps. Raises InvalidOption for a
    method that does not exist.
    """
    if method not in METHODS:
        raise InvalidOption(
            f"The method {method} is not available.", field="method", remedy=f"Use {', '.join(METHODS)}."
        )
    started = time.monotonic()
    apart, count = (_whole_batches(each, problem.plans) for each in (apart or count, count))
    steps = problem.affordable_steps(round(CALIBRATION_STEPS * EXERTION[effort]), round(count * CLASS_SHARE))
    if steps < LEAST_STEPS or 4 * problem.elements > GRADIENT_BYTES:
        steps = 0  # that little moves nothing, or a step keeps more of one sample than a conversion may take
    fewer = _held_out_steps(steps)
    first = 0.0 if own is not None else 1.0 if method is Method.NOISE else max(steps, 1) / max(steps + fewer, 1)
    calibrating = replace(problem, progress=lambda share: problem.progress(first * share))
    judging = replace(problem, progress=lambda share: problem.progress(first + (1 - first) * share))
    attempts = Attempts()
    made: Samples | None = None if own is None else Samples({}, (), own.words)
    held_out: Samples | None = None
    with attempts.optional("synthesis", f"Synthesis by {method}"):
        made = made or METHODS[method](calibrating, count, seed, STEPS.get(method, steps))  # the papers bound theirs
    with attempts.optional("held-out", "Moving held-out samples towards classes"):
        held_out = synthesize_auto(judging, apart, seed + 1, fewer, other=True)
    made = made or synthesize_auto(problem, count, seed, 0)  # the prior alone needs nothing of the network
    held_out = held_out or synthesize_auto(problem, apart, seed + 1, 0, other=True)
    taken = len(made.loss) if method in STEPS or own is not None else steps
    calibration, judged = made.raw, held_out.raw
    with attempts.optional("states", "Running states in"):
        calibration, judged = (
            settle_states(
                problem.network, problem.graph, problem.plans, each.raw, affordable(problem.elements, TOGETHER)
            )
            if each.raw
            else {}
            for each in (made, held_out)
        )
    seconds = time.monotonic() - started
    notes = tuple(each.sentence for each in attempts.left_out)
    return Synthesis(
        method, problem.plans, calibration, judged, made.loss, taken, seconds, made.words, held_out.words, notes, own
    )


def _held_out_steps(steps: int) -> int:
    """In proportion where the network leaves time for few, and no more where there is time for many: the margins of
    the samples that judge stay what they are.
    """
    return min(-(-steps * HELD_OUT_STEPS // CALIBRATION_STEPS), HELD_OUT_STEPS)


def expected_steps(samples: int, effort: Effort, fitting: float) -> float:
    """Gradient steps of single samples that our own method is going to take; ``fitting`` are those that the time
    budget has room for.
    """
    moved = samples * CLASS_SHARE
    steps = min(round(CALIBRATION_STEPS * EXERTION[effort]), int(fitting / max(moved, 1.0)))
    return moved * (min(steps, USUAL_STEPS) + _held_out_steps(steps))


def _whole_batches(count: int, plans: tuple[InputPlan, ...]) -> int:
    """``count``, and as many more as fill the last batch of a model that fixes the size of its batches."""
    size = batch_limit(plans, 1)
    return -(-count // size) * size


def batches(plans: tuple[InputPlan, ...], raw: Mapping[str, NDArray[Any]], size: int) -> Iterator[Feeds]:
    """Network inputs of all raw samples in batches of at most ``size``."""
    count = len(next(iter(raw.values())))
    step = batch_limit(plans, size)
    for start in range(0, count, step):
        yield assemble(plans, raw, slice(start, start + step))
