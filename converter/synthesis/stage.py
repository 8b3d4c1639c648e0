"""The synthesis stage: calibration and held-out samples, made once and kept."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from converter.checkpoints import Checkpoints, Saved
from converter.inputs.calibration_data import CalibrationData
from converter.inputs.task import Task
from converter.options import Effort, Method, Options
from converter.progress import Reporter, Stage
from converter.scores import find_scores
from converter.synthesis import Problem, Synthesis, synthesize

__all__ = ["make_samples"]

SHARE = 0.4  # of the time budget that synthesis may take
PROGRESS = {Method.AUTO: "moving samples towards classes", Method.NOISE: "drawing noise"}
MORE = {Effort.FAST: 1, Effort.NORMAL: 1, Effort.BEST: 4}  # times the samples that were asked for
MOST_SAMPLES = 4096
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
    count = min(options.samples * MORE[options.effort], MOST_SAMPLES)
    made = synthesize(problem, options.method, count, options.seed, own, options.effort)
    checkpoints.save(Stage.SYNTHESIS, _saved(made))
    return made


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
