"""What a dry run found: each step's plan as a difference that one can read."""

from __future__ import annotations

from pydantic import JsonValue
from rich.text import Text

from consumer.cli.render import execution
from consumer.cli.render.text import BAD, DIM, GOOD, NAME, WAIT, clean, inline
from schemas.events import JsonObject
from schemas.execution import ExecutionState, StepState, StepStatus
from schemas.plan import plan_digest

_MAX_CHANGES = 40


def plan(state: ExecutionState) -> list[Text]:
    """The plans of all steps, and how many would change something."""
    steps = list(state.rollback_steps.values() if state.rollback_steps else state.steps.values())
    what = "rollback of" if state.rollback_steps else "plan of"
    lines = [
        Text(f"{what} ")
        .append(execution.title(state), style=NAME)
        .append(f"   execution {clean(state.execution_id, 128)}, nothing was changed", style=DIM)
    ]
    width = min(max((len(step.step) for step in steps), default=0), 40)
    for step in steps:
        lines += _step(step, width)
    changing = sum(_changes(step) for step in steps)
    failed = [step for step in steps if step.status is StepStatus.FAILED]
    if failed:
        lines.append(Text(f"  {len(failed)} of {len(steps)} steps can't be planned", style=BAD))
    elif changing:
        lines.append(Text(f"  {changing} of {len(steps)} steps would change something"))
    else:
        lines.append(Text("  no step would change anything", style=DIM))
    whole = plan_digest(state, "rollback" if state.rollback_steps else "run")
    if whole is not None:
        if not state.rollback_steps:
            lines.append(Text(f"  run it: wpk submit … --dry-run-id {clean(state.execution_id, 128)}", style=DIM))
        lines.append(Text(f"  digest of this plan: {whole}", style=DIM))
    return lines


def _changes(step: StepState) -> bool:
    return isinstance(step.output, dict) and step.output.get("changes") is True


def _step(step: StepState, width: int) -> list[Text]:
    output: JsonObject = step.output if isinstance(step.output, dict) else {}
    if step.status is StepStatus.FAILED:
        sign, style, told = "✘", BAD, step.error.message if step.error else "failed"
    elif step.status is StepStatus.SKIPPED:
        sign, style, told = "↷", DIM, "would be skipped"
    elif _changes(step):
        sign, style, told = "~", WAIT, str(output.get("plan") or "would change something")
    else:
        sign, style, told = "·", DIM, str(output.get("plan") or "changes nothing")
    line = Text("  ").append(sign, style=style).append(f" {clean(step.step, 40):<{width}}  ")
    line.append(f"{clean(step.adapter, 12):<6}  ", style=DIM).append(clean(told))
    detail = output.get("detail")
    return [line, *_difference(detail if isinstance(detail, dict) and _changes(step) else {})]


def _difference(detail: JsonObject) -> list[Text]:
    """The changes of fields, one a line; or, where a plan is of another form, its details."""
    changes = detail.get("changes")
    if isinstance(changes, list):
        shown = [text for change in changes[:_MAX_CHANGES] if (text := _change(change)) is not None]
        if len(changes) > _MAX_CHANGES:
            shown.append(Text(f"        … {len(changes) - _MAX_CHANGES} more", style=DIM))
        return shown
    plain = ((name, value) for name, value in detail.items() if value not in (None, "", [], {}))
    return [Text(f"        {clean(name, 40)}: {inline(value, 200)}", style=DIM) for name, value in plain]


def _change(change: JsonValue) -> Text | None:
    if not isinstance(change, dict):
        return Text(f"        {inline(change, 200)}")
    path = _path(change.get("path"))
    before, after = change.get("from"), change.get("to")
    if "from" not in change:
        return Text(f"        + {path}: {inline(after, 120)}", style=GOOD)
    if "to" not in change:
        return Text(f"        - {path}: {inline(before, 120)}", style=BAD)
    return Text(f"        ~ {path}: {inline(before, 120)} → {inline(after, 120)}", style=WAIT)


def _path(path: JsonValue) -> str:
    if not isinstance(path, list):
        return inline(path)
    return clean("".join(_part(part) for part in path).lstrip("."), 160)


def _part(part: JsonValue) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    text = str(part)
    return f'["{text}"]' if "." in text or "/" in text else f".{text}"
