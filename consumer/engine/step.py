"""One attempt of one step: values in place, the adapter at work under a timeout, and the one place that catches what it
raises."""

from __future__ import annotations

import asyncio
import contextlib
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar

import orjson
import structlog
from pydantic import JsonValue

from consumer.engine import permits, prepare
from consumer.engine.execution import Execution
from consumer.engine.logs import StepLog
from consumer.engine.planned import planned
from consumer.engine.prepare import Prepared
from consumer.engine.revealed import Revealed
from consumer.engine.services import Services
from consumer.engine.strays import LeftBehind, TooLong
from consumer.engine.trim import clip, plain, plain_text, trim
from consumer.errors import ConfigError, OwnershipLost, PermanentError, StepError, TemporaryError
from consumer.policy.judge import Policy
from consumer.policy.run import Run
from consumer.ports import Action, Adapter, JsonObject, Phase, Plan, StepContext
from consumer.telemetry import traces
from consumer.workflow import attempts, conditions, limits, values
from consumer.workflow.attempts import Failed, Outcome, Succeeded
from consumer.workflow.scope import UNKNOWN, ExecutionScope, Unknown
from schemas import events
from schemas.events import EventData
from schemas.execution import ExecutionState, StepState, StepStatus
from schemas.failure import Failure
from schemas.usage import Usage
from schemas.wpk import Handler, WorkflowPackage

