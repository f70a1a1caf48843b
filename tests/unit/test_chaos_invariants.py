"""Each invariant of the chaos suite finds what it is there for, in a history in which nothing is wrong otherwise."""

from __future__ import annotations

import asyncio
import importlib
import json
import math
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos import history as histories
from tests.chaos import kinds, marks, rehearsal
from tests.chaos import published as books
from tests.chaos.history import EVENTS, ROLES, STATE, Place, Record
from tests.chaos.invariants import RULES, late_marks, violations
from tests.chaos.jcs import canonical, event_hash
from tests.chaos.rehearsal import Rehearsal
from tests.chaos.rules.owners import OFFSETS, OWNER
from tests.chaos.view import Event, Mode, View, Violation, parse

Json = dict[str, Any]
Is = Callable[[Event], object]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    """A history of every kind of event, with a crash in it, that keeps all promises."""
    sys.path.insert(0, str(marks.PLUGIN))
    try:
        module = importlib.import_module("wpk_mark")
        yield asyncio.run(rehearsal.rehearse(tmp_path_factory.mktemp("marks"), module))
    finally:
        sys.path.remove(str(marks.PLUGIN))


class Spoiled:
    """A history that a test makes wrong."""

    def __init__(self, healthy: Rehearsal) -> None:
        self.all = rehearsal.copy(healthy)
        self.history = self.all.history

    def found(self, mode: Mode = "exactly_once") -> set[str]:
        return {each.name for each in violations(self.history, self.all.marks, self.all.published, mode)}

    def found_by(self, invariant: str) -> list[Violation]:
        return list(RULES[invariant](View(self.history, self.all.marks, self.all.published, "exactly_once")))

    # --- records ---

    def replace(self, record: Record, **changes: Any) -> None:
        records = self.history.records[record.role, record.partition]
        records[records.index(record)] = replace(record, **changes)

    def drop(self, record: Record) -> None:
        self.history.records[record.role, record.partition].remove(record)

    def repeat(self, record: Record, **changes: Any) -> None:
        """The record once more, at the end of its topic."""
        place = record.role, record.partition
        self.history.records[place].append(replace(record, offset=self.history.ends[place], **changes))
        self.history.ends[place] += 1
        self.history.stable[place] += 1

    # --- events ---

    def events(self, kind: str = "") -> list[Event]:
        """In the order of executions and numbers."""
        found = [parse(record) for record in self.history.of(*EVENTS)]
        return sorted(
            (event for event in found if event.execution.startswith(kind)), key=lambda e: (e.execution, e.seq)
        )

    def event(self, kind: str, name: str, **data: Any) -> Event:
        """The first of that name, with these fields."""
        return next(e for e in self.events(kind) if e.name == name and data.items() <= e.data.items())

    def rewrite(self, kind: str, change: Callable[[Json], None]) -> None:
        """Changes the events of an execution, and makes their chain whole again: what a liar would do."""
        events = self.events(kind)
        assert len({event.execution for event in events}) == 1
        before = ""
        for event in events:
            change(event.raw)
            data = event.raw["data"]
            event.raw["id"] = f"{data['execution_id']}/{data['seq']}/{data['attempt_epoch']}"
            data["prev_hash"] = before
            before = data["hash"] = event_hash(event.raw)
            self.replace(event.record, value=json.dumps(event.raw).encode())

    def forget(self, event: Event) -> None:
        """Takes the event away, renumbers those after it, and makes the chain whole again."""
        self.drop(event.record)

        def closer(raw: Json) -> None:
            raw["data"]["seq"] -= raw["data"]["seq"] > event.seq

        self.rewrite(event.execution, closer)

    # --- what else there is ---

    def plan(self, kind: str) -> books.Plan:
        return next(plan for plan in self.all.published.plans.values() if plan.kind == kind)

    def replan(self, kind: str, **changes: Any) -> None:
        plan = self.plan(kind)
        self.all.published.plans[plan.number] = replace(plan, **changes)

    def mark(self, kind: str, **fields: Any) -> marks.Mark:
        return next(
            mark
            for mark in self.all.marks
            if mark.execution.startswith(f"{kind}-") and all(getattr(mark, name) == fields[name] for name in fields)
        )

    def remark(self, mark: marks.Mark, **changes: Any) -> None:
        self.all.marks[self.all.marks.index(mark)] = replace(mark, **changes)


