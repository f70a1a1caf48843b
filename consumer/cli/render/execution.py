"""One execution: its heading, its end in a sentence, what to do next, and the whole page of `wpk status`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from rich.text import Text

from consumer.cli.render import steps as step_rows
from consumer.cli.render.signs import status_text
from consumer.cli.render.steps import Notes
from consumer.cli.render.text import (
    BAD,
    DIM,
    GOOD,
    NAME,
    WAIT,
    ago,
    clean,
    exact,
    pairs,
    roughly,
    seconds,
    words,
)
from schemas.events import Status
from schemas.execution import ExecutionState, StepStatus

_GOOD_END = (Status.COMPLETED,)
_UNDONE = (Status.ROLLED_BACK,)


def title(state: ExecutionState) -> str:
    """`restart-unhealthy 1.0.0`."""
    package = state.command.get("wpk_content") if state.command else None
    metadata = package.get("metadata") if isinstance(package, dict) else None
    version = metadata.get("version") if isinstance(metadata, dict) else None
    name = state.workflow_name or state.workflow_id or "an unknown workflow"
    return clean(f"{name} {version}" if isinstance(version, str) else name, 120)


def heading(state: ExecutionState) -> Text:
    """What runs, under which id, and who asked for it."""
    line = Text("▶ ").append(title(state), style=NAME)
    if state.validate_only:
        line.append("   only validated", style=WAIT)
    elif state.dry_run:
        line.append("   dry run, nothing is changed", style=WAIT)
    line.append(f"   execution {clean(state.execution_id, 128)}")
    if state.requested_by:
        line.append(f"   requested by {clean(state.requested_by, 60)}", style=DIM)
    return line


def ending(state: ExecutionState, now: datetime, *, outputs: bool = True) -> Text | None:
    """How it stands, in one line; None before it was accepted."""
    status = state.status
    if status is None:
        return None
    if status is Status.AWAITING_APPROVAL:
        expires = state.approval_expires_at
        until = f"  (expires in {roughly(expires - now)})" if expires else ""
        line = Text("  ⏸ waiting for approval", style=WAIT).append(until, style=DIM)
        return line.append(f"  {clean(state.approvals_missing, 200)}", style=DIM) if state.approvals_missing else line
    if not status.ended:
        done = f"{state.steps_completed} of {state.total_steps} steps done" if state.total_steps else ""
        since = state.started_at or state.accepted_at
        span = f" for {seconds(max((now - since).total_seconds(), 0.0))}" if since else ""
        cancelling = ", being cancelled" if state.cancel else ""
        return Text(f"  {words(status)}{span}{cancelling}").append(f"   {done}", style=DIM)
    style = GOOD if status in _GOOD_END else WAIT if status in (*_UNDONE, Status.CANCELLED) else BAD
    line = Text("  ").append(words(status), style=style).append(_span(state))
    if status not in _GOOD_END and state.error_message:
        line.append(f": {clean(state.error_message)}")
    if outputs and state.outputs:
        line.append(f"      {step_rows.outputs_line(state)}")
    if state.rollback_follows:
        line.append("   the rollback begins", style=WAIT)
    return line


def _span(state: ExecutionState) -> str:
    begin = state.started_at or state.accepted_at
    if state.status in (Status.ROLLED_BACK, Status.ROLLBACK_FAILED) and state.rollback:
        begin = state.rollback.started_at
    if begin is None or state.completed_at is None or state.status is Status.REJECTED:
        return ""
    word = "in" if state.status in (*_GOOD_END, *_UNDONE) else "after"
    return f" {word} {seconds(max((state.completed_at - begin).total_seconds(), 0.0))}"


def next_steps(state: ExecutionState) -> list[str]:
    """What one can do now, most useful first."""
    key, status = clean(state.execution_id, 128), state.status
    if status is Status.AWAITING_APPROVAL:
        by = f"   (not by {clean(state.requested_by, 60)})" if state.requested_by else ""
        return [f"wpk approve {key}{by}", f"wpk reject {key} --reason …"]
    if status in (Status.PENDING, Status.RUNNING, Status.ROLLING_BACK):
        stop = [] if status is Status.ROLLING_BACK else [f"wpk cancel {key}"]
        return [f"wpk logs {key} -f", *stop]
    steps = [*state.steps.values(), *state.rollback_steps.values()]
    failed = next((step.step for step in steps if step.status is StepStatus.FAILED and step.adapter != "delay"), None)
    hints = [f"wpk logs {key}{f' {failed}' if failed else ''}"] if failed and status is not Status.COMPLETED else []
    changed = any(step.captured for step in state.steps.values()) and not state.dry_run
    if status in (Status.FAILED, Status.CANCELLED) and changed and not state.rollback_follows:
        hints.append(f"wpk rollback {key}   (undo what it changed)")
    if status is Status.ROLLBACK_FAILED:
        hints.append(f"wpk rollback {key} --force   (try the rollback again)")
    return hints


def page(state: ExecutionState, now: datetime, notes: Mapping[tuple[str, str], Notes] | None = None) -> list[Text]:
    """All that `wpk status ID` shows: the answer first, then the fields under their names, the steps, what is next."""
    lines = [answer(state, now)]
    for name, value in _fields(state, now):
        lines.append(Text(f"  {name:<16} ", style=DIM).append_text(value))
    found = step_rows.rows(state, now, notes=notes)
    if found:
        lines += [Text(""), *found]
    hints = next_steps(state)
    if hints:
        lines.append(Text(""))
        lines += [
            Text("next: " if index == 0 else "      ", style=DIM).append(hint) for index, hint in enumerate(hints)
        ]
    return lines


def answer(state: ExecutionState, now: datetime) -> Text:
    """What it is and how it stands, in one line."""
    line = Text(title(state), style=NAME)
    how = ending(state, now, outputs=False)
    line.append("  ", style="not bold")
    if how is not None:
        line.append_text(how[len(how.plain) - len(how.plain.lstrip()) :])  # without the indent
    else:
        line.append("was never accepted; only refused commands name it")
    if state.completed_at and state.over:
        line.append(f", {ago(state.completed_at, now)}", style=DIM)
    return line


def _fields(state: ExecutionState, now: datetime) -> list[tuple[str, Text]]:
    def moment(value: datetime | None) -> Text | None:
        return Text(exact(value)).append(f"  ({ago(value, now)})", style=DIM) if value else None

    def text(value: str | None) -> Text | None:
        return Text(clean(value)) if value else None

    dash = Text("-", style=DIM)
    always = ("execution_id", "status", "started_at", "completed_at", "current_step", "error_message")
    found: list[tuple[str, Text | None]] = [
        ("execution_id", Text(clean(state.execution_id, 128))),
        ("workflow_id", text(state.workflow_id)),
        ("status", status_text(state.status).append(" (dry run)" if state.dry_run else "")),
        ("requested_by", text(state.requested_by)),
        ("approved_by", text(state.approved_by)),
        ("accepted_at", moment(state.accepted_at)),
        ("started_at", moment(state.started_at)),
        ("completed_at", moment(state.completed_at)),
        ("deadline", moment(state.deadline) if not state.over else None),
        ("current_step", text(state.current_step)),
        ("steps_completed", Text(str(state.steps_completed))),
        ("total_steps", Text(str(state.total_steps))),
        ("error_message", text(state.error_message)),
        ("outputs", text(pairs(state.outputs.items(), limit=20)) if state.outputs else None),
        ("labels", text(pairs(state.labels.items(), limit=20)) if state.labels else None),
    ]
    return [(name, value or dash) for name, value in found if value is not None or name in always]
