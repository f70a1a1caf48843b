"""Undo: how the state that a record holds comes back, and what is done where somebody else has changed it since.

By the step's `on_foreign_change`: `stop` (nothing of the object is touched, the undo fails and says what was changed by
whom), `skip` (what nobody else has changed goes back) or `overwrite`. Values of Secrets are in no text and no output.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from pydantic import JsonValue

from consumer.adapters.k8s import diff, kinds, owners, sealing, targets
from consumer.adapters.k8s.client import FIELD_MANAGER, Cluster
from consumer.adapters.k8s.records import CREATED_BY, about, annotation, changes_of, objects, ref_of, why_not
from consumer.errors import PermanentError, StepError, TemporaryError
from consumer.ports import JsonObject, Plan, StepContext

_TRIES = 5


class Undo:
    """What `undo` does with a record, or would do."""

    def __init__(self, cluster: Cluster, step: StepContext, *, dry_run: bool) -> None:
        self._cluster = cluster
        self._step = step
        self._dry_run = dry_run
        self._policy = "stop"
        self._restored: list[JsonValue] = []
        self._not_restored: list[JsonValue] = []

    async def run(self, record: JsonObject) -> JsonObject:
        """Restores; gives `{resource, restored, not_restored}`, texts for people. Repeatable.

        Raises StepError; PermanentError `foreign_change` where the step says to stop there.
        """
        record = await sealing.opened(self._cluster, record)
        self._policy = str(record.get("on_foreign_change") or "stop")
        several = record.get("op") in ("many", "delete")
        if several and self._policy == "stop" and not self._dry_run:  # first whether all of it can go back
            await Undo(self._cluster, self._step, dry_run=True).run(record)
        resource = await self._one(record)
        return {"resource": resource, "restored": self._restored, "not_restored": self._not_restored}

    async def plan(self, record: JsonObject) -> Plan:
        """What `run` would do."""
        detail = await self.run(record)
        parts = [str(text) for text in self._restored] + [f"not: {text}" for text in self._not_restored]
        what = "; ".join(parts[:5]) + ("; …" if len(parts) > 5 else "") if parts else "nothing to restore"
        return Plan(summary=f"{detail['resource']}: {what}", changes=bool(self._restored), detail=detail)

    async def _one(self, record: JsonObject) -> str:
        handlers: dict[str, Callable[[JsonObject], Awaitable[str]]] = {
            "fields": self._fields,
            "create": self._create,
            "delete": self._delete,
            "many": self._many,
            "nothing": self._nothing,
        }
        handler = handlers.get(str(record.get("op")))
        if handler is None:
            raise PermanentError(f"the undo record has the unknown form {record.get('op')!r}", code="invalid_record")
        return await handler(record)

    async def _many(self, record: JsonObject) -> str:
        each = [await sealing.opened(self._cluster, inner) for inner in reversed(objects(record.get("records")))]
        return ", ".join([await self._one(inner) for inner in each])

    async def _nothing(self, record: JsonObject) -> str:
        names = [str(ref_of(entry)) for entry in objects(record.get("objects"))]
        self._not_restored += [f"{name}: the step was told to keep nothing (undo: false)" for name in names]
        return ", ".join(names)

    def _foreign(self, ref: kinds.Ref, text: str) -> None:
        """Somebody else did something that the undo would destroy, or that it can't undo."""
        if self._policy == "stop":
            raise PermanentError(
                f"{ref} is left as it is, because it was changed since: {text}. Put it right by hand, or let the step "
                "say `on_foreign_change: skip` (what nobody else has changed goes back) or `overwrite`",
                code="foreign_change",
            )
        self._not_restored.append(text)

    # --- fields ----------------------------------------------------------------------------------------------

    async def _fields(self, record: JsonObject) -> str:
        ref = ref_of(record)
        for attempt in range(1, _TRIES + 1):
            told = len(self._not_restored)
            try:
                await self._put_back(ref, record)
                break
            except (PermanentError, TemporaryError) as error:
                # A guard failed: the object changed between the read and the patch. Look again.
                if error.code not in ("invalid", "conflict"):
                    raise
                if attempt == _TRIES:
                    raise TemporaryError(f"{ref} is changed all the time by someone else", code="conflict") from error
                del self._not_restored[told:]
        if isinstance(owned := record.get("owned"), dict) and not self._dry_run:
            await self._own_again(ref, owned)
        if (managers := objects(record.get("managers"))) and not self._dry_run:
            await self._return(ref, managers)
        return str(ref)

    async def _put_back(self, ref: kinds.Ref, record: JsonObject) -> None:
        """Puts the fields back, as far as that may be done. Raises `invalid` or `conflict` where a guard fails."""
        item = await self._same_object(ref, record)
        if item is None:
            return
        changes, overwrite = changes_of(record), self._policy == "overwrite"
        operations, others = diff.reverse(item, changes, overwrite=overwrite)
        if others and not overwrite:
            texts = await self._who(ref, item, others, str(record.get("subresource") or ""))
            if self._policy == "stop" or record.get("whole"):
                self._foreign(ref, "; ".join(texts))
                return
            self._not_restored += texts
        back = [] if not operations else [change for change in changes if overwrite or change not in others]
        if "owned" in record and record["owned"] is None:
            operations += owners.given_up(item)
        if operations:
            await self._apply(ref, item, operations, record)
            self._restored += [_shown(change, secret=ref.kind == kinds.SECRET) for change in back]

    async def _own_again(self, ref: kinds.Ref, owned: JsonObject) -> None:
        """What was ours by apply before an apply is ours so again. After the values: with them it would not last."""
        item = await self._cluster.find(ref)
        operations = owners.given_back(item, owned) if item is not None else []
        if operations:
            await self._cluster.patch(ref, list[JsonValue](operations), "json")

    async def _return(self, ref: kinds.Ref, managers: Sequence[JsonObject]) -> None:
        """Fields that were put back belong to those who owned them before; else their next apply would meet ours."""
        for _ in range(_TRIES):
            item = await self._cluster.find(ref)
            operations = owners.returned(item, managers) if item is not None else []
            if not operations:
                return
            try:
                await self._cluster.patch(ref, list[JsonValue](operations), "json")
            except (PermanentError, TemporaryError) as error:
                if error.code not in ("invalid", "conflict"):  # else a guard failed: look again
                    raise
        self._not_restored.append(f"{ref}: fields that were put back still belong to {FIELD_MANAGER}")

    async def _apply(
        self, ref: kinds.Ref, item: JsonObject, operations: Sequence[JsonObject], record: JsonObject
    ) -> None:
        if record.get("subresource") == "scale":  # what scaled through the subresource goes back through it
            body: JsonObject = {
                "metadata": {"resourceVersion": diff.text(item, ("metadata", "resourceVersion"))},
                "spec": {"replicas": changes_of(record)[0]["from"]},
            }
            await self._cluster.patch(ref, body, "merge", subresource="scale", dry_run=self._dry_run)
            return
        patch: list[JsonValue] = [dict(operation) for operation in operations]
        await self._cluster.patch(ref, patch, "json", dry_run=self._dry_run)

    async def _same_object(self, ref: kinds.Ref, record: JsonObject) -> JsonObject | None:
        """The object that the record is about; None (and said so) where it is gone or another."""
        item = await self._cluster.find(ref, str(record.get("subresource") or ""))
        if item is None:
            self._foreign(ref, f"{ref} no longer exists")
        elif targets.uid_of(item) != record.get("uid") and not self._made_again(ref, record):
            self._foreign(ref, f"{ref} is another object of that name now")
            return None
        return item

    def _made_again(self, ref: kinds.Ref, record: JsonObject) -> bool:
        """Whether a later step of the run deleted that very object, so that its undo has made it again."""
        wanted: JsonObject = {"ref": ref.record(), "uid": record.get("uid")}
        deleted = (each for each in self._step.originals.values() if "delete" in (each.get("op"), each.get("of")))
        return any(wanted in about(each) for each in deleted)

    async def _who(
        self, ref: kinds.Ref, item: JsonObject, others: Sequence[diff.Change], subresource: str
    ) -> list[str]:
        """What others have changed, and who they are."""
        whole: JsonObject | None = item
        if subresource:  # a Scale does not say who set its numbers
            try:
                whole = await self._cluster.find(ref)
            except StepError:  # not allowed, perhaps: then it is not known
                whole = None
        return [_told(item, whole or {}, made, secret=ref.kind == kinds.SECRET) for made in others]

    # --- objects ---------------------------------------------------------------------------------------------

    async def _create(self, record: JsonObject) -> str:
        ref = ref_of(record)
        for attempt in range(1, _TRIES + 1):
            item = await self._cluster.find(ref)
            if item is None or _is_ending(item):
                return str(ref)
            if annotation(item, CREATED_BY) != record.get("key"):
                self._foreign(ref, f"{ref} is not the one that the step created")
                return str(ref)
            changers = owners.others(item)
            if changers and self._policy != "overwrite":
                self._foreign(ref, f"{ref} has fields set by {', '.join(changers[:3])}")
                return str(ref)
            try:
                guard: JsonObject = {
                    "uid": targets.uid_of(item),
                    "resourceVersion": diff.text(item, ("metadata", "resourceVersion")),
                }
                options: JsonObject = {"propagationPolicy": "Background", "preconditions": guard}
                await self._cluster.delete(ref, options, dry_run=self._dry_run)
            except (PermanentError, TemporaryError) as error:
                if error.code == "not_found":
                    return str(ref)
                if error.code != "conflict" or attempt == _TRIES:
                    raise
                continue
            self._restored.append(f"{ref} deleted")
            return str(ref)
        return str(ref)

    async def _delete(self, record: JsonObject) -> str:
        names: list[str] = []
        for entry in objects(record.get("objects")):
            ref = ref_of(entry)
            names.append(str(ref))
            if record.get("kept") is False:
                self._not_restored.append(f"{ref}: the step was told to keep nothing (undo: false)")
            else:
                await self._make_again(ref, entry)
        return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")

    async def _make_again(self, ref: kinds.Ref, entry: JsonObject) -> None:
        item = await self._cluster.find(ref)
        manifest = entry.get("object")
        if item is not None and targets.uid_of(item) == entry.get("uid"):
            if _is_ending(item):
                self._not_restored.append(f"{ref} is still being deleted")
            return
        if not isinstance(manifest, dict):
            why = why_not(ref, {}) or "its controller makes another one"
            self._not_restored.append(f"{ref}: {why}")
            return
        if item is not None:  # an earlier attempt's, or as good as that
            if diff.between(manifest, item) and owners.others(item):
                by = ", ".join(owners.others(item)[:3])
                self._foreign(ref, f"{ref} exists again, made or changed by {by}")
            elif diff.between(manifest, item) and not owners.entries(item):
                self._foreign(ref, f"{ref} exists again, made by someone else")
            return
        await self._cluster.create(ref, manifest, dry_run=self._dry_run)
        self._restored.append(f"{ref} made again")


