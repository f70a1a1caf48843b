"""From a command that only names its package to an execution that has it: found, and written into the trail before
anything comes of it. A take-over or a change of the registry then changes nothing any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import orjson
import structlog

from consumer import tasks
from consumer.engine.execution import Execution
from consumer.engine.services import Services
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import Resolved
from consumer.workflow import advance, answers
from schemas import events
from schemas.execution import ExecutionState
from schemas.failure import Problem

_log = structlog.get_logger(__name__)
#: Between two questions to a registry that does not answer: the shortest and the longest pause (seconds).
_PAUSES = (0.5, 15.0)
#: A wait for the deadline ends after it, by whatever clock (seconds).
_MARGIN = 0.05


def is_needed(state: ExecutionState) -> bool:
    """Whether the execution's package is yet to be found."""
    return not state.over and state.command is not None and state.command.get("wpk_content") is None


async def resolve(execution: Execution, services: Services) -> None:
    """Stages the package, or the refusal of the command; nothing where the execution ends meanwhile.

    A registry that does not answer is asked again and again, for `Limits.registry_timeout`; a cancel or the deadline
    ends the wait. An owner that is lost leaves the question to the next one: nothing has happened yet.
    """
    reference = execution.state.workflow_id or ""
    found = await _unless_over(execution, _patiently(reference, execution, services))
    state, now = execution.state, execution.now()
    if state.over:
        return
    if expired := advance.overdue(state, now):
        execution.stage(*expired)
    elif isinstance(found, Problem):
        execution.stage(
            events.CommandRejected(command="execute", errors=(found,), requested_by=state.requested_by),
            answers.rejection(state, [found], now=now, code="unresolved"),
        )
    elif found is not None:
        name, version = answers.package_names(found.content)
        execution.stage(
            events.ExecutionResolved(
                reference=reference,
                origin=found.origin,
                package=f"{name}-{version or '0.0.0'}" if name else reference,
                workflow_name=name,
                wpk_content=found.content,
                wpk_digest=found.digest,
            )
        )
        execution.grew()


async def _patiently(reference: str, execution: Execution, services: Services) -> Resolved | Problem:
    """The package, or why there is none."""
    pause, why = _PAUSES[0], "it did not answer"
    limit = services.limits.registry_timeout
    try:
        async with asyncio.timeout(_time_left(execution, limit)):
            while True:
                try:
                    return _fitting(await services.packages.resolve(reference), execution.state, services)
                except TemporaryError as error:
                    why = str(error)
                    _log.warning("registry.unavailable", reference=reference, reason=why, retry_in=pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _PAUSES[1])
    except TimeoutError:
        message = (
            f'the package "{reference}" could not be found out within {limit:g} s: {why}; send the command again under '
            "a new execution_id when the registry is well, or with the package itself in wpk_content"
        )
        return Problem(path="workflow_id", message=message)
    except PermanentError as error:
        return Problem(path="workflow_id", message=str(error))


def _time_left(execution: Execution, limit: float) -> float:
    deadline = execution.state.deadline
    if deadline is None:
        return limit
    return min(limit, max(0.0, (deadline - execution.now()).total_seconds()) + _MARGIN)


def _fitting(found: Resolved, state: ExecutionState, services: Services) -> Resolved:
    """The package, where the records that must hold it with its command take it. Raises PermanentError."""
    size, most = len(orjson.dumps(state.command)) + len(orjson.dumps(found.content)), services.limits.max_command_bytes
    if size > most:
        message = f"the package and its command have {size:,} bytes together, and at most {most:,} are taken"
        raise PermanentError(message, code="bad_package")
    return found


async def _unless_over(
    execution: Execution, work: Coroutine[None, None, Resolved | Problem]
) -> Resolved | Problem | None:
    """What the work gives; None where the execution ended before."""
    task = asyncio.create_task(work)
    try:
        while not task.done() and not execution.state.over:
            execution.changed.clear()
            change = asyncio.create_task(execution.changed.wait())
            try:
                await asyncio.wait((task, change), return_when=asyncio.FIRST_COMPLETED)
            finally:
                await tasks.cancel_and_wait(change)
        return task.result() if task.done() else None
    finally:
        await tasks.cancel_and_wait(task)
