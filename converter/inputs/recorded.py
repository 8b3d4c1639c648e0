"""What a BatchNorm that reads an input itself recorded of it: means and deviations that nobody needs to guess.

It counts wherever nothing but moves stand between, and column by column where its channels are the input's columns or
bands. Columns of a table may differ by a factor of thousands, and one scale for all of them ruins the small ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from converter.graph import Graph
from converter.inputs.dataflow import Use, uses
from converter.inputs.plans import InputPlan, Scaling
from converter.normalization import BatchNormStatistics

__all__ = ["recorded_scaling"]

MOVES = frozenset({"Transpose", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Dropout"})
NAME = "as BatchNorm recorded it"
LEAST = 1e-6  # deviation of a column that never changes


def recorded_scaling(graph: Graph, plan: InputPlan, batch_norms: Sequence[BatchNormStatistics]) -> Scaling | None:
    """The mean and deviation that a normalization in front of everything else recorded, or None."""
    given = next(each for each in graph.inputs if each.name == plan.name)
    if given.shape is None or plan.batch_axis != 0:
        return None
    for use in uses(graph, plan.name, len(given.shape)):
        known = next((each for each in batch_norms if _reads_it(each, use, graph)), None)
        if known is None or use.axes is None or not set(use.passed) <= MOVES:
            continue
        mean = np.asarray(known.running_mean, np.float64)
        deviation = np.sqrt(np.maximum(np.asarray(known.running_variance, np.float64), LEAST**2))
        axis = use.axes[1] if len(use.axes) > 1 else None
        if axis == 1 + plan.channel_axis and mean.size == plan.shape[plan.channel_axis]:
            return Scaling(NAME, tuple(deviation.tolist()), tuple(mean.tolist()))
        together = float(np.sqrt((deviation**2).mean() + mean.var()))
        return Scaling(NAME, (together,), (float(mean.mean()),))
    return None


def _reads_it(known: BatchNormStatistics, use: Use, graph: Graph) -> bool:
    """Whether the normalization reads the operand: it is in the layer behind, or became a product of its own."""
    if not known.folded:
        return known.tensor == use.tensor
    if use.operator != "Conv" or use.place != 0 or known.tensor != use.node.output[0]:
        return False
    weight = graph.initializers.get(use.node.input[1])
    factor = known.gamma / np.sqrt(known.running_variance + known.epsilon)
    return weight is not None and weight.size == factor.size and np.allclose(weight.reshape(-1), factor, rtol=1e-4)
