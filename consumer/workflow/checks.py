"""All that can be said of a package before anything of it runs: every error at once, each with its path."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Protocol, runtime_checkable

import jsonschema
from pydantic import JsonValue, ValidationError

from consumer.workflow import conditions, graph, limits, mending, patterns, values
from consumer.workflow.scope import UNKNOWN, ExecutionScope, Scope, Unknown
from schemas.failure import Problem
from schemas.problems import path_text, problems_of
from schemas.wpk import Handler, WorkflowPackage, unknown_fields

JsonObject = dict[str, JsonValue]
#: Of one list.
MAX_STEPS = 1000
#: All steps stand in the state's head, which is one record (bytes).
_MAX_HEAD, _STEP_OVERHEAD = 400_000, 200
#: Suggestions of one package, and the work they may take (products of lengths): they are a courtesy.
_MAX_HINTS, _HINT_WORK = 20, 1_000_000


class Checks(Protocol):
    """What of an adapter is needed here."""

    def check(self, config: JsonObject, scope: Scope) -> Sequence[Problem]:
        """All that is wrong with `config`, without I/O; paths are inside `config`."""
        ...


@runtime_checkable
class NeedsRights(Protocol):
    """What an adapter has besides where its steps need rights of their own in the system that they work on."""

    def undeclared(self, config: JsonObject, scope: Scope, declared: Sequence[str], *, undone: bool) -> Sequence[str]:
        """What a package's `required_permissions` lack of what the step needs, in their form. No I/O.

        `undone`: whether a rollback would undo the step.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A package that was looked at."""

    package: WorkflowPackage | None
    """None where its structure is broken."""
    parameters: JsonObject = field(default_factory=dict)
    """The command's, with the package's defaults."""
    problems: tuple[Problem, ...] = ()

    @property
    def errors(self) -> tuple[Problem, ...]:
        """Those problems that forbid a run."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """Those that do not."""
        return tuple(problem for problem in self.problems if problem.severity == "warning")


def check_package(
    document: JsonValue,
    parameters: JsonObject | None,
    adapters: Mapping[str, Checks],
    *,
    environment: Mapping[str, str] | None = None,
    workflow_id: str | None = None,
) -> Checked:
    """Everything that is wrong with the package and, where they are given, with the command's parameters.

    Without parameters (`None`: the package alone is looked at) those that have no default count as given.
    """
    if not isinstance(document, dict):
        message = f"a package is an object with metadata and spec, not {type(document).__name__}"
        return Checked(package=None, problems=(Problem(path="", message=message),))
    broken: list[Problem] = []
    try:
        package = WorkflowPackage.model_validate(document)
    except ValidationError as error:
        broken = problems_of(error, WorkflowPackage)
        rest = mending.mended(document, error)
        if rest is None:
            return Checked(package=None, problems=tuple(broken))
        package = rest
    if too_large := _too_large(package):
        return Checked(package=None if broken else package, problems=(*broken, too_large))
    problems = list(unknown_fields(package))
    problems += _notes(package)
    if workflow_id is not None and workflow_id not in (package.workflow_id, package.metadata.name):
        message = f'the command says workflow_id "{workflow_id}", its package is "{package.workflow_id}"'
        problems.append(Problem(path="metadata", message=message, severity="warning"))
    merged, found = with_defaults(package, parameters)
    problems += found
    known: Mapping[str, JsonValue | Unknown] = merged
    if parameters is None:
        declared = (package.spec.parameters or {}).get("properties")
        names = declared if isinstance(declared, dict) else {}
        known = {**dict.fromkeys(names, UNKNOWN), **merged}
    problems += _Handlers(package, adapters, known, environment or {}).problems()
    if broken:
        told = {problem.path for problem in broken}
        return Checked(package=None, problems=(*broken, *(p for p in problems if p.path not in told)))
    return Checked(package=package, parameters=merged, problems=tuple(problems))


def _too_large(package: WorkflowPackage) -> Problem | None:
    """What is wrong where the steps would not fit into the record that tells how they stand."""
    spec = package.spec
    for path, handlers in (("spec.handlers", spec.handlers), ("spec.rollback.handlers", spec.rollback.handlers)):
        if len(handlers) > MAX_STEPS:
            message = f"{len(handlers)} steps, and at most {MAX_STEPS} are possible; split the package"
            return Problem(path=path, message=message)
    lists = (spec.handlers, spec.rollback.handlers or spec.handlers)
    size = sum(
        _STEP_OVERHEAD + 2 * len(handler.name) + len(handler.type) + sum(len(need) + 3 for need in handler.needs)
        for handlers in lists
        for handler in handlers
    )
    if size <= _MAX_HEAD:
        return None
    message = (
        f"its steps take {size} bytes where how they stand is kept, and at most {_MAX_HEAD} are possible; use fewer "
        "steps, shorter names or fewer needs"
    )
    return Problem(path="spec.handlers", message=message)


def _notes(package: WorkflowPackage) -> Iterator[Problem]:
    """What the package asks for and this agent does not enforce: said, never passed over."""
    spec = package.spec
    if spec.safety.dry_run_required:
        yield _note(
            "spec.safety.dry_run_required",
            "a run must name its dry run (dry_run_id), unless the agent's policy is open",
        )
    for index, alert in enumerate(spec.monitoring.alerts):
        path = f"spec.monitoring.alerts[{index}]"
        if not (alert.recipients if alert.type == "email" else alert.webhook or alert.url):
            needed = "recipients" if alert.type == "email" else "webhook" if alert.type == "slack" else "url"
            yield _note(path, f"never sent: it has no {needed}")
        if not (alert.on_failure or alert.on_success):
            yield _note(path, "never sent: neither on_failure nor on_success is true")
    if spec.runtime.type == "docker":
        yield _note("spec.runtime.type", "docker is not checked: shell steps run in the agent's own sandbox")


def _note(path: str, message: str) -> Problem:
    return Problem(path=path, message=message, severity="warning")


def with_defaults(package: WorkflowPackage, given: JsonObject | None) -> tuple[JsonObject, list[Problem]]:
    """The parameters with the declared defaults, and what the package's own schema says against them."""
    schema = package.spec.parameters
    merged = dict(given or {})
    if schema is None:
        return merged, []
    if broken := _broken(schema):
        return merged, [broken]
    properties = schema.get("properties")
    for name, declared in properties.items() if isinstance(properties, dict) else ():
        if name not in merged and isinstance(declared, dict) and "default" in declared:
            merged[name] = deepcopy(declared["default"])
    return merged, _against(schema, merged) if given is not None else []


