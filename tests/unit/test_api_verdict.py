"""What an answer means for the step."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest

from consumer.adapters.api.body import read_body
from consumer.adapters.api.expectation import Expectation, compile_expectation
from consumer.adapters.api.message import Answer, Request
from consumer.adapters.api.verdict import MAX_RETRY_AFTER, retry_after, unexpected_status, unmet_expectation
from consumer.errors import TemporaryError
from tests.support.api_steps import FixedScope

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REQUEST = Request(method="GET", url=httpx.URL("http://host/path?token=x"), headers=())


def answer(status: int = 200, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    return Answer(status=status, headers=headers or {}, body=body, complete=True, received=len(body))


def expectation(text: str) -> Expectation:
    compiled, problems = compile_expectation(text, FixedScope())
    assert compiled is not None, problems
    return compiled


@pytest.mark.parametrize(
    ("status", "expected"),
    [(200, ("2xx",)), (204, ("2xx",)), (404, ("404",)), (404, ("200", "404")), (302, ("3xx",)), (503, ("2xx", "5xx"))],
)
def test_a_status_that_is_expected_is_no_error(status: int, expected: tuple[str, ...]) -> None:
    assert unexpected_status(REQUEST, answer(status), expected, {}) is None


@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        (202, True),  # not ready yet
        (204, True),
        (302, False),
        (400, False),
        (401, False),
        (403, False),
        (404, True),  # not there yet
        (405, False),
        (408, True),
        (409, True),
        (422, False),
        (425, True),
        (429, True),
        (500, True),
        (501, False),
        (502, True),
        (503, True),
        (599, True),
    ],
)
def test_a_retry_is_offered_where_the_same_request_may_fare_better(status: int, retryable: bool) -> None:
    error = unexpected_status(REQUEST, answer(status), ("200",), {"status": status})
    assert error is not None
    assert error.code == "http_status"
    assert error.retryable is retryable
    assert error.output == {"status": status}
    assert "follow_redirects" not in str(error)  # there is nowhere to follow it to
    assert str(error).startswith(f"expected 200, got {status} from GET http://host/path?…")
    assert "token" not in str(error)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("999999999999999999999999", MAX_RETRY_AFTER),
        ("Thu, 01 Jan 2026 00:00:30 GMT", 30.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        ("Thu, 01 Jan 2099 00:00:00 GMT", MAX_RETRY_AFTER),
        ("-5", None),
        ("soon", None),
        ("Thu, 01 Jan 2026 00:00:00 +9999", None),
        ("Thu, 01 Jan 2026 00:00:00 +99999999999999999999", None),
        ("Thu, 01 Jan 99999 00:00:00 GMT", None),
        ("9" * 5000, MAX_RETRY_AFTER),
        ("", None),
        ("٣", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date_and_is_bounded(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW) == seconds


def test_the_pause_that_a_server_asks_for_goes_along_with_the_error() -> None:
    error = unexpected_status(REQUEST, answer(429, headers={"retry-after": "9"}), ("2xx",), {})
    assert isinstance(error, TemporaryError)
    assert error.delay == 9.0


@pytest.mark.parametrize(
    "text", ["status == 200", "body.replicas >= 3", "headers['x-state'] == 'ready'", "has(body.replicas)"]
)
def test_an_expectation_that_holds_is_no_error(text: str) -> None:
    got = answer(200, b'{"replicas": 3}', {"x-state": "ready"})
    body = read_body(got.body, complete=True, content_type="application/json")
    assert unmet_expectation(REQUEST, got, body, expectation(text), {}) is None


@pytest.mark.parametrize(
    ("text", "why"),
    [("body.replicas > 3", "is false"), ("body.missing == 1", "can't be evaluated"), ("body.replicas", "can't be")],
)
def test_an_expectation_that_does_not_hold_may_be_tried_again_and_is_quoted(text: str, why: str) -> None:
    got = answer(200, b'{"replicas": 3}')
    body = read_body(got.body, complete=True, content_type="application/json")
    error = unmet_expectation(REQUEST, got, body, expectation(text), {"status": 200})
    assert error is not None
    assert error.retryable
    assert error.code == "expectation"
    assert text in str(error)
    assert why in str(error)
    assert error.output == {"status": 200}


def test_an_expectation_over_a_body_that_is_no_json_says_so() -> None:
    got = answer(200, b"<html>")
    body = read_body(got.body, complete=True, content_type="application/json")
    error = unmet_expectation(REQUEST, got, body, expectation("body.a == 1"), {})
    assert "not the JSON that it is said to be" in str(error)
