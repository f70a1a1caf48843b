"""The journal dies at every possible moment, records are too large, our own code fails: what is durable stays true."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest

from consumer.engine import runner
from consumer.engine.incoming import Incoming, Unreadable
from consumer.engine.revealed import Revealed
from consumer.errors import OwnershipLost, TemporaryError
from consumer.ports import CommandTopic, Record, Topic
from consumer.workflow.attempts import MAX_INTERRUPTIONS
from schemas import events
from schemas.events import Source, Status
from schemas.execution import StepStatus
from tests.support import engine_house
from tests.support.engine_house import PATIENCE, House, house, load, package, probe_module, step
from tests.support.eventually import eventually
from tests.support.memory_journal import MemoryJournal

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    return probe_module(monkeypatch)


class Watchful:
    """The probe's steps; each effect is noted with whether its start was durable at that moment."""

    name = "probe"

    def __init__(self, probe: Any) -> None:
        self._probe = probe.build(None)
        self.house: House | None = None
        self.early: list[str] = []

    @property
    def config_model(self) -> Any:
        return self._probe.config_model

    def check(self, config: Any, scope: Any) -> Any:
        return self._probe.check(config, scope)

    def prepare(self, config: Any, scope: Any) -> Any:
        return WatchedAction(self, self._probe.prepare(config, scope))

    async def plan_undo(self, record: Any, context: Any) -> Any:
        return await self._probe.plan_undo(record, context)

    async def undo(self, record: Any, context: Any) -> Any:
        self.look(context)
        return await self._probe.undo(record, context)

    def look(self, context: Any) -> None:
        assert self.house is not None
        durable = [
            (event.data.step, event.data.phase, event.data.attempt, event.data.attempt_epoch)
            for event in self.house.events()
            if isinstance(event.data, events.StepStarted)
        ]
        if (context.step, context.phase, context.attempt, context.epoch) not in durable:
            self.early.append(f"{context.phase} {context.step} {context.attempt} {context.epoch}")


class WatchedAction:
    def __init__(self, adapter: Watchful, action: Any) -> None:
        self._adapter, self._action = adapter, action
        self.repeatable, self.time_limit = action.repeatable, action.time_limit

    async def plan(self, context: Any) -> Any:
        return await self._action.plan(context)

    async def run(self, context: Any) -> Any:
        self._adapter.look(context)
        return await self._action.run(context)


SEQUENCE = package(
    step("a", {"capture": "A", "repeatable": True, "lines": ["one"]}),
    step("b", {"fail_times": 1, "repeatable": True}, retry={"max_attempts": 3, "backoff": "1ms"}),
    step("once", {"output": {"n": 1}}),
    step("last", {"repeatable": True, "output": "${steps.once.output.n}"}),
    outputs={"n": "${steps.once.output.n}"},
)
UNDONE = package(
    step("a", {"capture": "A", "repeatable": True}),
    step("b", {"capture": "B", "repeatable": True}),
    step("fails", {"fail_times": 9, "permanent": True, "repeatable": True}),
    rollback={"enabled": True},
)
SIDE_BY_SIDE = package(
    step("root", {"repeatable": True}),
    step("left", {"capture": "L", "repeatable": True}, needs=["root"]),
    step("right", {"repeatable": True}, needs=["root"]),
    step("join", needs=["left", "right"]),
)
_LAST = 200


