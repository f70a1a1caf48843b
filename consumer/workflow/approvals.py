"""Whether the approvals of a run are enough: each requirement wants so many different people of its own list.

The lists are the policy's; what of them concerns a run is computed there and handed in as values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.commands import ControlCommand
from schemas.events import Source
from schemas.execution import Approval, ExecutionState


@dataclass(frozen=True, slots=True, kw_only=True)
class Quorum:
    """What one requirement wants."""

    name: str
    needed: int = 1
    approvers: tuple[str, ...] | None = None
    """Patterns of names, to be told; None: everybody."""
    members: frozenset[str] | None = None
    """Who of those that approve is one of them; None: everybody."""

    def missing(self, given: Sequence[Approval]) -> int:
        """How many more are needed."""
        counting = sum(self.members is None or each.by in self.members for each in given)
        return max(0, self.needed - counting)


#: What a package wants that asks for an approval itself.
ANYBODY = (Quorum(name="the package"),)


def missing(quorums: Sequence[Quorum], given: Sequence[Approval]) -> str | None:
    """What is still waited for, in words; None: nothing."""
    wanted = []
    for each in quorums:
        count = each.missing(given)
        if count:
            whose = f" of {', '.join(each.approvers)}" if each.approvers else ""
            more = "more " if given else ""
            wanted.append(f"{each.name} wants {count} {more}approval{'s' if count > 1 else ''}{whose}")
    return "; ".join(wanted) or None


def refusal(state: ExecutionState, command: ControlCommand, source: Source) -> str | None:
    """Why who sends the approval can't give it, whatever the policy says; None where they can."""
    who, key = command.requested_by, source.signed_by
    if not who:
        return "an approval must say by whom it is: give requested_by"
    if who.casefold() == (state.requested_by or "").casefold():
        return f"{who} asked for this execution and can't approve it; somebody else must"
    if key is not None and key == state.command_key:
        return f"the key {key} signed the command that asks for this execution, and can't approve it too"
    rehearsed = state.rehearsal.plan_digest if state.rehearsal else None
    if command.digest is not None and rehearsed is not None and command.digest != rehearsed:
        dry_run = state.rehearsal.execution_id if state.rehearsal else ""
        return (
            f"it approves the plan {command.digest}, but this execution's dry run {dry_run} planned {rehearsed}; look "
            "at that one"
        )
    named = state.approved_plan
    if command.digest is not None and named is not None and command.digest != named:
        first = next(given.by for given in state.approvals if given.plan_digest is not None)
        return (
            f"it approves the plan {command.digest}, and {first} approved the plan {named}; look at the plan again, "
            "and submit under a new id what all can approve"
        )
    return None
