"""How far numbers vary over all batches, which errors are told relative to.

A batch alone may hold one number, of a regressor exported for single samples: it has no variance, over samples it has.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Variation", "relative"]


@dataclass
class Variation:
    """Sums over all numbers so far."""

    count: int = 0
    origin: float = 0.0  # the first batch's mean: squares around it lose nothing
    first: float = 0.0
    second: float = 0.0

    def add(self, values: Tensor) -> None:
        """The values are in the sums."""
        self.origin = self.origin if self.count or not values.numel() else float(values.mean())
        apart = values - self.origin
        self.count += values.numel()
        self.first += float(apart.sum(dtype=torch.float64))
        self.second += float(apart.square_().sum(dtype=torch.float64))

    @property
    def total(self) -> float:
        """The sum of squares around the mean."""
        return max(self.second - self.first**2 / max(self.count, 1), 0.0)

    @property
    def squares(self) -> float:
        """The sum of squares around zero."""
        return max(self.second + 2 * self.origin * self.first + self.origin**2 * self.count, 0.0)


def relative(error: float, varying: Iterable[Variation]) -> float:
    """A squared error of all numbers over their variation, or over their own squares where none varies."""
    parts = list(varying)
    return error / (sum(each.total for each in parts) or sum(each.squares for each in parts) or 1.0)
