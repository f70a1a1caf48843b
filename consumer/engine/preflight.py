"""Before a package's first step: the adapters look whether its steps have the rights that they will need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeGuard

import structlog

from consumer.engine.services import Services
from consumer.engine.strays import LeftBehind, TooLong
from consumer.errors import StepError
from consumer.ports import Adapter, Intention, Rights
from consumer.workflow.checks import Checked, scope_before, undoes_itself
from schemas.execution import ExecutionState
from schemas.failure import Problem
from schemas.wpk import WorkflowPackage

_log = structlog.get_logger(__name__)
#: Seconds for one adapter's look. What it can't tell until then the steps themselves will.
LIMIT = 10.0


async def preflight(state: ExecutionState, checked: Checked, services: Services) -> Checked:
    """The check of the package with what the adapters say of rights; nothing is asked where it has errors already."""
    package = checked.package
    if package is None or checked.errors:
        return checked
    problems = list(checked.problems)
    types = {handler.type for handler in (*package.spec.handlers, *package.spec.rollback.handlers)}
    for name, adapter in services.adapters.items():
        if name in types and _asks(adapter) and (steps := list(_intentions(name, package, checked, services))):
            problems += await _ask(name, adapter, steps, state, services)
    return replace(checked, problems=tuple(problems))


def _asks(adapter: Adapter) -> TypeGuard[Rights]:
    return _class_asks(type(adapter))


@lru_cache(maxsize=64)
def _class_asks(adapter: type[Adapter]) -> bool:
    """Whether adapters of that class can be asked. Of an instance it is a slow question, and each run asks it."""
    return issubclass(adapter, Rights)


def _intentions(adapter: str, package: WorkflowPackage, checked: Checked, services: Services) -> Iterator[Intention]:
    spec = package.spec
    names = [handler.name for handler in (*spec.handlers, *spec.rollback.handlers)]
    scope = scope_before(package, checked.parameters, names, services.environment)
    for path, handlers in (("spec.handlers", spec.handlers), ("spec.rollback.handlers", spec.rollback.handlers)):
        for index, handler in enumerate(handlers):
            if handler.type == adapter:
                yield Intention(
                    path=f"{path}[{index}].config",
                    config=dict(handler.config),
                    scope=scope,
                    undone=path == "spec.handlers" and undoes_itself(package),
                    goes_on=handler.on_failure == "continue",
                )


async def _ask(
    name: str, adapter: Rights, steps: Sequence[Intention], state: ExecutionState, services: Services
) -> Sequence[Problem]:
    work = adapter.preflight(steps, state.requested_by)
    try:
        return await services.strays.run(work, LIMIT, name=f"{state.execution_id}/rights of {name}")
    except (TooLong, LeftBehind):
        why = f"no answer within {LIMIT:g} s"
    except StepError as error:
        why = str(error)
    except Exception as error:
        _log.exception("preflight.crashed", execution=state.execution_id, adapter=name)
        why = type(error).__name__
    message = f"whether the {name} steps have the rights they need is not known: {why}"
    return [Problem(path="spec.handlers", message=message, severity="warning")]