def _broken(schema: JsonObject) -> Problem | None:
    """Why the schema is none, or none that this agent applies."""
    try:
        patterns.check(schema)
    except patterns.SchemaRefused as error:
        return Problem(path=path_text(("spec", "parameters", *error.path)), message=str(error))
    except (TypeError, RecursionError) as error:
        return Problem(path="spec.parameters", message=f"no valid JSON Schema: {str(error)[:200]}")
    except jsonschema.SchemaError as error:
        path = path_text(("spec", "parameters", *error.absolute_path))
        return Problem(path=path, message=f"no valid JSON Schema: {error.message[:200]}")
    return None


def _against(schema: JsonObject, parameters: JsonObject) -> list[Problem]:
    """What the schema says against the parameters."""
    problems = []
    try:
        for found in patterns.errors(schema, parameters):
            path = path_text(("parameters", *found.absolute_path))
            problems.append(Problem(path=path, message=found.message[:300]))
    except patterns.SchemaRefused as error:
        problems.append(Problem(path="spec.parameters", message=str(error)))
    except Exception as error:  # a reference that leads nowhere or to itself
        why = f"it can't be applied: {type(error).__name__}: {str(error)[:200]}"
        problems.append(Problem(path="spec.parameters", message=why))
    return problems


def scope_before(
    package: WorkflowPackage,
    parameters: Mapping[str, JsonValue | Unknown],
    steps: Iterable[str],
    environment: Mapping[str, str],
) -> ExecutionScope:
    """The values that are known before anything runs; the outputs of `steps` may be named."""
    return ExecutionScope(
        parameters=parameters,
        execution_id=UNKNOWN,
        workflow=package.metadata.name,
        attempt=UNKNOWN,
        outputs=dict.fromkeys(steps, UNKNOWN),
        secrets=UNKNOWN,
        environment=environment,
    )


def undoes_itself(package: WorkflowPackage) -> bool:
    """Whether a rollback undoes the steps by what they captured, instead of by steps of its own."""
    return package.spec.rollback.enabled and not package.spec.rollback.handlers