def _edit(name: str, change: Callable[[Json], object], **only: Any) -> Callable[[Json], None]:
    """A change of the data of the events of that name."""

    def apply(raw: Json) -> None:
        if raw["type"] == f"wpk.{name}.v1" and only.items() <= raw["data"].items():
            change(raw["data"])

    return apply


def _swap_steps(first: str, second: str, phase: str) -> Callable[[Json], None]:
    names = {first: second, second: first}

    def apply(raw: Json) -> None:
        data = raw["data"]
        if data.get("phase") == phase and data.get("step") in names:
            data["step"] = names[data["step"]]

    return apply


SPOILERS: list[tuple[str, str, Callable[[Spoiled], object]]] = []


def spoils(invariant: str) -> Callable[[Callable[[Spoiled], object]], None]:
    """Makes the function a case of that invariant; its name says what is wrong."""

    def register(function: Callable[[Spoiled], object]) -> None:
        SPOILERS.append((invariant, function.__name__, function))

    return register


# --- contract 1: commands ---


@spoils("readers agree")
def one_reader_misses_a_record(it: Spoiled) -> None:
    others: dict[Place, list[Record]] = {place: list(records) for place, records in it.history.records.items()}
    others["events.progress", 0].pop(3)
    it.history.disagreements = histories.compare(it.history, others, "the other")


@spoils("acknowledged is there")
def an_acknowledged_command_is_gone(it: Spoiled) -> None:
    it.drop(it.history.records["commands.execute", 0][2])


@spoils("acknowledged is there")
def an_acknowledged_command_is_another(it: Spoiled) -> None:
    it.replace(it.history.records["commands.execute", 0][2], value=b"{}")


@spoils("command answered once")
def a_command_is_passed_over(it: Spoiled) -> None:
    it.drop(it.event("duplicates", "command.duplicate").record)


@spoils("command answered once")
def a_cancelled_wait_answers_nobody(it: Spoiled) -> None:
    it.drop(it.event("approval_refused", "execution.rejected").record)


@spoils("command answered once")
def a_dead_letter_is_written_twice(it: Spoiled) -> None:
    it.repeat(it.history.records["dead-letter", 0][0])


@spoils("command answered once")
def a_command_is_answered_wrongly(it: Spoiled) -> None:
    number, command = next(iter(it.all.published.commands.items()))
    it.all.published.commands[number] = replace(command, answers=("rejected",))


@spoils("command answered once")
def what_was_never_sent_is_answered(it: Spoiled) -> None:
    it.rewrite("chain", _edit("execution.accepted", lambda data: data["source"].update(offset=999)))


@spoils("first command accepted")
def the_later_of_two_commands_is_accepted(it: Spoiled) -> None:
    later = it.event("conflict", "command.rejected").data["source"]["offset"]
    it.rewrite("conflict", _edit("execution.accepted", lambda data: data["source"].update(offset=later)))


@spoils("dead letter whole")
def a_dead_letter_is_cut(it: Spoiled) -> None:
    it.replace(it.history.records["dead-letter", 0][0], value=b"cut")


@spoils("dead letter whole")
def a_dead_letter_does_not_say_whence(it: Spoiled) -> None:
    it.replace(it.history.records["dead-letter", 0][0], headers=())


@spoils("nothing unasked")
def another_package_runs(it: Spoiled) -> None:
    it.rewrite("chain", _edit("execution.accepted", lambda data: data["command"].update(wpk_content={})))


