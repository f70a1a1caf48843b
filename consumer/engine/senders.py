"""Who sent a command, and whether they may: asked before the command is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from consumer.client.partitions import partition_of
from consumer.engine import permits
from consumer.engine.incoming import Incoming, Understood
from consumer.engine.services import Services
from consumer.policy import command_signatures, steering
from consumer.policy.command_signatures import Proof, Signed
from consumer.policy.judge import SIGNATURE_PATH, Policy
from consumer.policy.run import Run
from consumer.policy.steering import Sender
from consumer.workflow.approvals import ANYBODY, Quorum
from schemas.commands import ControlCommand, ExecuteCommand
from schemas.events import EventData, Source, Status
from schemas.execution import ExecutionState
from schemas.failure import Problem
from schemas.policy import Action
from schemas.wpk import WorkflowPackage

_ASTRAY = (
    "a signed command counts only on the partition to which murmur2 of its key leads (the Java client's default "
    "partitioner), so that a copy on another one does not run anew; give the execution's id as key"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the policy says of a command before it is answered."""

    source: Source
    """With the name of the key that signed it."""
    problem: Problem | None = None
    """Why it is refused."""
    quorums: Sequence[Quorum] = ANYBODY
    """Whose approvals the run needs, where it is an approval."""


def judge(
    incoming: Incoming, content: Understood, state: ExecutionState | None, services: Services, *, awaited: bool
) -> Judged:
    """Looks at the command's signature, and asks the policy whether who sent it may. Computation only.

    `awaited`: the execution is not known yet, but its execute command seems to wait on the topic.

    Whether an execution may be run at all is judged when it is prepared (`permits`).
    """
    policy, command = services.policy, content.command
    proof = _proof(incoming, content, services)
    source = incoming.source.model_copy(update={"signed_by": proof.key}) if proof.key else incoming.source
    if proof.problem is not None:
        return Judged(source=source, problem=Problem(path=SIGNATURE_PATH, message=proof.problem))
    if policy.open or isinstance(command, ExecuteCommand):
        return Judged(source=source)
    run = _run(state, services, awaited=awaited)
    if run is None:
        return Judged(source=source)
    sender = Sender(name=command.requested_by, key=proof.key)
    action: Action = command.action if isinstance(command, ControlCommand) else "rollback"
    actions: list[Action] = [action]
    if action == "rollback" and state is not None and state.status is Status.RUNNING:
        actions.append("cancel")  # which it does first, by force
    refused = next((why for each in actions if (why := steering.refusal(policy, run, each, sender)) is not None), None)
    if refused is not None or not isinstance(command, ControlCommand) or action != "approve" or state is None:
        return Judged(source=source, problem=refused)
    unsound = _unsound(command, proof, state, policy, run)
    if unsound is not None:
        return Judged(source=source, problem=unsound)
    people = [*((given.by, given.key) for given in state.approvals), (command.requested_by or "", proof.key)]
    return Judged(source=source, quorums=steering.quorums(policy, run, people))


def _unsound(command: ControlCommand, proof: Proof, state: ExecutionState, policy: Policy, run: Run) -> Problem | None:
    """Why an approval by somebody who may approve can't be about this execution."""
    if proof.made_at is not None and state.accepted_at is not None and proof.made_at < state.accepted_at:
        early = "it was signed before this execution was accepted, so it can't be about it; look at it, and sign again"
        return Problem(path=SIGNATURE_PATH, message=early)
    unplanned = None if command.digest is not None else steering.without_plan(policy, run)
    return None if unplanned is None else Problem(path="digest", message=unplanned)


def _proof(incoming: Incoming, content: Understood, services: Services) -> Proof:
    if services.policy.open or not command_signatures.is_signed(incoming.headers):
        return Proof()
    file = services.policy.file
    proof = command_signatures.prove(
        file,
        Signed(topic=incoming.source.topic, execution_id=content.execution_id, key=incoming.key, value=incoming.value),
        incoming.headers,
        requester=content.command.requested_by,
        now=services.clock.now(),
        # What was signed by a clock ahead must be too old before its execution is forgotten.
        max_age=min(
            file.command_signatures.max_age,
            max(0.0, services.limits.state_retention - command_signatures.SKEW.total_seconds()),
        ),
    )
    return proof if proof.key is None or _at_home(incoming, services.partitions) else Proof(problem=_ASTRAY)


def _at_home(incoming: Incoming, partitions: int) -> bool:
    """Whether it lies where its key leads: an id is known on its own partition only, so a copy on another runs anew."""
    if not incoming.key or not partitions:
        return False
    return partition_of(incoming.key, partitions) == incoming.source.partition


def _run(state: ExecutionState | None, services: Services, *, awaited: bool) -> Run | None:
    """The run that the command is about; None where the command changes nothing, so that nobody need be asked.

    Of an execution that is not known yet nothing is known: only entries that are about all runs can fit.
    """
    if state is None or state.status is None:
        return Run(workflow="") if awaited else None
    if state.command is None:
        return None  # only its head is in memory: it has ended, and can't be steered any more
    try:
        package = WorkflowPackage.model_validate(state.command.get("wpk_content"))
    except (ValidationError, ValueError):
        name = state.workflow_name or ""
        return Run(workflow=name, requester=state.requested_by, labels=state.labels, command_key=state.command_key)
    run = permits.run_of(permits.asked_by(state), package, services.policy)[0]
    return replace(run, command_key=state.command_key)  # whose it is stays proven by that key only, or by none


def with_policy(drafts: Sequence[EventData], services: Services) -> list[EventData]:
    """The events with the digest of the policy by which they were decided."""
    digest = services.policy.digest or None
    fields = {"policy_digest": digest}
    return [
        draft.model_copy(update=fields) if digest and "policy_digest" in type(draft).model_fields else draft
        for draft in drafts
    ]