_log = structlog.get_logger(__name__)
Result = TypeVar("Result")
#: What an attempt gets beyond the time its own configuration names (seconds), to say that that time is over.
_MARGIN = 30.0
#: A record of the state topic must hold it (bytes).
_MAX_UNDO = 800_000
#: A step's error and the summary of its undo record stand in the state's head beside those of all other steps: the
#: more steps, the shorter (bytes).
_MAX_MESSAGE, _MAX_MESSAGES = 4000, 100_000
#: Stands for a secret that can't be had, where only the kind of action is asked for.
_UNREVEALED = "unknown"
#: Seconds for secrets where they only help to tell what kind of step it is.
_GLANCE = 1.0
_OTHERWISE = (
    "the agent was interrupted while it ran, and what it is configured to do now may not simply be made again; whether "
    "it took effect is not known"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt that was announced in the trail."""

    handler: Handler
    phase: Phase
    number: int
    began: datetime
    """When it first began; earlier than now where a new owner repeats it."""
    repeated: bool = False
    """Whether a former owner had begun it."""


class StepRunner:
    """Runs the attempts of one execution."""

    def __init__(self, execution: Execution, services: Services, prepared: Prepared) -> None:
        self._execution = execution
        self._services = services
        self._prepared = prepared
        self._secrets = Revealed(prepared.package, services)
        spec = prepared.package.spec
        self._message_limit = min(_MAX_MESSAGE, _MAX_MESSAGES // (len(spec.handlers) + len(spec.rollback.handlers)))

    @property
    def package(self) -> WorkflowPackage:
        """The package that is run."""
        return self._prepared.package

    @property
    def policy(self) -> Policy:
        """By which the run was judged before it began."""
        return self._prepared.policy

    def beginning(self) -> EventData:
        """The event that begins the run, with what the check had to say."""
        return prepare.start(self._prepared.package, self._prepared.permit, self._prepared.warnings)

    # --- before a step ---

    def condition(self, handler: Handler, phase: Phase) -> list[EventData]:
        """What follows where the step's `when` forbids its start; nothing where it may start.

        A dry run takes every step whose condition depends on what earlier steps would have given.
        """
        if handler.when is None:
            return []
        state = self._execution.state
        try:
            condition = conditions.compile_condition(handler.when)
            if attempts.is_dry(state, phase) and condition.depends_on_steps:
                return []
            if condition.evaluate(self._variables()):
                return []
        except conditions.ConditionError as error:
            failure = Failure(type="condition", message=self._message(f"when: {error}"))
            return attempts.fail_unstarted(state, handler, phase, failure)
        return attempts.skip(state, handler, phase, f"its condition is false: {handler.when}")

    def _variables(self) -> dict[str, JsonValue]:
        state = self._execution.state
        steps: dict[str, JsonValue] = {
            name: {"status": step.status.value, **({} if step.output is None else {"output": step.output})}
            for name, step in state.steps.items()
        }
        return {
            "parameters": self._prepared.parameters,
            "steps": steps,
            "execution": {"id": state.execution_id, "workflow": state.workflow_name or ""},
        }

    def outputs(self) -> JsonObject:
        """The package's outputs; one that names a value which there is not (a skipped step's) is null."""
        found: JsonObject = {}
        for name, template in self.package.spec.outputs.items():
            replaced = values.substitute(template, self._scope("run", attempt=0))
            usable = not replaced.problems and not replaced.unknown
            found[name] = replaced.value if usable else None
        fitting = self._fit(found)
        assert isinstance(fitting, dict), "an object stays one when it is cut"
        return fitting

    def _scope(self, phase: Phase, attempt: int) -> ExecutionScope:
        state = self._execution.state
        outputs: dict[str, JsonValue | Unknown] = {}
        if attempts.is_dry(state, phase) and phase == "run":
            outputs = dict.fromkeys(state.steps, UNKNOWN)
        else:
            for steps in (state.steps, state.rollback_steps):
                outputs.update({name: step.output for name, step in steps.items() if step.status.settled})
        return ExecutionScope(
            parameters=self._prepared.parameters,
            execution_id=state.execution_id,
            workflow=state.workflow_name or self.package.metadata.name,
            attempt=attempt,
            outputs=outputs,
            secrets=self._secrets.latest.get,
            environment=self._services.environment,
        )

    def _adapter(self, handler: Handler) -> Adapter:
        adapter = self._services.adapters.get(handler.type)
        if adapter is None:
            raise PermanentError(f'"{handler.type}" is no adapter of this agent', code="unknown_adapter")
        return adapter

    async def repeatable(self, handler: Handler, phase: Phase) -> bool:
        """Whether an attempt of the step whose outcome is unknown may simply be made again."""
        action = await self._action(handler, phase)
        return action is not None and action.repeatable

    async def waits(self, handler: Handler, phase: Phase) -> bool:
        """Whether the step is a repeatable one that only waits, see `ports.Action`."""
        action = await self._action(handler, phase)
        return action is not None and action.repeatable and bool(getattr(action, "waits", False))

    async def _action(self, handler: Handler, phase: Phase) -> Action | None:
        """What the step would do; a secret that can't be had is the attempt's own matter, which says so."""
        try:
            with contextlib.suppress(StepError, TimeoutError):
                async with asyncio.timeout(_GLANCE):  # only what kind of step it is is asked here
                    await self._secrets.complete(handler)
            known = self._secrets.latest
            scope = replace(self._scope(phase, attempt=1), secrets=lambda name: known.get(name, _UNREVEALED))
            return self._adapter(handler).prepare(dict(handler.config), scope)
        except (StepError, ConfigError):
            return None
        except Exception as error:
            self._log_crash(handler, error)
            return None

    # --- the attempt ---

    async def run(self, attempt: Attempt) -> Outcome:
        """Makes the attempt. Raises only OwnershipLost and CancelledError."""
        handler = attempt.handler
        log = StepLog(
            self._execution,
            step=handler.name,
            phase=attempt.phase,
            attempt=attempt.number,
            mask=self._mask,
            max_bytes=self._services.limits.max_log_bytes,
        )
        usages: list[Usage] = []
        try:
            output = await self._attempt(attempt, self._context(attempt, log, usages.append))
            outcome: Succeeded | Failed = Succeeded(output=self._fit(output))
        except OwnershipLost:
            raise
        except LeftBehind:
            grace = self._services.strays.grace
            message = f"it was told to stop and did not within {grace:g} s; it may still be at work"
            outcome = self._failed(PermanentError(message, code="left_behind"))
        except ConfigError as error:
            outcome = self._failed(PermanentError(str(error), code="config"))
        except StepError as error:
            outcome = self._failed(error)
        except Exception as error:
            self._log_crash(handler, error)
            outcome = self._failed(PermanentError(f"{type(error).__name__}: {error}", code="internal"))
        finally:
            log.close()
        return replace(outcome, usage=usages[-1]) if usages else outcome

    def _mask(self, text: str) -> str:
        """By the secrets that are known at the time of the call."""
        return self._secrets.redactor.mask(plain_text(text))

    def _message(self, text: str) -> str:
        return clip(self._secrets.redactor.mask_error(plain_text(text)), self._message_limit)

    def _log_crash(self, handler: Handler, error: Exception) -> None:
        trace = "".join(traceback.format_exception(error))
        _log.error(
            "step.crashed", execution=self._execution.execution_id, step=handler.name, exception=self._mask(trace)
        )

    def _planned(self, plan: Plan, handler: Handler, context: StepContext) -> JsonObject:
        return planned(plan, handler, context, self._secrets.redactor, self._services.limits.max_output_bytes)

    def _fit(self, output: JsonObject | None) -> JsonValue:
        return trim(self._secrets.redactor.mask_json(plain(output)), self._services.limits.max_output_bytes)

    def _failed(self, error: StepError) -> Failed:
        failure = error.failure()
        failure = failure.model_copy(update={"message": self._message(failure.message)})
        delay = error.delay if isinstance(error, TemporaryError) else None
        output = self._fit(error.output) if error.output is not None else None
        return Failed(failure=failure, output=output, delay=delay)

    def _context(self, attempt: Attempt, log: StepLog, used: Callable[[Usage], None]) -> StepContext:
        execution, handler = self._execution, attempt.handler
        state = execution.state
        return StepContext(
            execution_id=state.execution_id,
            workflow=self.package.metadata.name,
            step=handler.name,
            phase=attempt.phase,
            attempt=attempt.number,
            epoch=execution.journal.epoch,
            dry_run=attempts.is_dry(state, attempt.phase),
            first_started_at=attempt.began,
            repeated=attempt.repeated,
            limits=self._prepared.permit.limits,
            log=log.write,
            capture=self._capture(attempt, log),
            used=used,
            requested_by=_requester(state, attempt.phase),
            traceparent=traces.step_traceparent(
                state, self._execution.traces, attempt.phase, handler.name, attempt.number
            ),
            captured=state.undo.get(handler.name) if attempt.phase == "run" else None,
            originals=state.undo if attempt.phase == "rollback" else {},
            shows_secret=self._secrets.shows,
        )

    def _capture(self, attempt: Attempt, log: StepLog) -> Callable[[JsonObject, str], Awaitable[None]]:
        async def capture(record: JsonObject, summary: str) -> None:
            execution, handler = self._execution, attempt.handler
            if log.closed:  # the trail has its end already: it must not change anything any more
                raise PermanentError("the attempt was given up", code="left_behind")
            known = attempt.phase == "rollback" or handler.name in execution.state.undo
            if known or attempts.is_dry(execution.state, attempt.phase):
                return  # the first record holds what was before; what a rollback changes is not undone again
            if len(orjson.dumps(record)) > _MAX_UNDO:
                raise PermanentError(
                    f"what is needed to undo this has more than {_MAX_UNDO} bytes; nothing was changed",
                    code="undo_too_large",
                )
            if self._secrets.shows(record):
                raise PermanentError(
                    f'what is needed to undo this shows a secret, and the adapter "{handler.type}" does not seal it; '
                    "nothing was changed",
                    code="undo_shows_secret",
                )
            execution.stage(
                events.StepCaptured(
                    step=handler.name,
                    adapter=handler.type,
                    phase=attempt.phase,
                    attempt=attempt.number,
                    summary=self._message(summary),
                )
            )
            execution.keep_undo(handler.name, record)
            await execution.flush()

        return capture

    async def _attempt(self, attempt: Attempt, context: StepContext) -> JsonObject:
        handler = attempt.handler
        adapter = self._adapter(handler)
        await self._secrets.recall(self._execution.state, handler)
        record = self._execution.state.undo.get(handler.name)
        if attempt.phase == "rollback" and record is not None and not self.package.spec.rollback.handlers:
            limit = handler.timeout or self._services.limits.step_timeout
            if context.dry_run:
                plan = await self._timed(adapter.plan_undo(record, context), limit, handler)
                return self._planned(plan, handler, context)
            await self._may_act()
            return await self._timed(adapter.undo(record, context), limit, handler)
        await self._secrets.fetch(handler, handler.timeout or self._services.limits.step_timeout)
        scope = self._scope(attempt.phase, attempt.number)
        if context.dry_run and values.substitute(dict(handler.config), scope).unknown:
            permits.require(self._run(), handler, attempt.phase, scope, self._services, final=False)
            return self._planned(_unknowable(handler, adapter, scope), handler, context)
        action = adapter.prepare(dict(handler.config), scope)
        permits.require(self._run(), handler, attempt.phase, scope, self._services)
        self._require_namespaces(handler, scope)
        if attempt.repeated and not attempts.may_repeat(handler, repeatable=action.repeatable, dry=context.dry_run):
            raise PermanentError(_OTHERWISE, code="interrupted")
        limit = self._limit(handler, action)
        if context.dry_run:
            return self._planned(await self._timed(action.plan(context), limit, handler), handler, context)
        await self._may_act()
        return await self._timed(action.run(replace(context, timeout=limit)), limit, handler)

    def _require_namespaces(self, handler: Handler, scope: ExecutionScope) -> None:
        """Raises PermanentError `limit` where the step would work in one more namespace than the steps may so far."""
        bounds, state = self._prepared.permit.limits, self._execution.state
        if bounds.max_namespaces is None:
            return
        spec, unbegun = self.package.spec, (StepStatus.PENDING, StepStatus.SKIPPED)
        lists = ((spec.handlers, state.steps), (spec.rollback.handlers, state.rollback_steps))
        begun = [each for some, known in lists for each in some if _status(known, each.name) not in unbegun]
        extents = (limits.extent(self._services.adapters, each, scope) for each in (*begun, handler))
        message = limits.too_many((name for each in extents for name in each.namespaces), bounds)
        if message is not None:
            raise PermanentError(message, code="limit")

    def _run(self) -> Run:
        """As the policy in force sees it: a key that was taken out of it counts no more."""
        if self._prepared.policy is self._services.policy:
            return self._prepared.permit.run
        return permits.run_of(permits.asked_by(self._execution.state), self.package, self._services.policy)[0]

    async def _may_act(self) -> None:
        """The owner's last look before an effect: to fetch the secrets may have taken long, or the process stood still
        since the start became durable. Raises OwnershipLost."""
        if not self._execution.journal.fresh:
            await self._execution.journal.may_act()

    def _limit(self, handler: Handler, action: Action) -> float:
        if handler.timeout is not None:
            return handler.timeout
        own = action.time_limit
        return max(self._services.limits.step_timeout, own + _MARGIN if own is not None else 0.0)

    async def _timed(self, work: Coroutine[Any, Any, Result], limit: float, handler: Handler) -> Result:
        name = f"{self._execution.execution_id}/{handler.name}"
        try:
            return await self._services.strays.run(work, limit, name=name)
        except TooLong as error:
            raise TemporaryError(f"it took longer than its timeout of {limit:g} s", code="timeout") from error


def _status(known: Mapping[str, StepState], name: str) -> StepStatus:
    return known[name].status if name in known else StepStatus.PENDING


def _requester(state: ExecutionState, phase: Phase) -> str | None:
    """Who asked; for a rollback that nobody asked for, who asked for the execution."""
    asked = state.rollback.requested_by if phase == "rollback" and state.rollback is not None else None
    return asked or state.requested_by


def _unknowable(handler: Handler, adapter: Adapter, scope: ExecutionScope) -> Plan:
    problems = adapter.check(dict(handler.config), scope)
    if problems:
        raise ConfigError(problems)
    return Plan(
        summary="what it would do depends on what earlier steps give",
        changes=True,
        detail={"config": dict(handler.config)},
    )
