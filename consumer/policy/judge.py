"""The policy at work: what it says of a run and of each of its steps.

A step is refused where a rule denies it, and where none allows it. What a step touches may be known only when its
values are in place, so that each is judged twice: before the run begins, and again before it acts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from consumer.policy import matching
from consumer.policy.matching import Match
from consumer.policy.run import Decision, Run, Step, Verdict
from consumer.ports import Facts
from consumer.workflow.facts import ANYTHING, Anything, Called
from consumer.workflow.scope import Unknown
from schemas.failure import Problem
from schemas.policy import PolicyFile, Requirement, Rule
from schemas.wpk import ResourceLimits, WorkflowPackage

_SHOWN = 120
#: Where the signature of a command is, for messages.
SIGNATURE_PATH = "headers.wpk-signature"


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstDryRun:
    """A dry run that must have been made before."""

    wanted_by: str
    """For messages."""
    within: float
    """How long before the command it may have ended (seconds)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A policy file in force."""

    file: PolicyFile
    origin: str
    """For messages: the file's path, or what it is else."""
    digest: str = ""
    """Of the file, for the trail; empty for a built-in policy."""
    open: bool = False
    """Everything is allowed."""

    # --- steps ---

    def judge(self, run: Run, step: Step, *, final: bool) -> Verdict:
        """The verdict on one step. `final`: its values are in place, so that what is open now is refused."""
        if self.open:
            return Verdict(decision=Decision.ALLOWED)
        verdicts = [self._entry(run, step, facts, final=final) for facts in step.facts]
        for decision in (Decision.REFUSED, Decision.LATER):
            if found := next((verdict for verdict in verdicts if verdict.decision is decision), None):
                return found
        rules = dict.fromkeys(rule for verdict in verdicts for rule in verdict.rules)
        return Verdict(decision=Decision.ALLOWED, rules=tuple(rules))

    def _entry(self, run: Run, step: Step, facts: Facts, *, final: bool) -> Verdict:
        found = [(rule, matching.of_step(rule, run, step, facts)) for rule in self.file.rules]
        denying = [(rule, match) for rule, match in found if rule.effect == "deny" and match is not Match.NO]
        for rule, match in denying:
            if match is Match.YES or final:
                return Verdict(decision=Decision.REFUSED, rules=(rule.name,), message=self._denied(rule, step, facts))
        allowing = [(rule, match) for rule, match in found if rule.effect == "allow" and match is not Match.NO]
        certain = [rule for rule, match in allowing if match is Match.YES]
        if not allowing or (final and not certain):
            return Verdict(decision=Decision.REFUSED, message=self._unallowed(run, step, facts))
        secret = _not_granted(step, certain)
        if secret is not None and len(certain) == len(allowing):
            return Verdict(decision=Decision.REFUSED, rules=_names(certain), message=self._secret(secret, step))
        if denying or not certain or secret is not None:
            undecided = _names([rule for rule, match in (*denying, *allowing) if match is Match.LATER])
            message = f"{step.place}: decided when its values are known, by {_listed(undecided)}"
            return Verdict(decision=Decision.LATER, rules=undecided, message=message)
        return Verdict(decision=Decision.ALLOWED, rules=_names(certain))

    def _denied(self, rule: Rule, step: Step, facts: Facts) -> str:
        why = f": {rule.reason}" if rule.reason else ""
        return f"the rule {rule.name} of {self.origin} denies {step.place} ({told(step, facts)}){why}"

    def _unallowed(self, run: Run, step: Step, facts: Facts) -> str:
        who = run.requester or "somebody who gave no name"
        said = (
            f"no rule of {self.origin} allows {step.place} ({told(step, facts)}) in {run.workflow}, asked for by {who}"
        )
        near = [rule for rule in self.file.rules if matching.would_allow(rule, run, step, facts)]
        if near:
            why = "to other runs (see its requesters, signed_by, …)"
            if all(matching.applies(rule, run) for rule in near):
                why = "to signed commands only: send it with --sign-key"
            said += f"; such steps are allowed by {_listed(_names(near))}, but {why}"
        unsure = sorted(name for name, fact in facts.items() if isinstance(fact, Anything | Unknown))
        if unsure:
            said += f"; what it does not say counts as anything: {', '.join(unsure)}"
        return f"{said}; ask for a rule with effect: allow that names it, and try it with: wpk policy check"

    def _secret(self, secret: str, step: Step) -> str:
        return (
            f"no rule of {self.origin} lets {step.place} use the secret {secret}; a rule that allows the step must "
            "name it in secrets"
        )

    # --- the run as a whole ---

    def requirements(self, run: Run) -> list[Requirement]:
        """Those that are about the run."""
        return [
            each
            for each in self.file.requirements
            if matching.applies(each, run)
            and (each.when is None or matching.condition_holds(each.when, run.variables(), otherwise=True))
        ]

    def unmet(self, run: Run, package: WorkflowPackage) -> list[Problem]:
        """What the run does not fulfil of what is required of it."""
        return [problem for each in self.requirements(run) for problem in self._unmet(each, run, package)]

    def _unmet(self, each: Requirement, run: Run, package: WorkflowPackage) -> list[Problem]:
        by = f"the requirement {each.name} of {self.origin}"
        why = f" ({each.reason})" if each.reason else ""
        problems = []
        signers = each.signers or ("*",)
        if each.signature == "required" and not any(matching.fits(key, signers) for key in run.signed_by):
            whose = f"one of: {', '.join(signers)}" if each.signers else "one of the policy's keys"
            has = f"is signed by {', '.join(run.signed_by)}" if run.signed_by else "is not signed"
            message = f"{by} wants a signature by {whose}{why}, and the package {has}; sign it with: wpk sign"
            problems.append(Problem(path="metadata.signature", message=message))
        unproven = self.unproven(each, run.command_key)
        if unproven is not None:
            problems.append(Problem(path=SIGNATURE_PATH, message=unproven))
        if not each.auto and run.mode == "auto":
            message = f"{by} forbids mode auto{why}; use manual"
            problems.append(Problem(path="spec.safety.mode", message=message))
        steps = len(package.spec.handlers) + len(package.spec.rollback.handlers)
        if each.limits.max_steps is not None and steps > each.limits.max_steps:
            message = f"{by} allows {each.limits.max_steps} steps{why}, and there are {steps}; split the package"
            problems.append(Problem(path="spec.handlers", message=message))
        return problems

    def unproven(self, each: Requirement, key: str | None) -> str | None:
        """What a command lacks that the key signed (None: none did)."""
        if each.command_signature == "optional" or key is not None:
            return None
        why = f" ({each.reason})" if each.reason else ""
        return (
            f"the requirement {each.name} of {self.origin} wants signed commands{why}, and this one is not signed by "
            "one of its command_keys; send it with --sign-key"
        )

    def must_wait(self, run: Run) -> bool:
        """Whether an approval is required besides what the package says."""
        return any(each.approval == "required" for each in self.requirements(run))

    def dry_run_first(self, run: Run, package: WorkflowPackage) -> FirstDryRun | None:
        """Whether the run needs a dry run before it: where a requirement or its package wants one.

        The open policy lets packages run that say so too: whoever tries something out need not do it twice.
        """
        if self.open or run.dry_run:
            return None
        wanting = [each for each in self.requirements(run) if each.dry_run_first == "required"]
        if wanting:
            strictest = min(wanting, key=lambda each: each.dry_run_within)
            by = f"the requirement {strictest.name} of {self.origin}"
            return FirstDryRun(wanted_by=by, within=strictest.dry_run_within)
        if package.spec.safety.dry_run_required:
            return FirstDryRun(wanted_by="the package (spec.safety.dry_run_required)", within=float("inf"))
        return None

    def limits(self, run: Run, package: WorkflowPackage) -> ResourceLimits:
        """The least of the package's own limits and of those required."""
        limits = package.spec.validation.resource_limits
        least: dict[str, int] = {}
        for each in self.requirements(run):
            for name in type(limits).model_fields:
                bounds = [least.get(name), getattr(limits, name), getattr(each.limits, name, None)]
                known = [bound for bound in bounds if bound is not None]
                if known:
                    least[name] = min(known)
        return limits.model_copy(update=least) if least else limits


def told(step: Step, facts: Mapping[str, object]) -> str:
    """What the step touches, in one line: `k8s action=restart kind=deployment namespace=shop`."""
    shown = [f"{name}={_fact(fact)}" for name, fact in facts.items() if fact not in ("", ANYTHING)]
    return " ".join([step.adapter, *shown])


def _fact(fact: object) -> str:
    if isinstance(fact, Unknown):
        return "(not known yet)"
    text = fact.text if isinstance(fact, Called) else str(fact).lower() if isinstance(fact, bool) else str(fact)
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _not_granted(step: Step, rules: Sequence[Rule]) -> str | None:
    granted = [pattern for rule in rules for pattern in rule.secrets or ()]
    return next((name for name in sorted(step.secrets) if not matching.fits(name, granted)), None)


def _names(rules: Sequence[Rule]) -> tuple[str, ...]:
    return tuple(rule.name for rule in rules)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
