"""Who may approve, reject, cancel and undo: the decision table, and what becomes of approvals in the engine."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from consumer.policy import load, steering
from consumer.policy.judge import Policy
from consumer.policy.run import Run
from consumer.policy.steering import Sender
from consumer.workflow.documents import DocumentError
from schemas.commands import ControlCommand
from schemas.events import Status
from schemas.policy import Action
from tests.support.engine_house import House, house, package, probe_module, step

PLAN, OTHER = (f"sha256:{digit * 64}" for digit in "ab")
ALL = "rules: [{name: all, effect: allow}]\n"


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    return probe_module(monkeypatch)


def policy(text: str) -> Policy:
    return load.parse("version: 1\n" + text, "p.yaml")


RUN = Run(workflow="rotate-keys", requester="alice", labels={"team": "pay"})
ALICE, BOB, PROVEN_BOB = Sender(name="alice"), Sender(name="bob"), Sender(name="bob", key="bob-laptop")
ON_CALL = "commands: [{name: on-call, actions: [cancel, rollback], senders: [bob]}]"
OWN = "commands: [{name: own, actions: cancel, own: true}]"
APPROVERS = "requirements: [{name: leads, approvers: [bob]}]\n"

#: policy, the run, action, sender, whether it is allowed
TABLE: list[tuple[str, Run, Action, Sender, bool]] = [
    ("", RUN, "cancel", ALICE, True),  # without commands everybody may
    ("commands: []", RUN, "cancel", ALICE, False),
    ("commands: []", RUN, "approve", BOB, False),
    (ON_CALL, RUN, "cancel", BOB, True),
    (ON_CALL, RUN, "rollback", BOB, True),
    (ON_CALL, RUN, "reject", BOB, False),
    (ON_CALL, RUN, "cancel", ALICE, False),
    (ON_CALL, RUN, "cancel", Sender(name=None), False),
    (OWN, RUN, "cancel", ALICE, True),
    (OWN, RUN, "cancel", Sender(name="ALICE"), True),
    (OWN, RUN, "cancel", BOB, False),
    (OWN, Run(workflow="w", requester=None), "cancel", Sender(name=None), False),
    (OWN, Run(workflow="w", requester="alice", command_key="a"), "cancel", ALICE, False),  # the name alone is a claim
    (OWN, Run(workflow="w", requester="alice", command_key="a"), "cancel", Sender(name="alice", key="a"), True),
    ("commands: [{name: c, actions: cancel, workflows: rotate-*}]", RUN, "cancel", BOB, True),
    ("commands: [{name: c, actions: cancel, workflows: scale-*}]", RUN, "cancel", BOB, False),
    ("commands: [{name: c, actions: cancel, labels: {team: pay}}]", RUN, "cancel", BOB, True),
    ("commands: [{name: c, actions: cancel, labels: {team: pay}}]", Run(workflow=""), "cancel", BOB, False),
    ("commands: [{name: c, actions: cancel, when: request.requester == 'alice'}]", RUN, "cancel", BOB, True),
    ("commands: [{name: c, actions: cancel, when: request.labels.env == 'x'}]", RUN, "cancel", BOB, False),
    ("commands: [{name: c, actions: cancel, command_signature: required}]", RUN, "cancel", BOB, False),
    ("commands: [{name: c, actions: cancel, command_signature: required}]", RUN, "cancel", PROVEN_BOB, True),
    # who is named as an approver may approve and reject, and nobody else
    (APPROVERS, RUN, "approve", BOB, True),
    (APPROVERS, RUN, "reject", BOB, True),
    (APPROVERS, RUN, "reject", Sender(name="carol"), False),
    (APPROVERS, RUN, "reject", Sender(name=None), False),
    (APPROVERS, RUN, "reject", Sender(name=""), False),
    (APPROVERS, RUN, "cancel", Sender(name="carol"), True),
    (APPROVERS + "commands: []", RUN, "approve", BOB, True),
    (APPROVERS + "commands: []", RUN, "cancel", BOB, False),
    ("requirements: [{name: p, command_signature: required}]", RUN, "rollback", BOB, False),
    ("requirements: [{name: p, command_signature: required}]", RUN, "rollback", PROVEN_BOB, True),
]


@pytest.mark.parametrize(("text", "run", "action", "sender", "allowed"), TABLE)
def test_who_may_steer_a_run(text: str, run: Run, action: Action, sender: Sender, allowed: bool) -> None:
    refused = steering.refusal(policy(text), run, action, sender)
    assert (refused is None) is allowed, refused


def test_a_refusal_names_what_would_let_others() -> None:
    refused = steering.refusal(policy(ON_CALL), RUN, "cancel", ALICE)
    assert str(refused) == (
        "requested_by: no entry in commands of p.yaml lets alice cancel rotate-keys; such commands are allowed by "
        "on-call, but to others or signed only; ask for one that names them in senders"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("commands: [{name: c, actions: [run]}]", "actions"),
        ("commands: [{name: c, actions: []}]", "actions"),
        ("commands: [{name: c, actions: cancel, when: step.name == 'x'}]", 'no "step" here'),
        ("rules: [{name: c, effect: allow}]\ncommands: [{name: c, actions: cancel}]", "have the name c"),
        ("requirements: [{name: r, approvals: 0}]", "approvals"),
        ("requirements: [{name: r, approval_timeout: soon}]", "approval_timeout"),
    ],
)
def test_entries_that_can_not_be_meant_are_refused(text: str, told: str) -> None:
    with pytest.raises(DocumentError, match=told):
        policy(text)


# --- in the engine ---


def needing(conditions: str) -> Policy:
    return policy(ALL + "requirements: [{name: leads, approval: required, " + conditions + "}]")


async def asked(h: House, **more: Any) -> None:
    await h.execute(package(step("a")), requested_by="alice", **more)
    await h.until(lambda state: state.status is Status.AWAITING_APPROVAL)


def said(h: House) -> str:
    return h.events()[-1].data.error_message or ""  # type: ignore[attr-defined]


async def test_several_approvals_of_a_list_begin_the_run_and_each_is_in_the_trail(probe: Any) -> None:
    rules = needing("approvers: [bob, carol, dora], approvals: 2")
    async with house(probe, policy=rules) as h:
        await asked(h)
        waiting = h.events()[-1].data
        assert waiting.missing == "leads wants 2 approvals of bob, carol, dora"  # type: ignore[attr-defined]
        assert waiting.policy_digest == rules.digest  # type: ignore[attr-defined]
        for who in ("alice", "eve"):
            await h.control("approve", requested_by=who)
            assert "may not approve it" in said(h)
        await h.control("approve", requested_by="bob", reason="fine")
        await h.control("approve", requested_by="Bob")  # another writing is another name to the policy, so none of it
        await h.control("approve", requested_by="bob")
        assert h.names()[-1] == "command.duplicate"
        given = next(event.data for event in h.events() if event.name == "execution.approval_given")
        assert given.missing == "leads wants 1 more approval of bob, carol, dora"  # type: ignore[attr-defined]
        await h.move()  # the next owner knows who has approved
        await h.control("approve", requested_by="bob")
        assert h.names()[-1] == "command.duplicate"
        await h.control("approve", requested_by="dora")
        state = await h.over()
        assert (state.status, state.approved_by) == (Status.COMPLETED, "bob, dora")
        last = next(event.data for event in h.events() if event.name == "execution.approved")
        assert (last.approved_by, last.policy_digest) == ("dora", rules.digest)  # type: ignore[attr-defined]


async def test_each_requirement_wants_its_own_approvers(probe: Any) -> None:
    rules = policy(
        ALL + "requirements:\n  - {name: leads, approval: required, approvers: [bob, carol]}\n"
        "  - {name: security, approval: required, approvers: [eve]}"
    )
    async with house(probe, policy=rules) as h:
        await asked(h)
        for who in ("bob", "carol"):
            await h.control("approve", requested_by=who)
        assert h.names()[-2:] == ["execution.approval_given", "execution.approval_given"]
        assert (h.kept().approvals_missing) == "security wants 1 more approval of eve"
        await h.control("approve", requested_by="eve")
        assert (await h.over()).status is Status.COMPLETED


async def test_too_few_approvals_in_time_are_told_by_name(probe: Any) -> None:
    async with house(probe, policy=needing("approvals: 2, approval_timeout: 1h")) as h:
        await asked(h)
        await h.control("approve", requested_by="bob")
        h.clock.shift = timedelta(minutes=61)
        await h.move()
        state = await h.over()
    assert state.error is not None
    assert (state.status, state.error.type) == (Status.REJECTED, "approval_expired")
    assert "too few approved it in time: bob did, and leads wants 1 more approval" in (state.error_message or "")


async def test_an_approval_does_not_begin_a_run_after_its_time(probe: Any) -> None:
    """The owner is lost after the last approval became durable, and the next one comes late."""
    async with house(probe, policy=needing("approval_timeout: 1h")) as h:
        await asked(h)
        h.supervisor.hold(h.partition)
        task = next(iter(h.partition.tasks))
        task.cancel()  # the run has no loop any more, as if the process stood still before it went on
        await h.control("approve", requested_by="bob")
        assert h.kept().approved_by == "bob"
        h.clock.shift = timedelta(hours=2)
        await h.move()
        state = await h.over()
    assert state.status is Status.REJECTED
    assert "approved by bob, but did not begin within the time" in (state.error_message or "")
    assert "step.started" not in h.names()


async def test_approvals_that_were_enough_are_judged_again_before_the_run_begins(probe: Any) -> None:
    """The owner is lost after the last approval became durable, and the next one has another policy."""
    async with house(probe, policy=needing("approvers: [bob]")) as h:
        await asked(h)
        h.supervisor.hold(h.partition)
        next(iter(h.partition.tasks)).cancel()
        await h.control("approve", requested_by="bob")
        assert h.kept().approved_by == "bob"
        h.services.policy = needing("approvers: [carol]")
        await h.move()
        state = await h.over()
    assert state.error is not None
    assert (state.status, state.error.type) == (Status.REJECTED, "forbidden")
    assert "it was approved by bob, but by the policy of now leads wants 1 more approval of carol" in said(h)
    assert "step.started" not in h.names()


async def test_approvals_of_different_plans_are_not_added_up(probe: Any) -> None:
    async with house(probe, policy=needing("approvals: 2, plan_digest: required")) as h:
        await asked(h)
        await h.control("approve", requested_by="bob")
        assert "wants an approval to name the plan" in said(h)
        await h.control("approve", requested_by="bob", digest=PLAN)
        await h.control("approve", requested_by="carol", digest=OTHER)
        assert f"it approves the plan {OTHER}, and bob approved the plan {PLAN}" in said(h)
        assert h.kept().approved_plan == PLAN
        assert h.kept().status is Status.AWAITING_APPROVAL


async def test_a_rejection_is_an_approvers_too_and_counts_once(probe: Any) -> None:
    async with house(probe, policy=needing("approvers: [bob, carol], approvals: 2")) as h:
        await asked(h)
        for who, told in (("mallory", "mallory may not reject it"), (None, "somebody who gave no name may not reject")):
            await h.control("reject", requested_by=who)
            assert told in said(h)
        await h.control("approve", requested_by="bob")
        await h.control("reject", requested_by="carol", reason="not today")
        assert (await h.over()).status is Status.REJECTED
        for again in ("reject", "approve"):
            await h.control(again, requested_by="carol")
    names = h.names()
    assert names.count("execution.rejected") == 4  # two answers, the end, the answer to the late approval
    assert names[-3:] == ["command.duplicate", "command.rejected", "execution.rejected"]


async def test_a_cancel_and_a_rollback_that_the_policy_does_not_let_change_nothing(probe: Any) -> None:
    rules = policy(ALL + "commands: [{name: own, actions: [cancel, rollback], own: true}]")
    async with house(probe, policy=rules) as h:
        await h.execute(package(step("a", {"wait": True})), requested_by="alice")
        await h.runs("a")
        await h.control("cancel", requested_by="mallory")
        await h.rollback(requested_by="mallory", force=True)
        refusals = [event.data for event in h.events() if event.name == "command.rejected"]
        assert [each.policy_digest for each in refusals] == [rules.digest] * 2  # type: ignore[attr-defined]
        assert (h.state() or pytest.fail("no state")).cancel is None
        await h.control("cancel", requested_by="alice")
        assert (await h.over()).status is Status.CANCELLED


async def test_a_cancel_of_what_is_not_known_yet_is_kept_only_where_all_runs_may_be_cancelled(probe: Any) -> None:
    for text, kept in (
        ("[{name: own, actions: cancel, own: true}]", False),
        ("[{name: all-c, actions: cancel}]", True),
    ):
        async with house(probe, policy=policy(ALL + f"commands: {text}")) as h:
            cancel = ControlCommand(execution_id="e1", action="cancel", requested_by="mallory")
            await h.send(cancel, awaited=True)
            await h.execute(package(step("a")), requested_by="alice")
            assert (await h.over()).status is (Status.CANCELLED if kept else Status.COMPLETED)


async def test_an_undo_after_a_failure_asks_nobody(probe: Any) -> None:
    rules = policy(ALL + "commands: []")
    async with house(probe, policy=rules) as h:
        await h.execute(
            package(
                step("a", {"capture": "1"}), step("b", {"fail_times": 1, "permanent": True}), rollback={"enabled": True}
            ),
            requested_by="alice",
        )
        assert (await h.over()).status is Status.ROLLED_BACK
