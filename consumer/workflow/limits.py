"""What a package's `resource_limits` bound over all of its steps: told before anything runs, as far as it is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from pydantic import JsonValue

from consumer.workflow.scope import Scope
from schemas.failure import Problem
from schemas.wpk import Handler, ResourceLimits, WorkflowPackage

JsonObject = dict[str, JsonValue]
#: Stands for the namespace of a step that names none: the one of the adapter's own connection.
CONNECTIONS = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How far one step reaches, as far as its config tells."""

    namespaces: frozenset[str] = frozenset()
    """Those that it names; CONNECTIONS where it names none and works in one."""
    replicas: int = 0
    """The most that it gives one object."""


@runtime_checkable
class Reaching(Protocol):
    """What an adapter has besides where the limits are about what its steps touch."""

    def extent(self, config: JsonObject, scope: Scope) -> Extent:
        """How far the step reaches. No I/O; values may be UNKNOWN."""
        ...


def exceeded(
    package: WorkflowPackage, limits: ResourceLimits, adapters: Mapping[str, object], scope: Scope
) -> Iterator[Problem]:
    """An error for each step that reaches further than the limits allow."""
    if limits.max_namespaces is None and limits.max_replicas is None:
        return
    extents = [(path, extent(adapters, handler, scope)) for path, handler in _steps(package)]
    for path, each in extents:
        if limits.max_replicas is not None and each.replicas > limits.max_replicas:
            wants = f"it asks for {each.replicas} replicas, but resource_limits.max_replicas is {limits.max_replicas}"
            yield Problem(path=f"{path}.config", message=wants)
    seen: set[str] = set()
    for path, each in extents:
        seen |= each.namespaces
        if (message := too_many(seen, limits)) is not None:
            yield Problem(path=f"{path}.config", message=message)
            return


def extent(adapters: Mapping[str, object], handler: Handler, scope: Scope) -> Extent:
    """How far the step reaches, as its adapter tells."""
    adapter = adapters.get(handler.type)
    return adapter.extent(dict(handler.config), scope) if isinstance(adapter, Reaching) else Extent()


def too_many(namespaces: Iterable[str], limits: ResourceLimits) -> str | None:
    """Why the steps may not work in all of these namespaces; None where they may."""
    found, limit = sorted(set(namespaces)), limits.max_namespaces
    if limit is None or len(found) <= limit:
        return None
    own = CONNECTIONS in found
    names = ", ".join([*(name for name in found if name != CONNECTIONS), *(["the connection's"] if own else [])])
    remedy = "; name the namespace in each step if it is one of these" if own and len(found) > 1 else ""
    return f"the steps work in {len(found)} namespaces ({names}), but resource_limits.max_namespaces is {limit}{remedy}"


def _steps(package: WorkflowPackage) -> Iterator[tuple[str, Handler]]:
    spec = package.spec
    for path, handlers in (("spec.handlers", spec.handlers), ("spec.rollback.handlers", spec.rollback.handlers)):
        for index, handler in enumerate(handlers):
            yield f"{path}[{index}]", handler
