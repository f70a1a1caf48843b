"""The two fates of an error, and the errors that the layers share.

An adapter raises `PermanentError` where trying again is useless and `TemporaryError` where it may help; the
step runner alone turns them into outcomes. Errors of foreign libraries are mapped to these at the adapter's border.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import JsonValue

from schemas.failure import Failure, Problem


class AgentError(Exception):
    """Base of all errors that this project raises."""


class StepError(AgentError):
    """A step's attempt failed. `code` is stable and goes over the wire as `Failure.type`."""

    retryable = False

    def __init__(self, message: str, *, code: str, output: dict[str, JsonValue] | None = None) -> None:
        super().__init__(message)
        self.code = code
        #: What the attempt still produced (a shell step's stdout beside its bad exit code); published with the failure.
        self.output = output

    def failure(self) -> Failure:
        """The error as a value for the wire."""
        return Failure(type=self.code, message=str(self), retryable=self.retryable)


class PermanentError(StepError):
    """Trying again can't help: bad configuration, forbidden, not found where it must be."""


class TemporaryError(StepError):
    """Trying again may help. `delay` (seconds) asks for at least that long a pause (HTTP's Retry-After)."""

    retryable = True

    def __init__(
        self, message: str, *, code: str, output: dict[str, JsonValue] | None = None, delay: float | None = None
    ) -> None:
        super().__init__(message, code=code, output=output)
        self.delay = delay


class ConfigError(AgentError):
    """A step's configuration can't be used; all of its problems at once, with paths inside `config`."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class OwnershipLost(AgentError):
    """The partition's owner is dead or fenced: what was not yet durable may not be, and nothing more may be done."""


class SettingsError(AgentError):
    """The agent's own settings or surroundings are wrong; the message names the setting and the remedy."""


class KafkaRefused(SettingsError):
    """Kafka is there and does not take the agent, or the agent not it: time does not mend that, other settings do."""


class Hung(AgentError):
    """A part of the agent makes no progress, and to begin it again did not help: only a new process may."""
