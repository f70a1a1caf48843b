"""Actions that change fields: patch, annotate and label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pydantic import JsonValue

from consumer.adapters.k8s import diff, kinds, plans, records, rollout, sealing, targets
from consumer.adapters.k8s.client import Cluster, PatchType
from consumer.adapters.k8s.config import AnnotateConfig, LabelConfig, PatchConfig
from consumer.adapters.k8s.records import changes_of, fields_record, keep, nothing_record
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject, Plan, StepContext

_INCREMENT = "increment"
_TRIES = 5
#: Fields of a secret or a configmap that mark a patch of the whole object; without any it is a patch of its `data`.
_TOP_LEVEL = {"apiVersion", "kind", "metadata", "data", "stringData", "binaryData", "immutable", "type", "$patch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """Output: `{resource, changed: [paths], changes: [{path, from, to}]}`; a Secret's values are masked.

    Repeatable where the patch sets values; a JSON patch that adds to a list or tests is not.
    """

    cluster: Cluster
    config: PatchConfig
    private: bool = False
    """Whether values of the patch come from the agent's own secrets."""
    time_limit: float | None = None

    @property
    def repeatable(self) -> bool:
        data = self.config.data
        if isinstance(data, dict):
            return True
        return all(
            entry.get("op") in ("replace", "test") or (entry.get("op") == "add" and not _adds_to_list(entry))
            for entry in data
        )

    async def plan(self, step: StepContext) -> Plan:
        ref = await targets.reference(self.cluster, self.config)
        before = await self.cluster.get(ref)
        changes = diff.between(before, await plans.settled(partial(self._patched, ref, dry_run=True)))
        self._bound(ref, changes, step)
        detail = {**_detail(ref, changes), **plans.detail([plans.Change(ref, changes)])}
        if not changes:
            return Plan(summary=f"{ref} has these values already", changes=False, detail=detail)
        if self.config.undo and (self.private or ref.kind == kinds.SECRET):
            await sealing.ready(self.cluster, dry_run=True)
        return Plan(summary=f"patch {ref}: {_paths(changes)}", changes=True, detail=detail)

    async def run(self, step: StepContext) -> JsonObject:
        ref = await targets.reference(self.cluster, self.config)
        before = await self.cluster.get(ref)
        record = await records.captured(self.cluster, step)
        if record is not None and record.get("op") == "fields":
            made = changes_of(record)
            if not _all_made(before, made):  # else a JSON patch's own tests would fail on what it did before
                await self._patched(ref)
            return _detail(ref, made)
        # What the patch will change: the API server knows it best, with all defaults and webhooks.
        changes = diff.between(before, await self._patched(ref, dry_run=True))
        self._bound(ref, changes, step)
        if not changes:
            return _detail(ref, [])
        record = fields_record(ref, before, changes) if self.config.undo else nothing_record([(ref, before)])
        summary = f"{ref}: {_paths(changes)}"
        await keep(self.cluster, step, record, summary, self.config, private=self.private)
        return _detail(ref, diff.between(before, await self._patched(ref)))

    async def _patched(self, ref: kinds.Ref, *, dry_run: bool = False) -> JsonObject:
        return await self.cluster.patch(ref, self._body(ref), self._type(ref), dry_run=dry_run)

    def _bound(self, ref: kinds.Ref, changes: list[diff.Change], step: StepContext) -> None:
        for change in changes:
            wanted = change.get("to")
            if diff.path_of(change) == ("spec", "replicas") and isinstance(wanted, int):
                targets.bound_replicas(step, wanted, str(ref))

    def _body(self, ref: kinds.Ref) -> JsonValue:
        data = self.config.data
        if isinstance(data, list):
            return list(data)
        if ref.kind.name in ("Secret", "ConfigMap") and data and not set(data) & _TOP_LEVEL:
            return {"data": data}
        return data

    def _type(self, ref: kinds.Ref) -> PatchType:
        if self.config.patch_type is not None:
            return self.config.patch_type
        if isinstance(self.config.data, list):
            return "json"
        return "strategic" if kinds.built_in(ref.kind.singular) == ref.kind else "merge"


def _all_made(item: JsonObject, made: list[diff.Change]) -> bool:
    """Whether an earlier attempt has made all of its changes, and they still stand."""
    return all(diff.same(diff.look(item, diff.path_of(change)), change.get("to", diff.MISSING)) for change in made)


