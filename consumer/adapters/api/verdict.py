"""What an answer means for the step: success, or an error with its fate. Pure but for the clock of Retry-After."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from consumer.adapters.api.body import Body
from consumer.adapters.api.expectation import Expectation
from consumer.adapters.api.message import Answer, Request
from consumer.errors import PermanentError, StepError, TemporaryError
from consumer.ports import JsonObject
from consumer.workflow.conditions import ConditionError

MAX_RETRY_AFTER = 3600.0
"""Seconds; a server that asks for more is asked again after that long."""

#: The request itself is at fault, and the same request will be judged the same: retries are useless. The rest is not in
#: here because retries help, or may: 404, 409, 410, 412, 423, 424 depend on a state that others change (an author who
#: retries waits for it), 408, 425, 429 and 5xx say so themselves.
_PERMANENT = frozenset(
    {400, 401, 402, 403, 405, 406, 407, 411, 413, 414, 415, 416, 417, 421, 422, 426, 428, 431, 451, 501, 505, 511}
)


def unexpected_status(
    request: Request, answer: Answer, expected: tuple[str, ...], output: JsonObject, *, again: bool = False
) -> StepError | None:
    """The error where the status is none of `expected` (`"200"`, `"2xx"`); None where it is.

    `again`: the same request may have been carried out before, which the answer may be about (404 to a DELETE).
    """
    status = str(answer.status)
    if status in expected or f"{status[0]}xx" in expected:
        return None
    message = f"expected {' or '.join(expected)}, got {status} from {request}"
    if again:
        message += (
            "; the agent was interrupted and has sent it again: look whether the first request already did it, "
            f"and add {status} to expected_status if that is a success"
        )
    if 300 <= answer.status < 400:
        if "location" in answer.headers:
            message += "; set follow_redirects: true, or expect that status"
        return PermanentError(message, code="http_status", output=output)
    if answer.status in _PERMANENT:
        return PermanentError(message, code="http_status", output=output)
    return TemporaryError(
        message, code="http_status", output=output, delay=retry_after(answer.headers.get("retry-after"))
    )


def unmet_expectation(
    request: Request, answer: Answer, body: Body, expectation: Expectation, output: JsonObject
) -> StepError | None:
    """The error where `expect` is false or can't be evaluated on this answer; None where it is true."""
    try:
        if expectation.holds(status=answer.status, headers=answer.headers, body=body.value):
            return None
        why = "is false"
    except ConditionError as error:
        why = f"can't be evaluated: {error}"
    if body.note:
        why += f" ({body.note})"
    text = expectation.text if len(expectation.text) <= 200 else f"{expectation.text[:200]}…"
    return TemporaryError(
        f"expect {why}: {text}; status {answer.status} from {request}", code="expectation", output=output
    )


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3), bounded; None where there is none or it is not understood."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:12]), MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max((moment - (now or datetime.now(UTC))).total_seconds(), 0.0), MAX_RETRY_AFTER)
