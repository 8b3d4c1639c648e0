"""Boxes are matched, not compared row by row: another order is no difference, a lost box is one."""

from __future__ import annotations

import numpy as np

from converter.evaluation.boxes import boxes_found, holds_boxes

BOXES = np.array([[0, 0, 10, 10], [20, 20, 40, 30], [5, 50, 25, 90]], np.float32)


def test_order_and_small_shifts_do_not_matter() -> None:
    assert boxes_found(BOXES, BOXES[::-1] + 0.5) == (3, 3)
    assert boxes_found(BOXES, BOXES[:, [2, 3, 0, 1]]) == (3, 3)


def test_lost_boxes_and_padding_count_as_what_they_are() -> None:
    assert boxes_found(BOXES, BOXES[:2]) == (2, 3)
    assert boxes_found(np.concatenate([BOXES, np.zeros((5, 4), np.float32)]), BOXES) == (3, 3)
    assert boxes_found(BOXES, BOXES[:0]) == (0, 3)
    assert boxes_found(BOXES, BOXES + 100) == (0, 3)


def test_one_box_answers_for_one_only() -> None:
    assert boxes_found(BOXES[[0, 0]], BOXES[:1]) == (1, 2)


def test_only_lists_of_four_numbers_hold_boxes() -> None:
    assert holds_boxes(BOXES)
    assert holds_boxes(BOXES[None])
    assert not holds_boxes(BOXES.astype(np.int64))
    assert not holds_boxes(np.zeros((2, 3, 4), np.float32))
    assert not holds_boxes(np.zeros((3, 5), np.float32))