async def one_death(probe: Any, wpk: dict[str, Any], number: int, *, written: bool) -> bool:
    """Runs the package to its end although the append of that number fails; whether there was such an append."""
    probe.seen.clear()
    watchful = Watchful(probe)
    journal = MemoryJournal()
    journal.fail_at(number, written=written)
    async with house(probe, journal=journal, adapters={"probe": watchful}) as h:
        watchful.house = h
        try:
            await h.execute(wpk)
        except OwnershipLost:
            assert number == 1
        await eventually(lambda: not journal.alive or "e1" not in h.partition.live, timeout=PATIENCE)
        died = not journal.alive
        if died:
            await h.move()
        if CommandTopic.EXECUTE not in h.journal.offsets:
            await h.execute(wpk)  # it comes again: its offset is not durable
        state = await h.over()
        kept = h.kept()

    assert watchful.early == [], "an effect before its start was durable"
    results = [name for name in h.names() if name in ("execution.completed", "execution.failed")]
    assert len(results) == 1
    epochs = [
        events.decode(record.value).data.attempt_epoch
        for batch in h.log.batches
        for record in batch.records
        if record.topic is not Topic.STATE and record.value is not None
    ]
    assert epochs == sorted(epochs), "a dead owner wrote"
    effects = Counter(probe.seen["e1"].effects)
    assert all(times <= 2 for times in effects.values())
    assert effects["run once 1"] <= 1
    assert effects["run join 1"] <= 1
    for name, captured in (("a", "run a 1"), ("b", "run b 1"), ("left", "run left 1")):
        if effects[captured] and "capture" in str(handler(wpk, name)):
            assert name in kept.undo
    assert kept.model_copy(update={"undo": {}}) == state.model_copy(update={"undo": {}})
    if state.error is not None and state.error.type == "interrupted":
        assert died
        assert state.steps[state.error.step or ""].status is StepStatus.FAILED
    elif wpk is UNDONE:
        assert state.status is Status.ROLLED_BACK
        assert effects["undo a to A"] >= 1
        assert effects["undo b to B"] >= 1
    else:
        assert state.status is Status.COMPLETED
    return died


