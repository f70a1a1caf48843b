"""`wpk agent`."""

from __future__ import annotations

import structlog

from consumer.agent import run_agent
from consumer.cli.context import connection_of
from consumer.cli.execute import OK
from consumer.cli.options import Options
from consumer.client.partitions import telling_unreachable
from consumer.settings import load, unknown_variables
from consumer.settings.reference import reference
from consumer.telemetry import logs

_log = structlog.get_logger(__name__)


async def agent(options: Options) -> int:
    """Runs until it is told to stop."""
    settings = load(options.config)
    logs.configure(settings.log_level, settings.log_format)
    for warning in unknown_variables(settings):
        _log.warning("settings.unknown_variable", message=warning)
    with telling_unreachable(connection_of(settings)):
        await run_agent(settings)
    return OK


def settings_reference() -> str:
    """All settings, for `wpk agent --help`."""
    lines = ["Settings, as environment variables or under the same names in the file of --config:"]
    group = ""
    for entry in reference():
        if entry.group != group:
            group = entry.group
            lines.append(f"{group}:")
        default = f" [{entry.default}]" if entry.default else ""
        lines.append(f"  {entry.variable}{default} ({entry.kind}): {entry.description}")
    return "\n\n".join(lines)
