"""The whole road on both brokers: a command on a topic becomes progress, log lines and one true result."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest
from pydantic import JsonValue

from consumer.settings import Settings
from schemas.events import Status
from schemas.plan import plan_digest
from tests.support import agents
from tests.support.agents import PLUGINS, Topics
from tests.support.kafka import KafkaBroker

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The plug-in whose steps do what a test asks for."""
    monkeypatch.syspath_prepend(str(PLUGINS))
    module = importlib.import_module("wpk_probe")
    module.seen.clear()
    return module


@pytest.fixture
def config(kafka: KafkaBroker, prefix: str, probe: ModuleType) -> Settings:
    return agents.settings(kafka, prefix)


@asynccontextmanager
async def agent_and_user(config: Settings) -> AsyncIterator[Topics]:
    await agents.create_topics(config)
    async with agents.running(config), agents.user(config) as topics:
        yield topics


def package(*handlers: dict[str, Any], name: str = "probing", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "version": "1.2.0"}, "spec": {"handlers": list(handlers), **spec}}


def step(name: str, config: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "probe", "config": config or {}, **more}


async def test_a_command_becomes_progress_log_lines_and_one_result(config: Settings) -> None:
    wpk = package(
        step("first", {"output": {"who": "${name}"}, "lines": ["one", "two"]}),
        step("second", {"fail_times": 2}, retry={"max_attempts": 3, "backoff": "10ms"}),
        {"name": "third", "type": "shell", "config": {"command": "echo hello $WPK_STEP ${steps.first.output.who}"}},
        parameters={"type": "object", "properties": {"name": {"type": "string", "default": "world"}}},
        outputs={"said": "${steps.third.output.stdout}", "who": "${steps.first.output.who}"},
    )
    async with agent_and_user(config) as topics:
        await topics.execute("e1", wpk, requested_by="alice", labels={"team": "payments"})
        state = await topics.over("e1")

        assert topics.names("e1") == [
            "execution.accepted",
            "execution.started",
            "step.started",
            "step.succeeded",
            "step.started",
            "step.retrying",
            "step.started",
            "step.retrying",
            "step.started",
            "step.succeeded",
            "step.started",
            "step.succeeded",
            "execution.completed",
        ]
        assert state.status is Status.COMPLETED
        assert state.outputs == {"said": "hello third world\n", "who": "world"}
        assert (state.total_steps, state.steps_completed, state.workflow_id) == (3, 3, "probing-1.2.0")
        assert topics.log("e1", "first") == ["one", "two"]
        assert topics.log("e1", "third") == ["hello third world"]
        topics.assert_whole("e1")


async def test_the_same_command_again_is_a_duplicate_and_other_content_is_refused(
    config: Settings, probe: ModuleType
) -> None:
    async with agent_and_user(config) as topics:
        await topics.execute("e1", package(step("only")))
        await topics.over("e1")
        await topics.execute("e1", package(step("only")))
        await topics.event("e1", "command.duplicate")
        await topics.execute("e1", package(step("other")))
        refused = await topics.event("e1", "command.rejected")
        state = await topics.until("e1", lambda state: state.seq >= 8)

        assert "already accepted with other content" in str(refused.data)
        assert state.status is Status.COMPLETED
        assert probe.seen["e1"].effects == ["run only 1"]
        assert [name for name in topics.names("e1") if name.startswith("execution.completed")] == [
            "execution.completed"
        ]
        topics.assert_whole("e1")


async def test_bad_packages_are_answered_with_every_error_and_its_path(config: Settings) -> None:
    bad = {
        "unknown-type": package(step("a"), {"name": "b", "type": "k9s", "config": {}}),
        "no-handlers": {"metadata": {"name": "empty"}, "spec": {"handlers": []}},
        "broken": {"metadata": {"name": "Not A Label"}, "spec": {"handlers": "nothing"}},
        "yaml": "metadata: [unclosed",
    }
    async with agent_and_user(config) as topics:
        for execution_id, wpk in bad.items():
            await topics.execute(execution_id, wpk)
        states = {execution_id: await topics.over(execution_id) for execution_id in bad}

        assert {state.status for state in states.values()} == {Status.REJECTED}
        messages = {execution_id: state.error_message or "" for execution_id, state in states.items()}
        assert 'spec.handlers[1].type: "k9s" is no adapter of this agent' in messages["unknown-type"]
        assert "spec.handlers" in messages["no-handlers"]
        assert "metadata.name" in messages["broken"]
        assert "spec.handlers" in messages["broken"]
        assert "wpk_content" in messages["yaml"]
        for execution_id in bad:
            assert "command.rejected" in topics.names(execution_id)
            topics.assert_whole(execution_id)


