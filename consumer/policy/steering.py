"""Who may approve, reject, cancel and undo a run: the policy's answer to the commands that are not for a run to begin.

What undoes itself after a failure asks nobody: it was decided with the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from consumer.policy import matching
from consumer.policy.judge import SIGNATURE_PATH, Policy
from consumer.policy.run import Run
from consumer.workflow.approvals import ANYBODY, Quorum
from schemas.failure import Problem
from schemas.policy import Action, CommandRule, Requirement

_WHO = "requested_by"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who sends a command."""

    name: str | None
    key: str | None = None
    """The policy's key that signed it; None: the name is a claim."""


def refusal(policy: Policy, run: Run, action: Action, sender: Sender) -> Problem | None:
    """Why the sender may not do that to the run; None where they may."""
    if policy.open:
        return None
    for each in policy.requirements(run):
        unproven = policy.unproven(each, sender.key)
        if unproven is not None:
            return Problem(path=SIGNATURE_PATH, message=unproven)
    lists = [each for each in policy.requirements(run) if each.approvers is not None]
    if action in ("approve", "reject") and lists:
        return _unless_approver(policy, lists, action, sender.name or "")
    entries = policy.file.commands
    if entries is None or any(_lets(each, run, action, sender) for each in entries):
        return None
    who = sender.name or "somebody who gave no name"
    near = [each.name for each in entries if action in each.actions and _about(each, run)]
    hint = f"; such commands are allowed by {', '.join(near[:5])}, but to others or signed only" if near else ""
    message = (
        f"no entry in commands of {policy.origin} lets {who} {action} {run.workflow or 'a run that is not known yet'}"
    )
    return Problem(path=_WHO, message=f"{message}{hint}; ask for one that names them in senders")


def _unless_approver(policy: Policy, lists: Sequence[Requirement], action: Action, who: str) -> Problem | None:
    if any(matching.fits(who, each.approvers or ()) for each in lists):
        return None
    first = lists[0]
    message = (
        f"{who or 'somebody who gave no name'} may not {action} it: the requirement {first.name} of {policy.origin} "
        f"names as approvers {', '.join(first.approvers or ())}"
    )
    others = "; ".join(f"{each.name} names {', '.join(each.approvers or ())}" for each in lists[1:])
    return Problem(path=_WHO, message=f"{message}; {others}" if others else message)


def _about(entry: CommandRule, run: Run) -> bool:
    return matching.applies(entry, run) and (
        entry.when is None or matching.condition_holds(entry.when, run.variables(), otherwise=False)
    )


def _lets(entry: CommandRule, run: Run, action: Action, sender: Sender) -> bool:
    if action not in entry.actions or not _about(entry, run):
        return False
    if entry.command_signature == "required" and sender.key is None:
        return False
    if entry.senders is None and not entry.own:
        return True
    named = entry.senders is not None and matching.fits(sender.name or "", entry.senders)
    return named or (entry.own and _is_own(run, sender))


def _is_own(run: Run, sender: Sender) -> bool:
    """By the same name; where the run's command was signed, by the same key too, as a name alone can be anybody's."""
    same = bool(sender.name) and (sender.name or "").casefold() == (run.requester or "").casefold()
    return same and (run.command_key is None or run.command_key == sender.key)


def quorums(policy: Policy, run: Run, people: Sequence[tuple[str, str | None]]) -> Sequence[Quorum]:
    """Whose approvals the run needs; of the people (with their keys) it is told who counts for each.

    A key that the policy has no more does not count, nor does who did not sign where signatures are required by now.
    """
    if policy.open:
        return ANYBODY
    found, known = [], {key.name for key in policy.file.command_keys}
    sound = [(who, key) for who, key in people if key is None or key in known]
    for each in policy.requirements(run):
        if each.approval == "optional" and each.approvers is None and each.approvals == 1:
            continue
        approvers = each.approvers
        members = frozenset(
            who
            for who, key in sound
            if (approvers is None or matching.fits(who, approvers)) and policy.unproven(each, key) is None
        )
        found.append(Quorum(name=each.name, needed=each.approvals, approvers=approvers, members=members))
    return found or (Quorum(name="the package", members=frozenset(who for who, _ in sound)),)


def without_plan(policy: Policy, run: Run) -> str | None:
    """Why an approval of that run must name a plan; None where it need not."""
    for each in policy.requirements(run):
        if each.plan_digest == "required":
            return (
                f"the requirement {each.name} of {policy.origin} wants an approval to name the plan that it approves: "
                "wpk approve --digest, with the digest that its dry run told"
            )
    return None


def patience(policy: Policy, run: Run, longest: float) -> float:
    """How long approvals are waited for (seconds)."""
    return min([longest, *(each.approval_timeout for each in policy.requirements(run) if each.approval_timeout)])