@spoils("nothing unasked")
def a_stranger_runs(it: Spoiled) -> None:
    it.remark(it.all.marks[0], execution="stranger")


@spoils("events readable")
def an_event_is_garbage(it: Spoiled) -> None:
    it.replace(it.event("chain", "step.started").record, value=b"{")


@spoils("events readable")
def an_event_is_under_anothers_key(it: Spoiled) -> None:
    it.replace(it.event("chain", "step.started").record, key=b"other")


@spoils("readers agree")
def one_reader_misses_the_newest_state(it: Spoiled) -> None:
    others = dict(it.history.records)
    others[STATE, 0] = others[STATE, 0][:-1]
    it.history.disagreements = histories.compare(it.history, others, "the other")


@spoils("readers agree")
def one_reader_sees_another_value(it: Spoiled) -> None:
    others = dict(it.history.records)
    first, *rest = others["events.results", 0]
    others["events.results", 0] = [replace(first, value=b"{}"), *rest]
    it.history.disagreements = histories.compare(it.history, others, "the other")


# --- contract 4: trails ---


@spoils("seq without gap")
def an_event_is_missing(it: Spoiled) -> None:
    it.drop(it.event("chain", "step.started").record)


@spoils("fold takes all")
def the_fold_stops_before_the_end(it: Spoiled) -> None:
    it.drop(it.event("graph", "step.started").record)


@spoils("seq once")
def an_event_is_there_twice(it: Spoiled) -> None:
    it.repeat(it.event("chain", "step.succeeded").record)


@spoils("hash chain")
def an_event_is_altered(it: Spoiled) -> None:
    event = it.event("chain", "step.succeeded")
    event.raw["data"]["output"] = {"forged": True}
    it.replace(event.record, value=json.dumps(event.raw).encode())


@spoils("hash chain")
def an_event_is_altered_and_hashed_again(it: Spoiled) -> None:
    event = it.event("chain", "step.succeeded")
    event.raw["data"]["output"] = {"forged": True}
    event.raw["data"]["hash"] = event_hash(event.raw)
    it.replace(event.record, value=json.dumps(event.raw).encode())


@spoils("time goes on")
def time_goes_back(it: Spoiled) -> None:
    def earlier(raw: Json) -> None:
        if raw["type"] == "wpk.execution.completed.v1":
            raw["time"] = "2020-01-01T00:00:00.000Z"

    it.rewrite("chain", earlier)


@spoils("log order")
def events_lie_in_another_order(it: Spoiled) -> None:
    first, second = it.event("chain", "execution.started").record, it.event("chain", "step.started").record
    it.replace(first, value=second.value)
    it.replace(second, value=first.value)


@spoils("one result")
def a_run_ends_twice(it: Spoiled) -> None:
    event = it.event("chain", "execution.completed")
    event.raw["data"]["seq"] += 1
    it.repeat(event.record, value=json.dumps(event.raw).encode())


@spoils("one result")
def something_happens_after_the_end(it: Spoiled) -> None:
    event = it.event("chain", "step.started")
    event.raw["data"]["seq"] = it.events("chain")[-1].seq + 1
    it.repeat(event.record, value=json.dumps(event.raw).encode())


@spoils("dry stays dry")
def a_dry_run_changes_something(it: Spoiled) -> None:
    it.remark(it.all.marks[0], execution=it.plan("dry").execution_id)


@spoils("expected end")
def an_execution_is_stuck(it: Spoiled) -> None:
    it.drop(it.event("chain", "execution.completed").record)


@spoils("expected end")
def a_rollback_is_stuck(it: Spoiled) -> None:
    it.drop(it.event("undone_by_handlers", "execution.rolled_back").record)


@spoils("expected end")
def an_execution_ends_as_it_should_not(it: Spoiled) -> None:
    it.replan("chain", statuses=("failed",))


@spoils("expected end")
def nothing_is_told_of_an_execution(it: Spoiled) -> None:
    for event in it.events("chain"):
        it.drop(event.record)


