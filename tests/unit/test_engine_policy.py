"""The policy in the engine: what it refuses never runs, and the trail says who allowed what does."""

from __future__ import annotations

from typing import Any

import pytest

from consumer.adapters.shell import facts
from consumer.policy import load
from consumer.policy.judge import Policy
from consumer.workflow.scope import Scope
from schemas import events
from schemas.events import Status
from tests.support.engine_house import House, house, package, probe_module, step


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    return probe_module(monkeypatch)


class Telling:
    """The probe, which tells the policy where its steps go."""

    def __init__(self, adapter: Any) -> None:
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def facts(self, config: dict[str, Any], scope: Scope) -> list[Any]:
        return [{"host": facts.Reader(config, scope).text(("lines", 0)) or ""}]


def policy(text: str) -> Policy:
    return load.parse("version: 1\n" + text, "p.yaml")


def data(running: House, name: str) -> Any:
    return next(event.data for event in running.events() if event.name == name)


async def test_a_command_that_no_rule_allows_is_answered_and_nothing_runs(probe: Any) -> None:
    rules = policy("rules:\n  - {name: pauses, effect: allow, steps: {delay: {}}}")
    async with house(probe, policy=rules) as running:
        await running.execute(package(step("a"), step("b")), requested_by="mallory")
        state = await running.over()
        assert state.status is Status.REJECTED
        assert running.names() == ["execution.accepted", "command.rejected", "execution.rejected"]
        result = data(running, "execution.rejected")
        assert result.error.type == "forbidden"
        assert [error.path for error in result.errors] == ["spec.handlers[0]", "spec.handlers[1]"]
        assert "no rule of p.yaml allows the step a" in result.errors[0].message
        assert "mallory" in result.errors[0].message
        assert not probe.seen["e1"].effects


async def test_the_trail_says_which_rules_allowed_a_run(probe: Any) -> None:
    rules = policy("rules:\n  - {name: probes, effect: allow, steps: {probe: {}}, requesters: [alice]}")
    async with house(probe, policy=rules) as running:
        await running.execute(package(step("a")), requested_by="alice")
        assert (await running.over()).status is Status.COMPLETED
        permission = data(running, "execution.started").permission
        assert permission == events.Permission(policy="p.yaml", digest=rules.digest, rules=("probes",))


@pytest.mark.parametrize(("value", "status"), [("good", Status.COMPLETED), ("bad", Status.FAILED)])
async def test_a_step_is_judged_again_with_the_values_that_earlier_steps_gave(
    probe: Any, value: str, status: Status
) -> None:
    rules = policy("rules:\n  - {name: hosts, effect: allow, steps: {told: {facts: {host: [first, good]}}}}")
    first = {**step("a", {"lines": ["first"], "output": {"to": value}}), "type": "told"}
    second = {**step("b", {"lines": ["${steps.a.output.to}"]}), "type": "told"}
    async with house(probe, policy=rules, adapters={"told": Telling(probe.build(None))}) as running:
        await running.execute(package(first, second))
        state = await running.over()
        assert state.status is status
        assert (probe.seen["e1"].effects[-1] == "run b 1") is (status is Status.COMPLETED)
        if status is Status.FAILED:
            assert state.steps["b"].error is not None
            assert state.steps["b"].error.type == "forbidden"
            assert "host=bad" in state.steps["b"].error.message


async def test_a_required_approval_waits_and_only_a_named_approver_may_give_it(probe: Any) -> None:
    rules = policy(
        "rules:\n  - {name: all, effect: allow}\n"
        "requirements:\n  - {name: four-eyes, approval: required, approvers: [bob]}"
    )
    async with house(probe, policy=rules) as running:
        await running.execute(package(step("a")), requested_by="alice")
        await running.until(lambda state: state.status is Status.AWAITING_APPROVAL)
        await running.control("approve", requested_by="carol")
        refused = data(running, "command.rejected")
        assert "carol may not approve it: the requirement four-eyes" in refused.errors[0].message
        assert (await running.until(lambda state: True)).status is Status.AWAITING_APPROVAL
        await running.control("approve", requested_by="bob")
        assert (await running.over()).status is Status.COMPLETED


async def test_a_secret_that_no_rule_names_is_not_used(probe: Any) -> None:
    rules = policy("rules:\n  - {name: all, effect: allow, secrets: [OTHER]}")
    async with house(probe, policy=rules, secrets={"TOKEN": "verysecret"}) as running:
        await running.execute(package(step("a", {"lines": ["${secrets.TOKEN}"]})))
        assert (await running.over()).status is Status.REJECTED
        assert "the secret TOKEN" in data(running, "execution.rejected").errors[0].message
