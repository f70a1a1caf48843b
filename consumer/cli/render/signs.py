"""The signs of steps and the colours of statuses."""

from __future__ import annotations

from rich.text import Text

from consumer.cli.render.text import BAD, DIM, GOOD, WAIT
from schemas.events import Status
from schemas.execution import StepState, StepStatus

_STEP_SIGNS = {
    StepStatus.PENDING: ("·", DIM),
    StepStatus.RUNNING: ("▸", "cyan"),
    StepStatus.RETRYING: ("⟳", WAIT),
    StepStatus.SUCCEEDED: ("✔", GOOD),
    StepStatus.FAILED: ("✘", BAD),
    StepStatus.SKIPPED: ("↷", DIM),
    StepStatus.CANCELLED: ("✘", WAIT),
}
_STATUS_STYLES = {
    Status.COMPLETED: GOOD,
    Status.FAILED: BAD,
    Status.REJECTED: BAD,
    Status.ROLLBACK_FAILED: BAD,
    Status.CANCELLED: WAIT,
    Status.ROLLED_BACK: WAIT,
    Status.AWAITING_APPROVAL: WAIT,
}


def step_sign(step: StepState) -> tuple[str, str]:
    """The sign of a step and its style; a step that undoes has its own."""
    if step.phase == "rollback" and step.status is StepStatus.SUCCEEDED:
        return "↶", WAIT
    return _STEP_SIGNS[step.status]


def status_text(status: Status | None) -> Text:
    """The status in its colour."""
    return Text(status or "unknown", style=_STATUS_STYLES.get(status, "") if status else DIM)
