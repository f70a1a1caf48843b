"""How an execution's state lies in the compacted topic: a small head, rewritten at each change, and parts beside it
that are written once (the command, each step's output, each undo record)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import orjson

from schemas.execution import ExecutionState, StepState

_OUTPUT = {"output"}
#: Keys that are not an execution's begin so; an execution id can't.
RESERVED = "@"


def parts(before: ExecutionState | None, after: ExecutionState) -> Iterator[tuple[str, bytes | None]]:
    """Key and value of what changed (None: a tombstone); the head always, and last."""
    key = after.execution_id
    if after.command is not None and (before is None or before.command is not after.command):
        yield f"{key}/command", orjson.dumps(after.command)
    for phase, steps, old in _phases(before, after):
        if steps is old:
            continue
        for name, step in steps.items():
            known = old.get(name)
            if step.output is (known.output if known else None):
                continue
            yield f"{key}/output/{phase}/{name}", None if step.output is None else orjson.dumps(step.output)
    old_undo = before.undo if before else {}
    if after.undo is not old_undo:
        for order, (name, record) in enumerate(after.undo.items()):
            if old_undo.get(name) is not record:
                yield f"{key}/undo/{name}", orjson.dumps({"order": order, "record": record})
    yield key, head(after)


def head(state: ExecutionState) -> bytes:
    """The head's value."""
    exclude = {
        "command": True,
        "undo": True,
        "steps": {"__all__": _OUTPUT},
        "rollback_steps": {"__all__": _OUTPUT},
    }
    return state.model_dump_json(exclude=exclude, exclude_defaults=True).encode()  # type: ignore[arg-type]


def _phases(
    before: ExecutionState | None, after: ExecutionState
) -> Iterator[tuple[str, dict[str, StepState], dict[str, StepState]]]:
    yield "run", after.steps, before.steps if before else {}
    yield "rollback", after.rollback_steps, before.rollback_steps if before else {}


def keys(state: ExecutionState) -> list[str]:
    """All keys that the execution may have in the topic: what a tombstone must cover."""
    key = state.execution_id
    found = [f"{key}/command", key]
    for phase, steps, _ in _phases(None, state):
        found += [f"{key}/output/{phase}/{name}" for name in steps]
    return found + [f"{key}/undo/{name}" for name in state.undo]


def load(records: Mapping[str, bytes]) -> dict[str, ExecutionState]:
    """The states that lie in a partition's newest records. Raises ValueError where one can't be read."""
    states: dict[str, ExecutionState] = {}
    for name, state in load_each(records):
        if isinstance(state, ValueError):
            raise state
        states[name] = state
    return states


def load_each(records: Mapping[str, bytes]) -> Iterator[tuple[str, ExecutionState | ValueError]]:
    """Each execution's state by its id, or why it can't be read: one that can't must not hide the others."""
    grouped: dict[str, dict[str, bytes]] = defaultdict(dict)
    for key, value in records.items():
        if not key.startswith(RESERVED):
            owner, _, part = key.partition("/")
            grouped[owner][part] = value
    for owner, found in grouped.items():
        if "" not in found:
            continue
        try:
            yield owner, _assemble(found)
        except (ValueError, LookupError, TypeError) as error:
            yield owner, ValueError(f"the state of {owner} can't be read: {error}")


def _assemble(found: Mapping[str, bytes]) -> ExecutionState:
    state = ExecutionState.model_validate_json(found[""])
    update: dict[str, object] = {}
    if "command" in found:
        update["command"] = orjson.loads(found["command"])
    steps, rollback_steps = dict(state.steps), dict(state.rollback_steps)
    undo: list[tuple[int, str, bytes]] = []
    for part, value in found.items():
        kind, _, rest = part.partition("/")
        if kind == "output":
            phase, _, name = rest.partition("/")
            target = steps if phase == "run" else rollback_steps
            if name in target:
                target[name] = target[name].model_copy(update={"output": orjson.loads(value)})
        elif kind == "undo":
            raw = orjson.loads(value)
            undo.append((raw["order"], rest, raw["record"]))
    update.update(
        steps=steps, rollback_steps=rollback_steps, undo={name: record for _, name, record in sorted(undo, key=_order)}
    )
    return state.model_copy(update=update)


def _order(item: tuple[int, str, object]) -> int:
    return item[0]
