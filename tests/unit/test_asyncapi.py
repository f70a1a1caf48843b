"""The AsyncAPI document by AsyncAPI's own schema, and its page."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jsonschema import Draft7Validator

from consumer.client import partition_of
from examples.consumers import follow
from schemas import page
from tests.support.stories import Story, done

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / "docs" / "schemas"
OFFICIAL = Draft7Validator(json.loads((ROOT / "tests/vendor/asyncapi/3.0.0-without-id.json").read_text("utf-8")))


@pytest.fixture(scope="module")
def documents() -> dict[str, page.Document]:
    """The committed copy; test_schema_export holds it to the models."""
    return {
        path.relative_to(DIRECTORY).as_posix(): json.loads(path.read_text("utf-8"))
        for path in DIRECTORY.rglob("*.json")
    }


def test_the_document_is_valid_by_the_official_schema(documents: dict[str, page.Document]) -> None:
    assert [error.message for error in OFFICIAL.iter_errors(documents["asyncapi/asyncapi.json"])] == []


@pytest.mark.parametrize("path", ["asyncapi", "info/title", "operations/receive_execute/action", "channels"])
def test_the_official_schema_refuses_what_is_wrong(documents: dict[str, page.Document], path: str) -> None:
    wrong = copy.deepcopy(documents["asyncapi/asyncapi.json"])
    *above, last = path.split("/")
    node = wrong
    for name in above:
        node = node[name]  # type: ignore[assignment]
    node[last] = 7
    assert not OFFICIAL.is_valid(wrong)


def test_the_committed_page_is_what_the_documents_say(documents: dict[str, page.Document]) -> None:
    committed = (DIRECTORY / "asyncapi" / "index.html").read_text("utf-8")
    assert committed == page.page(documents), "make it anew with: wpk schema docs/schemas"


class _Page(HTMLParser):
    """Its links, its anchors and its tags, which must be closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag != "meta":
            self.open.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        self.anchors |= {value or "" for name, value in attrs if name == "id"}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_fetches_nothing_and_its_links_lead_somewhere(documents: dict[str, page.Document]) -> None:
    found, text = _Page(), page.page(documents)
    found.feed(text)
    assert found.open == []
    assert not {"script", "link", "img", "iframe"} & found.tags
    assert not re.search(r"https?:|@import|url\(", text)
    for link in found.links:
        if link.startswith("#"):
            assert link.removeprefix("#") in found.anchors
        else:
            assert (DIRECTORY / "asyncapi" / link).exists(), link
    assert {f"../{name}" for name in documents if name.startswith(("commands/", "events/"))} <= set(found.links)


def test_what_stands_in_a_document_is_text_on_the_page_and_no_markup(documents: dict[str, page.Document]) -> None:
    changed = copy.deepcopy(documents)
    changed["asyncapi/asyncapi.json"]["info"]["description"] = '<img src="x">'  # type: ignore[index,call-overload]
    found = _Page()
    found.feed(page.page(changed))
    assert "img" not in found.tags


# --- the example in examples/consumers ---


@pytest.mark.parametrize("partitions", [1, 7, 12])
def test_the_example_finds_an_execution_where_the_agents_put_it(partitions: int) -> None:
    for number in range(64):
        key = "run-é"[: number % 6] + str(number) * (number % 9)
        assert follow.partition_of(key.encode(), partitions) == partition_of(key, partitions), key


def test_the_example_puts_events_in_order_and_passes_over_those_of_a_lost_owner() -> None:
    before = Story().accepted().started("hello").step_started("hello")
    lost = Story(told=[*before.told]).step_failed("hello", "no")
    won = Story(told=[*before.told], epoch=9).step_succeeded("hello").completed()
    rows = [json.loads(told.value) for told in [*before, *won.told[3:], lost.told[3], before.told[0]]]
    order = follow.Order()
    given = [event for row in reversed(rows) for event in order.add(row)]
    assert [(event["data"]["seq"], event["data"]["attempt_epoch"]) for event in given] == [
        (told.event.data.seq, told.event.data.attempt_epoch) for told in won
    ]
    assert [follow.is_over(event) for event in given] == [False] * (len(given) - 1) + [True]
    assert follow.is_over(json.loads(done().told[-1].value))
