"""Executions told event by event, sealed as an agent seals them: what views, clients and readers are tested with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pydantic import JsonValue

from schemas import events, snapshot
from schemas.events import Event, EventData, LogLine, PlannedStep, Source
from schemas.execution import ExecutionState, apply
from schemas.failure import Failure

BEGIN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Told:
    """One event of a story."""

    event: Event
    value: bytes
    """As its record has it."""
    state: ExecutionState
    """After the event."""


@dataclass(slots=True)
class Story:
    """Seals drafts into a chain; each second of the story's own clock passes only when told."""

    execution_id: str = "run-1"
    workflow_id: str = "greet-1.0.0"
    dry_run: bool = False
    epoch: int = 7
    now: datetime = BEGIN
    told: list[Told] = field(default_factory=list)

    def tell(self, *drafts: EventData, after: float = 0.0) -> Story:
        """The next events, each `after` seconds later than the one before."""
        for draft in drafts:
            self.now += timedelta(seconds=after)
            last = self.told[-1].state if self.told else None
            common: dict[str, JsonValue] = {
                "execution_id": self.execution_id,
                "workflow_id": self.workflow_id,
                "seq": len(self.told) + 1,
                "dry_run": self.dry_run,
                "agent": "agent-a",
                "attempt_epoch": self.epoch,
            }
            _, value = events.seal(draft, common=common, prev_hash=last.last_hash if last else "", time=self.now)
            event = events.decode(value)
            self.told.append(Told(event, value, apply(last, event)))
        return self

    def __iter__(self) -> Iterator[Told]:
        return iter(self.told)

    @property
    def state(self) -> ExecutionState:
        """After all that was told."""
        return self.told[-1].state

    def snapshot(self) -> dict[str, bytes]:
        """The records of the state topic."""
        return {key: value for key, value in snapshot.parts(None, self.state) if value is not None}

    # --- the usual events ---

    def accepted(self, *, source: Source | None = None, requested_by: str | None = "alice") -> Story:
        """The command is taken."""
        package: JsonValue = {"metadata": {"name": "greet", "version": "1.0.0"}}
        return self.tell(
            events.ExecutionAccepted(
                workflow_name="greet",
                command={"wpk_content": package},
                command_digest="sha256:0",
                requested_by=requested_by,
                source=source or Source(topic="wpk.commands.execute", partition=0, offset=0),
            )
        )

    def started(self, *steps: str, needs: dict[str, tuple[str, ...]] | None = None, adapter: str = "shell") -> Story:
        """The run begins with those steps."""
        planned = tuple(PlannedStep(step=name, adapter=adapter, needs=(needs or {}).get(name, ())) for name in steps)
        return self.tell(events.ExecutionStarted(steps=planned, total_steps=len(planned)))

    def step_started(self, name: str, *, attempt: int = 1, phase: events.Phase = "run") -> Story:
        """An attempt begins."""
        return self.tell(
            events.StepStarted(step=name, adapter="shell", phase=phase, attempt=attempt, started_at=self.now)
        )

    def said(self, name: str, *lines: str, stream: str = "stdout") -> Story:
        """The step writes lines."""
        texts = tuple(LogLine(time=self.now, text=line) for line in lines)
        return self.tell(events.LogLines.model_validate({"step": name, "attempt": 1, "stream": stream, "lines": texts}))

    def step_succeeded(
        self,
        name: str,
        *,
        attempt: int = 1,
        duration: float = 0.5,
        output: JsonValue = None,
        phase: events.Phase = "run",
    ) -> Story:
        """The attempt did it."""
        return self.tell(
            events.StepSucceeded(
                step=name,
                adapter="shell",
                phase=phase,
                attempt=attempt,
                started_at=self.now,
                duration=duration,
                output=output,
            ),
            after=duration,
        )

    def step_failed(self, name: str, message: str, *, attempt: int = 1) -> Story:
        """The attempt failed for good."""
        failure = Failure(type="exit_code", message=message, step=name)
        return self.tell(
            events.StepFailed(step=name, adapter="shell", attempt=attempt, duration=0.25, error=failure), after=0.25
        )

    def step_retrying(self, name: str, message: str, *, attempt: int = 1) -> Story:
        """The attempt failed, and another one follows."""
        failure = Failure(type="http_status", message=message, retryable=True)
        retry_at = self.now + timedelta(seconds=3)
        return self.tell(
            events.StepRetrying(
                step=name, adapter="shell", attempt=attempt, error=failure, duration=0.1, retry_at=retry_at
            )
        )

    def completed(self, **outputs: JsonValue) -> Story:
        """The run ends well."""
        return self.tell(events.ExecutionCompleted(completed_at=self.now, outputs=dict(outputs)))

    def failed(self, message: str, *, step: str | None = None, rollback_follows: bool = False) -> Story:
        """The run ends badly."""
        return self.tell(
            events.ExecutionFailed(
                completed_at=self.now,
                error=Failure(type="exit_code", message=message, step=step),
                error_message=message,
                rollback_follows=rollback_follows,
            )
        )

    def rolling_back(self, *steps: str, source: Source | None = None) -> Story:
        """The rollback begins."""
        planned = tuple(PlannedStep(step=name, adapter="shell") for name in steps)
        return self.tell(
            events.ExecutionRollingBack(
                trigger="command" if source else "automatic",
                mode="handlers",
                steps=planned,
                total_steps=len(planned),
                source=source,
            )
        )

    def rolled_back(self) -> Story:
        """The rollback ends well."""
        return self.tell(events.ExecutionRolledBack(completed_at=self.now))


def done(execution_id: str = "run-1") -> Story:
    """A run of one step that says hello and completes."""
    story = Story(execution_id).accepted().started("hello").step_started("hello").said("hello", "good morning")
    return story.step_succeeded("hello", output={"stdout": "good morning\n"}).completed(said="good morning")