# --- contract 3: steps ---


@spoils("attempts in order")
def an_attempt_is_left_out(it: Spoiled) -> None:
    it.rewrite("chain", _edit("step.started", lambda data: data.update(attempt=2)))


@spoils("attempts in order")
def a_step_ends_without_a_start(it: Spoiled) -> None:
    it.forget(it.event("chain", "step.started"))


@spoils("attempts in order")
def an_attempt_begins_twice_under_one_owner(it: Spoiled) -> None:
    def again(raw: Json) -> None:
        if raw["type"] == "wpk.step.succeeded.v1" and raw["data"]["step"] == "s1":
            raw["type"] = "wpk.step.started.v1"

    it.rewrite("chain", again)


@spoils("order of dependencies")
def a_step_does_not_wait_for_the_one_before(it: Spoiled) -> None:
    it.rewrite("goes_on", _swap_steps("s1", "s3", "run"))


@spoils("order of dependencies")
def a_step_does_not_wait_for_what_it_needs(it: Spoiled) -> None:
    it.rewrite("graph", _swap_steps("first", "last", "run"))


@spoils("undone in reverse")
def what_was_done_first_is_undone_first(it: Spoiled) -> None:
    it.rewrite("undone_later", _swap_steps("s1", "s2", "rollback"))


@spoils("rollback where it must")
def a_run_fails_and_is_not_rolled_back(it: Spoiled) -> None:
    it.rewrite("undone_by_handlers", _edit("execution.failed", lambda data: data.update(rollback_follows=False)))


@spoils("rollback where it must")
def a_run_is_rolled_back_that_nobody_wanted_to_be(it: Spoiled) -> None:
    it.rewrite("on_interrupt_fail", _edit("execution.failed", lambda data: data.update(rollback_follows=True)))


@spoils("rollback where it must")
def a_rollback_is_refused_although_there_is_something_to_undo(it: Spoiled) -> None:
    def refused(raw: Json) -> None:
        if raw["type"] == "wpk.execution.rolling_back.v1":
            raw["type"] = "wpk.command.rejected.v1"
            raw["data"]["command"] = "rollback"

    it.rewrite("undone_later", refused)


@spoils("takeover told")
def a_new_owner_does_not_say_that_it_goes_on(it: Spoiled) -> None:
    it.forget(it.event("on_interrupt_retry", "execution.resumed"))


@spoils("takeover told")
def a_new_owner_overlooks_what_is_in_doubt(it: Spoiled) -> None:
    it.rewrite("on_interrupt_retry", _edit("execution.resumed", lambda data: data.update(in_doubt=[])))


def _on_interrupt(it: Spoiled, kind: str, how: str) -> None:
    package = json.loads(json.dumps(it.plan(kind).package))
    for handler in package["spec"]["handlers"]:
        handler["on_interrupt"] = how
    it.replan(kind, package=package)


@spoils("interrupted where it must")
def a_step_is_interrupted_that_may_be_repeated(it: Spoiled) -> None:
    _on_interrupt(it, "on_interrupt_fail", "retry")


@spoils("interrupted where it must")
def a_step_is_repeated_that_may_not_be(it: Spoiled) -> None:
    _on_interrupt(it, "on_interrupt_retry", "fail")


@spoils("interrupted where it must")
def a_step_is_interrupted_without_a_doubt(it: Spoiled) -> None:
    it.rewrite("on_interrupt_fail", _edit("execution.resumed", lambda data: data.update(in_doubt=[])))


@spoils("run in order")
def a_step_runs_that_was_not_planned(it: Spoiled) -> None:
    it.rewrite("chain", _edit("execution.started", lambda data: data.update(steps=[])))


# --- contract 2: owners ---


@spoils("epoch never falls in a trail")
def an_older_owner_goes_on(it: Spoiled) -> None:
    it.rewrite("on_interrupt_retry", _edit("execution.completed", lambda data: data.update(attempt_epoch=0)))


