"""The engine over a journal in memory: commands, slots, pauses, cancels, limits, and what is told of all that."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from structlog.testing import capture_logs

from consumer.engine.incoming import Incoming, Refused, Unreadable
from consumer.ports import CommandTopic, Topic
from schemas import events
from schemas.commands import ExecuteCommand
from schemas.events import Source, Status
from schemas.execution import StepStatus
from schemas.failure import Problem
from tests.support.engine_house import PATIENCE, house, package, probe_module, step
from tests.support.eventually import eventually

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    return probe_module(monkeypatch)


# --- cancel ---


async def test_a_cancel_before_the_run_began_ends_it_without_a_step(probe: Any) -> None:
    async with house(probe) as h:
        await h.execute(package(step("a"), safety={"approval_required": True}), requested_by="alice")
        await h.until(lambda state: state.status is Status.AWAITING_APPROVAL)
        await h.control("cancel", requested_by="bob")
        state = await h.over()

    assert state.status is Status.CANCELLED
    assert probe.seen["e1"].effects == []


async def test_a_cancel_while_a_large_package_is_checked_keeps_it_from_running(probe: Any) -> None:
    wpk = package(step("a"), **{"x-padding": "x" * 200_000})
    async with house(probe) as h:
        await h.execute(wpk)
        await h.control("cancel")
        state = await h.over()

    assert state.status is Status.CANCELLED
    assert probe.seen["e1"].effects == []
    assert [name for name in h.names() if name.startswith("execution.c")] == ["execution.cancelled"]


async def test_what_is_cancelled_as_it_is_accepted_ends_in_order_though_its_package_is_none(probe: Any) -> None:
    with capture_logs() as told:
        async with house(probe) as h:
            await asyncio.gather(h.execute({"metadata": {"name": "broken"}}), h.control("cancel"))
            state = await h.over()

    assert state.status is Status.CANCELLED
    assert h.names() == ["execution.accepted", "execution.cancelled"]
    assert [entry["event"] for entry in told if entry["log_level"] == "error"] == []


async def test_a_rollback_that_comes_while_the_end_is_being_written_is_carried_out(probe: Any) -> None:
    wpk = package(step("a"), rollback={"enabled": True, "handlers": [step("u")]})
    async with house(probe) as h:
        h.journal.stall()
        sent = [asyncio.ensure_future(send) for send in (h.execute(wpk), h.control("cancel"))]
        await eventually(lambda: h.journal.appended >= 3, timeout=PATIENCE, because="its end is not queued")
        sent.append(asyncio.ensure_future(h.rollback(force=True)))
        await eventually(lambda: h.journal.appended >= 4, timeout=PATIENCE, because="the rollback is not taken")
        h.journal.resume()
        await asyncio.gather(*sent)
        state = await h.over()

    assert state.status is Status.ROLLED_BACK
    assert probe.seen["e1"].effects == ["run u 1"]


async def test_a_cancel_between_the_start_and_its_effect_keeps_the_effect_from_happening(probe: Any) -> None:
    async with house(probe) as h:
        h.journal.hold()
        stale = h.journal
        type(stale).fresh = property(lambda self: self.alive and not self._held)  # type: ignore[method-assign,assignment]
        try:
            await h.execute(package(step("a"), step("b")))
            await h.runs("a")
            await h.control("cancel", requested_by="bob", reason="enough")
            h.journal.release()
            state = await h.over()
        finally:
            type(stale).fresh = property(lambda self: self.alive)  # type: ignore[method-assign,assignment]

    assert state.status is Status.CANCELLED
    assert probe.seen["e1"].effects == []
    assert state.steps["a"].status is StepStatus.CANCELLED
    assert state.steps["b"].status is StepStatus.PENDING


async def test_a_cancel_in_the_pause_before_the_next_attempt_ends_the_run_at_once(probe: Any) -> None:
    flaky = step("a", {"fail_times": 9}, retry={"max_attempts": 5, "backoff": "1h", "jitter": False})
    async with house(probe) as h:
        await h.execute(package(flaky))
        await h.until(lambda state: state.steps and state.steps["a"].status is StepStatus.RETRYING)
        await h.control("cancel")
        state = await h.over()

    assert state.status is Status.CANCELLED
    assert probe.seen["e1"].effects == ["run a 1"]


async def test_a_cancel_of_steps_side_by_side_stops_each_and_undoes_what_was_captured(probe: Any) -> None:
    wpk = package(
        step("a", {"capture": "A", "wait": True}),
        step("b", {"capture": "B", "wait": True}),
        step("c", needs=["a"]),
        rollback={"enabled": True},
    )
    async with house(probe) as h:
        await h.execute(wpk)
        await h.until(lambda state: state.steps and all(state.steps[name].captured for name in "ab"))
        await h.control("cancel")
        state = await h.over()

    assert state.status is Status.ROLLED_BACK
    assert set(probe.seen["e1"].effects[-2:]) == {"undo a to A", "undo b to B"}
    assert {"cancelled a", "cancelled b"} <= set(probe.seen["e1"].effects)


async def test_what_a_step_still_achieved_when_it_was_cancelled_is_told_as_it_was(probe: Any) -> None:
    async with house(probe) as h:
        await h.execute(package(step("a", {"wait": True, "ignore_cancel": True, "output": {"done": True}}), step("b")))
        await h.runs("a")
        await h.control("cancel")
        state = await h.over()

    assert state.status is Status.CANCELLED
    assert state.steps["a"].status is StepStatus.SUCCEEDED
    assert state.steps["b"].attempt == 0


# --- deaf work ---


class Deaf:
    """An adapter whose steps ignore every cancellation until they are released."""

    name = "deaf"

    def __init__(self, probe: Any) -> None:
        self._probe = probe.build(None)
        self.release = asyncio.Event()
        self.after: list[str] = []
        self.repeatable = False
        self.time_limit = None

    @property
    def config_model(self) -> Any:
        return self._probe.config_model

    def check(self, config: Any, scope: Any) -> list[Problem]:
        return []

    def prepare(self, config: Any, scope: Any) -> Deaf:
        return self

    async def run(self, context: Any) -> dict[str, Any]:
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                continue
        try:
            await context.log("stdout", "late")
            await context.capture({"was": 1}, "late")
        except Exception as error:
            self.after.append(type(error).__name__)
            raise
        return {}


@pytest.fixture
async def deaf(probe: Any) -> Any:
    adapter = Deaf(probe)
    yield adapter
    adapter.release.set()
    await asyncio.sleep(0)  # what was left behind ends
    await asyncio.sleep(0)


async def test_a_step_that_heeds_no_cancel_is_left_behind_and_can_change_nothing_in_the_trail(
    probe: Any, deaf: Deaf
) -> None:
    async with house(probe, adapters={"deaf": deaf}, grace=0.05) as h:
        await h.execute(package({"name": "a", "type": "deaf", "config": {}}))
        await h.runs("a")
        await h.control("cancel")
        state = await h.over()
        before = h.names()
        deaf.release.set()
        await eventually(lambda: deaf.after, timeout=PATIENCE)

        assert state.status is Status.CANCELLED
        assert state.steps["a"].error is not None
        assert "may still be at work" in state.steps["a"].error.message
        assert h.names() == before
        assert "late" not in h.lines()
        assert deaf.after == ["PermanentError"]


async def test_a_timeout_that_a_step_does_not_heed_ends_its_attempt_without_another_beside_it(
    probe: Any, deaf: Deaf
) -> None:
    wpk = package({"name": "a", "type": "deaf", "config": {}, "timeout": "50ms", "retry": {"max_attempts": 3}})
    async with house(probe, adapters={"deaf": deaf}, grace=0.05) as h:
        await h.execute(wpk)
        state = await h.over()

    assert state.status is Status.FAILED
    assert state.error is not None
    assert state.error.type == "left_behind"
    assert state.steps["a"].attempt == 1


async def test_work_that_heeds_no_cancel_does_not_hang_the_hand_over(probe: Any, deaf: Deaf) -> None:
    async with house(probe, adapters={"deaf": deaf}, grace=0.05) as h:
        await h.execute(package({"name": "a", "type": "deaf", "config": {}}))
        await h.runs("a")
        async with asyncio.timeout(PATIENCE):
            await h.move()
        state = await h.over()

    assert state.error is not None
    assert state.error.type == "interrupted"


# --- slots and holds ---


async def test_slots_are_given_in_the_order_of_asking_and_one_that_only_waits_gives_its_own_up(probe: Any) -> None:
    async with house(probe, max_executions=1) as h:
        pausing = step("a", {"fail_times": 1}, retry={"max_attempts": 2, "backoff": "1h", "jitter": False})
        await h.execute(package(pausing), "first")
        await h.until(lambda state: state.steps and state.steps["a"].status is StepStatus.RETRYING, "first")
        for name in ("second", "third"):
            await h.execute(package(step("a", {"wait": True})), name)
        await h.runs("a", "second")
        assert h.supervisor.running == 1
        assert "step.started" not in h.names("third")
        assert not h.supervisor.room.is_set()

        probe.seen["second"].release["a"].set()
        await h.over("second")
        await h.runs("a", "third")
        probe.seen["third"].release["a"].set()
        await h.over("third")
        assert h.supervisor.room.is_set()
        await h.control("cancel", "first")
        await h.over("first")


async def test_an_owner_that_takes_over_more_than_it_has_slots_runs_no_more_than_that(probe: Any) -> None:
    wpk = package(step("a", {"wait": True, "repeatable": True}))
    names = [f"e{number}" for number in range(4)]
    async with house(probe, max_executions=4) as h:
        for name in names:
            await h.execute(wpk, name)
            await h.runs("a", name)
        journal = h.journal.successor()
        await h.supervisor.drop(h.partition)
    async with house(probe, journal=journal, max_executions=2) as h:

        def again() -> list[str]:
            return [name for name in names if probe.seen[name].effects.count("run a 1") == 2]

        await eventually(lambda: len(again()) == 2, timeout=PATIENCE)
        first = again()
        await h.execute(package(step("a")), "later")  # all that could begin has begun by now
        assert h.supervisor.running == 2
        assert again() == first
        for name in names:
            probe.seen[name].release["a"].set()
        await h.over("later")
        states = [await h.over(name) for name in names]

    assert {state.status for state in states} == {Status.COMPLETED}


async def test_what_was_interrupted_and_waits_for_a_slot_can_be_cancelled(probe: Any) -> None:
    wpk = package(step("a", {"wait": True, "repeatable": True}))
    async with house(probe) as h:
        for name in ("e1", "e2"):
            await h.execute(wpk, name)
            await h.runs("a", name)
        journal = h.journal.successor()
        await h.supervisor.drop(h.partition)
    async with house(probe, journal=journal, max_executions=1) as h:

        def again() -> list[str]:
            return [name for name in ("e1", "e2") if probe.seen[name].effects.count("run a 1") == 2]

        await eventually(again, timeout=PATIENCE)
        (holds,) = again()
        waits = "e2" if holds == "e1" else "e1"
        await h.control("cancel", waits)
        state = await h.over(waits)
        probe.seen[holds].release["a"].set()
        await h.over(holds)

    assert state.status is Status.CANCELLED
    assert probe.seen[waits].effects.count("run a 1") == 1


async def test_while_held_no_further_step_begins_and_after_it_the_run_goes_on(probe: Any) -> None:
    async with house(probe) as h:
        await h.execute(package(step("a", {"wait": True}), step("b")))
        await h.runs("a")
        h.supervisor.hold(h.partition)
        probe.seen["e1"].release["a"].set()
        await h.until(lambda state: state.steps["a"].status is StepStatus.SUCCEEDED)
        assert await h.supervisor.quiet(PATIENCE)
        assert probe.seen["e1"].effects == ["run a 1"]
        assert "b" not in [getattr(event.data, "step", None) for event in h.events()]

        h.supervisor.resume(h.partition)
        state = await h.over()

    assert state.status is Status.COMPLETED


# --- time ---


async def test_an_approval_that_nobody_gives_in_time_ends_the_execution(probe: Any) -> None:
    async with house(probe, approval_timeout=0.05) as h:
        await h.execute(package(step("a"), safety={"approval_required": True}))
        state = await h.over()

    assert state.status is Status.REJECTED
    assert "nobody approved" in (state.error_message or "")


async def test_an_approval_begins_the_run_and_says_how_many_steps_there_are_before(probe: Any) -> None:
    async with house(probe) as h:
        await h.execute(package(step("a"), safety={"approval_required": True}), requested_by="Alice")
        await h.until(lambda state: state.status is Status.AWAITING_APPROVAL)
        for who in (None, "", "  ", "alice ", "ALICE"):
            await h.control("approve", requested_by=who)
        assert h.names().count("command.rejected") == 5
        await h.control("approve", requested_by="bob")
        state = await h.over()
        await h.control("approve", requested_by="bob")

    waiting = next(event.data for event in h.events() if isinstance(event.data, events.ExecutionAwaitingApproval))
    assert waiting.total_steps == 1
    assert (state.status, state.approved_by) == (Status.COMPLETED, "bob")
    assert h.names()[-1] == "command.duplicate"


@pytest.mark.parametrize("where", ["running", "backoff", "approval"])
async def test_a_deadline_ends_the_run_wherever_it_is(probe: Any, where: str) -> None:
    handlers = {
        "running": step("a", {"wait": True}),
        "backoff": step("a", {"fail_times": 9}, retry={"max_attempts": 5, "backoff": "1h", "jitter": False}),
        "approval": step("a"),
    }
    async with house(probe) as h:
        wpk = package(handlers[where], safety={"approval_required": where == "approval"})
        await h.execute(wpk, timeout="150ms")
        state = await h.over()

    assert state.status is Status.FAILED
    assert state.error is not None
    assert state.error.type == "deadline"


async def test_a_deadline_does_not_stop_the_rollback(probe: Any) -> None:
    wpk = package(step("a", {"capture": "old"}), step("b", {"wait": True}), rollback={"enabled": True})
    async with house(probe) as h:
        await h.execute(wpk, timeout="150ms")
        state = await h.over()

    assert state.status is Status.ROLLED_BACK
    assert probe.seen["e1"].effects[-1] == "undo a to old"


async def test_times_in_the_trail_never_go_back_though_the_clock_does(probe: Any) -> None:
    async with house(probe) as h:
        await h.execute(package(step("a", {"wait": True}), step("b")))
        await h.runs("a")
        h.clock.shift = timedelta(hours=-1)
        probe.seen["e1"].release["a"].set()
        await h.over()

    times = [event.time for event in h.events()]
    assert times == sorted(times)
    durations = [event.data.duration for event in h.events() if getattr(event.data, "duration", None) is not None]  # type: ignore[attr-defined]
    assert all(duration >= 0 for duration in durations)


# --- what steps give ---


async def test_values_of_secrets_are_masked_in_every_record(probe: Any) -> None:
    canary = "canary-3f9a-value"
    wpk = package(
        step("a", {"output": {"said": "${secrets.TOKEN}", "${": 1}, "lines": ["it is ${secrets.TOKEN}"]}),
        step("b", {"output": "${secrets.TOKEN}", "capture": "x"}, when="true"),
        step("c", {"crash": True, "output": "${TOKEN}"}, on_failure="continue"),
        outputs={"out": "${steps.a.output.said}"},
    )
    del wpk["spec"]["handlers"][0]["config"]["output"]["${"]
    async with house(probe, secrets={"TOKEN": canary}) as h:
        await h.execute(wpk)
        state = await h.over()

    assert state.status is Status.COMPLETED
    assert state.outputs == {"out": "***"}
    everything = b"".join(record.value or b"" for batch in h.log.batches for record in batch.records)
    assert canary.encode() not in everything
    assert h.lines(stream="stdout") == ["it is ***"]


async def test_outputs_that_are_too_large_or_no_plain_json_are_made_fit_and_say_so(probe: Any) -> None:
    nested: Any = 1
    for _ in range(200):
        nested = [nested]

    class Odd:
        repeatable, time_limit = True, None

        async def run(self, context: Any) -> Any:
            values = {
                "big": 2**70,
                "nan": float("nan"),
                "surrogate": "\ud800",
                "deep": nested,
                "long": "x" * 400_000,
            }
            await context.log("stdout", "odd \ud800 line")
            return values

    adapter = Deaf(probe)
    adapter.prepare = lambda config, scope: Odd()  # type: ignore[method-assign,assignment,return-value]
    async with house(probe, adapters={"odd": adapter}, max_output_bytes=10_000) as h:
        await h.execute(package({"name": "a", "type": "odd", "config": {}}))
        state = await h.over()

    output = state.steps["a"].output
    assert state.status is Status.COMPLETED
    assert isinstance(output, dict)
    assert output["big"] == str(2**70)
    assert output["nan"] == "nan"
    assert output["surrogate"] == "?"
    assert "nested too deeply" in str(output["deep"])
    assert "cut" in str(output["long"])
    assert h.lines(stream="stdout") == ["odd ? line"]


async def test_output_lines_beyond_the_limit_are_dropped_and_counted(probe: Any) -> None:
    async with house(probe, max_log_bytes=1000) as h:
        await h.execute(package(step("a", {"lines": ["x" * 100] * 50})))
        await h.over()

    kept = h.lines(stream="stdout")
    assert 0 < len(kept) < 50
    assert f"{50 - len(kept)} lines of output were dropped" in h.lines(stream="agent")[-1]


async def test_a_step_that_writes_faster_than_the_log_takes_it_waits(probe: Any) -> None:
    async with house(probe) as h:
        h.journal.fill()
        await h.execute(package(step("a", {"lines": ["x" * 200] * 2000})))
        await h.runs("a")
        await eventually(lambda: h.lines(stream="stdout"), timeout=PATIENCE)
        assert "run a 1" not in probe.seen["e1"].effects
        h.journal.fill(False)
        await h.over()

    assert len(h.lines(stream="stdout")) == 2000


async def test_an_adapter_that_crashes_fails_its_step_and_not_the_engine(probe: Any) -> None:
    async with house(probe) as h:
        await h.execute(package(step("a", {"crash": True})))
        state = await h.over()
        await h.execute(package(step("a")), "e2")
        other = await h.over("e2")

    assert state.error is not None
    assert (state.status, state.error.type) == (Status.FAILED, "internal")
    assert other.status is Status.COMPLETED


async def test_an_undo_record_that_is_too_large_forbids_the_change(probe: Any) -> None:
    async with house(probe) as h:
        await h.execute(package(step("a", {"capture": "x" * 850_000})))
        state = await h.over()

    assert state.error is not None
    assert state.error.type == "undo_too_large"
    assert probe.seen["e1"].effects == []


async def test_outputs_that_name_a_skipped_step_are_null(probe: Any) -> None:
    wpk = package(
        step("a", when="false"), step("b", {"output": {"n": 1}}), outputs={"a": "${steps.a.output.x}", "b": "B"}
    )
    async with house(probe) as h:
        await h.execute(wpk)
        state = await h.over()

    assert state.outputs == {"a": None, "b": "B"}


async def test_a_condition_that_fails_beside_steps_that_are_ready_fails_the_run_in_order(probe: Any) -> None:
    wpk = package(
        step("root"),
        step("bad", when="steps.root.output.missing == 1", needs=["root"]),
        step("good", needs=["root"]),
    )
    async with house(probe) as h:
        await h.execute(wpk)
        state = await h.over()

    assert state.status is Status.FAILED
    assert state.error is not None
    assert (state.error.type, state.error.step) == ("condition", "bad")
    assert state.steps["good"].attempt == 0


# --- commands for what ended, what is refused, what is not understood ---


async def test_a_rollback_finds_an_execution_that_ended_long_ago_and_a_duplicate_runs_nothing(probe: Any) -> None:
    async with house(probe) as h:
        wpk = package(step("a", {"capture": "old"}))
        await h.execute(wpk)
        await h.over()
        for number in range(70):  # more than stay whole in memory
            await h.execute(package(step("a")), f"other-{number}")
            await h.over(f"other-{number}")
        assert h.partition.recall("e1", whole=True) is None
        await h.execute(wpk)
        assert h.names()[-1] == "command.duplicate"
        await h.rollback(requested_by="bob")
        state = await h.until(lambda state: state.status is Status.ROLLED_BACK)
        assert h.kept().steps.keys() == state.steps.keys()

    assert probe.seen["e1"].effects == ["run a 1", "undo a to old"]


async def test_what_is_older_than_its_retention_is_forgotten_whole(probe: Any) -> None:
    async with house(probe, state_retention=3600) as h:
        await h.execute(package(step("a", {"capture": "old", "output": {"n": 1}})))
        await h.over()
        await h.execute(package(step("a", {"wait": True})), "alive")
        await h.runs("a", "alive")
        assert await h.supervisor.sweep(h.partition) == 0
        h.clock.shift = timedelta(hours=2)
        assert await h.supervisor.sweep(h.partition) == 1
        assert {key.decode().partition("/")[0] for key in h.journal.state} == {"alive"}
        await h.rollback()
        assert "command.rejected" in h.names()
        h.clock.shift = timedelta()
        probe.seen["alive"].release["a"].set()
        await h.over("alive")


def incoming(content: Any, topic: CommandTopic = CommandTopic.EXECUTE, **more: Any) -> Incoming:
    return Incoming(topic=topic, source=Source(topic="t", partition=0, offset=7), content=content, **more)


async def test_the_workflow_is_the_accepted_commands_not_that_of_an_earlier_refused_one(probe: Any) -> None:
    async with house(probe) as h:
        refused = Refused(
            execution_id="e1",
            kind="rollback",
            problems=(Problem(path="workflow_id", message="unknown field"),),
            workflow_id="somebody-elses",
        )
        await (await h.supervisor.take(h.partition, incoming(refused, CommandTopic.ROLLBACK)))
        await h.execute(package(step("a")))
        state = await h.over()

    assert state.workflow_id == "probing-1.2.0"


async def test_a_refusal_with_endless_problems_fits_into_its_records(probe: Any) -> None:
    problems = tuple(Problem(path="p" * 5000, message="m" * 5000) for _ in range(3000))
    async with house(probe) as h:
        refused = Refused(execution_id="e1", kind="execute", problems=problems)
        await (await h.supervisor.take(h.partition, incoming(refused)))

    assert max(len(record.value or b"") for batch in h.log.batches for record in batch.records) < 200_000
    assert "more" in str(h.events()[-1].data)


async def test_a_command_whose_answer_fails_is_a_dead_letter_and_the_next_one_is_taken(
    probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(probe) as h:
        with monkeypatch.context() as patch:
            patch.setattr("consumer.engine.supervisor.answers.execute", lambda *a, **k: 1 / 0)
            await h.execute(package(step("a")))
        [dead] = h.log.records(Topic.DEAD_LETTER)
        assert dict(dead.headers)["wpk-reason"] == b"internal"
        assert dead.value is not None
        assert b"probing" in dead.value
        assert h.journal.offsets[CommandTopic.EXECUTE] > 0
        await h.execute(package(step("a")))
        assert (await h.over()).status is Status.COMPLETED


async def test_a_record_with_nothing_in_it_is_a_dead_letter_that_can_be_written(probe: Any) -> None:
    async with house(probe) as h:
        content = Unreadable(reason="empty", detail="nothing")
        await (await h.supervisor.take(h.partition, incoming(content)))

    [dead] = h.log.records(Topic.DEAD_LETTER)
    assert (dead.key, dead.value) == (None, b"")


async def test_the_same_command_again_while_it_runs_changes_nothing(probe: Any) -> None:
    async with house(probe) as h:
        wpk = package(step("a", {"wait": True}))
        await h.execute(wpk)
        await h.runs("a")
        await h.execute(wpk)
        await h.execute(package(step("other")))
        probe.seen["e1"].release["a"].set()
        state = await h.over()

    assert state.status is Status.COMPLETED
    assert h.names().count("command.duplicate") == 1
    assert h.names().count("command.rejected") == 1
    assert probe.seen["e1"].effects == ["run a 1"]


async def test_a_rollback_by_force_cancels_what_runs_and_undoes_it(probe: Any) -> None:
    async with house(probe) as h:
        await h.execute(package(step("a", {"capture": "old"}), step("b", {"wait": True})))
        await h.runs("b")
        await h.rollback(requested_by="bob")
        await h.rollback(requested_by="bob", force=True, dry_run=True)
        assert h.names().count("command.rejected") == 2
        await h.rollback(requested_by="bob", force=True, reason="wrong")
        state = await h.over()

    assert state.status is Status.ROLLED_BACK
    assert state.rollback is not None
    assert (state.rollback.trigger, state.rollback.requested_by) == ("command", "bob")
    assert probe.seen["e1"].effects[-1] == "undo a to old"


async def test_the_content_of_a_command_is_what_it_says_however_it_is_spaced(probe: Any) -> None:
    spaced = ExecuteCommand(execution_id="e1", workflow_id="w", requested_by=" alice ")
    plain = ExecuteCommand(execution_id="e2", workflow_id="w", requested_by="alice")
    assert spaced.content_digest() == plain.content_digest()


# --- packages that are run again and again ---


@pytest.mark.parametrize("given", [False, True], ids=["in the package", "in the parameters"])
@pytest.mark.parametrize(
    ("first", "second"),
    [(1, 1.0), ({"a": 1, "b": 2}, {"b": 2, "a": 1})],
    ids=["numbers that are equal", "names in another order"],
)
async def test_an_execution_runs_its_own_package_though_another_had_the_same_digest(
    probe: Any, first: Any, second: Any, given: bool
) -> None:
    async with house(probe) as h:
        for execution_id, value in (("e1", first), ("e2", second)):
            parameters = {"properties": {"value": {"default": None if given else value}}}
            wpk = package(step("a", {"output": "it is ${parameters.value}"}), parameters=parameters)
            await h.execute(wpk, execution_id, parameters={"value": value} if given else {})
            await h.over(execution_id)

    assert h.kept("e1").wpk_digest == h.kept("e2").wpk_digest
    assert h.kept("e2").steps["a"].output == {"value": f"it is {json.dumps(second, separators=(',', ':'))}"}
