"""What fits: samples into memory, gradient steps into seconds, runs of a network into an amount of work.

Every estimate of this kind is made here, with one idea of how fast the machine is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "FORWARD_BYTES",
    "GRADIENT_BYTES",
    "SPEED",
    "affordable",
    "fitting",
    "forward_seconds",
    "gradient_seconds",
    "spread",
]

SPEED = 20e9  # multiply-adds a second, forward and backward, that one thread is trusted with
ELEMENT_SECONDS = 3.5e-9  # forward and backward, where layers are so thin that memory is what takes time
FORWARD = 0.4  # of a gradient step; 0.43 on SqueezeNet, 0.37 on MobileNetV1, 0.45 on ResNet-20
FORWARD_BYTES = 512e6  # that all tensors of the samples that go through a network together may take
GRADIENT_BYTES = 600e6  # the same where a backward pass keeps them: with what it adds, below 1.5 GiB for small models

Batch = TypeVar("Batch", bound=Mapping[str, NDArray[Any]] | Mapping[str, Tensor])


def fitting(one: float, room: float, wanted: int, least: int = 1) -> int:
    """How many fit into ``room`` where one takes so much of it: at most ``wanted``, but ``least`` in any case."""
    return max(min(wanted, int(room / max(one, 1e-9))), least)


def affordable(elements: int, wanted: int, room: float = FORWARD_BYTES) -> int:
    """How many samples, at most ``wanted`` and one at least, go together where one has so many numbers in all."""
    return fitting(4 * elements, room, wanted)


def gradient_seconds(multiply_adds: float, elements: float = 0, overhead: float = 0.0) -> float:
    """Seconds of one gradient step over so much arithmetic and so many numbers, ``overhead`` if there were none."""
    return max(3 * multiply_adds / SPEED + overhead, elements * ELEMENT_SECONDS)


def forward_seconds(multiply_adds: float, elements: float) -> float:
    """Seconds of one forward pass over so much arithmetic and so many numbers."""
    return FORWARD * gradient_seconds(multiply_adds, elements)


def places_spread(batches: Sequence[Batch], samples: int) -> range:
    """The places of as many whole batches, one at least, as have about ``samples`` samples, spread over all of them."""
    size = max((len(value) for value in batches[0].values() if value.ndim), default=1)
    wanted = max(samples // max(size, 1), 1)
    stride = max(len(batches) // wanted, 1)
    return range(0, len(batches), stride)[:wanted]


def spread(batches: Sequence[Batch], samples: int) -> list[Batch]:
    """The batches at ``places_spread``."""
    return [batches[place] for place in places_spread(batches, samples)]
