"""Outputs by their parts: values of different size in one tensor are told apart, neighbours are counted."""

from __future__ import annotations

import numpy as np
import pytest

from converter.evaluation.groups import ChannelTally, neighbours_kept, split_channels


def detections(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """[8, 84, 200]: four rows of boxes in pixels, eighty of scores below one; the error is in the scores."""
    draw = np.random.default_rng(seed)
    boxes, scores = draw.uniform(50, 600, (8, 4, 200)), draw.uniform(0, 1, (8, 80, 200)) ** 4
    before = np.concatenate([boxes, scores], 1).astype(np.float32)
    after = before.copy()
    after[:, 4:] += noise * draw.standard_normal(scores.shape).astype(np.float32)
    after[:, :4] += 1.0
    return before, after


@pytest.mark.parametrize("last", [False, True])
def test_ruined_scores_are_seen_beside_boxes(last: bool) -> None:
    tally = ChannelTally()
    before, after = detections(0.2)
    if last:
        before, after = before.transpose(0, 2, 1), after.transpose(0, 2, 1)
    tally.add(before, after)
    boxes, scores = tally.result("y")
    assert (boxes.first, boxes.last, scores.first) == (0, 3, 4)
    assert boxes.sqnr_db is not None
    assert scores.sqnr_db is not None
    assert boxes.sqnr_db > 45
    assert 0 < scores.sqnr_db < 8


def test_batches_add_up() -> None:
    before, after = detections(0.1)
    whole, parts = ChannelTally(), ChannelTally()
    whole.add(before, after)
    for half in (slice(0, 4), slice(4, 8)):
        parts.add(before[half], after[half])
    assert [each.sqnr_db for each in whole.result("y")] == pytest.approx([e.sqnr_db for e in parts.result("y")])


def test_values_of_one_size_are_one_group() -> None:
    tally = ChannelTally()
    before = np.random.default_rng(0).normal(0, 1, (4, 16, 9, 9)).astype(np.float32)
    tally.add(before, before + 0.1)
    assert tally.result("y") == ()
    assert split_channels(np.geomspace(1, 3, 20)) == [(0, 20)]


def test_class_scores_have_no_groups() -> None:
    tally = ChannelTally()
    tally.add(np.array([[1000.0, 0.1]]), np.array([[1000.0, 0.2]]))
    assert tally.result("y") == ()


def test_neighbours_stay_under_small_errors_only() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(40, 32))
    assert neighbours_kept(rows, rows) == (40, 40)
    assert neighbours_kept(rows, 3 * rows + 0.001) == (40, 40)
    lost = neighbours_kept(rows, draw.normal(size=rows.shape))
    assert lost is not None
    assert lost[0] < 20
    assert neighbours_kept(rows[:4], rows[:4]) is None
    assert neighbours_kept(rows * 0, rows) is None
