"""Which executions count as stuck."""

from __future__ import annotations

from datetime import timedelta

import pytest

from consumer.client import Filter
from tests.support.stories import BEGIN, Story, done


def waiting() -> Story:
    return Story().accepted().started("one").step_started("one").step_retrying("one", "503")


@pytest.mark.parametrize(
    ("story", "seconds", "stuck"),
    [
        pytest.param(Story().accepted(), 0, True, id="never started"),
        pytest.param(Story().accepted(), -1, False, id="heard of a moment ago"),
        pytest.param(waiting(), 2, False, id="its backoff lasts"),
        pytest.param(waiting(), 3, True, id="its backoff is over"),
        pytest.param(done(), 3600, False, id="ended"),
        pytest.param(done().rolling_back("undo"), 3600, True, id="its rollback stands still"),
    ],
)
def test_stuck_is_what_lives_and_was_not_heard_of(story: Story, seconds: float, stuck: bool) -> None:
    assert Filter(stuck_since=BEGIN + timedelta(seconds=seconds)).admits(story.state) is stuck
