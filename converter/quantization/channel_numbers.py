"""Channel numbers on tensors: which channels of different tensors are the same one and must be scaled alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Channels", "Labels", "Numbers", "label_fresh"]

Numbers = NDArray[np.int64]


@dataclass
class Channels:
    """Classes of channels that must be scaled alike (union-find over channel numbers), some of them fixed at 1."""

    parents: list[int] = field(default_factory=list)
    fixed: set[int] = field(default_factory=set)

    def fresh(self, count: int) -> Numbers:
        start = len(self.parents)
        self.parents.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def root(self, number: int) -> int:
        while self.parents[number] != number:
            self.parents[number] = self.parents[self.parents[number]]
            number = self.parents[number]
        return number

    def join(self, one: Iterable[int], other: Iterable[int]) -> None:
        for a, b in set(zip(one, other, strict=True)):
            first, second = self.root(a), self.root(b)
            if first != second:
                self.parents[max(first, second)] = min(first, second)
                if max(first, second) in self.fixed:
                    self.fixed.add(min(first, second))

    def fix(self, numbers: Iterable[int]) -> None:
        self.fixed.update(self.root(int(number)) for number in set(numbers))

    def is_fixed(self, number: int) -> bool:
        return self.root(number) in self.fixed


@dataclass
class Labels:
    """The channel number of every element of every tensor, for one sample."""

    channels: Channels = field(default_factory=Channels)
    numbers: dict[str, Tensor] = field(default_factory=dict)  # float64 tensors holding whole numbers
    indices: Mapping[str, Tensor] = field(default_factory=dict)  # the sizes, indices and ids that the sample made

    def of(self, name: str) -> Numbers:
        return np.unique(self.numbers[name].numpy()).astype(np.int64)

    def fix(self, name: str) -> None:
        if name in self.numbers:
            self.channels.fix(self.of(name).tolist())

    def along(self, name: str, axis: int) -> Numbers | None:
        """[C]: the number of each channel along ``axis``, or None where a channel mixes several."""
        value = self.numbers[name]
        if axis >= value.dim():
            return None
        rows = value.movedim(axis, 0).reshape(value.shape[axis], -1)
        if rows.shape[1] == 0 or not bool((rows == rows[:, :1]).all()):
            return None
        return rows[:, 0].numpy().astype(np.int64)


def label_fresh(
    labels: Labels, name: str, shapes: Mapping[str, torch.Size], fixed: bool, axis: int | None = None
) -> Numbers:
    """New numbers for the channels of a tensor, held at 1 where ``fixed``; none of a tensor of unknown shape."""
    shape = shapes.get(name)
    if shape is None:
        return np.empty(0, np.int64)
    axis = (1 if len(shape) >= 3 else -1) if axis is None else axis
    count = shape[axis] if shape else 1
    numbers = labels.channels.fresh(count)
    view = [count if each == axis % max(len(shape), 1) else 1 for each in range(len(shape))]
    labels.numbers[name] = torch.from_numpy(numbers.astype(np.float64)).reshape(view).expand(shape)
    if fixed:
        labels.channels.fix(numbers.tolist())
    return numbers
