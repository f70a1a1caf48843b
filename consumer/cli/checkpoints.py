"""`wpk audit checkpoint`: what the trail is now, signed."""

from __future__ import annotations

import os

from consumer.audit.checkpoint import seal
from consumer.cli import audit, execute
from consumer.cli.execute import CliError
from consumer.cli.options import CheckpointOptions
from consumer.cli.output import Output
from consumer.policy import signing
from consumer.policy.signatures import SignatureError
from schemas.scalars import format_moment


async def checkpoint(options: CheckpointOptions) -> int:
    """Verify the whole trail and sign what it is now; 1, and nothing is signed, where something is broken."""
    output = Output(json=options.json)
    try:
        key = signing.load_private_key(audit.read(options.key), os.environ.get("WPK_KEY_PASSWORD"))
    except SignatureError as error:
        raise CliError(f"{options.key}: {error}") from error
    with audit.progress(output) as show:
        report, made = await audit.auditor_of(options, progress=show).checkpoint()
    if not report.holds:
        output.note(
            f"nothing was signed: {len(report.broken)} executions or records do not verify; see: wpk audit verify"
        )
        return execute.ENDED_OTHERWISE
    part = options.output.with_name(f"{options.output.name}.part")
    try:
        part.write_bytes(seal(made, key))
        part.replace(options.output)
    except OSError as error:
        raise CliError(f"{options.output} can't be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    if output.json:
        moment = format_moment(made.made_at)
        output.document({"made_at": moment, "executions": len(made.marks), "events": report.events})
    else:
        output.lines([f"signed {options.output}: {len(made.marks):,} executions, {report.events:,} events"])
    output.note("keep it where nobody who may write to the topics can reach it")
    return execute.OK
