"""Alerts of packages in the engine: planned when the run begins, judged by the policy, never in a run's way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from consumer.adapters.api.adapter import ApiAdapter
from consumer.errors import PermanentError
from consumer.policy import load
from consumer.policy.judge import Policy
from consumer.policy.load import OPEN
from consumer.ports import JsonObject, Scope
from consumer.workflow.limits import Extent
from schemas.events import PlannedAlert, Status
from tests.support.engine_house import House, house, package, probe_module, step

HOOK = "https://hooks.example.com/${secrets.HOOK}"
SECRETS = {"HOOK": "a-secret-path", "OTHER": "another-secret", "PLACE": "hidden.example.com"}
RULES = """
version: 1
rules:
  - {name: probes, effect: allow, steps: {probe: {}}}
  - {name: hooks, effect: allow, steps: {api: {methods: [POST], hosts: [hooks.example.com]}}, secrets: [HOOK]}
  - {name: mails, effect: allow, steps: {email: {facts: {recipient: "*@example.com"}}}}
"""


@dataclass(frozen=True)
class Reaching:
    """Probes that ask for five replicas."""

    probe: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.probe, name)

    def extent(self, config: JsonObject, scope: Scope) -> Extent:
        return Extent(replicas=5)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    return probe_module(monkeypatch)


def data(running: House, name: str) -> Any:
    return next(event.data for event in running.events() if event.name == name)


async def run(probe: Any, *wanted: dict[str, Any], policy: Policy = OPEN, alerts: bool = True) -> House:
    """The house after a run of a package with these alerts."""
    parameters = {
        "host": "hooks.example.com",
        "team": "a/b",
        "other": "spy@elsewhere.example,a",
        "sly": "${secrets.OTHER}",
    }
    async with house(probe, adapters={"api": ApiAdapter()}, secrets=SECRETS, policy=policy, alerts=alerts) as h:
        wpk = package(step("a"), monitoring={"alerts": list(wanted)})
        await h.execute(wpk, parameters=parameters, requested_by="alice")
        await h.over()
    return h


def alert(kind: str = "webhook", **more: Any) -> dict[str, Any]:
    return {"type": kind, "on_failure": True, **more}


async def test_a_result_says_whom_to_tell_and_names_secrets_only(probe: Any) -> None:
    h = await run(probe, alert(url=HOOK, secret="${HOOK}", on_success=True), policy=load.parse(RULES, "p.yaml"))
    wanted = PlannedAlert(type="webhook", to=(HOOK,), secret="${secrets.HOOK}", on_failure=True, on_success=True)
    assert data(h, "execution.completed").alerts == (wanted,)
    assert data(h, "execution.started").alerts == (wanted,)
    assert h.kept().alerts == (wanted,)
    assert all(b"a-secret-path" not in (record.value or b"") for batch in h.log.batches for record in batch.records)


async def test_parameters_are_put_in_and_never_looked_through_for_secrets(probe: Any) -> None:
    h = await run(probe, alert(url="https://${host}/${sly}/${execution.id}"))
    assert data(h, "execution.completed").alerts[0].to == ("https://hooks.example.com/$${secrets.OTHER}/e1",)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (alert(url="https://elsewhere.example.com/"), "no rule of p.yaml allows the step alert-0"),
        (alert(url="https://hooks.example.com/${secrets.OTHER}"), "or to use that secret"),
        (alert(url="https://${secrets.PLACE}/"), "to where PLACE leads"),
        (alert("email", recipients=["a@example.com", "spy@elsewhere.example"]), "no rule of p.yaml allows"),
        (alert("email", recipients=["spy@elsewhere.example, a@example.com"]), "must be one plain address"),
        (alert("email", recipients=["spy@elsewhere.example <a@example.com>"]), "must be one plain address"),
        (alert("email", recipients=["a@example.com", "${other}@example.com"]), "must be one plain address"),
        (alert(url="https://hooks.example.com/${nothing}"), "has no value"),
        (alert("slack", webhook="${SLACK_WEBHOOK_URL}"), "has no value"),
        (alert(url="https://hooks.example.com/${steps.a.output.x}"), "has no value"),
    ],
)
async def test_an_alert_that_may_not_be_sent_is_a_warning_and_the_run_runs(
    probe: Any, bad: dict[str, Any], why: str
) -> None:
    h = await run(probe, bad, policy=load.parse(RULES, "p.yaml"))
    state = h.state()
    assert state is not None
    assert state.status is Status.COMPLETED
    assert data(h, "execution.completed").alerts is None
    assert "hidden.example" not in str(h.events())
    told = [str(problem) for problem in data(h, "execution.started").warnings]
    assert [text for text in told if text.startswith("spec.monitoring.alerts[0]: never sent") and why in text], told


async def test_mail_is_judged_by_its_recipients(probe: Any) -> None:
    h = await run(probe, alert("email", recipients=["a@example.com"]), policy=load.parse(RULES, "p.yaml"))
    assert data(h, "execution.completed").alerts[0].to == ("a@example.com",)


async def test_an_agent_that_sends_none_says_so(probe: Any) -> None:
    h = await run(probe, alert(url=HOOK), alerts=False)
    assert data(h, "execution.completed").alerts is None
    assert "WPK_ALERTS is off" in str(data(h, "execution.started").warnings)


async def test_a_dry_run_tells_nobody(probe: Any) -> None:
    async with house(probe, alerts=True) as h:
        await h.execute(package(step("a"), monitoring={"alerts": [alert(url="https://x.example")]}), dry_run=True)
        await h.over()
    assert data(h, "execution.completed").alerts is None


async def test_the_next_owner_tells_whom_the_first_one_would(probe: Any) -> None:
    async with house(probe, alerts=True) as h:
        wpk = package(step("a", {"wait": True}), monitoring={"alerts": [alert(url="https://x.example")]})
        await h.execute(wpk)
        await h.runs("a")
        await h.move()
        await h.control("cancel")
        await h.over()
    assert data(h, "execution.cancelled").alerts[0].to == ("https://x.example",)


async def test_a_secret_that_can_not_be_read_stops_no_run(probe: Any) -> None:
    async def unreadable(names: Iterable[str]) -> Mapping[str, str]:
        if set(names):
            raise PermanentError("the secret HOOK can't be read", code="secret_unreadable")
        return {}

    async with house(probe, alerts=True) as h:
        object.__setattr__(h.supervisor._services, "secrets", unreadable)
        await h.execute(package(step("a"), monitoring={"alerts": [alert(url=HOOK)]}))
        state = await h.over()
    assert state.status is Status.COMPLETED
    assert "the secret HOOK can't be read" in str(data(h, "execution.started").warnings)


async def test_a_policy_that_changes_during_the_check_leaves_none_of_the_old_ones_problems(probe: Any) -> None:
    """It changes while the secrets of an alert are read, after the limits of the old one were asked."""
    adapters = {"api": ApiAdapter(), "probe": Reaching(probe.build(None))}
    async with house(probe, adapters=adapters, secrets=SECRETS, alerts=True) as h:
        given, new = h.services.secrets, load.parse(RULES, "new.yaml")

        async def changing(names: Iterable[str]) -> Mapping[str, str]:
            h.services.policy = new
            return await given(names)

        h.services.policy = load.parse(RULES + "requirements: [{name: small, limits: {max_replicas: 1}}]", "old.yaml")
        h.services.secrets = changing
        await h.execute(package(step("a"), monitoring={"alerts": [alert(url=HOOK)]}), requested_by="alice")
        assert (await h.over()).status is Status.COMPLETED
    assert data(h, "execution.started").warnings in (None, ())


async def test_alerts_that_would_make_records_too_large_are_left_out(probe: Any) -> None:
    long = "https://hooks.example.com/" + "é" * 1900
    h = await run(probe, *(alert(url=f"{long}{number}") for number in range(10)))
    kept = data(h, "execution.completed").alerts
    assert 5 < len(kept) < 10
    told = [str(problem) for problem in data(h, "execution.started").warnings]
    assert len([text for text in told if "at most 32,768 bytes together" in text]) == 10 - len(kept)
