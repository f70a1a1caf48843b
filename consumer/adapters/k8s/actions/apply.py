"""The action apply: server-side apply, as `kubectl apply --server-side` does it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from pydantic import JsonValue

from consumer.adapters.k8s import diff, kinds, manifests, owners, plans, records, sealing, targets
from consumer.adapters.k8s.client import Cluster
from consumer.adapters.k8s.configs_changes import ApplyConfig
from consumer.adapters.k8s.records import CREATED_BY, with_annotation
from consumer.errors import PermanentError
from consumer.ports import JsonObject, Plan, StepContext


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """One object of the manifest, and what becomes of it."""

    ref: kinds.Ref
    body: JsonObject
    """What is sent."""
    before: JsonObject | None
    """None where the object is created."""
    after: JsonObject
    """As the dry run has it."""

    @property
    def changes(self) -> list[diff.Change]:
        return diff.between(self.before or {}, self.after)

    @property
    def open(self) -> bool:
        """Whether there is anything to do: a field to be changed, or one to be owned."""
        return self.before is None or bool(self.changes) or _owned(self.before) != _owned(self.after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """Output: `{resource, created, changed, changes}`; for a list of manifests `{resource, applied: [those]}`.

    Repeatable: what is applied twice is as if applied once. An object that the step creates carries its idempotency
    key as an annotation; undo deletes only that. Of an object that was there before undo restores the fields, and gives
    up those that were not ours.
    """

    cluster: Cluster
    config: ApplyConfig
    private: bool = False
    """Whether values of the manifest come from the agent's own secrets."""
    repeatable: bool = True
    time_limit: float | None = None

    async def plan(self, step: StepContext) -> Plan:
        pieces = [await self._piece(*each, step) for each in await self._placed(step)]
        changes = [await self._planned(piece, step) for piece in pieces]
        changing = [piece for piece in pieces if piece.before is None or piece.changes]
        if any(self._hides(piece) for piece in pieces):
            await sealing.ready(self.cluster, dry_run=True)
        detail = plans.detail([change for change in changes if change.changes] or changes)
        subject = ", ".join(str(piece.ref) for piece in changing or pieces)
        if not changing:
            return Plan(summary=f"{subject} is so already", changes=False, detail=detail)
        return Plan(summary=f"apply {subject}", changes=True, detail=detail)

    async def _planned(self, piece: _Piece, step: StepContext) -> plans.Change:
        after = await plans.settled(partial(self._sent, piece.ref, piece.body, dry_run=True))
        if piece.before is None:
            made = diff.of_values({}, plans.undrawn(after, piece.body))
            return plans.Change(piece.ref, plans.timeless(made, step), "create")
        return plans.Change(piece.ref, diff.between(piece.before, after))

    async def run(self, step: StepContext) -> JsonObject:
        placed = await self._placed(step)
        record = await records.captured(self.cluster, step)
        if record is None:
            pieces = [piece for each in placed if (piece := await self._piece(*each, step)).open]
            if not pieces:
                return self._output([_done(ref, []) for ref, _ in placed])
            summary = ", ".join(_summary(piece) for piece in pieces)
            record = await records.keep(
                self.cluster, step, self._record(pieces, step), summary, self.config, private=self.private
            )
            bodies = {piece.ref: piece.body for piece in pieces}
            done = [await self._one(ref, bodies[ref]) if ref in bodies else _done(ref, []) for ref, _ in placed]
        else:
            mine = _created(record)
            done = [await self._one(ref, _marked(body, step) if ref in mine else body) for ref, body in placed]
        return self._output(done)

    async def _one(self, ref: kinds.Ref, body: JsonObject) -> JsonObject:
        before = await self.cluster.find(ref)
        after = await self._sent(ref, body)
        return _done(ref, diff.between(before or {}, after), created=before is None)

    async def _placed(self, step: StepContext) -> list[tuple[kinds.Ref, JsonObject]]:
        found = [await manifests.placed(self.cluster, each, self.config, step) for each in self.config.manifests]
        refs = [ref for ref, _ in found]
        twice = next((ref for ref in refs if refs.count(ref) > 1), None)
        if twice is not None:
            raise PermanentError(f"{twice} is in the manifest twice; put it together in one", code="invalid")
        return found

    async def _piece(self, ref: kinds.Ref, body: JsonObject, step: StepContext) -> _Piece:
        before = await self.cluster.find(ref)
        if before is None:
            marked = _marked(body, step)
            return _Piece(ref=ref, body=marked, before=None, after=await self._sent(ref, marked, dry_run=True))
        body = _of_uid(body, targets.uid_of(before))  # else one that is deleted meanwhile would be made again
        mark = records.annotation(before, CREATED_BY)
        if isinstance(mark, str):
            # Another step's mark stays as long as the object is as that step made it; then its undo may not delete it.
            kept = with_annotation(body, CREATED_BY, mark)
            piece = _Piece(ref=ref, body=kept, before=before, after=await self._sent(ref, kept, dry_run=True))
            if not piece.changes:
                return piece
        return _Piece(ref=ref, body=body, before=before, after=await self._sent(ref, body, dry_run=True))

    async def _sent(self, ref: kinds.Ref, body: JsonObject, *, dry_run: bool = False) -> JsonObject:
        return await self.cluster.patch(ref, body, "apply", dry_run=dry_run, force=self.config.force)

    def _record(self, pieces: list[_Piece], step: StepContext) -> JsonObject:
        made = [self._piece_record(piece, step) for piece in pieces]
        return made[0] if len(made) == 1 else records.many_record(made)

    def _piece_record(self, piece: _Piece, step: StepContext) -> JsonObject:
        if piece.before is None:
            return records.create_record(piece.ref, step.idempotency_key)
        if not self.config.undo:
            return records.nothing_record([(piece.ref, piece.before)])
        return records.fields_record(piece.ref, piece.before, piece.changes, extra={"owned": _owned(piece.before)})

    def _hides(self, piece: _Piece) -> bool:
        """Whether old values would have to be kept that nobody may read."""
        secret = self.private or piece.ref.kind == kinds.SECRET
        return secret and self.config.undo and piece.before is not None and piece.open

    def _output(self, done: list[JsonObject]) -> JsonObject:
        if not isinstance(self.config.manifest, list):
            return done[0]
        return {"resource": ", ".join(str(each["resource"]) for each in done), "applied": list[JsonValue](done)}


