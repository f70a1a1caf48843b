"""Whatever happens to an execution, and in whatever order, its history is a legal one and comes to an end."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumer.workflow import approvals, graph
from consumer.workflow.approvals import ANYBODY, Quorum
from consumer.workflow.attempts import MAX_INTERRUPTIONS, Failed, Outcome, Stopped, Succeeded
from schemas import events, snapshot
from schemas.commands import ControlCommand, ExecuteCommand, RollbackCommand
from schemas.events import Event, Status
from schemas.execution import Approval, ExecutionState, StepStatus, apply
from schemas.failure import Failure
from schemas.trail import Trail, select
from schemas.wpk import WorkflowPackage
from tests.support.simulator import START, Simulator

LEGAL: dict[Status | None, set[Status]] = {
    None: {Status.PENDING, Status.REJECTED},
    Status.PENDING: {
        Status.AWAITING_APPROVAL,
        Status.RUNNING,
        Status.FAILED,
        Status.CANCELLED,
        Status.REJECTED,
        Status.COMPLETED,
    },
    Status.AWAITING_APPROVAL: {Status.PENDING, Status.FAILED, Status.CANCELLED, Status.REJECTED},
    Status.RUNNING: {Status.COMPLETED, Status.FAILED, Status.CANCELLED},
    Status.COMPLETED: {Status.ROLLING_BACK},
    Status.FAILED: {Status.ROLLING_BACK},
    Status.CANCELLED: {Status.ROLLING_BACK},
    Status.ROLLING_BACK: {Status.ROLLED_BACK, Status.ROLLBACK_FAILED},
    Status.ROLLBACK_FAILED: {Status.ROLLING_BACK},
    Status.ROLLED_BACK: set(),
    Status.REJECTED: set(),
}
RUN_RESULTS = (events.ExecutionCompleted, events.ExecutionFailed, events.ExecutionCancelled, events.ExecutionRejected)
ROLLBACK_RESULTS = (events.ExecutionRolledBack, events.ExecutionRollbackFailed)

names = ["a", "b", "c", "d", "e"]
PLAN, OTHER_PLAN = (f"sha256:{digit * 64}" for digit in "ab")
TWO_OF_THREE = (Quorum(name="leads", needed=2, members=frozenset({"bob", "carol", "alice"})),)


@st.composite
def handlers(draw: st.DrawFn, prefix: str = "") -> list[dict[str, Any]]:
    count = draw(st.integers(1, 5))
    is_graph = draw(st.booleans())
    made: list[dict[str, Any]] = []
    for index in range(count):
        handler: dict[str, Any] = {
            "name": prefix + names[index],
            "type": "probe",
            "config": {},
            "retry": {"max_attempts": draw(st.integers(1, 3)), "backoff": draw(st.sampled_from(["0s", "5s"]))},
            "on_failure": draw(st.sampled_from(["stop", "stop", "continue"])),
        }
        if interrupt := draw(st.sampled_from([None, "retry", "fail"])):
            handler["on_interrupt"] = interrupt
        if is_graph:
            before = [each["name"] for each in made]
            handler["needs"] = draw(st.lists(st.sampled_from(before), unique=True, max_size=2)) if before else []
        made.append(handler)
    return made


@st.composite
def packages(draw: st.DrawFn) -> WorkflowPackage:
    rollback: dict[str, Any] = {"enabled": draw(st.booleans())}
    if draw(st.booleans()):
        rollback["handlers"] = draw(handlers("undo-"))
    return WorkflowPackage.model_validate(
        {
            "metadata": {"name": "w", "version": "1.0.0"},
            "spec": {
                "safety": {
                    "approval_required": draw(st.sampled_from([False, False, True])),
                    "rollback_enabled": draw(st.sampled_from([True, True, False])),
                },
                "handlers": draw(handlers()),
                "rollback": rollback,
            },
        }
    )


def an_outcome(data: st.DataObject, stopping: bool) -> Outcome:
    if stopping:
        return data.draw(st.sampled_from([Stopped(reason="told to"), Succeeded(output={"late": True})]))
    retryable = Failed(failure=Failure(type="flaky", message="again", retryable=True), output={"n": 1})
    permanent = Failed(failure=Failure(type="broken", message="no"))
    strange = Stopped(reason="nobody told it to")
    fine = [Succeeded(output={"v": 1}), Succeeded(output=None)]
    return data.draw(st.sampled_from([*fine, *fine, retryable, retryable, permanent, strange]))


def something_happens(sim: Simulator, data: st.DataObject, command: ExecuteCommand) -> None:
    kinds = ["outcome"] * 6 + ["capture", "clock", "owner", "control", "rollback", "again", "stale", "back"]
    match data.draw(st.sampled_from(kinds)):
        case "outcome" if sim.running:
            (phase, name), attempt = data.draw(st.sampled_from(sorted(sim.running.items())))
            sim.outcome(phase, name, attempt, an_outcome(data, (phase, name) in sim.told_to_stop))
        case "capture" if sim.running:
            sim.capture(*data.draw(st.sampled_from(sorted(sim.running))))
        case "clock":
            sim.now += timedelta(seconds=data.draw(st.sampled_from([1, 10, 400, 4000])))
        case "back":
            sim.now -= timedelta(seconds=3)
        case "owner":
            repeatable, in_order = data.draw(st.booleans()), data.draw(st.booleans())
            sim.change_owner(repeatable=repeatable, in_order=in_order)
        case "control":
            action = data.draw(st.sampled_from(["approve", "approve", "reject", "cancel"]))
            who = data.draw(st.sampled_from(["alice", "bob", "carol", "dave", None]))
            plan = data.draw(st.sampled_from([None, PLAN, OTHER_PLAN])) if action == "approve" else None
            sim.command(ControlCommand(execution_id="e1", action=action, requested_by=who, digest=plan))
        case "rollback":
            dry, force = data.draw(st.booleans()), data.draw(st.booleans())
            sim.command(RollbackCommand(execution_id="e1", dry_run=dry, force=force))
        case "again":
            other = data.draw(st.booleans())
            sim.command(command.model_copy(update={"labels": {"other": "yes"}}) if other else command)
        case "stale" if sim.known.steps:
            step = data.draw(st.sampled_from(sorted(sim.known.steps)))
            attempt = sim.known.steps[step].attempt - 1
            before = sim.known.steps[step]
            sim.outcome("run", step, attempt, Succeeded(output={"stale": True}))
            assert sim.known.steps[step] == before
        case _:
            return
    sim.settle()


def bring_to_an_end(sim: Simulator, data: st.DataObject) -> None:
    """All that runs gets its outcome, and time goes on: then it must end by itself."""
    for _ in range(200):
        sim.settle()
        if sim.known.over:
            return
        if sim.running:
            (phase, name), attempt = next(iter(sim.running.items()))
            sim.outcome(phase, name, attempt, an_outcome(data, (phase, name) in sim.told_to_stop))
        else:
            assert sim.wake_at is not None, "it waits for nothing"
            sim.now = max(sim.now, sim.wake_at)
    raise AssertionError(f"it is stuck: {sim.known}")


def simulated(package: WorkflowPackage, data: st.DataObject) -> Simulator:
    skipped = data.draw(st.sets(st.sampled_from([*names, "undo-a", "undo-b"]), max_size=2))
    quorums = data.draw(st.sampled_from([ANYBODY, TWO_OF_THREE, (*TWO_OF_THREE, *ANYBODY)]))
    sim = Simulator(package=package, false_conditions=frozenset(skipped), quorums=quorums)
    command = ExecuteCommand(
        execution_id="e1",
        workflow_id="w-1.0.0",
        dry_run=data.draw(st.sampled_from([False, False, False, True])),
        requested_by="alice",
        deadline=data.draw(st.sampled_from([None, None, START + timedelta(minutes=5)])),
    )
    sim.command(command)
    sim.settle()
    for _ in range(data.draw(st.integers(0, 25))):
        something_happens(sim, data, command)
    bring_to_an_end(sim, data)
    return sim


quick = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(package=packages(), data=st.data())
def test_every_history_is_legal_and_ends(package: WorkflowPackage, data: st.DataObject) -> None:
    sim = simulated(package, data)
    history = sim.events

    assert_chain(sim.trail)
    assert_statuses(sim.states)
    assert_one_result_per_run(history)
    assert_steps(history, package)
    assert_bounded(history)
    assert_approvals(history, sim)
    times = [event.time for event in history]
    assert times == sorted(times)
    for event in history:
        duration = getattr(event.data, "duration", None)
        assert duration is None or duration >= 0


@quick
@given(package=packages(), data=st.data())
def test_what_is_kept_is_what_was_decided(package: WorkflowPackage, data: st.DataObject) -> None:
    sim = simulated(package, data)

    assert snapshot.load(sim.topic) == {"e1": sim.known}
    assert set(sim.topic) <= set(snapshot.keys(sim.known))
    folded: ExecutionState | None = None
    for event in sim.events:
        folded = apply(folded, event)
    assert folded is not None
    assert folded.model_copy(update={"undo": sim.known.undo}) == sim.known


@quick
@given(package=packages(), data=st.data())
def test_a_reader_of_shuffled_repeated_and_stale_records_sees_the_same(
    package: WorkflowPackage, data: st.DataObject
) -> None:
    sim = simulated(package, data)
    history = sim.events
    stale = [
        event.model_copy(
            update={"data": event.data.model_copy(update={"attempt_epoch": event.data.attempt_epoch - 1, "hash": "x"})}
        )
        for event in data.draw(st.lists(st.sampled_from(history), max_size=4))
    ]
    doubled = data.draw(st.lists(st.sampled_from(history), max_size=4))
    arriving = data.draw(st.permutations([*history, *stale, *doubled]))
    trail = Trail()
    for event in arriving:
        trail.add(event)

    assert select(arriving) == history
    assert trail.events == history
    assert trail.state is not None
    assert trail.state.model_copy(update={"undo": sim.known.undo}) == sim.known


def assert_chain(trail: list[bytes]) -> None:
    before = ""
    for number, value in enumerate(trail, start=1):
        data = events.decode(value).data
        assert data.seq == number
        assert data.prev_hash == before
        assert data.hash == events.chain_hash(value)
        before = data.hash


def assert_statuses(states: list[ExecutionState]) -> None:
    before: ExecutionState | None = None
    for state in states:
        was = before.status if before else None
        planned = before is not None and before.rollback is not None and before.rollback.dry_run
        if state.status is not was:
            back = planned and was is Status.ROLLING_BACK and state.status is (before and before.rollback.previous)  # type: ignore[union-attr]
            assert back or (state.status in LEGAL[was]), f"{was} → {state.status}"
        before = state


def assert_one_result_per_run(history: list[Event]) -> None:
    own = [
        event
        for event in history
        if isinstance(event.data, RUN_RESULTS)
        and not (isinstance(event.data, events.ExecutionRejected) and event.data.command)
    ]
    assert len(own) == 1
    begun = [event for event in history if isinstance(event.data, events.ExecutionRollingBack)]
    ended = [event for event in history if isinstance(event.data, ROLLBACK_RESULTS)]
    assert len(begun) == len(ended)
    follows = getattr(own[0].data, "rollback_follows", False)
    after = [event for event in history if event.data.seq == own[0].data.seq + 1]
    assert follows == bool(after and isinstance(after[0].data, events.ExecutionRollingBack) and follows)


def assert_bounded(history: list[Event]) -> None:
    """No attempt is begun again when it has taken as many owners with it as it may; hand-overs do not count."""
    losses: Counter[tuple[str, str, int]] = Counter()
    running: dict[tuple[str, str], int] = {}
    for event in history:
        data = event.data
        if isinstance(data, events.ExecutionResumed) and not data.handed_over:
            losses.update((*key, attempt) for key, attempt in running.items())
        elif isinstance(data, events.StepStarted):
            running[data.phase, data.step] = data.attempt
            assert losses[data.phase, data.step, data.attempt] < MAX_INTERRUPTIONS
        elif isinstance(data, events.StepEvent) and not isinstance(data, events.StepCaptured):
            running.pop((data.phase, data.step), None)
        elif isinstance(data, events.ExecutionRollingBack):
            losses.clear()  # a rollback that is tried again begins anew


def assert_approvals(history: list[Event], sim: Simulator) -> None:
    """Nothing that asks for approvals begins without enough of them, by different people, none of whom asked for it."""
    given: list[Approval] = []
    waits = False
    for event in history:
        match event.data:
            case events.ExecutionAwaitingApproval():
                waits = True
            case events.ExecutionApprovalGiven() | events.ExecutionApproved() as data:
                assert data.approved_by != "alice"
                assert all(not each.is_of(data.approved_by, None) for each in given), "one person counted twice"
                given.append(Approval(by=data.approved_by, plan_digest=data.plan_digest))
                missing = approvals.missing(sim.quorums, given)
                assert (missing is None) == isinstance(data, events.ExecutionApproved)
            case events.ExecutionStarted():
                assert not waits or approvals.missing(sim.quorums, given) is None
    assert len({each.plan_digest for each in given} - {None}) <= 1, "they approved different plans"


def assert_steps(history: list[Event], package: WorkflowPackage) -> None:
    """No step starts before its needs or after the stop, none more often than it may, none twice in one attempt."""
    run = {handler.name: handler for handler in package.spec.handlers}
    order = graph.build(package.spec.handlers)
    ended: dict[str, str] = {}
    attempts: dict[str, int] = {}
    stopped = False
    for event in history:
        data = event.data
        if isinstance(data, events.ExecutionCancelling):
            stopped = True
        if not isinstance(data, events.StepEvent) or data.phase != "run":
            continue
        handler = run[data.step]
        if isinstance(data, events.StepStarted):
            again = attempts.get(data.step) == data.attempt
            assert again or data.attempt == attempts.get(data.step, 0) + 1
            assert data.attempt <= handler.retry.max_attempts
            assert data.step not in ended
            assert again or not stopped, "a new attempt began after the stop"
            for need in order.needs[data.step]:
                fine = ("succeeded",) if not order.sequence else ("succeeded", "skipped", "continued")
                assert ended[need] in fine
            attempts[data.step] = data.attempt
        elif isinstance(data, events.StepSucceeded | events.StepFailed | events.StepSkipped | events.StepCancelled):
            assert data.step not in ended, "a step ends once"
            continued = isinstance(data, events.StepFailed) and data.continued
            ended[data.step] = "continued" if continued else event.name.removeprefix("step.")
            if isinstance(data, events.StepFailed) and not continued:
                stopped = True


def test_a_forced_rollback_of_a_run_that_left_nothing_says_so_instead_of_claiming_an_undo() -> None:
    package = WorkflowPackage.model_validate(
        {"metadata": {"name": "w"}, "spec": {"handlers": [{"name": "a", "type": "probe", "config": {}}]}}
    )
    sim = Simulator(package=package)
    sim.command(ExecuteCommand(execution_id="e1", workflow_id="w"))
    sim.settle()
    sim.command(RollbackCommand(execution_id="e1", force=True))
    sim.settle()
    assert sim.told_to_stop == {("run", "a")}
    sim.outcome("run", "a", 1, Stopped(reason="told to"))
    sim.settle()

    assert sim.known.status is Status.CANCELLED
    assert sim.known.steps["a"].status is StepStatus.CANCELLED
    assert "nothing is undone" in (sim.known.error_message or "")


def test_a_dry_run_of_a_rollback_cancels_nothing_that_runs() -> None:
    package = WorkflowPackage.model_validate(
        {"metadata": {"name": "w"}, "spec": {"handlers": [{"name": "a", "type": "probe", "config": {}}]}}
    )
    sim = Simulator(package=package)
    sim.command(ExecuteCommand(execution_id="e1", workflow_id="w"))
    sim.settle()
    sim.command(RollbackCommand(execution_id="e1", force=True, dry_run=True))
    sim.settle()

    assert sim.known.cancel is None
    assert not sim.told_to_stop
    assert sim.events[-2].name == "command.rejected"


def test_a_run_whose_last_step_succeeds_is_complete_although_its_deadline_passes_meanwhile() -> None:
    package = WorkflowPackage.model_validate(
        {"metadata": {"name": "w"}, "spec": {"handlers": [{"name": "a", "type": "probe", "config": {}}]}}
    )
    sim = Simulator(package=package)
    sim.command(ExecuteCommand(execution_id="e1", workflow_id="w", timeout="5s"))
    sim.settle()
    sim.now += timedelta(seconds=6)
    sim.outcome("run", "a", 1, Succeeded(output=None))
    sim.settle()

    assert sim.known.status is Status.COMPLETED


def running(**handler: Any) -> Simulator:
    """An execution whose only step is at work."""
    step = {"name": "a", "type": "probe", "config": {}, **handler}
    spec = {"handlers": [step], "safety": {"rollback_enabled": False}}
    sim = Simulator(package=WorkflowPackage.model_validate({"metadata": {"name": "w"}, "spec": spec}))
    sim.command(ExecuteCommand(execution_id="e1", workflow_id="w"))
    sim.settle()
    return sim


@given(orders=st.lists(st.booleans(), max_size=8))
def test_an_attempt_survives_any_number_of_hand_overs_and_only_so_many_losses(orders: list[bool]) -> None:
    sim = running(on_interrupt="retry")
    for in_order in orders:
        sim.change_owner(repeatable=True, in_order=in_order)
    sim.settle()

    error = sim.known.steps["a"].error
    if orders.count(False) < MAX_INTERRUPTIONS:
        assert sim.known.steps["a"].status is StepStatus.RUNNING
        assert sim.known.steps["a"].interruptions == orders.count(False)
    else:
        assert error is not None
        assert (error.type, sim.known.status) == ("interrupted", Status.FAILED)
        assert f"lost {MAX_INTERRUPTIONS} times" in error.message
        assert "look at what it was to change" in error.message


def test_losses_of_owners_that_had_not_made_the_attempt_again_do_not_count() -> None:
    sim = running()
    sim.change_owner(repeatable=True)
    for _ in range(10):
        sim.change_owner(repeatable=True, again=False)
    assert sim.known.steps["a"].interruptions == 2
    sim.change_owner(repeatable=True)
    assert sim.known.steps["a"].status is StepStatus.RUNNING


def test_the_next_attempt_has_its_own_count_of_losses() -> None:
    sim = running(retry={"max_attempts": 2, "backoff": "0s"})
    for _ in range(MAX_INTERRUPTIONS - 1):
        sim.change_owner(repeatable=True)
    sim.outcome("run", "a", 1, Failed(failure=Failure(type="flaky", message="again", retryable=True)))
    sim.settle()
    assert (sim.known.steps["a"].attempt, sim.known.steps["a"].interruptions) == (2, 0)


def test_a_pause_survives_any_number_of_losses() -> None:
    sim = running(type="delay", config={"duration": "1h"})
    for _ in range(3 * MAX_INTERRUPTIONS):
        sim.change_owner(repeatable=True)
    assert sim.known.steps["a"].status is StepStatus.RUNNING