def _is_ending(item: JsonObject) -> bool:
    return isinstance(diff.look(item, ("metadata", "deletionTimestamp")), str)


def _shown(change: diff.Change, *, secret: bool) -> str:
    """`spec.replicas 5 → 3`; no values for a Secret, nor for what is no scalar."""
    path = diff.dotted(diff.path_of(change))
    sides = [change.get("to"), change.get("from")]
    if secret or any(isinstance(side, dict | list) for side in sides):
        return path
    return f"{path} {_brief(sides[0])} → {_brief(sides[1])}"


def _told(item: JsonObject, whole: JsonObject, change: diff.Change, *, secret: bool) -> str:
    """`spec.replicas is 7 and not 5, set by kubectl at 2026-11-24T10:00:00Z`."""
    path = diff.path_of(change)
    text = diff.dotted(path)
    now, left = diff.look(item, path), change.get("to")
    plain = not secret and not any(isinstance(side, dict | list) for side in (now, left))
    text += f" is {_brief(now)} and not {_brief(left)}" if plain else " was changed since"
    if isinstance(now, diff.Missing):
        by = owners.last_other(whole)
        return f"{text}; the last to change the object was {by}" if by else text
    by = owners.owner(whole, path)
    return f"{text}, set by {by}" if by else text


def _brief(value: JsonValue | diff.Missing) -> str:
    return "(none)" if value is None or isinstance(value, diff.Missing) else str(value)[:100]
