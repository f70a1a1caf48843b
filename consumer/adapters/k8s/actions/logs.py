"""The action logs: the lines of pods' containers, streamed to the step's log."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field

from pydantic import JsonValue

from consumer.adapters.k8s import errors, kinds, rollout, targets
from consumer.adapters.k8s.actions.reads import selector_query
from consumer.adapters.k8s.client import Call, Cluster
from consumer.adapters.k8s.config import LogsConfig
from consumer.adapters.k8s.following import container_statuses
from consumer.adapters.k8s.loglines import Position, split_lines
from consumer.adapters.k8s.together import together
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject, Plan, StepContext
from schemas.scalars import format_duration

_MAX_BYTES = 16 * 1024 * 1024
#: Seconds that a server may be silent; one that is followed is then asked anew, as its connection may be dead.
_SILENCE = 60.0
_FOLLOW_SILENCE = 300.0
_AT_ONCE = 5
#: The most containers that are followed: each holds a connection, and there are a hundred for all steps.
_MOST_FOLLOWED = 50
#: How often a log that is not followed is taken up again after its connection was lost.
_TRIES = 4
_MAX_PAUSE = 5.0
#: Kinds tried in this order where a name comes without a resource_type.
_GUESSES = (kinds.POD, kinds.DEPLOYMENT, kinds.STATEFULSET, kinds.DAEMONSET, kinds.JOB)


@dataclass(frozen=True, slots=True)
class _Source:
    """One container of one pod."""

    ref: kinds.Ref
    container: str
    uid: str
    restarts: int
    """How often the container had been started again."""

    def __str__(self) -> str:
        return f"{self.ref.name}/{self.container}"


@dataclass(slots=True)
class _Reading:
    """How far one container's log was read."""

    source: _Source
    prefix: str
    position: Position = field(default_factory=Position)
    lines: int = 0
    opened: bool = False
    failures: int = 0
    """In a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """Output: `{pods: [names], lines, skipped: [{source, why}]}`.

    All pods of a workload, all containers of a pod unless `container` names one; lines carry the prefix
    `pod/container: ` where there are several. Without `resource_type` a name is a pod's, else a workload's.
    A container that has no log (not started, no previous run) is skipped and said so. A log whose connection is lost
    goes on with its next line, by the time stamps of the lines.
    """

    cluster: Cluster
    config: LogsConfig
    repeatable: bool = True

    @property
    def time_limit(self) -> float | None:
        return self.config.duration

    async def plan(self, step: StepContext) -> Plan:
        try:
            sources = await self._sources(step)
        except PermanentError as error:
            if error.code != "not_found":
                raise
            return Plan(summary=f"read logs ({error}, yet)", changes=False)  # an earlier step may make them
        pods = _names(sources)
        detail: JsonObject = {"pods": list[JsonValue](pods)}
        return Plan(summary=f"read the logs of {', '.join(pods) or 'no pods'}", changes=False, detail=detail)

    async def run(self, step: StepContext) -> JsonObject:
        sources = await self._sources(step)
        if not sources:
            await step.log("agent", "there are no pods to read logs of")
        several = len(sources) > 1
        readings = [_Reading(source, f"{source}: " if several else "") for source in sources]
        skipped: list[JsonValue] = []
        slots = asyncio.Semaphore(len(sources) if self.config.follow else _AT_ONCE)

        async def read(reading: _Reading) -> None:
            async with slots:
                why = await self._read(reading, step)
                if why is not None:
                    skipped.append({"source": str(reading.source), "why": why})
                    await step.log("agent", f"no log of {reading.source}: {why}")

        try:
            async with asyncio.timeout(self.config.duration) as bound:
                await together(*(read(reading) for reading in readings))
        except TimeoutError:
            if not bound.expired():
                raise
            await step.log("agent", f"followed for {format_duration(self.config.duration or 0.0)}")
        lines = sum(reading.lines for reading in readings)
        return {"pods": list[JsonValue](_names(sources)), "lines": lines, "skipped": skipped}

    async def _read(self, reading: _Reading, step: StepContext) -> str | None:
        """Passes on one container's lines, until there are no more; gives why there are none."""
        while True:
            try:
                await self._pass_on(reading, step)
            except PermanentError as error:
                if error.code not in ("bad_request", "not_found"):
                    raise
                return None if reading.opened else str(error)
            except TemporaryError as error:
                reading.failures += 1
                if not reading.opened or (not self.config.follow and reading.failures >= _TRIES):
                    raise
                if reading.failures == 1:
                    await step.log("agent", f"the log of {reading.source} was cut off, it is taken up again: {error}")
            else:
                if not self.config.follow or await self._has_ended(reading.source):
                    return None
            await asyncio.sleep(random.uniform(0.1, min(0.2 * 2**reading.failures, _MAX_PAUSE)))  # noqa: S311 - a pause

    async def _pass_on(self, reading: _Reading, step: StepContext) -> None:
        """Passes on what was not yet, until the server ends it."""
        source, position = reading.source, reading.position
        request = errors.Request("get", f"pods/log in namespace {source.ref.namespace}", str(source.ref))
        silence = _FOLLOW_SILENCE if self.config.follow else _SILENCE
        call = Call("GET", f"{source.ref.path}/log", request, tuple(self._query(reading).items()), read_seconds=silence)
        position.opened()
        async with self.cluster.open(call) as response:
            reading.opened = True
            async for line in split_lines(response.content.iter_any()):
                text = position.takes(line)
                if text is not None:
                    reading.lines, reading.failures = reading.lines + 1, 0
                    await step.log("stdout", reading.prefix + text)

    def _query(self, reading: _Reading) -> dict[str, str]:
        config = self.config
        query = {"container": reading.source.container, "timestamps": "true"}
        if config.previous:
            query["previous"] = "true"
        if config.follow:
            query["follow"] = "true"
        else:
            query["limitBytes"] = str(_MAX_BYTES)
        if reading.position.stamp:  # the kubelet gets whole seconds: what was taken in that second comes once more
            return {**query, "sinceTime": reading.position.stamp}
        if config.since is not None:
            query["sinceSeconds"] = str(max(1, round(config.since)))
        return {**query, "tailLines": str(config.lines)}

    async def _has_ended(self, source: _Source) -> bool:
        """Whether a log that was followed has ended because its container has, not because somebody cut it off."""
        try:
            pod = await self.cluster.find(source.ref)
        except TemporaryError:
            return False
        if pod is None or targets.uid_of(pod) != source.uid:
            return True
        statuses = [entry for entry in container_statuses(pod) if entry.get("name") == source.container]
        return not any(
            "running" in rollout.mapping(entry, "state") and rollout.integer(entry, "restartCount") == source.restarts
            for entry in statuses
        )

    async def _sources(self, step: StepContext) -> list[_Source]:
        pods = await self._pods()
        targets.bound_pods(step, len(pods), "reading the logs")
        sources = [
            _Source(ref, container, targets.uid_of(pod), _restarts(pod, container))
            for ref, pod in pods
            for container in _containers(pod)
            if self.config.container in (None, container)
        ]
        if pods and not sources:
            known = ", ".join(sorted({name for _, pod in pods for name in _containers(pod)}))
            raise PermanentError(
                f'{pods[0][0]} has no container "{self.config.container}"; it has {known}', code="not_found"
            )
        if self.config.follow and len(sources) > _MOST_FOLLOWED:
            raise PermanentError(
                f"{len(sources)} containers can't be followed at once, but {_MOST_FOLLOWED}; "
                "name a container or a narrower selector",
                code="limit",
            )
        return sources

    async def _pods(self) -> list[tuple[kinds.Ref, JsonObject]]:
        config = self.config
        if config.name is None:
            namespace = await targets.namespace_of(self.cluster, config)
            query = {"labelSelector": config.selector or ""}
            pods = await self.cluster.items(kinds.POD, namespace, query)
            if not pods:
                raise PermanentError(
                    targets.nothing_selected(kinds.POD, namespace, config.selector or ""), code="not_found"
                )
            return [(kinds.Ref(kinds.POD, namespace, targets.name_of(pod)), pod) for pod in pods]
        ref, item = await self._named()
        if ref.kind == kinds.POD:
            return [(ref, item)]
        pods = rollout_pods(await self.cluster.items(kinds.POD, ref.namespace, selector_query(item)))
        return [(kinds.Ref(kinds.POD, ref.namespace, targets.name_of(pod)), pod) for pod in pods]

    async def _named(self) -> tuple[kinds.Ref, JsonObject]:
        if self.config.resource_type is not None or "/" in str(self.config.name):
            ref = await targets.reference(self.cluster, self.config)
            return ref, await self.cluster.get(ref)
        namespace = await targets.namespace_of(self.cluster, self.config)
        name = targets.checked(str(self.config.name), "name")
        for kind in _GUESSES:
            ref = kinds.Ref(kind, namespace, name)
            item = await self.cluster.find(ref)
            if item is not None:
                return ref, item
        raise PermanentError(f"no pod, deployment, statefulset, daemonset or job {namespace}/{name}", code="not_found")


def rollout_pods(pods: list[JsonObject]) -> list[JsonObject]:
    """The pods in the order of their age, oldest first."""
    return sorted(pods, key=lambda pod: (rollout.text(pod, "metadata", "creationTimestamp"), targets.name_of(pod)))


def _containers(pod: JsonObject) -> list[str]:
    """The names of all containers, the init containers first."""
    spec = rollout.mapping(pod, "spec")
    lists = [spec.get(part) for part in ("initContainers", "containers", "ephemeralContainers")]
    return [
        str(each.get("name")) for some in lists if isinstance(some, list) for each in some if isinstance(each, dict)
    ]


def _restarts(pod: JsonObject, container: str) -> int:
    found = (entry for entry in container_statuses(pod) if entry.get("name") == container)
    return rollout.integer(next(found, {}), "restartCount")


def _names(sources: list[_Source]) -> list[str]:
    return list(dict.fromkeys(source.ref.name for source in sources))