@spoils("no fenced owner seen")
def a_fenced_owner_writes_an_event(it: Spoiled) -> None:
    it.repeat(it.event("chain", "step.succeeded").record)


@spoils("no fenced owner seen")
def a_fenced_owner_writes_state(it: Spoiled) -> None:
    old = next(r for r in it.history.records[STATE, 0] if r.header("epoch") == "0" and r.key != OFFSETS)
    it.repeat(old)


@spoils("epoch has a claim")
def an_owner_never_claimed(it: Spoiled) -> None:
    it.drop([r for r in it.history.records[STATE, 0] if r.key == OWNER][-1])


@spoils("epoch has a claim")
def an_owner_writes_under_anothers_claim(it: Spoiled) -> None:
    it.rewrite("chain", _edit("step.succeeded", lambda data: data.update(agent="other")))


@spoils("claims follow each other")
def a_claim_overlooks_another(it: Spoiled) -> None:
    claim = [r for r in it.history.records[STATE, 0] if r.key == OWNER][-1]
    it.replace(claim, value=json.dumps({**json.loads(claim.value or b""), "after": None}).encode())


@spoils("no open transaction")
def a_transaction_hangs(it: Spoiled) -> None:
    it.history.stable["events.progress", 0] -= 1


# --- effects ---


@spoils("effect after durable start")
def a_step_took_effect_that_was_never_begun(it: Spoiled) -> None:
    it.drop(it.event("chain", "step.started").record)


@spoils("effect after durable start")
def a_step_took_effect_for_an_owner_that_did_not_begin_it(it: Spoiled) -> None:
    it.remark(it.mark("chain"), epoch=5)


@spoils("effect after durable start")
def a_step_took_effect_before_it_was_begun(it: Spoiled) -> None:
    mark = it.mark("chain")
    it.remark(mark, time=mark.time - 60)


@spoils("effect once")
def a_step_took_effect_twice_under_one_owner(it: Spoiled) -> None:
    it.all.marks.append(it.mark("chain"))


@spoils("effect once")
def a_step_that_may_not_be_repeated_took_effect_under_two_owners(it: Spoiled) -> None:
    it.all.marks.append(replace(it.mark("on_interrupt_fail"), epoch=500))


@spoils("success had an effect")
def a_step_succeeded_without_an_effect(it: Spoiled) -> None:
    it.all.marks.remove(it.mark("chain"))


@spoils("success had an effect")
def a_step_succeeded_by_the_effect_of_another_owner(it: Spoiled) -> None:
    newest = max(mark.epoch for mark in it.all.marks)
    it.all.marks.remove(it.mark("on_interrupt_retry", epoch=newest))


@spoils("success had an effect")
def a_step_succeeded_before_its_effect(it: Spoiled) -> None:
    mark = it.mark("chain")
    it.remark(mark, time=mark.time + 60)


@spoils("effects in order")
def a_step_took_effect_before_the_one_before(it: Spoiled) -> None:
    it.remark(it.mark("goes_on", step="s3"), line=-1)


@spoils("effects in order")
def a_step_took_effect_before_what_it_needs(it: Spoiled) -> None:
    it.remark(it.mark("graph", step="last"), line=-1)


# --- state ---


def _head(it: Spoiled, kind: str) -> Record:
    key = str(it.plan(kind).execution_id).encode()
    return [record for record in it.history.records[STATE, 0] if record.key == key][-1]


@spoils("state is the fold")
def the_state_lags_behind(it: Spoiled) -> None:
    head = _head(it, "chain")
    it.replace(head, value=json.dumps({**json.loads(head.value or b""), "seq": 2}).encode())


@spoils("state is the fold")
def the_state_forgets_an_execution(it: Spoiled) -> None:
    for record in [r for r in it.history.records[STATE, 0] if r.key == _head(it, "chain").key]:
        it.drop(record)


