"""Whether a rule is about a step: yes, no, or that only a later moment tells.

What is uncertain never opens a door: a fact that nobody can tell (`ANYTHING`) fits a rule that allows only where the
rule leaves it open, and always fits one that denies.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from pydantic import BaseModel, JsonValue

from consumer.policy.run import STEP_FIELDS, Run, Step
from consumer.ports import Facts
from consumer.workflow import conditions
from consumer.workflow.facts import ANYTHING, Anything, Called
from consumer.workflow.scope import Unknown
from schemas.policy import Applies, OtherSteps, Rule, ShellSteps


class Match(enum.IntEnum):
    """In the order of weight: of several conditions the least counts."""

    NO = 0
    LATER = 1
    YES = 2


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    """`*` and `?` only: brackets, which shells know too, are taken literally."""
    parts = re.split(r"([*?])", re.sub(r"\*+", "*", pattern))
    return re.compile("".join({"*": ".*", "?": "."}.get(part, re.escape(part)) for part in parts), re.DOTALL)


def fits(text: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns fits the whole text."""
    return any(_compiled(pattern).fullmatch(text) is not None for pattern in patterns)


def applies(to: Applies, run: Run) -> bool:
    """Whether a rule or a requirement is about the run at all, its `when` left aside."""
    if to.dry_run is not None and to.dry_run is not run.dry_run:
        return False
    if to.workflows is not None and not fits(run.workflow, to.workflows):
        return False
    if to.requesters is not None and not fits(run.requester or "", to.requesters):
        return False
    if to.tags is not None and not any(fits(tag, to.tags) for tag in run.tags):
        return False
    if to.signed_by is not None and not any(fits(key, to.signed_by) for key in run.signed_by):
        return False
    return all(name in run.labels and fits(run.labels[name], wanted) for name, wanted in to.labels.items())


def lacks_proof(rule: Rule, run: Run) -> bool:
    """Whether the rule wants a signed command, and this one is none."""
    return rule.command_signature == "required" and run.command_key is None


@lru_cache(maxsize=2048)
def condition(text: str) -> conditions.Condition:
    """The compiled condition. Raises ConditionError."""
    return conditions.compile_condition(text)


def condition_holds(text: str, variables: Mapping[str, JsonValue], *, otherwise: bool) -> bool:
    """The condition's value; `otherwise` where it can't be evaluated."""
    try:
        return condition(text).evaluate(variables)
    except conditions.ConditionError:
        return otherwise


def of_step(rule: Rule, run: Run, step: Step, facts: Facts) -> Match:
    """Whether the rule is about the step, of which these are the facts."""
    if not applies(rule, run) or lacks_proof(rule, run):
        return Match.NO
    denies = rule.effect == "deny"
    match = Match.YES
    if rule.steps is not None:
        match = _named(rule, step, facts)
    if match is not Match.NO and rule.secrets is not None and denies:
        match = min(match, Match.YES if any(fits(name, rule.secrets) for name in step.secrets) else Match.NO)
    if match is Match.NO or rule.when is None:
        return match
    return min(match, _when(rule.when, run, step, facts, denies=denies))


def would_allow(rule: Rule, run: Run, step: Step, facts: Facts) -> bool:
    """Whether the rule allows such steps, but not to this run: a hint for who is refused."""
    if rule.effect == "deny" or (applies(rule, run) and not lacks_proof(rule, run)):
        return False
    return rule.steps is None or _named(rule, step, facts) is Match.YES


def _when(text: str, run: Run, step: Step, facts: Facts, *, denies: bool) -> Match:
    open_facts = {name for name, fact in facts.items() if isinstance(fact, Unknown)}
    uses = condition(text).uses("step")
    if uses is not None and uses - {*facts, *STEP_FIELDS}:
        return Match.NO  # it asks for what steps of this adapter do not have, so it is not about them
    if open_facts and (uses is None or uses & open_facts):
        return Match.LATER
    variables = {**run.variables(), "step": step.variables(facts)}
    return Match.YES if condition_holds(text, variables, otherwise=denies) else Match.NO


def _named(rule: Rule, step: Step, facts: Facts) -> Match:
    steps = rule.steps
    assert steps is not None
    given = getattr(steps, step.adapter, None) if step.adapter in type(steps).model_fields else None
    extra = steps.__pydantic_extra__ or {}
    given = given or extra.get(step.adapter) or extra.get("*")
    denies = rule.effect == "deny"
    match given:
        case None:
            return Match.NO
        case ShellSteps():
            return min(_command(given, facts, denies=denies), _flag(given.network, facts, "network", denies=denies))
        case OtherSteps():
            return _all(given.facts, facts, denies=denies)
        case BaseModel():
            wanted = {_SINGULAR[name]: value for name, value in given if isinstance(value, tuple)}
            changes = _flag(getattr(given, "changes", None), facts, "changes", denies=denies)
            return min(changes, _all(wanted, facts, denies=denies))
    return Match.NO


_SINGULAR = {
    "actions": "action",
    "kinds": "kind",
    "namespaces": "namespace",
    "names": "name",
    "methods": "method",
    "schemes": "scheme",
    "hosts": "host",
    "ports": "port",
}
#: Facts that are the same in capitals; names of objects and programs are not.
_CASELESS = frozenset({"action", "kind", "method", "scheme", "host"})


def _all(wanted: Mapping[str, Sequence[str]], facts: Facts, *, denies: bool) -> Match:
    found = [_one(name, facts, patterns, denies=denies) for name, patterns in wanted.items()]
    return min(found, default=Match.YES)


def _one(name: str, facts: Facts, patterns: Sequence[str], *, denies: bool) -> Match:
    fact = facts.get(name, ANYTHING)
    if "*" in patterns:
        return Match.YES
    match fact:
        case Unknown():
            return Match.LATER
        case Anything():
            fitting = denies
        case Called():
            fitting = denies or fits(fact.text, _lower(patterns))
        case bool():
            fitting = fits(str(fact).lower(), _lower(patterns))
        case str():
            fitting = fits(fact.lower(), _lower(patterns)) if name in _CASELESS else fits(fact, patterns)
    return Match.YES if fitting else Match.NO


def _lower(patterns: Sequence[str]) -> list[str]:
    return [pattern.lower() for pattern in patterns]


def _flag(wanted: bool | None, facts: Facts, name: str, *, denies: bool) -> Match:
    if wanted is None:
        return Match.YES
    return _one(name, facts, (str(wanted).lower(),), denies=denies)


def _command(steps: ShellSteps, facts: Facts, *, denies: bool) -> Match:
    if steps.programs is None and steps.commands is None:
        return Match.YES
    script = facts.get("command", ANYTHING)
    if steps.commands is not None and isinstance(script, str) and script and script in steps.commands:
        return Match.YES
    if steps.programs is None:
        return Match.YES if denies and isinstance(script, Anything) else Match.NO
    return _one("program", facts, steps.programs, denies=denies)
