"""The action logs: the lines of pods' containers, streamed to the step's log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass

from pydantic import JsonValue

from consumer.adapters.k8s import errors, kinds, rollout, targets
from consumer.adapters.k8s.actions.reads import selector_query
from consumer.adapters.k8s.client import Call, Cluster
from consumer.adapters.k8s.config import LogsConfig
from consumer.errors import PermanentError
from consumer.ports import JsonObject, Plan, StepContext

_MAX_LINE = 16 * 1024
_MAX_BYTES = 16 * 1024 * 1024
_SILENCE = 60.0
_FOLLOW_SILENCE = 24 * 3600.0
_AT_ONCE = 5
#: Kinds tried in this order where a name comes without a resource_type.
_GUESSES = (kinds.POD, kinds.DEPLOYMENT, kinds.STATEFULSET, kinds.DAEMONSET, kinds.JOB)


@dataclass(frozen=True, slots=True)
class _Source:
    """One container of one pod."""

    ref: kinds.Ref
    container: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Logs:
    """Output: `{pods: [names], lines, skipped: [{source, why}]}`.

    All pods of a workload, all containers of a pod unless `container` names one; lines carry the prefix
    `pod/container: ` where there are several. Without `resource_type` a name is a pod's, else a workload's.
    A container that has no log (not started, no previous run) is skipped and said so.
    """

    cluster: Cluster
    config: LogsConfig
    repeatable: bool = True
    time_limit: float | None = None

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
        counts: list[int] = []
        skipped: list[JsonValue] = []
        slots = asyncio.Semaphore(len(sources) if self.config.follow else _AT_ONCE)

        async def read(source: _Source) -> None:
            async with slots:
                prefix = f"{source.ref.name}/{source.container}: " if len(sources) > 1 else ""
                why = await self._read(source, prefix, step, counts)
                if why is not None:
                    skipped.append({"source": f"{source.ref.name}/{source.container}", "why": why})
                    await step.log("agent", f"no log of {source.ref.name}/{source.container}: {why}")

        await _all(*(read(source) for source in sources))
        return {"pods": list[JsonValue](_names(sources)), "lines": sum(counts), "skipped": skipped}

    async def _read(self, source: _Source, prefix: str, step: StepContext, counts: list[int]) -> str | None:
        """Passes on one container's lines; gives why there are none."""
        config = self.config
        query: dict[str, str] = {"container": source.container, "tailLines": str(config.lines)}
        if config.previous:
            query["previous"] = "true"
        if config.since is not None:
            query["sinceSeconds"] = str(max(1, round(config.since)))
        if config.follow:
            query["follow"] = "true"
        else:
            query["limitBytes"] = str(_MAX_BYTES)
        request = errors.Request("get", f"pods/log in namespace {source.ref.namespace}", str(source.ref))
        silence = _FOLLOW_SILENCE if config.follow else _SILENCE
        call = Call("GET", f"{source.ref.path}/log", request, tuple(query.items()), read_seconds=silence)
        count = 0
        try:
            async with self.cluster.open(call) as response:
                async for line in split_lines(response.content.iter_any()):
                    count += 1
                    await step.log("stdout", prefix + line)
        except PermanentError as error:
            if error.code in ("bad_request", "not_found"):
                return str(error)
            raise
        finally:
            counts.append(count)
        return None

    async def _sources(self, step: StepContext) -> list[_Source]:
        pods = await self._pods()
        targets.bound_pods(step, len(pods), "reading the logs")
        sources = [
            _Source(ref, container)
            for ref, pod in pods
            for container in _containers(pod)
            if self.config.container in (None, container)
        ]
        if pods and not sources:
            known = ", ".join(sorted({name for _, pod in pods for name in _containers(pod)}))
            raise PermanentError(
                f'{pods[0][0]} has no container "{self.config.container}"; it has {known}', code="not_found"
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


async def _all(*reads: Coroutine[None, None, None]) -> None:
    """Runs them at the same time; the first error ends the others and is raised as it is, not as a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in reads:
                group.create_task(each)
    except BaseExceptionGroup as errors_of_group:
        raise errors_of_group.exceptions[0] from None


def rollout_pods(pods: list[JsonObject]) -> list[JsonObject]:
    """The pods in the order of their age, oldest first."""
    return sorted(pods, key=lambda pod: (rollout.text(pod, "metadata", "creationTimestamp"), targets.name_of(pod)))


def _containers(pod: JsonObject) -> list[str]:
    found = rollout.mapping(pod, "spec").get("containers")
    return [str(entry.get("name")) for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _names(sources: list[_Source]) -> list[str]:
    return list(dict.fromkeys(source.ref.name for source in sources))


async def split_lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Lines of a byte stream; one that is longer than 16 KiB is cut, with a mark. Memory is bounded by that."""
    rest = b""
    cut = False
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield _text(line, cut=cut)
            cut = False
        if len(rest) > _MAX_LINE:
            rest, cut = rest[:_MAX_LINE], True
    if rest:
        yield _text(rest, cut=cut)


def _text(line: bytes, *, cut: bool) -> str:
    cut = cut or len(line) > _MAX_LINE
    text = line[:_MAX_LINE].decode("utf-8", "replace").rstrip("\r")
    return text + "… (line cut)" if cut else text
