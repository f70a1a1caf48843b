"""docs/reference/ is what the agent has now, and says what each field and option is for."""

from __future__ import annotations

import pytest

from schemas import events
from tests.docs import reference


@pytest.mark.parametrize("file", reference.PAGES)
def test_a_page_of_the_reference_is_up_to_date(file: str) -> None:
    remedy = "make it anew: python -m tests.docs.reference"
    assert (reference.FOLDER / file).read_text(encoding="utf-8") == reference.PAGES[file](), remedy


def test_the_reference_has_every_type_of_event_and_every_setting_of_a_verb() -> None:
    page = reference.events_page()
    assert [kind for kind in events.EVENT_TYPES if f"`{kind}`" not in page] == []
    verbs = reference.cli_page()
    for told in ("## wpk submit", "## wpk audit verify", "`-w`, `--watch`", "`--timeout DURATION`", "`[ID]`"):
        assert told in verbs


def test_every_option_says_what_it_is_for() -> None:
    assert [line for line in reference.cli_page().splitlines() if line.endswith("|  |")] == []
