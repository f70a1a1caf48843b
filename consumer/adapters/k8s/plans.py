"""Plans: what a change would make of objects, in a form that is the same whenever and by whomever it is asked for.

The API server carries the change out as a dry run. What it makes up anew each time (names, addresses, numbers of ports,
whatever an admission webhook draws) is found by asking twice, and stands there as a text; so the digest over a plan
changes if and only if the plan does.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from consumer.adapters.k8s import diff, kinds, rollout
from consumer.adapters.k8s.records import CREATED_BY
from consumer.ports import JsonObject, StepContext

MADE_UP = "(set by the API server)"
_MAX_VALUE = 200
_CONTEXT_LINES = 2
#: Fields of a Service that the API server draws from a range: by chance the same twice.
_DRAWN = ("clusterIP", "clusterIPs", "healthCheckNodePort")


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one object."""

    ref: kinds.Ref
    changes: Sequence[diff.Change]
    verb: str = "change"
    """create, change or delete."""


async def settled(dry_run: Callable[[], Awaitable[JsonObject]]) -> JsonObject:
    """What a dry run gives, with a text in place of each value that another one does not give as well."""
    first, second = await dry_run(), await dry_run()
    common = _common(diff.desired(first), diff.desired(second))
    assert isinstance(common, dict)
    return common


def _common(first: JsonValue, second: JsonValue) -> JsonValue:
    if isinstance(first, dict) and isinstance(second, dict):
        return {key: _common(value, second.get(key)) if key in second else MADE_UP for key, value in first.items()}
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [_common(left, right) for left, right in zip(first, second, strict=True)]
    return first if first == second else MADE_UP


def renamed(made: JsonObject, name: str, shown: str) -> JsonObject:
    """The object with another text wherever it says its name."""
    value = _renamed(made, name, shown)
    assert isinstance(value, dict)
    return value


def _renamed(value: JsonValue, name: str, shown: str) -> JsonValue:
    if isinstance(value, dict):
        return {key: _renamed(inner, name, shown) for key, inner in value.items()}
    if isinstance(value, list):
        return [_renamed(inner, name, shown) for inner in value]
    return value.replace(name, shown) if isinstance(value, str) else value


def undrawn(made: JsonObject, manifest: JsonObject) -> JsonObject:
    """The object that would be created, without a Service's addresses and ports unless the manifest sets them."""
    if made.get("kind") != "Service":
        return made
    asked, spec = rollout.mapping(manifest, "spec"), dict(rollout.mapping(made, "spec"))
    for name in _DRAWN:
        if name in spec and not asked.get(name):
            spec[name] = MADE_UP
    ports, wanted = spec.get("ports"), asked.get("ports")
    if isinstance(ports, list):
        given = wanted if isinstance(wanted, list) else []
        spec["ports"] = [
            {**port, "nodePort": MADE_UP}
            if isinstance(port, dict) and "nodePort" in port and not rollout.mapping(ask).get("nodePort")
            else port
            for port, ask in zip(ports, [*given, *[None] * len(ports)], strict=False)
        ]
    return {**made, "spec": spec}


def timeless(changes: Sequence[diff.Change], step: StepContext) -> list[diff.Change]:
    """The changes without the moment and the step."""
    key = step.idempotency_key
    stamps: dict[str, str] = {
        rollout.RESTARTED_AT: "(the time of the restart)",
        rollout.RESTARTED_BY: "(this step)",
        CREATED_BY: "(this step)",
    }
    return [
        {**made, "to": stamps[last]}
        if (last := str(diff.path_of(made)[-1])) in stamps and (last == rollout.RESTARTED_AT or made.get("to") == key)
        else made
        for made in changes
    ]


def detail(found: Sequence[Change]) -> JsonObject:
    """The detail of a plan: `resource`, `changes` (a list for programs) and `diff` (a text for people)."""
    several = len(found) > 1
    lines: list[JsonValue] = []
    for each in found:
        for line in diff.shown(each.changes, secret=each.ref.kind == kinds.SECRET):
            assert isinstance(line, dict)
            lines.append({"resource": str(each.ref), **line} if several else line)
    return {
        "resource": ", ".join(str(each.ref) for each in found),
        "changes": lines,
        "diff": "\n".join(text for each in found for text in _unified(each)),
    }


def joined(details: Sequence[JsonObject]) -> JsonObject:
    """The details of the plans of one object each as one."""
    lines: list[JsonValue] = []
    for each in details:
        changes = each.get("changes")
        for line in changes if isinstance(changes, list) else []:
            assert isinstance(line, dict)
            lines.append({"resource": each["resource"], **line})
    texts = (str(each["diff"]) for each in details if each.get("diff"))
    return {
        "resource": ", ".join(str(each["resource"]) for each in details),
        "changes": lines,
        "diff": "\n".join(texts),
    }


def _unified(found: Change) -> list[str]:
    """The object's lines: `~` a field that changes, `+` a new one, `-` one that goes."""
    lines = [f"{found.verb} {found.ref}"]
    for line in diff.shown(found.changes, secret=found.ref.kind == kinds.SECRET):
        assert isinstance(line, dict)
        path = line["path"]
        if "from" not in line:
            lines += _side("+", f"{path}", line["to"])
        elif "to" not in line:
            lines += _side("-", f"{path}", line["from"])
        else:
            lines += _both(f"{path}", line["from"], line["to"])
    return lines


def _side(sign: str, path: str, value: JsonValue) -> list[str]:
    if isinstance(value, str) and "\n" in value:
        return [f"  {sign} {path}:", *(f"    {sign} {text}" for text in value.splitlines())]
    return [f"  {sign} {path}: {_brief(value)}"]


def _both(path: str, before: JsonValue, after: JsonValue) -> list[str]:
    if not (isinstance(before, str) and isinstance(after, str) and "\n" in before + after):
        return [f"  ~ {path}: {_brief(before)} → {_brief(after)}"]
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=_CONTEXT_LINES, lineterm="")
    return [f"  ~ {path}:", *(f"    {line}" for line in list(lines)[2:])]


def _brief(value: JsonValue) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return text if len(text) <= _MAX_VALUE else text[:_MAX_VALUE] + "…"
