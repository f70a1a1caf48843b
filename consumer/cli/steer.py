"""`wpk rollback`, `wpk approve`, `wpk reject` and `wpk cancel`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from pydantic import JsonValue, ValidationError

from consumer.cli.context import client_of, duration, whoami
from consumer.cli.execute import CliError
from consumer.cli.options import ApproveOptions, RollbackOptions, SteerOptions
from consumer.cli.output import Output
from consumer.cli.watching import Sending, send
from schemas.commands import Command, ControlCommand, RollbackCommand
from schemas.events import Status
from schemas.problems import problems_of


async def rollback(options: RollbackOptions) -> int:
    """Undo an execution that has ended (or, with --force, one that still runs)."""
    fields: dict[str, JsonValue] = {"dry_run": options.dry_run, "force": options.force}
    return await _steer(options, "rollback", fields, ("rolled_back",))


async def approve(options: ApproveOptions) -> int:
    """Let an execution that waits for an approval run. It must be somebody else than who asked for it."""
    fields: dict[str, JsonValue] = {"action": "approve", "digest": options.digest}
    return await _steer(options, "control", fields, ("completed",))


async def reject(options: SteerOptions) -> int:
    """Refuse an execution that waits for an approval."""
    return await _steer(options, "control", {"action": "reject"}, ("rejected",))


async def cancel(options: SteerOptions) -> int:
    """Stop an execution; its package's rollback applies where it is enabled."""
    return await _steer(options, "control", {"action": "cancel"}, ("cancelled", "rolled_back"))


async def _steer(
    options: SteerOptions, kind: Literal["rollback", "control"], fields: dict[str, JsonValue], goal: Collection[str]
) -> int:

    sending = Sending(
        watch=options.watch,
        timeout=duration(options.timeout, "--timeout"),
        goal=frozenset(Status(status) for status in goal),
    )
    command = _command(options, kind, fields)
    return await send(client_of(options), command, Output(json=options.json), sending)


def _command(options: SteerOptions, kind: str, fields: dict[str, JsonValue]) -> Command:

    model = RollbackCommand if kind == "rollback" else ControlCommand
    common = {
        "execution_id": options.execution_id,
        "reason": options.reason,
        "requested_by": options.requested_by or whoami(),
    }
    try:
        return model.model_validate({**common, **fields})
    except ValidationError as error:
        raise CliError("; ".join(str(problem) for problem in problems_of(error, model))) from error
