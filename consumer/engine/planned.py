"""A step's plan as the output of its dry run, with its digest."""

from __future__ import annotations

import re

from pydantic import JsonValue

from consumer.engine.trim import plain, trim
from consumer.policy.redact import Redactor
from consumer.ports import JsonObject, Plan, StepContext
from consumer.workflow import values
from schemas.canonical import digest
from schemas.wpk import Handler

#: Beside a plan's detail there is room for its summary and digest (bytes).
_BESIDE = 512
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_THIS = "(this execution)"


def planned(plan: Plan, handler: Handler, context: StepContext, redactor: Redactor, limit: int) -> JsonObject:
    """The plan, its detail cut to what an event takes, and `digest` over all of it as it was before it was cut.

    The values of secrets are masked first: a digest must not be a way to try them out. Two executions that would do the
    same have one digest, so it knows neither the step's key nor the id where the package asks for it.
    """
    told: JsonObject = {"plan": plan.summary, "changes": plan.changes}
    if plan.detail:
        told["detail"] = plan.detail
    masked = redactor.mask_json(plain(told))
    assert isinstance(masked, dict), "an object stays one when it is masked"
    shown = dict(masked)
    if "detail" in shown:
        shown["detail"] = trim(shown["detail"], limit - _BESIDE)
    return {**shown, "digest": digest(_replaced(masked, _own(handler, context)))}


def _own(handler: Handler, context: StepContext) -> re.Pattern[str]:
    own = [re.escape(context.idempotency_key)]
    generated = _UUID.fullmatch(context.execution_id)  # an id that somebody chose may be a namespace's name
    if generated and any(expression == "execution.id" for _, expression in values.expressions(dict(handler.config))):
        own.append(rf"(?<![A-Za-z0-9]){re.escape(context.execution_id)}(?![A-Za-z0-9])")
    return re.compile("|".join(own))


def _replaced(value: JsonValue, pattern: re.Pattern[str]) -> JsonValue:
    if isinstance(value, str):
        return pattern.sub(_THIS, value)
    if isinstance(value, list):
        return [_replaced(item, pattern) for item in value]
    if isinstance(value, dict):
        return {key: _replaced(item, pattern) for key, item in value.items()}
    return value
