"""The secrets of one execution: fetched anew for each attempt, masked from then on, and forgotten at its end.

Not at the end of the step: what it left behind may come up in what later ones say, and is to be masked there too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import structlog
from pydantic import JsonValue

from consumer.engine.services import Services
from consumer.errors import StepError, TemporaryError
from consumer.policy.redact import Redactor
from consumer.workflow import values
from schemas.execution import ExecutionState, StepStatus
from schemas.wpk import Handler, WorkflowPackage

_log = structlog.get_logger(__name__)


class Revealed:
    """What was fetched, and the redactor that knows every value of it: also those that have been rotated since."""

    def __init__(self, package: WorkflowPackage, services: Services) -> None:
        self._services = services
        self._handlers = {"run": package.spec.handlers, "rollback": package.spec.rollback.handlers}
        self._known: frozenset[str] = frozenset()
        self._given: list[Mapping[str, str]] = []
        """As they were given: while these live, the agent's log masks what is in them."""
        self._recalled = False
        self.redactor = Redactor(())
        self.latest: dict[str, str] = {}
        """The newest value of each name."""

    async def fetch(self, handler: Handler, within: float) -> None:
        """Takes the values that the step names now. Raises StepError where one is there but can't be had in time."""
        try:
            async with asyncio.timeout(within):
                await self._fetch(values.secret_names(handler.config))
        except TimeoutError as error:
            message = f"its secrets did not come within its timeout of {within:g} s"
            raise TemporaryError(message, code="secret_unavailable") from error

    async def complete(self, handler: Handler) -> None:
        """Fetches only what was not fetched before. Raises StepError."""
        await self._fetch(values.secret_names(handler.config) - self.latest.keys())

    async def recall(self, state: ExecutionState, current: Handler) -> None:
        """Has what a former owner's steps used masked here as well; what can't be had any more does not stop the run.

        What these steps left behind (in a file, in the cluster, at a server) may come back in what later ones say.
        """
        if self._recalled:
            return
        self._recalled = True
        begun = [
            handler
            for phase, steps in (("run", state.steps), ("rollback", state.rollback_steps))
            for handler in self._handlers[phase]
            if handler != current and handler.name in steps and steps[handler.name].status is not StepStatus.PENDING
        ]
        for handler in begun:
            try:
                await self.complete(handler)
            except StepError as error:
                _log.warning(
                    "secrets.not_recalled", execution=state.execution_id, step=handler.name, problem=str(error)
                )
                if isinstance(error, TemporaryError):  # their source is away: each further step would wait as long
                    return

    def shows(self, value: JsonValue) -> bool:
        """Whether a secret can be read in the value."""
        return self.redactor.mask_json(value) != value

    async def _fetch(self, names: Iterable[str]) -> None:
        named = frozenset(names)
        if not named:
            return
        found = await self._services.secrets(named)
        for name in named - found.keys():
            self.latest.pop(name, None)  # it was taken away since
        self.latest.update(found)
        if not self._known.issuperset(found.values()):
            self._given.append(found)
            self._known |= frozenset(found.values())
            self.redactor = Redactor(self._known)
