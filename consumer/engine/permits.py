"""Asks the policy: may this run begin, may this step act."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import JsonValue

from consumer.engine.services import Services
from consumer.errors import PermanentError
from consumer.policy import signatures
from consumer.policy.judge import FirstDryRun, Policy
from consumer.policy.run import Decision, Run, Step
from consumer.policy.signatures import Verified
from consumer.ports import Adapter, JsonObject, Phase
from consumer.workflow import values
from consumer.workflow.scope import UNKNOWN, ExecutionScope, Scope, secret_name
from schemas.events import Permission, PlannedAlert
from schemas.execution import ExecutionState
from schemas.failure import Problem
from schemas.wpk import Handler, ResourceLimits, WorkflowPackage

#: Rules that the trail names of one run; more say nothing more.
_MAX_RULES = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Permit:
    """What the policy says of a run."""

    run: Run
    permission: Permission
    limits: ResourceLimits
    must_wait: bool
    """An approval is required, whatever the package says."""
    dry_run_first: FirstDryRun | None
    """A dry run is required before."""
    problems: tuple[Problem, ...]
    """Why it is refused; none: it may begin."""
    warnings: tuple[Problem, ...]
    alerts: tuple[PlannedAlert, ...] = ()
    """The package's alerts that may be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is known of a run besides its package's model."""

    document: JsonObject
    """The package as it came: what its signature is about."""
    requester: str | None
    labels: Mapping[str, str]
    dry_run: bool
    at: datetime | None
    """When it was accepted: keys count as they were then."""
    command_key: str | None = None
    """The policy's key that signed the command."""


def asked_by(state: ExecutionState) -> Asked:
    """What is known of an accepted execution."""
    content = (state.command or {}).get("wpk_content")
    return Asked(
        document=content if isinstance(content, dict) else {},
        requester=state.requested_by,
        labels=state.labels,
        dry_run=state.dry_run,
        at=state.accepted_at,
        command_key=state.command_key,
    )


def of_run(state: ExecutionState, package: WorkflowPackage, parameters: JsonObject, services: Services) -> Permit:
    """The policy's answer to an accepted execution. Computation only."""
    asked = asked_by(state)
    return of_package(asked, package, parameters, services.policy, services.adapters, services.environment)


def run_of(asked: Asked, package: WorkflowPackage, policy: Policy) -> tuple[Run, Verified]:
    """The run that is asked for, and what the package's signature is worth."""
    signed = signatures.verify(policy.file, asked.document, at=asked.at)
    known = {key.name for key in policy.file.command_keys}  # one that was taken out since proves nothing any more
    run = Run.of(
        package,
        requester=asked.requester,
        labels=asked.labels,
        dry_run=asked.dry_run,
        signed_by=signed.keys,
        command_key=asked.command_key if asked.command_key in known else None,
    )
    return run, signed


def of_package(
    asked: Asked,
    package: WorkflowPackage,
    parameters: JsonObject,
    policy: Policy,
    adapters: Mapping[str, Adapter],
    environment: Mapping[str, str],
) -> Permit:
    """The policy's answer to a run of that package."""
    run, signed = run_of(asked, package, policy)
    problems = [*signed.problems, *policy.unmet(run, package)]
    rules: dict[str, None] = {}
    if not policy.open:
        for path, step in steps_of(package, parameters, adapters, environment):
            verdict = policy.judge(run, step, final=False)
            rules.update(dict.fromkeys(verdict.rules))
            if verdict.decision is Decision.REFUSED:
                problems.append(Problem(path=path, message=verdict.message))
    return Permit(
        run=run,
        permission=Permission(
            policy=policy.origin,
            digest=policy.digest,
            rules=tuple(rules)[:_MAX_RULES],
            signed_by=signed.keys,
            command_key=run.command_key,
        ),
        limits=policy.limits(run, package),
        must_wait=policy.must_wait(run),
        dry_run_first=policy.dry_run_first(run, package),
        problems=tuple(problems),
        warnings=signed.warnings,
    )


def steps_of(
    package: WorkflowPackage,
    parameters: JsonObject,
    adapters: Mapping[str, Adapter],
    environment: Mapping[str, str],
) -> Iterator[tuple[str, Step]]:
    """All steps of a package that may be run, with their paths, as far as they are known before the run."""
    spec = package.spec
    outputs = dict.fromkeys((handler.name for handler in (*spec.handlers, *spec.rollback.handlers)), UNKNOWN)
    scope = ExecutionScope(
        parameters=parameters,
        execution_id=UNKNOWN,
        workflow=package.metadata.name,
        attempt=UNKNOWN,
        outputs=outputs,
        secrets=UNKNOWN,
        environment=environment,
    )
    lists: Sequence[tuple[str, Phase, Sequence[Handler]]] = (
        ("spec.handlers", "run", spec.handlers),
        ("spec.rollback.handlers", "rollback", spec.rollback.handlers),
    )
    for path, phase, handlers in lists:
        for index, handler in enumerate(handlers):
            adapter = adapters.get(handler.type)
            if adapter is not None:
                used = _secrets(handler.config, parameters, lambda name: name not in environment)
                yield f"{path}[{index}]", _step(handler, phase, adapter, scope, used)


def require(
    run: Run, handler: Handler, phase: Phase, scope: ExecutionScope, services: Services, *, final: bool = True
) -> None:
    """Raises PermanentError `forbidden` where the policy does not let the step act with the values that it has now."""
    policy = services.policy
    if policy.open:
        return
    adapter = services.adapters[handler.type]
    revealed = scope.secrets if callable(scope.secrets) else lambda name: None
    used = _secrets(handler.config, scope.parameters, lambda name: revealed(name) is not None)
    verdict = policy.judge(run, _step(handler, phase, adapter, scope, used), final=final)
    if verdict.decision is Decision.REFUSED:
        by = f" (policy {policy.digest})" if policy.digest else ""
        raise PermanentError(f"{verdict.message}{by}", code="forbidden")


def _step(handler: Handler, phase: Phase, adapter: Adapter, scope: Scope, secrets: frozenset[str]) -> Step:
    tell = getattr(adapter, "facts", None)
    found = tell(dict(handler.config), scope) if callable(tell) else [{}]
    return Step(name=handler.name, adapter=handler.type, phase=phase, facts=tuple(found), secrets=secrets)


def _secrets(
    config: Mapping[str, JsonValue], parameters: Mapping[str, object], is_secret: Callable[[str], bool]
) -> frozenset[str]:
    """The secrets that the configuration names; of a plain upper-case name only the agent knows what it means."""
    named = []
    for _, expression in values.expressions(dict(config)):
        name = secret_name(expression)
        if name is None:
            continue
        if expression.startswith("secrets.") or (name not in parameters and is_secret(name)):
            named.append(name)
    return frozenset(named)
