"""The action job: runs a Job to its end and passes on what its pods write."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from pydantic import JsonValue

from consumer.adapters.k8s import kinds, rollout, targets
from consumer.adapters.k8s.actions.create import Create
from consumer.adapters.k8s.actions.reads import selector_query
from consumer.adapters.k8s.client import Cluster
from consumer.adapters.k8s.config import CreateConfig
from consumer.adapters.k8s.configs_jobs import JobConfig
from consumer.adapters.k8s.following import PodLogs, container_statuses
from consumer.adapters.k8s.patience import deadline, time_for
from consumer.adapters.k8s.records import create_record, keep
from consumer.adapters.k8s.together import beside
from consumer.adapters.k8s.watching import Scene, State, until
from consumer.errors import PermanentError, StepError, TemporaryError
from consumer.ports import JsonObject, Plan, StepContext
from schemas.scalars import format_duration

#: Seconds that a Job is kept after its end where it is to be cleaned up. Until then a repeated attempt finds it.
KEPT = 600
_TTL = "ttlSecondsAfterFinished"
#: Seconds for the last lines to arrive after the Job's end.
_LAST_WORDS = 15.0
#: How long the name may be: the Job's pods carry it as a label.
_MAX_NAME = 63
_SUFFIX = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Output: `{resource, name, namespace, uid, already, succeeded, failed, duration, pods, lines, kept}`.

    `duration` in seconds; `kept`: how long the Job stays after its end, None: until somebody deletes it. A Job that
    fails is an error that no further attempt changes: how often its pods are tried again is the Job's `backoffLimit`.

    Repeatable: the Job carries the step's idempotency key, and a later attempt finds it and waits for it. One that does
    not find it although it may have run is an error, for a second Job would do its work twice. When the step is ended
    before the Job, the Job goes on; undo deletes it and its pods.
    """

    cluster: Cluster
    config: JobConfig
    repeatable: bool = True

    @property
    def waits(self) -> bool:
        """See `ports.Action`: a Job whose creation was interrupted is found, or made, by the next attempt."""
        return True

    @property
    def time_limit(self) -> float | None:
        return self.config.timeout

    async def plan(self, step: StepContext) -> Plan:
        create = await self._create(step)
        _, manifest = await self._checked(create, step)
        plan = await create.plan(step)
        suspended = " (suspended: it starts when somebody resumes it)" * _is_suspended(manifest)
        return replace(plan, summary=f"run {plan.detail['resource']}{suspended}")

    async def run(self, step: StepContext) -> JsonObject:
        until = deadline(self.config.timeout, step)
        create = await self._create(step)
        ref, manifest = await self._checked(create, step)
        if step.captured is None:
            record = {**create_record(ref, step.idempotency_key), "began": datetime.now(UTC).isoformat()}
            record = await keep(self.cluster, step, record, f"{ref} before its creation", self.config)
            step = replace(step, captured=record)
        elif await self.cluster.find(ref) is None and self._may_have_ended(step.captured, manifest):
            raise PermanentError(
                f"{ref} is not there: whether it ran and was cleaned up since is not known, and it is not run again",
                code="unknown_outcome",
            )
        made = await create.run(step)
        what = "is there already; its lines come from the first on" if made["already"] else "created"
        await step.log("agent", f"{ref} {what}; it goes on if this step is ended")
        return await self._followed(ref, made, step, until)

    async def _followed(self, ref: kinds.Ref, made: JsonObject, step: StepContext, until: float | None) -> JsonObject:
        """Waits for the Job's end while its logs are passed on."""
        item = await self.cluster.get(ref)
        logs = PodLogs(
            self.cluster,
            ref.namespace,
            str(selector_query(item)["labelSelector"]),
            say=lambda line: step.log("stdout", line),
            note=lambda line: step.log("agent", line),
            prefixed=_has_several(item),
        )
        async with beside(logs.run()):
            ended = await self._ended(ref, item, step, until)
            logs.over.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WORDS):
                    await logs.ended.wait()
            if not logs.ended.is_set():
                await step.log("agent", f"some of the last lines of {ref} may be missing")
        output: JsonObject = {**made, **_result(ended), "pods": list[JsonValue](logs.pods), "lines": logs.lines}
        why = _condition(ended, "Failed")
        if why is not None:
            exits = await self._exits(ref, str(logs.selector))
            raise PermanentError(f"{ref} failed: {'; '.join([why, *exits])}", code="failed", output=output)
        return {**output, "kept": await self._kept(ref, ended, step)}

    async def _ended(self, ref: kinds.Ref, item: JsonObject, step: StepContext, limit: float | None) -> JsonObject:
        """The Job once it has ended. Raises StepError where it goes, or time is over."""
        uid, last = targets.uid_of(item), item

        def look(state: State) -> JsonObject | None:
            nonlocal last
            if uid not in state:
                raise PermanentError(f"{ref} was deleted before it ended: {_progress(last)}", code="not_found")
            last = state[uid]
            return last if _condition(last, "Complete", "Failed") is not None else None

        async def trouble(message: str) -> None:
            await step.log("agent", f"still waiting: {message}")

        try:
            async with asyncio.timeout_at(limit):
                return await until(self.cluster, Scene(ref.kind, ref.namespace, name=ref.name), look, trouble)
        except TimeoutError as error:
            whole = format_duration(time_for(self.config.timeout, step) or 0.0)
            raise TemporaryError(
                f"{ref} has not ended after {whole}: {_progress(last)}; it goes on, a further "
                "attempt waits for it, undo deletes it",
                code="timeout",
                output=_result(last),
            ) from error

    async def _exits(self, ref: kinds.Ref, selector: str) -> list[str]:
        """How the containers of its pods ended that failed, as many as can be read."""
        try:
            pods = await self.cluster.items(kinds.POD, ref.namespace, {"labelSelector": selector})
        except StepError:
            return []
        ends = [
            f"pod {targets.name_of(pod)}: container {entry.get('name')} ended with exit code {code}"
            for pod in pods
            for entry in container_statuses(pod)
            if (code := rollout.integer(entry, "state", "terminated", "exitCode")) != 0
        ]
        return ends[:3]

    async def _kept(self, ref: kinds.Ref, ended: JsonObject, step: StepContext) -> str | None:
        """How long the Job stays; sees to it where only a success is to be cleaned up."""
        ttl = rollout.mapping(ended, "spec").get(_TTL)
        if ttl is None and self.config.cleanup == "on_success":
            try:
                await self.cluster.patch(ref, {"spec": {_TTL: KEPT}}, "merge")
                ttl = KEPT
            except StepError as error:
                await step.log("agent", f"{ref} is not cleaned up: {error}")
        return format_duration(float(ttl)) if isinstance(ttl, int) else None

    def _may_have_ended(self, record: JsonObject, manifest: JsonObject) -> bool:
        """Whether a Job that is not there may have been made, have run, and be cleaned up since."""
        ttl = rollout.mapping(manifest, "spec").get(_TTL, None if self.config.cleanup == "never" else KEPT)
        if not isinstance(ttl, int):
            return False
        began = datetime.fromisoformat(str(record.get("began")))
        return datetime.now(UTC) - began >= timedelta(seconds=ttl)

    # --- what to create --------------------------------------------------------------------------------------

    async def _create(self, step: StepContext) -> Create:
        config = self.config
        namespace = await targets.namespace_of(self.cluster, config)
        manifest = config.manifest if config.manifest is not None else await self._from_cron_job(namespace)
        manifest = {"apiVersion": kinds.JOB.api_version, "kind": kinds.JOB.name, **manifest}
        if config.cleanup == "always":
            spec = rollout.mapping(manifest, "spec")
            manifest["spec"] = {_TTL: KEPT, **spec}
        made = CreateConfig(action="create", manifest=manifest, name=config.name, namespace=config.namespace)
        return Create(cluster=self.cluster, config=made)

    async def _checked(self, create: Create, step: StepContext) -> tuple[kinds.Ref, JsonObject]:
        """What will be created. Raises PermanentError where it is no Job, or has more pods than the package allows."""
        ref, manifest = await create.prepared(step)
        if ref.kind != kinds.JOB:
            raise PermanentError(f"{ref} is no job; use the action create for it", code="invalid")
        return ref, manifest

    async def _from_cron_job(self, namespace: str | None) -> JsonObject:
        """The Job that the CronJob would make now, as kubectl makes it (cmd/create/create_job.go)."""
        name = str(self.config.template)
        word, _, rest = name.rpartition("/")
        kind = await self.cluster.kind(word or "cronjob")
        if kind != _CRON_JOB:
            raise PermanentError(f'template: "{name}" is no CronJob', code="invalid")
        ref = kinds.Ref(kind, namespace, targets.checked(rest, "name"))
        item = await self.cluster.get(ref)
        template = rollout.mapping(item, "spec", "jobTemplate")
        owner: JsonObject = {
            "apiVersion": kind.api_version,
            "kind": kind.name,
            "name": ref.name,
            "uid": targets.uid_of(item),
            "controller": True,
        }
        annotations = rollout.mapping(template, "metadata", "annotations")
        metadata: JsonObject = {
            "annotations": {"cronjob.kubernetes.io/instantiate": "manual", **annotations},
            "labels": rollout.mapping(template, "metadata", "labels"),
            "ownerReferences": [owner],
            "generateName": ref.name[: _MAX_NAME - _SUFFIX] + "-",
        }
        return {"metadata": metadata, "spec": rollout.mapping(template, "spec")}