async def test_garbage_goes_to_the_dead_letters_and_the_next_command_runs(config: Settings) -> None:
    garbage = [b"\x00\xff no json", b"[1, 2]", b"", b'"text"', b"x" * (config.max_command_bytes + 1)]
    async with agent_and_user(config) as topics:
        for value in garbage:
            await topics.publish("execute", value, "e1")
        await topics.execute("e1", package(step("only")))
        state = await topics.over("e1")
        assert state.status is Status.COMPLETED

        await topics.until("e1", lambda state: len(topics.dead) >= len(garbage))
        assert [record.value for record in topics.dead] == garbage
        reasons = [dict(record.headers)["wpk-reason"].decode() for record in topics.dead]
        assert reasons == ["not_json", "no_object", "empty", "no_object", "too_large"]
        headers = dict(topics.dead[0].headers)
        assert headers["wpk-topic"].decode() == f"{config.topic_prefix}.commands.execute"
        assert headers["wpk-offset"] == b"0"


async def test_commands_for_an_unknown_execution_are_refused_and_leave_its_id_free(config: Settings) -> None:
    async with agent_and_user(config) as topics:
        await topics.rollback("ghost", requested_by="bob")
        refused = await topics.event("ghost", "command.rejected")
        await topics.control("ghost", "cancel")
        await topics.event("ghost", "command.rejected", count=2)
        assert "murmur2" in str(refused.data)

        await topics.execute("ghost", package(step("only")))
        state = await topics.until("ghost", lambda state: state.status is Status.COMPLETED)
        assert state.steps_completed == 1
        topics.assert_whole("ghost")


async def test_a_failed_run_is_undone_from_what_was_captured_newest_first(config: Settings, probe: ModuleType) -> None:
    wpk = package(
        step("one", {"capture": "1"}),
        step("two", {"capture": "2"}),
        step("three", {"fail_times": 9, "permanent": True}),
        step("four"),
        rollback={"enabled": True},
    )
    async with agent_and_user(config) as topics:
        await topics.execute("e1", wpk)
        state = await topics.over("e1")

        assert state.status is Status.ROLLED_BACK
        assert state.error is not None
        assert state.error.type == "probe"
        assert probe.seen["e1"].effects == ["run one 1", "run two 1", "run three 1", "undo two to 2", "undo one to 1"]
        results = [name for name in topics.names("e1") if name in ("execution.failed", "execution.rolled_back")]
        assert results == ["execution.failed", "execution.rolled_back"]
        topics.assert_whole("e1")


async def test_a_rollback_by_command_restores_and_its_dry_run_only_says_so(config: Settings, probe: ModuleType) -> None:
    async with agent_and_user(config) as topics:
        await topics.execute("e1", package(step("one", {"capture": "old"})))
        await topics.over("e1")
        await topics.rollback("e1", dry_run=True, requested_by="bob")
        await topics.event("e1", "execution.rolled_back")
        state = await topics.until("e1", lambda state: state.over)
        assert state.status is Status.COMPLETED
        assert probe.seen["e1"].effects == ["run one 1"]

        await topics.rollback("e1", requested_by="bob", reason="it was wrong")
        state = await topics.until("e1", lambda state: state.status is Status.ROLLED_BACK)
        assert probe.seen["e1"].effects == ["run one 1", "undo one to old"]
        assert state.rollback is not None
        assert state.rollback.requested_by == "bob"

        await topics.rollback("e1")
        again = await topics.event("e1", "command.rejected")
        assert "already" in str(again.data)
        topics.assert_whole("e1")


