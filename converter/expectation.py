"""How long each stage of a conversion is going to take, before it begins: what the progress bar is divided by."""

from __future__ import annotations

from math import prod

from converter.capacity import SPEED, forward_seconds, gradient_seconds
from converter.graph import weight_of
from converter.inputs.task import Task
from converter.options import Method, Options, Precision
from converter.progress import Stage
from converter.synthesis import expected_steps
from converter.synthesis.stage import SHARE, affordable_counts

__all__ = ["expected_seconds"]

PASSES = 6  # forward passes of all samples that ranges, rounding and correction take together
LAYER = 0.06  # seconds of a layer's rounding and correction, however small it is
COLUMNS = 20_000  # input patches whose second moments are taken, of K values each
LOW_BITS = 3  # times the optimization where bit widths are chosen as well
DRAWING = 4e-8  # seconds for each number of a sample drawn from the prior
WRITING, MEASURING, REPORTING = 0.3, 1.2, 0.1  # seconds whatever the network


def expected_seconds(task: Task, options: Options) -> dict[Stage, float]:
    """Seconds of every stage from synthesis on, on one core of the kind that the constants were measured on.

    Only their proportion matters for the bar; what the machine really takes corrects the time left as it goes.
    """
    step = gradient_seconds(task.multiply_adds, task.elements)  # of one sample
    forward = forward_seconds(task.multiply_adds, task.elements)
    numbers = sum(prod(plan.shape) for plan in task.plans)
    samples, held_out = affordable_counts(task, options)
    synthesis = (samples + held_out) * numbers * DRAWING
    if options.method is Method.AUTO:
        synthesis += step * expected_steps(samples, options.effort, options.time_budget * SHARE / max(step, 1e-9))
    elif options.method is not Method.NOISE:
        synthesis += options.time_budget * SHARE
    layers = 0.0
    for node in task.graph.nodes:
        found = weight_of(node, task.graph)
        if found is not None:
            shape = task.graph.initializers[found[0]].shape
            width = prod(shape) / max(shape[found[1]], 1)
            layers += LAYER + COLUMNS * width**2 / SPEED
    optimization = samples * PASSES * forward + layers
    if options.precision is not Precision.INT8:
        optimization *= LOW_BITS
    return {
        Stage.SYNTHESIS: synthesis,
        Stage.OPTIMIZATION: optimization,
        Stage.QUANTIZATION: WRITING,
        Stage.FIDELITY: MEASURING + 2 * held_out * forward,
        Stage.REPORT: REPORTING,
    }
