"""Before a run begins: which of its package's alerts will be sent, with all values in place but the secrets'.

An alert is judged like an api step that posts to its address, one by mail like a step of an adapter `email` with the
fact `recipient`. One that can't be sent never stops a run: it is a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from secrets import token_hex

from consumer.engine.permits import Permit
from consumer.engine.services import Services
from consumer.errors import StepError
from consumer.policy.run import Decision, Step
from consumer.ports import Facts
from consumer.workflow import alerts, values
from consumer.workflow.checks import Checked
from consumer.workflow.scope import UNKNOWN, ExecutionScope
from schemas.events import PlannedAlert
from schemas.execution import ExecutionState
from schemas.failure import Problem
from schemas.wpk import Alert

#: They stand in the state of the execution and in its results.
MAX_ALERTS, MAX_RECIPIENTS, MAX_LENGTH = 10, 20, 2048
#: Of all alerts of a package together: the records that hold them are rewritten with each change of the execution.
MAX_BYTES = 32 * 1024
_PATH = "spec.monitoring.alerts"
#: One address and nothing else: a text with a comma or a name would be judged as one, and sent to another.
_RECIPIENT = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+")
_OFF = "alerts are not sent by this agent (WPK_ALERTS is off); subscribe to the results topic"


class _Unsendable(Exception):
    """The text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Values:
    """What placeholders of alerts may name: parameters, secrets, the execution. No step's output."""

    parameters: ExecutionScope
    secrets: Mapping[str, str]
    mark: str = field(default_factory=lambda: token_hex(16))
    """Stands around a secret's name while other values are put in, none of which can know it."""

    def filled(self, text: str) -> str:
        """The text, in which placeholders of secrets are left and all others have their values."""
        kept = replace(self.parameters, secrets=self._named)
        return self._substituted(text, kept)

    def revealed(self, text: str) -> str:
        """The text that `filled` gave with the secrets' values, as it will be used."""
        return alerts.reveal(text, self.secrets)

    def _named(self, name: str) -> str | None:
        return f"{self.mark}{name}{self.mark}" if name in self.secrets else None

    def _substituted(self, text: str, scope: ExecutionScope) -> str:
        found = values.substitute(text, scope)
        if found.problems:
            raise _Unsendable(found.problems[0].message)
        if not isinstance(found.value, str):
            raise _Unsendable("it is no text")
        pieces = found.value.split(self.mark)
        named = [values.escape(piece) if at % 2 == 0 else f"${{secrets.{piece}}}" for at, piece in enumerate(pieces)]
        return "".join(named)


async def planned(state: ExecutionState, checked: Checked, permit: Permit, services: Services) -> Permit:
    """The permit with the alerts that may be sent, and a warning for each other."""
    assert checked.package is not None
    if state.dry_run or state.validate_only:
        return permit
    if not services.limits.alerts:
        return _with(permit, (), [Problem(path=_PATH, message=_OFF, severity="warning")])
    wanted = checked.package.spec.monitoring.alerts
    scope = ExecutionScope(
        parameters=checked.parameters,
        execution_id=state.execution_id,
        workflow=checked.package.metadata.name,
        attempt=UNKNOWN,
        outputs={},
        secrets=UNKNOWN,
        environment=services.environment,
    )
    named = values.secret_names([alert.model_dump(mode="json") for alert in wanted])
    try:
        given = _Values(parameters=scope, secrets=await services.secrets(named))
    except StepError as error:
        return _with(permit, (), [Problem(path=_PATH, message=f"never sent: {error}", severity="warning")])
    sendable: list[PlannedAlert] = []
    problems: list[Problem] = []
    left = MAX_BYTES
    for index, alert in enumerate(wanted):
        try:
            if index >= MAX_ALERTS:
                raise _Unsendable(f"a package has at most {MAX_ALERTS} alerts")
            plan = _plan(alert, given)
            if (size := len(plan.model_dump_json().encode())) > left:
                raise _Unsendable(f"the alerts of a package have at most {MAX_BYTES:,} bytes together")
            left -= size
            _judge(plan, f"alert-{index}", given, permit, services)
            sendable.append(plan)
        except _Unsendable as error:
            problems.append(Problem(path=f"{_PATH}[{index}]", message=f"never sent: {error}", severity="warning"))
    return _with(permit, tuple(sendable), problems)


def _with(permit: Permit, sendable: tuple[PlannedAlert, ...], problems: list[Problem]) -> Permit:
    return replace(permit, alerts=sendable, warnings=(*permit.warnings, *problems))


def _plan(alert: Alert, given: _Values) -> PlannedAlert:
    address = alert.webhook or alert.url
    texts = alert.recipients if alert.type == "email" else (address,) if address else ()
    if not texts or len(texts) > MAX_RECIPIENTS:
        raise _Unsendable(f"it needs an address, or at most {MAX_RECIPIENTS} recipients")
    to = tuple(given.filled(text) for text in texts)
    secret = given.filled(alert.secret) if alert.secret else None
    if any(len(text) > MAX_LENGTH for text in (*to, secret or "")):
        raise _Unsendable(f"its address is longer than {MAX_LENGTH} characters")
    return PlannedAlert(type=alert.type, to=to, secret=secret, on_failure=alert.on_failure, on_success=alert.on_success)


def _judge(plan: PlannedAlert, name: str, given: _Values, permit: Permit, services: Services) -> None:
    if services.policy.open:
        return
    adapter = "email" if plan.type == "email" else "api"
    facts = tuple(_facts(plan, given, services))
    used = values.secret_names([*plan.to, plan.secret])
    step = Step(name=name, adapter=adapter, facts=facts, secrets=used)
    verdict = services.policy.judge(permit.run, step, final=True)
    if verdict.decision is Decision.ALLOWED:
        return
    if not used:
        raise _Unsendable(verdict.message)
    origin, names = services.policy.origin, ", ".join(sorted(used))  # the verdict names what the secrets hold
    raise _Unsendable(f"{origin} does not allow alerts to where {names} leads, or to use that secret")


def _facts(plan: PlannedAlert, given: _Values, services: Services) -> Iterator[Facts]:
    if plan.type == "email":
        for recipient in (given.revealed(each) for each in plan.to):
            if not _RECIPIENT.fullmatch(recipient):
                raise _Unsendable("each recipient must be one plain address, like oncall@example.com")
            yield {"recipient": recipient}
        return
    tell = getattr(services.adapters.get("api"), "facts", None)
    if not callable(tell):
        raise _Unsendable("this agent has no adapter api, by whose rules its address is judged")
    yield from tell({"method": "POST", "url": values.escape(given.revealed(plan.to[0]))}, given.parameters)