def _owned(item: JsonObject) -> JsonObject | None:
    """What of the object is ours by apply, as managedFields has it, but for the time."""
    found = owners.applied(item)
    return None if found is None else {name: value for name, value in found[1].items() if name != "time"}


def _marked(body: JsonObject, step: StepContext) -> JsonObject:
    return with_annotation(body, CREATED_BY, step.idempotency_key)


def _of_uid(body: JsonObject, uid: str) -> JsonObject:
    metadata = body["metadata"]
    assert isinstance(metadata, dict)
    return {**body, "metadata": {"uid": uid, **metadata}}


def _created(record: JsonObject) -> set[kinds.Ref]:
    """The objects that the first attempt was to create."""
    each = records.objects(record.get("records")) if record.get("op") == "many" else [record]
    return {records.ref_of(inner) for inner in each if inner.get("op") == "create"}


def _summary(piece: _Piece) -> str:
    if piece.before is None:
        return f"{piece.ref} before its creation"
    paths = [diff.dotted(diff.path_of(change)) for change in piece.changes]
    return f"{piece.ref}: {', '.join(paths[:5]) or 'its owners'}" + (", …" if len(paths) > 5 else "")


def _done(ref: kinds.Ref, changes: list[diff.Change], *, created: bool = False) -> JsonObject:
    changed: list[JsonValue] = [] if created else [diff.dotted(diff.path_of(change)) for change in changes]
    shown = [] if created else diff.shown(changes, secret=ref.kind == kinds.SECRET)
    return {"resource": str(ref), "created": created, "changed": changed, "changes": shown}