class _Handlers:
    """The checks of both lists of steps."""

    def __init__(
        self,
        package: WorkflowPackage,
        adapters: Mapping[str, Checks],
        parameters: Mapping[str, JsonValue | Unknown],
        environment: Mapping[str, str],
    ) -> None:
        self._package = package
        self._adapters = adapters
        self._parameters = parameters
        self._environment = environment
        self._hints, self._hint_work = _MAX_HINTS, _HINT_WORK
        self._undeclared: dict[str, str] = {}
        """What `required_permissions` lack, and the first step that needs it."""

    def problems(self) -> Iterator[Problem]:
        spec = self._package.spec
        yield from self._list(spec.handlers, "spec.handlers", before=())
        run = [handler.name for handler in spec.handlers]
        yield from self._list(spec.rollback.handlers, "spec.rollback.handlers", before=run)
        limits_of = spec.validation.resource_limits
        whole = self._scope([*run, *(handler.name for handler in spec.rollback.handlers)])
        yield from limits.exceeded(self._package, limits_of, self._adapters, whole)
        found = values.substitute(dict(spec.outputs), self._scope(run))
        yield from (problem.under("spec.outputs") for problem in found.problems)
        for permission, step in self._undeclared.items():
            message = f'lacks "{permission}", which the step "{step}" needs'
            yield _note("spec.validation.required_permissions", message)

    def _list(self, handlers: Sequence[Handler], path: str, before: Sequence[str]) -> Iterator[Problem]:
        """One list; `before` are steps of another list whose outputs may be named."""
        built = graph.build(handlers)
        yield from (problem.under(path) for problem in built.problems)
        for index, handler in enumerate(handlers):
            here = f"{path}[{index}]"
            ancestors = built.ancestors(handler.name) if not built.problems else {h.name for h in handlers}
            scope = self._scope([*before, *sorted(ancestors)])
            yield from self._handler(handler, here, scope, [*before, *(h.name for h in handlers)])

    def _scope(self, steps: Iterable[str]) -> ExecutionScope:
        return scope_before(self._package, self._parameters, steps, self._environment)

    def _compare(self, handler: Handler, adapter: Checks, scope: Scope, *, undone: bool) -> None:
        """Notes which rights of the step the package should name and does not; one that names none says nothing."""
        declared = self._package.spec.validation.required_permissions
        if declared and isinstance(adapter, NeedsRights):
            undone = undone and undoes_itself(self._package)
            for permission in adapter.undeclared(dict(handler.config), scope, declared, undone=undone):
                self._undeclared.setdefault(permission, handler.name)

    def _handler(self, handler: Handler, here: str, scope: ExecutionScope, steps: Sequence[str]) -> Iterator[Problem]:
        adapter = self._adapters.get(handler.type)
        if adapter is None:
            hint = self._hint(handler.type, self._adapters)
            names = ", ".join(sorted(self._adapters))
            message = f'"{handler.type}" is no adapter of this agent{hint} (it has: {names})'
            yield Problem(path=f"{here}.type", message=message)
        else:
            yield from (problem.under(f"{here}.config") for problem in adapter.check(dict(handler.config), scope))
            self._compare(handler, adapter, scope, undone=here.startswith("spec.handlers"))
        if handler.timeout == 0:
            message = "a timeout of 0 ends every attempt at once; leave it out for the agent's default"
            yield Problem(path=f"{here}.timeout", message=message)
        if handler.when is None:
            return
        try:
            named = conditions.compile_condition(handler.when).steps
        except conditions.ConditionError as error:
            yield Problem(path=f"{here}.when", message=str(error))
            return
        for name in sorted(named - set(steps)):
            yield Problem(path=f"{here}.when", message=f'"{name}" is no step{self._hint(name, steps)}')

    def _hint(self, name: str, known: Collection[str]) -> str:
        """`; did you mean "x"?`, or nothing where no known name is near or too many were looked for."""
        work = len(name) * sum(map(len, known))
        if self._hints <= 0 or work > self._hint_work:
            return ""
        self._hints -= 1
        self._hint_work -= work
        near = get_close_matches(name, known, n=1)
        return f'; did you mean "{near[0]}"?' if near else ""
