"""What a shell step touches, for the policy: `program` or `command`, and whether it reaches the `network`."""

from __future__ import annotations

from consumer.ports import JsonObject, Scope
from consumer.workflow.facts import ANYTHING, Fact, Facts, Reader
from consumer.workflow.scope import UNKNOWN, Unknown


def of(config: JsonObject, scope: Scope) -> Facts:
    """The facts of one step.

    A script is told as the package writes it: its values are data and never become code. Which programs it runs nobody
    can tell. A program of `args` is told with its values in place.
    """
    chosen = {name: value for name, value in config.items() if name in ("args", "network")}
    reader = Reader(chosen, scope)
    network = reader.at("network")
    reached: Fact = UNKNOWN if isinstance(network, Unknown) else network not in (None, False)
    script = config.get("command")
    if script is not None:
        return {"command": str(script), "program": ANYTHING, "network": reached, "changes": True}
    program = reader.text(("args", 0))
    return {"command": "", "program": ANYTHING if program is None else program, "network": reached, "changes": True}
