"""The action scale: replicas through the scale subresource, as `kubectl scale` does it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from consumer.adapters.k8s import diff, kinds, plans, rollout, targets
from consumer.adapters.k8s.client import Cluster
from consumer.adapters.k8s.config import ScaleConfig
from consumer.adapters.k8s.records import fields_record, keep, objects
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject, Plan, StepContext

_PATH = ("spec", "replicas")
_TRIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Output: `{resource, from, to, replicas}`; `replicas` is `to`. It does not wait for the pods, as kubectl does not.

    Repeatable: a later attempt takes the target that the first one captured, so a factor is not applied twice.
    """

    cluster: Cluster
    config: ScaleConfig
    repeatable: bool = True
    time_limit: float | None = None

    async def plan(self, step: StepContext) -> Plan:
        ref = await targets.reference(self.cluster, self.config)
        now, wanted, _ = await self._numbers(ref, step)
        if now == wanted:
            return Plan(summary=f"{ref} has {now} replicas already", changes=False, detail=_output(ref, now, wanted))
        await self.cluster.patch(ref, _body(wanted), "merge", subresource="scale", dry_run=True)
        change = plans.Change(ref, [diff.change(_PATH, now, wanted)])
        detail = {**_output(ref, now, wanted), **plans.detail([change])}
        return Plan(summary=f"scale {ref} from {now} to {wanted}", changes=True, detail=detail)

    async def run(self, step: StepContext) -> JsonObject:
        ref = await targets.reference(self.cluster, self.config)
        now, wanted, scale = await self._numbers(ref, step)
        if now != wanted or step.captured is not None:
            record = fields_record(ref, scale, [diff.change(_PATH, now, wanted)], subresource="scale")
            record = await keep(self.cluster, step, record, f"{ref} has {now} replicas", self.config)
            before, _ = _captured(record)
            await self._set(ref, scale, before, wanted)
            now = before
        return _output(ref, now, wanted)

    async def _set(self, ref: kinds.Ref, scale: JsonObject, before: int, wanted: int) -> None:
        """Changes the number. Where it follows from the one before, only while that one stands: under its version."""
        if self.config.scale_factor is None and self.config.current_replicas is None:
            await self.cluster.patch(ref, _body(wanted), "merge", subresource="scale")
            return
        for _ in range(_TRIES):
            now = rollout.integer(scale, "spec", "replicas")
            if now == wanted:
                return
            if now != before:
                raise PermanentError(
                    f"{ref} was scaled from {before} to {now} by someone else at the same time; it stays so",
                    code="conflict",
                )
            body = _body(wanted, rollout.text(scale, "metadata", "resourceVersion"))
            try:
                await self.cluster.patch(ref, body, "merge", subresource="scale")
            except TemporaryError as error:  # most often it is only the status that has changed
                if error.code != "conflict":
                    raise
                scale = await self._scale(ref)
            else:
                return
        raise TemporaryError(f"{ref} is changed all the time by someone else", code="conflict")

    async def _scale(self, ref: kinds.Ref) -> JsonObject:
        """The Scale. Raises PermanentError `not_supported` for an object that has none."""
        try:
            return await self.cluster.get(ref, "scale")
        except PermanentError as error:
            if error.code != "not_found" or await self.cluster.find(ref) is None:
                raise
            raise PermanentError(f"a {ref.kind.singular} can't be scaled", code="not_supported") from error

    async def _numbers(self, ref: kinds.Ref, step: StepContext) -> tuple[int, int, JsonObject]:
        """The present and the wanted number, and the Scale they come from."""
        scale = await self._scale(ref)
        now = rollout.integer(scale, "spec", "replicas")
        if step.captured is not None:
            before, wanted = _captured(step.captured)
        else:
            expected = self.config.current_replicas
            if expected not in (None, now):
                raise PermanentError(
                    f"{ref} has {now} replicas, not the {expected} of current_replicas; it stays so", code="conflict"
                )
            before, wanted = now, self._wanted(ref, now, step.originals)
        if wanted > before or self.config.replicas != "original":  # going back to what was is never over a limit
            targets.bound_replicas(step, wanted, str(ref))
        return now, wanted, scale

    def _wanted(self, ref: kinds.Ref, now: int, originals: Mapping[str, JsonObject]) -> int:
        config = self.config
        if config.replicas == "original":
            return _original(ref, originals)
        if config.replicas is not None:
            return config.replicas
        if config.scale_factor is None:
            raise PermanentError(f"{ref}: give replicas or scale_factor", code="invalid")
        wanted = math.ceil(round(now * config.scale_factor, 6))
        wanted = wanted if config.max_replicas is None else min(wanted, config.max_replicas)
        return wanted if config.min_replicas is None else max(wanted, config.min_replicas)


def _original(ref: kinds.Ref, originals: Mapping[str, JsonObject]) -> int:
    """What the object had before the run first scaled it: the first step that did holds it."""
    flat = (inner for record in originals.values() for inner in (objects(record.get("records")) or [record]))
    for record in flat:
        if record.get("subresource") == "scale" and record.get("ref") == ref.record():
            before, _ = _captured(record)
            return before
    raise PermanentError(
        f"{ref}: no step of this execution has scaled it, so there is no original number", code="no_original"
    )


def _captured(record: JsonObject) -> tuple[int, int]:
    """The numbers of a record: before and after."""
    changes = record.get("changes")
    change = changes[0] if isinstance(changes, list) and changes else None
    before, after = (change.get("from"), change.get("to")) if isinstance(change, dict) else (None, None)
    if not isinstance(before, int) or not isinstance(after, int):
        raise PermanentError("the undo record holds no numbers of replicas", code="invalid_record")
    return before, after


def _body(replicas: int, version: str | None = None) -> JsonObject:
    """The patch; with a version it is refused where the object has another one."""
    body: JsonObject = {"spec": {"replicas": replicas}}
    return body if version is None else {"metadata": {"resourceVersion": version}, **body}


def _output(ref: kinds.Ref, before: int, after: int) -> JsonObject:
    return {"resource": str(ref), "from": before, "to": after, "replicas": after}