def handler(wpk: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((each for each in wpk["spec"]["handlers"] if each["name"] == name), None)


@pytest.mark.parametrize("written", [False, True], ids=["lost", "only the answer lost"])
@pytest.mark.parametrize("wpk", [SEQUENCE, UNDONE, SIDE_BY_SIDE], ids=["sequence", "undone", "side by side"])
async def test_a_successor_goes_on_truthfully_whichever_append_the_journal_dies_at(
    probe: Any, wpk: dict[str, Any], written: bool
) -> None:
    for number in range(1, _LAST):
        if not await one_death(probe, wpk, number, written=written):
            assert number > 5, "so few appends can't have been a whole run"
            return
    raise AssertionError("it appends without end")


async def test_an_interrupted_step_is_repeated_or_not_as_the_package_says_over_the_adapter(probe: Any) -> None:
    wpk = package(
        step("safe", {"wait": True, "repeatable": True}, on_interrupt="fail", on_failure="continue"),
        step("unsafe", {"wait": True}, on_interrupt="retry"),
        step("end", needs=["unsafe"]),
    )
    async with house(probe) as h:
        await h.execute(wpk)
        await eventually(lambda: len(probe.seen["e1"].effects) == 2, timeout=PATIENCE)
        await h.move()
        await eventually(lambda: probe.seen["e1"].effects.count("run unsafe 1") == 2, timeout=PATIENCE)
        probe.seen["e1"].release["unsafe"].set()
        state = await h.over()

    assert state.status is Status.COMPLETED
    assert probe.seen["e1"].effects.count("run safe 1") == 1
    error = state.steps["safe"].error
    assert error is not None
    assert error.type == "interrupted"


async def test_a_repeatable_step_whose_secret_is_away_at_a_take_over_says_so_and_is_tried_again(
    probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = [0]

    async def fetch(self: Any, names: Any) -> Mapping[str, str]:
        if away[0]:
            away[0] -= 1
            raise TemporaryError("the secret KEY can't be read: the mount is not there yet", code="secret_unreadable")
        return {"KEY": "value-of-the-secret"}

    monkeypatch.setattr(engine_house.Secrets, "__call__", fetch)
    config = {"wait": True, "repeatable": True, "output": "${secrets.KEY}"}
    again = {"max_attempts": 2, "backoff": "0s", "jitter": False}
    async with house(probe, secrets={"KEY": "x"}) as h:
        await h.execute(package(step("a", config, retry=again)))
        await eventually(lambda: probe.seen["e1"].effects == ["run a 1"], timeout=PATIENCE)
        away[0] = 2  # asked of what kind the step is, and in the attempt itself
        await h.move()
        await eventually(lambda: "run a 2" in probe.seen["e1"].effects, timeout=PATIENCE)
        probe.seen["e1"].release["a"].set()
        state = await h.over()
    retrying = [event.data for event in h.events() if event.name == "step.retrying"]
    assert [each.error.type for each in retrying if isinstance(each, events.StepRetrying)] == ["secret_unreadable"]
    assert state.status is Status.COMPLETED


async def test_a_step_that_turns_out_not_to_be_repeatable_once_its_secret_is_known_is_not_made_again(
    probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets: dict[str, str] = {"KEY": "value-of-the-secret"}

    async def fetch(self: Any, names: Any) -> Mapping[str, str]:
        return dict(secrets)

    def repeatable(action: Any) -> bool:
        return action.config.output != "value-of-the-secret"

    monkeypatch.setattr(engine_house.Secrets, "__call__", fetch)
    monkeypatch.setattr(probe.ProbeAction, "repeatable", property(repeatable))
    async with house(probe, secrets=secrets) as h:
        await h.execute(package(step("a", {"wait": True, "output": "${secrets.KEY}"})))
        await eventually(lambda: probe.seen["e1"].effects == ["run a 1"], timeout=PATIENCE)

        async def not_yet(self: Revealed, handler: Any) -> None:
            """When it is asked of what kind the step is, the secret is not known."""

        monkeypatch.setattr(Revealed, "complete", not_yet)
        await h.move()
        state = await h.over()
    assert [each for each in probe.seen["e1"].effects if each.startswith("run ")] == ["run a 1"]
    error = state.steps["a"].error
    assert error is not None
    assert error.type == "interrupted"


async def test_a_pause_before_the_next_attempt_survives_its_owner(probe: Any) -> None:
    flaky = step("a", {"fail_times": 1}, retry={"max_attempts": 2, "backoff": "1h", "jitter": False})
    async with house(probe) as h:
        await h.execute(package(flaky))
        waiting = await h.until(lambda state: state.steps and state.steps["a"].status is StepStatus.RETRYING)
        await h.move()
        resumed = await h.until(lambda state: state.epoch == 2)
        assert resumed.steps["a"].retry_at == waiting.steps["a"].retry_at

        h.clock.shift = timedelta(hours=2)
        h.partition.live["e1"].changed.set()
        state = await h.over()

    assert state.status is Status.COMPLETED
    assert probe.seen["e1"].effects == ["run a 1", "run a 2"]


async def test_an_approval_that_is_waited_for_survives_its_owner(probe: Any) -> None:
    async with house(probe) as h:
        await h.execute(package(step("a"), safety={"approval_required": True}), requested_by="alice")
        await h.until(lambda state: state.status is Status.AWAITING_APPROVAL)
        await h.move()
        await h.control("approve", requested_by="bob")
        state = await h.over()

    assert state.status is Status.COMPLETED
    assert h.names().count("execution.awaiting_approval") == 1


async def test_a_package_that_cannot_be_read_again_ends_its_execution(probe: Any) -> None:
    async with house(probe) as h:
        await h.execute(package(step("a", {"wait": True})))
        await h.runs("a")
        journal = h.journal.successor()
        await h.supervisor.drop(h.partition)
        states = load(journal.log)
        broken = states["e1"].model_copy(update={"command": {"wpk_content": {"nothing": 1}}})
        h.journal, h.partition = journal, await h.supervisor.adopt(journal, [("e1", broken)])
        state = await h.over()
        result = h.events("e1")[-1].data

    assert state.status is Status.FAILED
    assert state.error is not None
    assert state.error.type == "internal"
    assert state.steps["a"].status is StepStatus.FAILED
    assert isinstance(result, events.ExecutionFailed)
    assert [(report.step, report.status) for report in result.steps] == [("a", "failed")]


async def test_a_defect_of_the_engine_ends_the_execution_and_leaves_the_others_alone(
    probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(probe) as h:
        await h.execute(package(step("a", {"wait": True})), "other")
        await h.runs("a", "other")
        with monkeypatch.context() as patch:
            patch.setattr(runner.attempts, "end", lambda *args, **kwargs: 1 / 0)
            await h.execute(package(step("a")))
            state = await h.over()
        probe.seen["other"].release["a"].set()
        other = await h.over("other")

    assert (state.status, state.error and state.error.type) == (Status.FAILED, "internal")
    assert other.status is Status.COMPLETED


class SmallJournal(MemoryJournal):
    """Refuses records that are larger than the topics take, at once, as the real one does."""

    limit = 1_000_000

    def append(self, records: Sequence[Record], offsets: Mapping[CommandTopic, int] | None = None) -> Awaitable[None]:
        for record in records:
            if len(record.value or b"") > self.limit:
                raise ValueError(f"a record of {record.topic} is too large")
        return super().append(records, offsets)


async def test_a_result_that_is_too_large_for_its_record_ends_the_run_as_failed_without_a_gap(probe: Any) -> None:
    journal = SmallJournal()
    journal.limit = 20_000
    async with house(probe, journal=journal, max_output_bytes=100_000) as h:
        await h.execute(package(step("a"), outputs={"all": "y" * 15_000, "more": "z" * 9000}))
        refused = await eventually(lambda: h.log.records(Topic.DEAD_LETTER), timeout=PATIENCE)
        assert len(refused) == 1  # the command itself does not fit: it is in the dead letters, not half accepted
        assert h.state() is None

        journal.limit = 40_000
        wpk = package(step("a", {"output": "${p}"}), outputs={"x": "${p}", "y": "${p}", "z": "${p}"})
        await h.execute(wpk, parameters={"p": "x" * 15_000})
        state = await h.over()
        assert h.kept().status is Status.FAILED

    assert (state.status, state.error and state.error.type) == (Status.FAILED, "internal")
    assert state.steps["a"].status is StepStatus.SUCCEEDED


async def test_a_dead_letter_that_is_too_large_is_kept_in_part_and_the_partition_goes_on(probe: Any) -> None:

    journal = SmallJournal()
    async with house(probe, journal=journal) as h:
        record = Incoming(
            topic=CommandTopic.EXECUTE,
            source=Source(topic="t", partition=0, offset=3),
            content=Unreadable(reason="too_large", detail="it is"),
            key=b"k",
            value=b"v" * 2_000_000,
        )
        await (await h.supervisor.take(h.partition, record))

    [dead] = journal.log.records(Topic.DEAD_LETTER)
    assert dead.value == b"v" * 16_384
    assert b"2000000" in dict(dead.headers)["wpk-truncated"]
    assert journal.offsets == {CommandTopic.EXECUTE: 4}


async def test_a_package_as_large_as_it_may_be_fits_with_every_step_failed(probe: Any) -> None:
    steps = [
        step(f"{'n' * 40}-{number}", {"fail_times": 1, "permanent": True}, on_failure="continue")
        for number in range(300)
    ]
    async with house(probe, journal=SmallJournal()) as h:
        await h.execute(package(*steps))
        state = await h.over()

    assert state.status is Status.COMPLETED
    assert {each.status for each in state.steps.values()} == {StepStatus.FAILED}


async def test_a_task_that_is_cancelled_before_its_first_step_still_has_its_end(
    probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cancel comes in the same turn of the loop in which the attempt's task was made."""
    launch = runner.Runner._launch

    async def launch_and_stop(self: Any, group: asyncio.TaskGroup) -> None:
        await launch(self, group)
        self._execution.stage(events.ExecutionCancelling(cause="command"))
        self._stop(tuple(name for _, name in self._tasks), "run")

    monkeypatch.setattr(runner.Runner, "_launch", launch_and_stop)
    async with house(probe) as h:
        await h.execute(package(step("a")))
        state = await h.over()

    assert state.status is Status.CANCELLED
    assert state.steps["a"].status is StepStatus.CANCELLED
    assert probe.seen["e1"].effects == []


async def test_an_adapter_that_cancels_itself_fails_its_step(probe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cancelled(self: Any, context: Any) -> Any:
        raise asyncio.CancelledError

    monkeypatch.setattr(probe.ProbeAction, "run", cancelled)
    async with house(probe) as h:
        await h.execute(package(step("a"), step("b")))
        state = await h.over()

    assert (state.status, state.error and state.error.type) == (Status.FAILED, "internal")
    assert state.steps["b"].status is StepStatus.PENDING


async def interrupted_again(h: House, times: int) -> None:
    """Waits until the step has been begun so many times."""
    await eventually(lambda: h.names().count("step.started") == times, timeout=PATIENCE)


async def test_an_attempt_that_takes_owner_after_owner_with_it_is_given_up(probe: Any) -> None:
    async with house(probe) as h:
        await h.execute(package(step("a", {"wait": True, "repeatable": True})))
        for times in range(1, MAX_INTERRUPTIONS + 1):
            await interrupted_again(h, times)
            await h.move()
        state = await h.over()

    error = state.steps["a"].error
    assert error is not None
    assert (state.status, error.type) == (Status.FAILED, "interrupted")
    assert probe.seen["e1"].effects.count("run a 1") == MAX_INTERRUPTIONS


async def test_a_partition_that_is_handed_over_in_order_costs_its_steps_nothing(probe: Any) -> None:
    async with house(probe) as h:
        await h.execute(package(step("a", {"wait": True, "repeatable": True})))
        for times in range(1, 2 * MAX_INTERRUPTIONS):
            await interrupted_again(h, times)
            h.supervisor.hold(h.partition)
            await h.journal.append(())
            await h.move()
        probe.seen["e1"].release["a"].set()
        state = await h.over()

    assert state.status is Status.COMPLETED
    assert state.steps["a"].interruptions == 0
    resumed = [event.data for event in h.events() if isinstance(event.data, events.ExecutionResumed)]
    assert all(data.handed_over for data in resumed)


async def test_a_partition_that_came_back_from_a_rebalance_is_no_longer_handed_over(probe: Any) -> None:
    async with house(probe) as h:
        await h.execute(package(step("a", {"wait": True, "repeatable": True})))
        for times in range(1, MAX_INTERRUPTIONS + 1):
            await interrupted_again(h, times)
            h.supervisor.hold(h.partition)
            h.supervisor.resume(h.partition)
            await h.journal.append(())
            assert not h.kept().handing_over
            await h.move()
        state = await h.over()

    assert state.status is Status.FAILED


async def test_a_hold_leaves_no_note_where_nothing_is_at_work(probe: Any) -> None:
    async with house(probe) as h:
        await h.execute(package({"name": "pause", "type": "delay", "config": {"duration": "1h"}}), "pausing")
        await h.execute(package(step("a"), safety={"approval_required": True}), "waiting")
        await h.runs("pause", "pausing")
        await h.until(lambda state: state.status is Status.AWAITING_APPROVAL, "waiting")
        before = len(h.log.records(Topic.STATE))
        h.supervisor.hold(h.partition)
        await h.journal.append(())

    assert len(h.log.records(Topic.STATE)) == before


async def test_an_effect_waits_for_a_proof_of_ownership_if_its_preparation_took_long(
    probe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The secrets are fetched between the durable start and the effect; meanwhile the partition may go elsewhere."""

    class Slow(MemoryJournal):
        stale = False

        @property
        def fresh(self) -> bool:
            return self.alive and not self.stale

    journal = Slow()
    fetching, fetched = asyncio.Event(), asyncio.Event()

    async def fetch(self: Any, names: Any) -> Mapping[str, str]:
        fetching.set()
        await fetched.wait()
        return {"KEY": "value-of-the-secret"}

    monkeypatch.setattr(engine_house.Secrets, "__call__", fetch)
    async with house(probe, journal=journal, secrets={"KEY": "x"}) as h:
        await h.execute(package(step("a", {"output": "${secrets.KEY}"})))
        await fetching.wait()
        journal.stale = True
        journal.hold()
        fetched.set()
        for _ in range(50):
            await asyncio.sleep(0)
        assert probe.seen["e1"].effects == []
        journal.release()
        await h.over()

    assert probe.seen["e1"].effects == ["run a 1"]
