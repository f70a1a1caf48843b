"""An event of a replay: what is at hand, and what is made when it is asked for."""

from __future__ import annotations

import pytest

from consumer.audit.entry import parse
from consumer.client import ReplayedEvent
from consumer.journal.reader import LogRecord
from schemas.events import EventError, StepStarted
from tests.audit.trail import Json, resealed
from tests.support.stories import Story


def replayed(value: bytes) -> ReplayedEvent:
    record = LogRecord("wpk.events.progress", 3, 17, 0, b"run-1", value, ())
    return ReplayedEvent(parse(record, "events.progress"))


def test_an_event_tells_what_it_is_and_where_it_lies_and_gives_its_typed_content() -> None:
    told = Story("run-1").accepted().started("hello").step_started("hello").told[-1]
    event = replayed(told.value)
    assert (event.name, event.execution_id, event.seq) == ("step.started", "run-1", 3)
    assert (str(event.place), event.value) == ("wpk.events.progress-3@17", told.value)
    assert isinstance(event.data, StepStarted)
    assert (event.data, event.time, event.subject) == (told.event.data, told.event.time, told.event.subject)
    assert event.event is event.event, "it is made once"


def test_content_that_is_not_what_its_type_has_is_an_error_only_for_who_asks_for_it() -> None:
    def another_kind(raw: Json) -> None:
        raw["data"]["attempt"] = "many"

    told = Story("run-1").accepted().started("hello").step_started("hello").told[-1]
    event = replayed(resealed(told.value, another_kind))
    assert (event.name, event.seq) == ("step.started", 3)
    with pytest.raises(EventError, match="attempt"):
        _ = event.data
