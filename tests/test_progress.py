"""The progress of the whole runs from 0 to 1 and never back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.progress import SHARE, Progress, Reporter, Stage


def test_the_stages_make_up_the_whole() -> None:
    assert list(SHARE) == list(Stage)
    assert sum(SHARE.values()) == pytest.approx(1)


@given(st.lists(st.tuples(st.sampled_from(Stage), st.floats(-1, 2)), min_size=1))
def test_the_whole_never_goes_back(moments: list[tuple[Stage, float]]) -> None:
    heard: list[Progress] = []
    reporter = Reporter(heard.append)
    for stage, share in moments:
        reporter(stage, share, "working")
    wholes = [each.progress for each in heard]
    assert wholes == sorted(wholes)
    assert all(0 <= each <= 1 for each in wholes)
    assert all(each.seconds_left is None or each.seconds_left >= 0 for each in heard)


def test_every_stage_ends_where_the_next_begins() -> None:
    heard: list[Progress] = []
    reporter = Reporter(heard.append)
    for stage in Stage:
        reporter(stage, 0.0, "begun")
        reporter(stage, 1.0, "done")
    for end, begin in zip(heard[1:-1:2], heard[2::2], strict=True):
        assert end.progress == pytest.approx(begin.progress)
    assert heard[-1].progress == pytest.approx(1)
    assert heard[-1].seconds_left == pytest.approx(0, abs=1e-6)


def test_a_moment_is_a_line_of_json_and_a_line_of_words() -> None:
    moment = Progress(Stage.SYNTHESIS, 0.5, 0.25, "drawing", 3.0, 9.0)
    facts = json.loads(json.dumps(moment.facts()))
    assert facts["event"] == "progress"
    assert facts["stage"] == "synthesis"
    assert facts["seconds_left"] == 9.0
    assert str(moment) == " 25% synthesis: drawing, about 9 s left"


def test_the_bar_is_divided_by_what_is_expected() -> None:
    heard: list[Progress] = []
    reporter = Reporter(heard.append)
    reporter(Stage.RECONSTRUCTION, 1.0, "done")
    begun = heard[-1].progress
    reporter.expect({Stage.SYNTHESIS: 3.0, Stage.OPTIMIZATION: 1.0})
    for stage, share in (
        (Stage.SYNTHESIS, 0.0),
        (Stage.SYNTHESIS, 1.0),
        (Stage.OPTIMIZATION, 0.0),
        (Stage.OPTIMIZATION, 1.0),
    ):
        reporter(stage, share, "working")
    wholes = [each.progress for each in heard[1:]]
    assert wholes == pytest.approx([begun, begun + 0.75 * (1 - begun), begun + 0.75 * (1 - begun), 1.0])
    assert heard[-1].seconds_left == 0.0


def test_time_left_begins_at_what_is_expected_and_follows_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine half as fast as expected: the time left approaches twice the expected rest."""
    now = [100.0]
    monkeypatch.setattr("converter.progress.time.monotonic", lambda: now[0])
    heard: list[Progress] = []
    reporter = Reporter(heard.append, started=100.0)
    reporter.expect({Stage.SYNTHESIS: 10.0})
    for tenth in range(11):
        reporter(Stage.SYNTHESIS, tenth / 10, "working")
        now[0] += 2.0
    left = [each.seconds_left or 0.0 for each in heard]
    assert left[0] == pytest.approx(10.0)
    truth = [20.0 - 2.0 * tenth for tenth in range(11)]
    assert all(a <= 1.5 * b and b <= 1.5 * a for a, b in zip(left[1:-1], truth[1:-1], strict=True))
    assert left[1:] == sorted(left[1:], reverse=True)
