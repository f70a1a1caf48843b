"""A package made ready to be decided upon: the steps of a phase, by name, and how they depend on each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from consumer.workflow import graph
from consumer.workflow.graph import Graph
from schemas.events import Phase, PlannedStep
from schemas.execution import ExecutionState
from schemas.wpk import Handler, Retry, WorkflowPackage

#: An undo is repeatable by contract, so a hiccup of the cluster does not make a rollback fail.
COMPENSATION_RETRY = Retry(max_attempts=3, backoff=1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The steps of one phase."""

    phase: Phase
    mode: Literal["handlers", "compensation"]
    handlers: Mapping[str, Handler]
    graph: Graph
    """Which step waits for which."""

    def planned(self) -> tuple[PlannedStep, ...]:
        """The steps as the trail announces them."""
        return tuple(PlannedStep(step=h.name, adapter=h.type, needs=h.needs) for h in self.handlers.values())


def run_program(package: WorkflowPackage) -> Program:
    """The package's own steps."""
    return _of_handlers(package.spec.handlers, "run")


def rollback_program(package: WorkflowPackage, state: ExecutionState) -> Program:
    """How that execution is undone: by the package's rollback handlers, else by its undo records, newest first."""
    if package.spec.rollback.handlers:
        return _of_handlers(package.spec.rollback.handlers, "rollback")
    original = {handler.name: handler for handler in package.spec.handlers}
    undo = {}
    for name in reversed(state.undo):
        handler = original[name]
        undo[name] = Handler(
            name=name,
            type=handler.type,
            config={},
            timeout=handler.timeout,
            retry=COMPENSATION_RETRY,
            on_failure="continue",
            on_interrupt="retry",
        )
    return Program(phase="rollback", mode="compensation", handlers=undo, graph=graph.build(list(undo.values())))


def _of_handlers(handlers: Sequence[Handler], phase: Phase) -> Program:
    named = {handler.name: handler for handler in handlers}
    return Program(phase=phase, mode="handlers", handlers=named, graph=graph.build(handlers))


def rolls_back_by_itself(package: WorkflowPackage, state: ExecutionState) -> bool:
    """Whether the package's rollback applies when this run fails or is cancelled.

    Not after a dry run, which changed nothing, nor before any step began, nor where there is nothing to undo with.
    """
    spec = package.spec
    wanted = spec.safety.rollback_enabled and spec.rollback.enabled and not state.dry_run
    began = any(step.attempt for step in state.steps.values())
    return wanted and began and can_undo(package, state)


def can_undo(package: WorkflowPackage, state: ExecutionState) -> bool:
    """Whether there is anything to undo with: rollback handlers, or undo records."""
    return bool(package.spec.rollback.handlers or state.undo)