@spoils("state is the fold")
def the_state_knows_what_nobody_told(it: Spoiled) -> None:
    it.repeat(_head(it, "chain"), key=b"stranger")


@spoils("offsets agree")
def the_group_lags_behind(it: Spoiled) -> None:
    it.history.committed["commands.execute", 0] -= 1


@spoils("offsets agree")
def the_state_has_other_offsets(it: Spoiled) -> None:
    last = [record for record in it.history.records[STATE, 0] if record.key == OFFSETS][-1]
    it.repeat(last, value=b'{"commands.execute": 1}')


# --- the tests ---


@pytest.mark.parametrize("mode", ["exactly_once", "at_least_once"])
def test_nothing_is_found_where_every_promise_was_kept(healthy: Rehearsal, mode: Mode) -> None:
    assert violations(healthy.history, healthy.marks, healthy.published, mode) == []


def test_the_healthy_history_has_what_the_invariants_are_about(healthy: Rehearsal) -> None:
    events = [parse(record) for record in healthy.history.of(*EVENTS)]
    named = {event.name for event in events}
    assert {"execution.resumed", "step.captured", "step.skipped", "step.retrying", "command.duplicate"} <= named
    assert any(e.name == "step.failed" and e.data["error"]["type"] == "interrupted" for e in events)
    assert len({event.epoch for event in events}) == 2


@pytest.mark.parametrize(
    ("invariant", "spoil"), [(name, spoil) for name, _, spoil in SPOILERS], ids=[case for _, case, _ in SPOILERS]
)
def test_an_invariant_finds_what_it_is_there_for(
    healthy: Rehearsal, invariant: str, spoil: Callable[[Spoiled], object]
) -> None:
    it = Spoiled(healthy)
    assert it.found_by(invariant) == []
    spoil(it)
    assert [violation.name for violation in it.found_by(invariant)][:1] == [invariant]


def test_every_invariant_is_shown_to_find_something() -> None:
    assert {name for name, _, _ in SPOILERS} == set(RULES)


@pytest.mark.parametrize("kind", ["chain", "on_interrupt_retry"])
def test_what_a_fenced_owner_still_wrote_is_ignored_at_least_once(healthy: Rehearsal, kind: str) -> None:
    """The weaker promise: readers take the highest epoch, and one record per number."""
    it = Spoiled(healthy)
    stale = it.event(kind, "step.started")
    stale.raw["data"] |= {"attempt_epoch": -1, "agent": "tester"}
    if kind == "on_interrupt_retry":
        stale.raw["data"]["seq"] = it.event(kind, "execution.resumed").seq
        stale.raw["data"]["attempt_epoch"] = 0
    stale.raw["id"] = "/".join(str(stale.raw["data"][name]) for name in ("execution_id", "seq", "attempt_epoch"))
    it.repeat(stale.record, value=json.dumps(stale.raw).encode())
    assert "no fenced owner seen" in it.found("exactly_once")
    assert "seq once" in it.found("exactly_once")
    assert it.found("at_least_once") <= {"epoch has a claim"}


@pytest.mark.parametrize("kind", ["chain", "unknown"])
def test_what_has_its_end_may_be_forgotten_where_agents_forget(healthy: Rehearsal, kind: str) -> None:
    it = Spoiled(healthy)
    for record in [r for r in it.history.records[STATE, 0] if r.key == _head(it, kind).key]:
        it.drop(record)
    assert violations(it.history, it.all.marks, it.all.published, "exactly_once", forgets=True) == []
    assert it.found() == {"state is the fold"}


def test_what_waits_may_not_be_forgotten(healthy: Rehearsal) -> None:
    it = Spoiled(healthy)
    for record in [r for r in it.history.records[STATE, 0] if r.key == str(it.plan("waits").execution_id).encode()]:
        it.drop(record)
    found = violations(it.history, it.all.marks, it.all.published, "exactly_once", forgets=True)
    assert [violation.name for violation in found] == ["state is the fold"]