def _adds_to_list(entry: JsonObject) -> bool:
    last = str(entry.get("path", "")).rpartition("/")[2]
    return last == "-" or last.isdecimal()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Annotate and label. Output: `{resource, changed, changes, value}`; `value` where one was set.

    `increment` reads, adds one and writes under the resource version just read, so that no count is lost; it is not
    repeatable, all else is.
    """

    cluster: Cluster
    config: AnnotateConfig | LabelConfig
    part: Literal["annotations", "labels"]
    private: bool = False
    time_limit: float | None = None

    @property
    def repeatable(self) -> bool:
        return _INCREMENT not in self._wanted().values() or self.part == "labels"

    async def plan(self, step: StepContext) -> Plan:
        ref = await targets.reference(self.cluster, self.config)
        item = await self.cluster.get(ref)
        values = self._values(ref, item)
        after = await plans.settled(partial(self.cluster.patch, ref, self._body(values, None), "merge", dry_run=True))
        changes = diff.between(item, after)
        detail = {**_detail(ref, changes), **plans.detail([plans.Change(ref, changes)])}
        if not changes:
            return Plan(summary=f"{ref} has these {self.part} already", changes=False, detail=detail)
        summary = f"set {self.part} of {ref}: {', '.join(values)}"
        return Plan(summary=summary, changes=True, detail=detail)

    async def run(self, step: StepContext) -> JsonObject:
        ref = await targets.reference(self.cluster, self.config)
        record = await records.captured(self.cluster, step)
        values: Mapping[str, str | None] | None = None if record is None else self._captured(record)
        for _ in range(_TRIES):
            item = await self.cluster.get(ref)
            fresh = self._values(ref, item) if values is None else values
            changes = self._changes(item, fresh)
            if record is not None and not self._is_open(item, record):
                return self._output(ref, changes, fresh)
            if values is None:
                summary = f"{ref}: {self.part} {', '.join(fresh)}"
                await keep(
                    self.cluster, step, fields_record(ref, item, changes), summary, self.config, private=self.private
                )
                values = fresh
            elif self._counts() and record is None and self._values(ref, item) != values:
                # No further attempt: it would take the other's count for its own, by what was captured.
                raise PermanentError(
                    f"{ref} was counted up by someone else at the same time; this step has counted nothing",
                    code="conflict",
                )
            try:
                version = rollout.text(item, "metadata", "resourceVersion") if self._counts() else None
                await self.cluster.patch(ref, self._body(fresh, version), "merge")
                return self._output(ref, changes, fresh)
            except TemporaryError as error:
                if error.code != "conflict":
                    raise
        raise TemporaryError(f"{ref} is changed all the time by someone else", code="conflict")

    def _counts(self) -> bool:
        return not self.repeatable

    def _captured(self, record: JsonObject) -> dict[str, str | None]:
        """The values that the first attempt was to set."""
        made = changes_of(record)
        return {str(diff.path_of(change)[-1]): (None if "to" not in change else str(change["to"])) for change in made}

    def _is_open(self, item: JsonObject, record: JsonObject) -> bool:
        """For a count of an earlier attempt: True if it is still to be made."""
        if not self._counts():
            return True
        return any(
            diff.same(diff.look(item, diff.path_of(change)), change.get("from", diff.MISSING))
            for change in changes_of(record)
        )

    def _wanted(self) -> dict[str, str | None]:
        config = self.config
        one = config.annotation if isinstance(config, AnnotateConfig) else config.label
        many = config.annotations if isinstance(config, AnnotateConfig) else config.labels
        return {**many, **({one: config.value} if one else {})}

    def _values(self, ref: kinds.Ref, item: JsonObject) -> dict[str, str | None]:
        """What to set, counts resolved. Raises PermanentError where overwriting is not wanted."""
        there = rollout.mapping(item, "metadata", self.part)
        values: dict[str, str | None] = {}
        for name, wanted in self._wanted().items():
            now = there.get(name)
            if wanted == _INCREMENT and self.part == "annotations":
                wanted = str(_number(ref, name, now) + 1)
            elif not self.config.overwrite and wanted is not None and now not in (None, wanted):
                raise PermanentError(f'{ref} has "{name}" already, with another value', code="already_exists")
            values[name] = wanted
        return values

    def _changes(self, item: JsonObject, values: Mapping[str, str | None]) -> list[diff.Change]:
        paths = {name: ("metadata", self.part, name) for name in values}
        return [
            diff.change(paths[name], diff.look(item, paths[name]), diff.MISSING if value is None else value)
            for name, value in values.items()
        ]

    def _body(self, values: Mapping[str, str | None], version: str | None) -> JsonObject:
        metadata: JsonObject = {self.part: dict(values)}
        if version:
            metadata["resourceVersion"] = version
        return {"metadata": metadata}

    def _output(self, ref: kinds.Ref, changes: list[diff.Change], values: Mapping[str, str | None]) -> JsonObject:
        output = _detail(ref, [c for c in changes if c.get("from") != c.get("to")])
        if len(values) == 1:
            output["value"] = next(iter(values.values()))
        return output


def _number(ref: kinds.Ref, name: str, value: JsonValue) -> int:
    if value is None or value == "":
        return 0
    try:
        return int(str(value))
    except ValueError as error:
        raise PermanentError(
            f'{ref}: the annotation "{name}" is "{str(value)[:80]}", no number to add to', code="invalid"
        ) from error


def _detail(ref: kinds.Ref, changes: list[diff.Change]) -> JsonObject:
    changed: list[JsonValue] = [diff.dotted(diff.path_of(change)) for change in changes]
    shown = diff.shown(changes, secret=ref.kind == kinds.SECRET)
    return {"resource": str(ref), "changed": changed, "changes": shown}


def _paths(changes: list[diff.Change]) -> str:
    paths = [diff.dotted(diff.path_of(change)) for change in changes]
    return ", ".join(paths[:5]) + (", …" if len(paths) > 5 else "")