async def test_a_dry_run_changes_nothing_and_plans_every_step(config: Settings, probe: ModuleType) -> None:
    wpk = package(
        step("one", {"output": {"n": 1}}),
        step("two", {"output": "${steps.one.output.n}"}),
        {"name": "three", "type": "shell", "config": {"command": "touch /tmp/never"}},
    )
    async with agent_and_user(config) as topics:
        await topics.execute("e1", wpk, dry_run=True)
        state = await topics.over("e1")

        assert state.status is Status.COMPLETED
        assert probe.seen["e1"].effects == ["plan one"]
        assert all(event.data.dry_run for event in topics.events("e1"))
        plans = {name: done.output for name, done in state.steps.items()}
        assert all(isinstance(plan, dict) and plan["plan"] for plan in plans.values())


async def test_a_plan_has_a_digest_that_changes_if_and_only_if_the_plan_does(
    config: Settings, probe: ModuleType
) -> None:
    async with agent_and_user(config) as topics:
        digests: dict[str, JsonValue] = {}
        whole: dict[str, str | None] = {}
        for execution, command in (("first", "true"), ("same", "true"), ("other", "false")):
            wpk = package({"name": "one", "type": "shell", "config": {"command": command}})
            await topics.execute(execution, wpk, dry_run=True)
            state = await topics.over(execution)
            output = state.steps["one"].output
            assert isinstance(output, dict)
            digests[execution] = output["digest"]
            whole[execution] = state.plan_digest
            assert state.plan_digest == plan_digest(state)

        assert str(digests["first"]).startswith("sha256:")
        assert digests["same"] == digests["first"] != digests["other"]
        assert str(whole["first"]).startswith("sha256:")
        assert whole["same"] == whole["first"] != whole["other"]


async def test_validate_only_answers_and_runs_nothing(config: Settings, probe: ModuleType) -> None:
    async with agent_and_user(config) as topics:
        await topics.execute("good", {**package(step("one")), "x-note": 1}, validate_only=True)
        await topics.execute("bad", package(step("one", {"outptu": 1})), validate_only=True)
        good, bad = await topics.over("good"), await topics.over("bad")

        assert good.status is Status.COMPLETED
        assert "x-note" in str(topics.events("good")[-1].data)
        assert bad.status is Status.REJECTED
        assert "outptu" in (bad.error_message or "")
        assert not probe.seen["good"].effects


async def test_an_approval_is_waited_for_and_must_come_from_somebody_else(config: Settings, probe: ModuleType) -> None:
    wpk = package(step("one"), safety={"approval_required": True})
    async with agent_and_user(config) as topics:
        await topics.execute("yes", wpk, requested_by="alice")
        await topics.execute("no", wpk, requested_by="alice")
        for execution_id in ("yes", "no"):
            await topics.until(execution_id, lambda state: state.status is Status.AWAITING_APPROVAL)

        await topics.control("yes", "approve", requested_by="alice")
        refused = await topics.event("yes", "command.rejected")
        assert "somebody else" in str(refused.data)
        await topics.control("yes", "approve", requested_by="bob")
        state = await topics.until("yes", lambda state: state.status is Status.COMPLETED)
        assert state.approved_by == "bob"

        await topics.control("no", "reject", requested_by="bob", reason="not today")
        state = await topics.over("no")
        assert state.status is Status.REJECTED
        assert "rejected by bob: not today" in (state.error_message or "")
        assert not probe.seen["no"].effects
        topics.assert_whole("yes")


async def test_cancel_stops_the_running_step_and_the_rollback_applies(config: Settings, probe: ModuleType) -> None:
    wpk = package(step("one", {"capture": "old"}), step("two", {"wait": True}), rollback={"enabled": True})
    async with agent_and_user(config) as topics:
        await topics.execute("e1", wpk)
        await topics.until("e1", lambda state: state.current_step == "two")
        await topics.control("e1", "cancel", requested_by="bob", reason="enough")
        state = await topics.over("e1")

        assert state.status is Status.ROLLED_BACK
        assert state.cancel is not None
        assert state.cancel.requested_by == "bob"
        assert probe.seen["e1"].effects[-2:] == ["cancelled two", "undo one to old"]
        assert "execution.cancelled" in topics.names("e1")
        topics.assert_whole("e1")


async def test_the_runs_own_timeout_and_a_steps_timeout_end_what_takes_too_long(config: Settings) -> None:
    async with agent_and_user(config) as topics:
        await topics.execute("run", package(step("one", {"wait": True})), timeout="1s")
        await topics.execute("step", package(step("one", {"wait": True}, timeout="300ms")))
        run, one = await topics.over("run"), await topics.over("step")

        assert (run.status, run.error and run.error.type) == (Status.FAILED, "deadline")
        assert (one.status, one.error and one.error.type) == (Status.FAILED, "timeout")