def test_compaction_may_come_between_the_two_readings(healthy: Rehearsal) -> None:
    newest = {record.key: record for record in healthy.history.records[STATE, 0]}
    others = dict(healthy.history.records)
    others[STATE, 0] = [record for record in others[STATE, 0] if newest[record.key] is record]
    assert len(others[STATE, 0]) < len(healthy.history.records[STATE, 0])
    assert histories.compare(healthy.history, others, "the other") == []


def test_a_dead_letter_may_be_repeated_at_least_once(healthy: Rehearsal) -> None:
    it = Spoiled(healthy)
    it.repeat(it.history.records["dead-letter", 0][0])
    assert it.found("at_least_once") == set()


def test_an_effect_of_an_owner_that_was_replaced_is_counted_and_no_violation(healthy: Rehearsal) -> None:
    it = Spoiled(healthy)
    assert late_marks(it.history, it.all.marks, it.all.published, "exactly_once") == []
    again = it.event("on_interrupt_retry", "step.started", attempt_epoch=max(mark.epoch for mark in it.all.marks))
    mark = it.mark("on_interrupt_retry", epoch=0, step=again.data["step"])
    it.remark(mark, time=mark.time + 600)
    late = late_marks(it.history, it.all.marks, it.all.published, "exactly_once")
    assert [each.attempt_key for each in late] == [mark.attempt_key]
    assert it.found() == set()


def test_a_rule_that_meets_what_it_did_not_expect_says_so(healthy: Rehearsal) -> None:
    """A malformed history is no healthy one."""
    it = Spoiled(healthy)
    it.rewrite("chain", _edit("step.started", lambda data: data.pop("phase")))
    told = violations(it.history, it.all.marks, it.all.published, "exactly_once")
    assert any("it can't be judged: KeyError" in violation.message for violation in told)


def test_what_was_kept_is_judged_alike(healthy: Rehearsal, tmp_path: Path) -> None:
    """The files are what a violation is looked at with, days later."""
    histories.save(healthy.history, tmp_path / "history.jsonl")
    again = histories.load(tmp_path / "history.jsonl")
    assert list(again.of(*ROLES)) == list(healthy.history.of(*ROLES))
    assert (again.ends, again.stable, again.committed) == (
        healthy.history.ends,
        healthy.history.stable,
        healthy.history.committed,
    )
    book = books.Published(file=tmp_path / "published.jsonl")
    for plan in healthy.published.plans.values():
        book.plan(plan)
    for command in healthy.published.commands.values():
        book.command(command)
    for acknowledged in healthy.published.acknowledged:
        book.acknowledge(acknowledged)
    book.close()
    loaded = books.load(tmp_path / "published.jsonl")
    assert (loaded.plans, loaded.commands) == (healthy.published.plans, healthy.published.commands)
    assert violations(again, healthy.marks, loaded, "exactly_once") == []


def test_the_load_is_a_function_of_its_seed(tmp_path: Path) -> None:
    first = [kinds.draw(number, 7, tmp_path) for number in range(600)]
    assert first == [kinds.draw(number, 7, tmp_path) for number in range(600)]
    assert first != [kinds.draw(number, 8, tmp_path) for number in range(600)]
    assert {drawn.plan.kind for drawn in first} == set(kinds.KINDS)


def _double(bits: int) -> float:
    value: float = struct.unpack("d", struct.pack("Q", bits))[0]
    return value if math.isfinite(value) else 0.0


_VALUES = st.none() | st.booleans() | st.text() | st.lists(st.integers(-(2**53) + 1, 2**53 - 1))


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2**64 - 1).map(_double))
def test_numbers_are_written_as_the_standard_has_them(number: float) -> None:
    assert canonical(number) == rfc8785.dumps(number).decode()


@given(st.dictionaries(st.text(), _VALUES))
def test_documents_are_written_as_the_standard_has_them(document: Json) -> None:
    assert canonical(document) == rfc8785.dumps(document).decode()
