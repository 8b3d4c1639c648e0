"""Boxes that end in a suppression of overlaps: how many of FP32's INT8 finds again, whatever their number and order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from converter.graph import Array

__all__ = ["boxes_found", "holds_boxes"]

Doubles = NDArray[np.float64]

OVERLAP = 0.5  # intersection over union that makes two boxes the same, as PASCAL VOC counts


def holds_boxes(value: Array) -> bool:
    """Whether this is a list of boxes: [boxes, 4] or [1, boxes, 4] floats."""
    listed = value.ndim in (2, 3) and value.shape[-1] == 4 and (value.ndim == 2 or len(value) == 1)
    return listed and bool(np.issubdtype(value.dtype, np.floating))


def boxes_found(before: Array, after: Array) -> tuple[int, int]:
    """Of how many of FP32's boxes one of INT8's, each used once, overlaps by half, and of how many with an area."""
    one, other = (_corners(each.reshape(-1, 4).astype(np.float64)) for each in (before, after))
    overlaps = _overlaps(one, other)
    found, used = 0, np.zeros(len(other), bool)
    for row in overlaps:
        free = np.where(used, 0.0, row)
        if len(free) and free.max() >= OVERLAP:
            used[int(free.argmax())] = True
            found += 1
    return found, len(one)


def _corners(boxes: Doubles) -> Doubles:
    """The boxes with the lower corner first, those without an area left out; corners may come in either order."""
    low = np.minimum(boxes[:, :2], boxes[:, 2:])
    high = np.maximum(boxes[:, :2], boxes[:, 2:])
    kept = np.isfinite(boxes).all(1) & ((high - low).min(1) > 0)
    return np.asarray(np.concatenate([low, high], 1)[kept])


def _overlaps(one: Doubles, other: Doubles) -> Doubles:
    """[boxes, other boxes] of intersection over union."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(2)
    areas = [(each[:, 2:] - each[:, :2]).prod(1) for each in (one, other)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.asarray(shared / np.maximum(union, 1e-30))
