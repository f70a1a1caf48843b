"""The rows of an execution's steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pydantic import JsonValue
from rich.text import Text

from consumer.cli.render.signs import step_sign
from consumer.cli.render.text import DIM, NAME, clean, inline, ordinal, pairs, seconds
from schemas.execution import ExecutionState, StepState, StepStatus

_RUNS = (StepStatus.RUNNING, StepStatus.RETRYING)


@dataclass(slots=True)
class Notes:
    """What the events said of a step beside its state."""

    failures: list[str] = field(default_factory=list)
    """Why the attempts before the last one failed."""
    last_line: str | None = None
    """The newest line of its output."""
    skipped: str | None = None
    """Why it was left out."""


def rows(
    state: ExecutionState,
    now: datetime,
    *,
    notes: Mapping[tuple[str, str], Notes] | None = None,
    spinner: str | None = None,
) -> list[Text]:
    """One line for each step: of the run, then of the rollback. `spinner` stands for the sign of what runs."""
    shown = [*state.steps.values(), *state.rollback_steps.values()]
    if not shown:
        return []
    name_width = min(max(len(step.step) for step in shown), 40)
    kind_width = min(max(len(step.adapter) for step in shown), 12)
    marks = _side_by_side(list(state.steps.values()))
    lines = []
    for step in shown:
        noted = (notes or {}).get((step.phase, step.step)) or Notes()
        sign, style = step_sign(step)
        line = Text("  ").append(spinner if spinner and step.status is StepStatus.RUNNING else sign, style=style)
        line.append(f" {clean(step.step, 40):{name_width}}  ", style=NAME if step.status in _RUNS else "")
        line.append(f"{clean(step.adapter, 12):{kind_width}}  ", style=DIM)
        line.append(f"{_time(step, now):>9}  ")
        if step.phase == "run" and any(marks.values()):
            line.append(f"{marks.get(step.step, ''):1} ", style=DIM)
        line.append_text(note(step, noted, now))
        line.rstrip()
        lines.append(line)
    return lines


def note(step: StepState, noted: Notes, now: datetime) -> Text:
    """The most telling thing of a step: why it failed or waits, what it said last, what it recorded."""
    if step.status is StepStatus.FAILED and step.error:
        goes_on = " (the run goes on)" if step.continued else ""
        again = f" at the {ordinal(step.attempt)} attempt" if step.attempt > 1 else ""
        return Text(clean(step.error.message) + again + goes_on)
    if step.status is StepStatus.RETRYING and step.error:
        wait = f"; again in {seconds(max(step.retry_at - now, timedelta(0)))}" if step.retry_at else ""
        return Text(f"{ordinal(step.attempt)} attempt: {clean(step.error.message)}{wait}")
    if step.status is StepStatus.SKIPPED:
        return Text(clean(noted.skipped or "skipped"), style=DIM)
    if step.status is StepStatus.CANCELLED:
        return Text("cancelled")
    parts = []
    if step.attempt > 1:
        reasons = dict.fromkeys(clean(text, 60) for text in noted.failures)
        why = f" ({', '.join(reasons)})" if reasons else ""
        parts.append(f"{ordinal(step.attempt)} attempt{why}")
    if said := _said(step, noted):
        parts.append(said)
    return Text("   ".join(parts))


def _said(step: StepState, noted: Notes) -> str:
    output = step.output
    if isinstance(output, dict):
        if isinstance(plan := output.get("plan"), str):
            return clean(plan)
        if step.phase == "rollback" and (restored := output.get("restored")):
            return f"restored: {_listed(restored)}"
    if step.captured and step.status is not StepStatus.RUNNING:
        return f"recorded: {clean(step.captured)}"
    return f"│ {clean(noted.last_line, 120)}" if noted.last_line else ""


def _listed(value: JsonValue) -> str:
    items = value if isinstance(value, list) else [value]
    return "; ".join(inline(item) for item in items[:5])


def _time(step: StepState, now: datetime) -> str:
    if step.status in _RUNS and step.started_at:
        return seconds(max(now - step.started_at, timedelta(0)))
    return seconds(step.duration)


def _side_by_side(steps: Sequence[StepState]) -> dict[str, str]:
    """Brackets for steps that stand below each other and ran at the same time; only graphs have such."""
    if not any(step.needs for step in steps):
        return {}
    groups: list[list[StepState]] = []
    for step in steps:
        if groups and any(_overlap(step, other) for other in groups[-1]):
            groups[-1].append(step)
        else:
            groups.append([step])
    marks: dict[str, str] = {}
    for group in groups:
        if len(group) > 1:
            signs = ["┐", *["│"] * (len(group) - 2), "┘"]
            marks |= {step.step: sign for step, sign in zip(group, signs, strict=True)}
    return marks


def _overlap(one: StepState, other: StepState) -> bool:
    if one.started_at is None or other.started_at is None:
        return False
    if other.step in one.needs or one.step in other.needs:
        return False
    spans = []
    for step in (one, other):
        assert step.started_at is not None
        spans.append((step.started_at, step.started_at + timedelta(seconds=step.duration or 0.0)))
    (begin, end), (other_begin, other_end) = spans
    return begin <= other_end and other_begin <= end


def outputs_line(state: ExecutionState) -> str:
    """The outputs of the run in short."""
    return f"outputs: {pairs(state.outputs.items())}"