_CRON_JOB = kinds.Kind("CronJob", "cronjobs", "batch")


def _condition(item: JsonObject, *names: str) -> str | None:
    """Why the first of the conditions holds that does; None where none does."""
    for entry in rollout.conditions(item):
        if entry.get("type") in names and entry.get("status") == "True":
            return ": ".join(text for part in ("reason", "message") if (text := str(entry.get(part) or "")))
    return None


def _is_suspended(item: JsonObject) -> bool:
    return rollout.mapping(item, "spec").get("suspend") is True


def _has_several(job: JsonObject) -> bool:
    """Whether several containers may write at the same time."""
    spec = rollout.mapping(job, "spec", "template", "spec")
    containers = [name for key in ("containers", "initContainers") if isinstance(name := spec.get(key), list)]
    return sum(map(len, containers)) > 1 or rollout.integer(job, "spec", "parallelism", default=1) > 1


def _progress(job: JsonObject) -> str:
    """How far the Job is."""
    if _is_suspended(job):
        return "it is suspended, somebody must resume it"
    words = ("active", "succeeded", "failed")
    return "pods: " + ", ".join(f"{rollout.integer(job, 'status', word)} {word}" for word in words)


def _result(job: JsonObject) -> JsonObject:
    """The numbers of the output."""
    return {
        "succeeded": rollout.integer(job, "status", "succeeded"),
        "failed": rollout.integer(job, "status", "failed"),
        "duration": _duration(job),
    }


def _duration(job: JsonObject) -> float | None:
    """Seconds from the Job's start to its end; None where it has no start or no end."""
    start = rollout.text(job, "status", "startTime")
    ends = [rollout.text(job, "status", "completionTime")]
    ends += [
        rollout.text(entry, "lastTransitionTime") for entry in rollout.conditions(job) if entry["type"] == "Failed"
    ]
    end = next((each for each in ends if each), "")
    if not start or not end:
        return None
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()
