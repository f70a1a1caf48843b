"""The pause between attempts."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.workflow.retry import MAX_ASKED, backoff
from schemas.wpk import Retry

retries = st.builds(
    Retry,
    max_attempts=st.just(1000),
    backoff=st.floats(0, 1e9),
    multiplier=st.floats(1, 100),
    max_backoff=st.floats(0, 1e9),
    jitter=st.booleans(),
)
draws = st.floats(0, 1, exclude_max=True)


def test_without_jitter_the_pause_grows_up_to_its_bound() -> None:
    retry = Retry(max_attempts=9, backoff=2.0, multiplier=3.0, max_backoff=50.0, jitter=False)
    assert [backoff(retry, attempt, 0.5) for attempt in (1, 2, 3, 4, 5)] == [2.0, 6.0, 18.0, 50.0, 50.0]


def test_jitter_takes_the_drawn_share_of_the_bound() -> None:
    retry = Retry(max_attempts=9, backoff=2.0)
    assert [backoff(retry, attempt, 0.25) for attempt in (1, 2, 3)] == [0.5, 1.0, 2.0]


def test_the_other_side_may_ask_for_a_longer_pause_but_not_for_ever() -> None:
    retry = Retry(max_attempts=9, backoff=2.0, max_backoff=10.0)
    assert backoff(retry, 1, 0.5, at_least=30.0) == 30.0
    assert backoff(retry, 1, 0.5, at_least=1e9) == MAX_ASKED
    assert backoff(retry, 1, 0.5, at_least=float("inf")) == MAX_ASKED
    assert backoff(retry, 1, 0.5, at_least=float("nan")) <= MAX_ASKED
    assert backoff(retry.model_copy(update={"max_backoff": 7200.0}), 1, 0.5, at_least=1e9) == 7200.0


@settings(deadline=None, max_examples=100)
@given(retries, st.integers(1, 1000), draws, st.floats(0, 3600))
def test_the_pause_is_within_its_bounds(retry: Retry, attempt: int, draw: float, asked: float) -> None:
    pause = backoff(retry, attempt, draw)
    assert 0 <= pause <= retry.max_backoff
    assert backoff(retry, attempt, draw, asked) == max(pause, asked)


@settings(deadline=None, max_examples=100)
@given(retries, st.integers(1, 999), draws)
def test_a_later_attempt_never_waits_less(retry: Retry, attempt: int, draw: float) -> None:
    assert backoff(retry, attempt, draw) <= backoff(retry, attempt + 1, draw)