async def test_independent_steps_run_side_by_side_and_a_skipped_need_skips(config: Settings, probe: ModuleType) -> None:
    wpk = package(
        step("left", {"wait": True}),
        step("right", {"wait": True}, needs=[]),
        step("never", when="false"),
        step("join", needs=["left", "right"]),
        step("after-never", needs=["never"]),
    )
    async with agent_and_user(config) as topics:
        await topics.execute("e1", wpk)
        await topics.until("e1", lambda state: {"left", "right"} <= {s.step for s in state.steps.values() if s.attempt})
        for name in ("left", "right"):
            probe.seen["e1"].release[name].set()
        state = await topics.over("e1")

        assert state.status is Status.COMPLETED
        assert {name: done.status.value for name, done in state.steps.items()} == {
            "left": "succeeded",
            "right": "succeeded",
            "never": "skipped",
            "join": "succeeded",
            "after-never": "skipped",
        }


async def test_an_agent_that_stops_in_the_middle_is_followed_by_one_that_goes_on(
    config: Settings, probe: ModuleType
) -> None:
    wpk = package(
        step("done"),
        step("again", {"wait": True, "repeatable": True}),
        step("last", {"output": "${steps.again.output.value}"}),
    )
    unsafe = package(step("unsafe", {"wait": True}))
    await agents.create_topics(config)
    async with agents.user(config) as topics:
        async with agents.running(config):
            await topics.execute("safe", wpk)
            await topics.execute("unsafe", unsafe)
            await topics.until("safe", lambda state: state.current_step == "again")
            await topics.until("unsafe", lambda state: state.current_step == "unsafe")
        probe.seen["safe"].release["again"].set()
        async with agents.running(config):
            safe, lost = await topics.over("safe"), await topics.over("unsafe")

    assert safe.status is Status.COMPLETED
    assert "execution.resumed" in topics.names("safe")
    assert [e for e in probe.seen["safe"].effects if e.startswith("run done")] == ["run done 1"]
    assert (lost.status, lost.error and lost.error.type) == (Status.FAILED, "interrupted")
    assert [e for e in probe.seen["unsafe"].effects if e.startswith("run")] == ["run unsafe 1"]
    topics.assert_whole("safe")


async def test_two_agents_share_the_partitions_and_one_that_leaves_hands_over(
    config: Settings, probe: ModuleType
) -> None:
    names = [f"e{number}" for number in range(12)]
    wpk = package(step("wait", {"wait": True, "repeatable": True}))
    await agents.create_topics(config)
    async with agents.user(config) as topics, agents.running(config.model_copy(update={"agent_name": "stays"})):
        async with agents.running(config.model_copy(update={"agent_name": "leaves"})):
            for name in names:
                await topics.execute(name, wpk)
            for name in names:
                await topics.until(name, lambda state: state.current_step == "wait")
            owners = {topics.events(name)[0].data.agent for name in names}
            assert owners == {"stays", "leaves"}
        for name in names:
            probe.seen[name].release["wait"].set()
        states = [await topics.over(name) for name in names]

    assert {state.status for state in states} == {Status.COMPLETED}
    assert {topics.events(name)[-1].data.agent for name in names} == {"stays"}
    for name in names:
        topics.assert_whole(name)


async def test_a_full_agent_lets_commands_wait_and_still_takes_a_cancel(config: Settings, probe: ModuleType) -> None:
    full = config.model_copy(update={"max_executions": 1, "partitions": 1})
    wpk = package(step("wait", {"wait": True}))
    async with agent_and_user(full) as topics:
        await topics.execute("first", wpk)
        await topics.until("first", lambda state: state.current_step == "wait")
        await topics.execute("second", wpk)
        await asyncio.sleep(0.5)  # long enough for the second to show itself, if it were taken
        await topics.read()
        assert topics.names("second") == []

        await topics.control("first", "cancel")
        assert (await topics.over("first")).status is Status.CANCELLED
        await topics.until("second", lambda state: state.current_step == "wait")
        probe.seen["second"].release["wait"].set()
        assert (await topics.over("second")).status is Status.COMPLETED
