"""What the finished INT8 model keeps if an input is prepared otherwise than it was calibrated for.

A report that judges on the inputs of its own guess cannot see that the guess was wrong. So the model is judged under
every preprocessing that is not excluded, on the same raw samples, each prepared as that one has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto

from converter.capacity import affordable, fitting, forward_seconds
from converter.evaluation.fidelity import Comparison, compare
from converter.findings import Fidelity
from converter.inputs.plans import Scaling, batch_limit
from converter.inputs.task import Task
from converter.options import Options
from converter.synthesis import Synthesis, batches

__all__ = ["Judged", "judge_hypotheses", "worst_plausible"]

BATCH = 8
JUDGED = 64  # held-out samples under each preprocessing,
FEWEST = 8  # or as few, where
SHARE = 0.08  # of the time budget has no room for more passes under one of them


@dataclass(frozen=True)
class Judged:
    """INT8 beside FP32, were the input prepared so; ``covered`` where calibration took it into account."""

    input: str
    scaling: Scaling
    covered: bool
    compared: Comparison

    @property
    def sqnr_db(self) -> float | None:
        """The signal over error of the noisiest output, in decibels."""
        return min((each.sqnr_db for each in self.compared.outputs if each.sqnr_db is not None), default=None)

    @property
    def agreement(self) -> float | None:
        """The share of decisions that INT8 keeps; None for what decides nothing."""
        return None if self.compared.decisions is None else self.compared.decisions.agreement.value


def judge_hypotheses(
    original: ModelProto, int8: ModelProto, task: Task, samples: Synthesis, options: Options, taken: Fidelity
) -> tuple[Judged, ...]:
    """Both models on held-out samples under every open preprocessing of every input; those that are alike run once,
    and not again what was ``taken`` for the right one.

    Empty where every input's preprocessing is stated or the only one left.
    """
    judged: list[Judged] = []
    for index, plan in enumerate(task.plans):
        if len(plan.doubtful) < 2:
            continue
        here: list[Judged] = []
        if not plan.rivals:
            compared = Comparison(taken.samples, taken.outputs, taken.decisions)
            here.append(Judged(plan.name, plan.scaling, covered=True, compared=compared))
        for scaling in plan.doubtful[len(here) :]:
            twin = next((each for each in here if each.scaling.is_alike(scaling)), None)
            compared = twin.compared if twin else _compare(original, int8, task, index, scaling, samples, options)
            covered = any(scaling.is_alike(each) for each in (plan.scaling, *plan.rivals))
            here.append(Judged(plan.name, scaling, covered, compared))
        judged += here
    return tuple(judged)


def _compare(
    original: ModelProto,
    int8: ModelProto,
    task: Task,
    index: int,
    scaling: Scaling,
    samples: Synthesis,
    options: Options,
) -> Comparison:
    trial = tuple(replace(p, scaling=scaling, rivals=()) if at == index else p for at, p in enumerate(task.plans))
    unit = batch_limit(trial, 1)
    forward = forward_seconds(task.multiply_adds, task.elements)
    count = max(fitting(forward, SHARE * options.time_budget, JUDGED, FEWEST) // unit, 1) * unit
    few = {name: values[:count] for name, values in samples.held_out.items()}
    feeds = batches(trial, few, affordable(task.elements, BATCH))
    return compare(original, int8, feeds, seed=options.seed, threads=options.threads, kinds=options.outputs)


def worst_plausible(judged: Sequence[Judged]) -> Judged | None:
    """The open preprocessing under which INT8 keeps least: decisions where there are any, else signal over error."""
    decided = [(value, each) for each in judged if (value := each.agreement) is not None]
    if decided:
        return min(decided, key=lambda pair: pair[0])[1]
    heard = [(value, each) for each in judged if (value := each.sqnr_db) is not None]
    return min(heard, key=lambda pair: pair[0])[1] if heard else None
