"""Trouble that goes on does not fill the log."""

from __future__ import annotations

from consumer.telemetry.repeated import Repeated


def told(at: range, text: str = "forbidden", repeated: Repeated | None = None) -> list[float]:
    """When it is told, where it comes twice a second."""
    repeated = repeated or Repeated()
    return [half / 2 for half in at if repeated.is_due(text, half / 2)]


def test_what_goes_on_is_told_at_once_and_ever_more_rarely_but_never_for_the_last_time() -> None:
    times = told(range(2 * 3600))
    assert times[:5] == [0.0, 5.0, 15.0, 35.0, 75.0]
    assert len(times) < 20
    assert times[-1] > 3000


def test_what_was_over_is_news_when_it_comes_again() -> None:
    repeated = Repeated()
    told(range(100), repeated=repeated)
    assert told(range(300, 302), repeated=repeated) == [150.0]


def test_other_trouble_is_told_too_and_texts_without_number_are_not_kept() -> None:
    repeated = Repeated()
    assert repeated.is_due("a", 1.0)
    assert repeated.is_due("b", 1.0)
    assert not repeated.is_due("a", 2.0), "that two take turns makes neither news"
    for number in range(1000):
        assert repeated.is_due(f"error {number}", 2.0)
    assert len(repeated._seen) <= 16
