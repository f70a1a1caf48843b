"""Puts the policy in force that its file says, while the agent runs."""

from __future__ import annotations

import asyncio

import structlog

from consumer.engine.services import Services
from consumer.policy.reload import PolicyFile

_log = structlog.get_logger(__name__)
#: How often the file is looked at (seconds); a change counts after the second look.
LOOK_SECONDS = 2.0


class PolicyKeeper:
    """Follows the policy's file. One that can't be used is told of, and changes nothing."""

    def __init__(self, services: Services, file: PolicyFile | None) -> None:
        self._services = services
        self._file = file
        self.trouble = ""
        """Why the file can't be used, so that the policy before is in force; empty: it can."""

    @property
    def digest(self) -> str:
        """Of the policy in force; empty where it has no file."""
        return self._services.policy.digest

    async def follow(self) -> None:
        """Looks from time to time, until it is cancelled."""
        while self._file is not None:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Looks once."""
        found = await asyncio.to_thread(self._file.look) if self._file is not None else None
        if found is None:
            return
        self.trouble = found.trouble
        self._services.metrics.policy_stale(stale=found.policy is None)
        if found.policy is None:
            _log.error("policy.stale", problem=found.trouble, in_force=self.digest)
        elif found.policy.digest != self.digest:
            _log.info("policy.replaced", digest=found.policy.digest, before=self.digest)
            self._services.policy = found.policy
        else:
            _log.info("policy.unchanged", digest=self.digest)
