"""The synthesis stage: calibration and held-out samples, made once and kept."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from converter.capacity import fitting, forward_seconds
from converter.checkpoints import Checkpoints, Saved
from converter.inputs.calibration_data import CalibrationData
from converter.inputs.task import Task
from converter.options import Effort, Method, Options
from converter.progress import Reporter, Stage
from converter.scores import find_scores
from converter.synthesis import Problem, Synthesis, synthesize

__all__ = ["affordable_counts", "make_samples"]

SHARE = 0.4  # of the time budget that synthesis may take
PROGRESS = {Method.AUTO: "moving samples towards classes", Method.NOISE: "drawing noise"}
MORE = {Effort.FAST: 1, Effort.NORMAL: 1, Effort.BEST: 4}  # times the samples that were asked for
MOST_SAMPLES = 4096
PASSES = 4  # forward passes that one sample costs, drawn, observed and rounded with, or drawn and judged on
LOOKING = 0.3  # of the time budget that these passes may take
FEWEST, FEWEST_JUDGED = 8, 16  # samples, as few as may be asked for, and as few as scales are judged by
PATIENCE = 20.0  # times its share before the clock ends synthesis, which only a hopelessly slow machine reaches


def make_samples(
    task: Task, options: Options, reporter: Reporter, checkpoints: Checkpoints, own: CalibrationData | None = None
) -> Synthesis:
    """Calibration samples by the chosen method, or the owner's data, and held-out samples; or those of an earlier
    attempt.
    """
    saved = checkpoints.load(Stage.SYNTHESIS)
    if saved is not None:
        return replace(_restored(saved, task, options), own=own)
    seconds = options.time_budget * SHARE
    problem = Problem(
        task.network,
        task.graph,
        task.plans,
        task.logits,
        find_scores(task.graph, task.logits),
        task.batch_norms,
        task.multiply_adds,
        task.elements,
        seconds,
        time.monotonic() + PATIENCE * seconds,
        lambda share: reporter(Stage.SYNTHESIS, share, PROGRESS.get(options.method, "matching statistics")),
    )
    count, judged = affordable_counts(task, options)
    made = synthesize(problem, options.method, count, options.seed, own, options.effort, judged)
    if own is None and count < options.samples:
        words = f"{count} samples calibrate and {judged} judge instead of {options.samples} each"
        note = f"{words}: for networks and inputs of this size the time budget leaves no room for more."
        made = replace(made, notes=(*made.notes, note))
    checkpoints.save(Stage.SYNTHESIS, _saved(made))
    return made


def affordable_counts(task: Task, options: Options) -> tuple[int, int]:
    """Samples to calibrate with and to judge with: as many as were asked for where the time budget has room for them.

    What is found on them are ranges, moments and errors of the values in all tensors; where one pass takes long there
    are so many values that a few samples show as much as dozens of small pictures.
    """
    wanted = min(options.samples * MORE[options.effort], MOST_SAMPLES)
    one = PASSES * forward_seconds(task.multiply_adds, task.elements)
    room = options.time_budget * LOOKING * MORE[options.effort]
    return fitting(one, room, wanted, FEWEST), fitting(one, room, wanted, min(wanted, FEWEST_JUDGED))


def _saved(made: Synthesis) -> Saved:
    arrays = {f"calibration/{name}": value for name, value in made.calibration.items()}
    arrays |= {f"held_out/{name}": value for name, value in made.held_out.items()}
    values = {name: getattr(made, name) for name in ("steps", "seconds", "words", "distribution")}
    return Saved(values | {"loss": list(made.loss), "notes": list(made.notes)}, arrays)


def _restored(saved: Saved, task: Task, options: Options) -> Synthesis:
    def part(prefix: str) -> dict[str, Any]:
        return {name.removeprefix(prefix): value for name, value in saved.arrays.items() if name.startswith(prefix)}

    empty = Synthesis(Method(options.method), task.plans, {}, {}, (), 0, 0.0, "", "")
    return replace(
        empty,
        calibration=part("calibration/"),
        held_out=part("held_out/"),
        loss=tuple(saved.values["loss"]),
        notes=tuple(saved.values["notes"]),
        **{name: saved.values[name] for name in ("steps", "seconds", "words", "distribution")},
    )
