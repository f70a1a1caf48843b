"""Lists of executions and of packages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.text import Text

from consumer.cli.render.signs import status_text
from consumer.cli.render.text import DIM, clean, exact, roughly, seconds, words
from consumer.journal.publications import Published
from schemas.events import Status
from schemas.execution import ExecutionState

_HEAD = ("EXECUTION", "WORKFLOW", "STATUS", "STEPS", "FOR", "WHY")
_PACKAGE_HEAD = ("PACKAGE", "PUBLISHED", "BY", "DIGEST")


def executions(states: Sequence[ExecutionState], now: datetime) -> list[Text]:
    """One line for each, under a heading; a sentence where there is none."""
    if not states:
        return [Text("no executions", style=DIM)]
    cells = [_row(state, now) for state in states]
    widths, lines = _heading(_HEAD, cells)
    for state, row in zip(states, cells, strict=True):
        line = Text("")
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            style = status_text(state.status).style if index == 2 else ""
            line.append(cell, style=style).append(" " * (width - len(cell) + 2))
        line.rstrip()
        lines.append(line)
    return lines


def packages(published: Sequence[Published]) -> list[Text]:
    """One line for each, under a heading; a sentence where there is none."""
    if not published:
        return [Text("no packages; add one with: wpk publish FILE", style=DIM)]
    cells = [
        (clean(each.workflow_id, 80), exact(each.published_at), clean(each.published_by or "-", 40), each.digest)
        for each in published
    ]
    widths, lines = _heading(_PACKAGE_HEAD, cells)
    rows = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in cells)
    return [*lines, *(Text(row.rstrip()) for row in rows)]


def _heading(names: Sequence[str], cells: Sequence[Sequence[str]]) -> tuple[list[int], list[Text]]:
    """The widths of the columns, and the heading."""
    widths = [max(len(head), *(len(row[index]) for row in cells)) for index, head in enumerate(names)]
    heading = "  ".join(f"{head:<{width}}" for head, width in zip(names, widths, strict=True))
    return widths, [Text(heading.rstrip(), style=DIM)]


def _row(state: ExecutionState, now: datetime) -> tuple[str, ...]:
    steps = f"{state.steps_completed}/{state.total_steps}" if state.total_steps else ""
    workflow = clean(state.workflow_id or state.workflow_name or "-", 40)
    status = words(state.status) + (" (dry run)" if state.dry_run else "")
    return clean(state.execution_id, 128), workflow, status, steps, _since(state, now), _why(state, now)


def _since(state: ExecutionState, now: datetime) -> str:
    """How long it runs or waits; after its end, when that was."""
    if state.over:
        return f"{roughly(now - state.completed_at)} ago" if state.completed_at else ""
    begin = state.started_at or state.accepted_at
    return roughly(now - begin) if begin else ""


def _why(state: ExecutionState, now: datetime) -> str:
    if state.status is Status.AWAITING_APPROVAL:
        expires = state.approval_expires_at
        given = f"approved by {clean(state.approvals[-1].by, 60)}, too few" if state.approvals else "nobody approved"
        return f"{given}; expires in {roughly(expires - now)}" if expires else given
    if state.status is Status.COMPLETED and state.started_at and state.completed_at:
        return f"took {seconds(state.completed_at - state.started_at)}"
    if state.error_message and state.over:
        return clean(state.error_message, 100)
    step = state.steps.get(state.current_step or "") or state.rollback_steps.get(state.current_step or "")
    if step is None:
        return ""
    if step.error and step.retry_at:
        return f"step {clean(step.step, 40)} failed, attempt {step.attempt + 1} at {exact(step.retry_at)}"
    return f"step {clean(step.step, 40)}"
