"""What a synthesis method is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from converter.capacity import fitting, gradient_seconds
from converter.graph import Graph
from converter.inputs.plans import InputPlan
from converter.normalization import BatchNormStatistics
from converter.reconstruction import Reconstruction
from converter.scores import Score

__all__ = ["Problem", "Samples"]


@dataclass(frozen=True)
class Problem:
    """A network, its inputs, what is known of its statistics, and the time that synthesis may take.

    ``logits`` is the tensor [N, C] of class scores before any softmax, None where the network does not classify;
    ``scores`` are those, or a detector's.
    """

    network: Reconstruction
    graph: Graph
    plans: tuple[InputPlan, ...]
    logits: str | None
    scores: tuple[Score, ...]
    batch_norms: tuple[BatchNormStatistics, ...]
    multiply_adds: int  # of one sample
    elements: int  # of all tensors of one sample
    seconds: float
    deadline: float  # on the monotonic clock, well beyond ``seconds``
    progress: Callable[[float], None] = lambda _: None

    def affordable_steps(self, wanted: int, samples: int) -> int:
        """How many of ``wanted`` gradient steps over ``samples`` samples fit into ``seconds``, by the network's
        size.
        """
        one = samples * gradient_seconds(self.multiply_adds, self.elements)
        return fitting(one, self.seconds, wanted, least=0)


@dataclass(frozen=True)
class Samples:
    """Raw samples [N, *shape] of every input, the loss on the way to them, and where they come from in words."""

    raw: dict[str, NDArray[Any]]
    loss: tuple[float, ...]
    words: str
