"""Evicts the pods of one node and waits until they are gone, as `kubectl drain` does it (pkg/drain/drain.go).

All at once, but a few requests at a time. What a PodDisruptionBudget refuses is asked for again until it is allowed,
and so is what the API server can't answer now; the caller bounds the time. An eviction is of one pod by its uid, so
that a later pod of that name is safe from it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from consumer.adapters.k8s import kinds, rollout
from consumer.adapters.k8s.actions.delete import options_of, with_uid
from consumer.adapters.k8s.client import Cluster
from consumer.adapters.k8s.draining import Verdict
from consumer.adapters.k8s.together import beside, together
from consumer.adapters.k8s.watching import Scene, State, until
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import StepContext

_AT_ONCE = 10
_GONE = ("not_found", "no_namespace")
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 5.0
"""Seconds between two tries: kubectl's pause."""


@dataclass(slots=True)
class Eviction:
    """How far one pod is."""

    verdict: Verdict
    state: str = "not yet evicted"
    evicted: bool = False
    """Whether the API server has agreed."""
    ending: bool = False
    """Whether it is being deleted."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    failure: PermanentError | None = None

    @property
    def over(self) -> bool:
        return self.gone.is_set() or self.failure is not None

    @property
    def code(self) -> str:
        """Of the failure."""
        return self.failure.code if self.failure is not None else ""


class Evictor:
    """The evictions of one node's pods."""

    def __init__(self, cluster: Cluster, step: StepContext, grace_period: float | None) -> None:
        self._cluster = cluster
        self._step = step
        self._options = options_of(grace_period)
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def run(self, node: str, evictions: Sequence[Eviction]) -> None:
        """Returns once each is over. Raises StepError where nothing more can be seen or done."""
        if not evictions:
            return
        async with beside(self._watch(node, evictions)):
            await together(*(self._one(eviction) for eviction in evictions))

    async def ask(self, verdicts: Sequence[Verdict]) -> dict[str, str]:
        """Which pods would be refused now, by name, and why (dry run). Raises PermanentError where one never can go."""
        refusals: dict[str, str] = {}

        async def one(verdict: Verdict) -> None:
            try:
                async with self._slots:
                    await self._cluster.evict(verdict.ref, with_uid(self._options, verdict.uid), dry_run=True)
            except PermanentError as error:
                if error.code not in _GONE:
                    raise
            except TemporaryError as error:
                refusals[verdict.name] = str(error)

        await together(*(one(verdict) for verdict in verdicts))
        return refusals

    async def _one(self, eviction: Eviction) -> None:
        pause, said = _FIRST_PAUSE, ""
        while not eviction.over:
            try:
                await self._evict(eviction)
                break
            except PermanentError as error:
                eviction.failure, eviction.state = error, str(error)
                await self._step.log("agent", f"not evicted: {error}")
                return
            except TemporaryError as error:
                eviction.state = str(error)
                if error.code == "terminating" and eviction.ending:
                    break  # a namespace that goes lets no eviction be made; its pods go without
            if eviction.state != said:
                said = eviction.state
                await self._step.log("agent", f"{said}; trying again until it is allowed")
            await _within(pause, eviction.gone)
            pause = min(pause * 2, _LONGEST_PAUSE)
        await eviction.gone.wait()
        await self._step.log("agent", f"{eviction.verdict.ref} is gone")

    async def _evict(self, eviction: Eviction) -> None:
        """Asks once. A pod that is gone already is well; the watch also tells where another has its name (conflict)."""
        verdict = eviction.verdict
        try:
            async with self._slots:
                await self._cluster.evict(verdict.ref, with_uid(self._options, verdict.uid))
        except PermanentError as error:
            if error.code not in _GONE:
                raise
            eviction.gone.set()
            return
        eviction.evicted, eviction.state = True, "evicted, it has not ended yet"
        note = f" ({verdict.why})" if verdict.why else ""
        await self._step.log("agent", f"{verdict.ref} is evicted{note}")

    async def _watch(self, node: str, evictions: Sequence[Eviction]) -> None:
        """Tells which pods end and are gone, for ever."""

        def look(state: State) -> None:
            for eviction in evictions:
                pod = state.get(eviction.verdict.uid)
                if pod is None:
                    eviction.gone.set()
                else:
                    eviction.ending = bool(rollout.text(pod, "metadata", "deletionTimestamp"))

        async def trouble(message: str) -> None:
            await self._step.log("agent", f"still waiting: {message}")

        await until(self._cluster, Scene(kinds.POD, None, fields=f"spec.nodeName={node}"), look, trouble)


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Waits for the event, but not for longer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
