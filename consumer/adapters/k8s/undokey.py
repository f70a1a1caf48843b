"""Before a package's first step: whether the key can be had that its undo records will be sealed with."""

from __future__ import annotations

from collections.abc import Sequence

from consumer.adapters.k8s import private, sealing
from consumer.adapters.k8s.client import Cluster
from consumer.errors import PermanentError, StepError
from consumer.ports import Intention
from schemas.failure import Problem


async def check(cluster: Cluster, steps: Sequence[Intention]) -> list[Problem]:
    """What the agent lacks for it, at the first step that will need it; the API server is asked by a dry run.

    A warning where the package goes on without that step, and where the step may do without the key.
    """
    found = [(step, how) for step in steps if (how := private.seals(step.config, step.scope)) != "no"]
    if not found:
        return []
    # What must not fail decides: it comes first.
    step, how = min(found, key=lambda each: (each[0].goes_on, each[1] == "perhaps"))
    try:
        await sealing.ready(cluster, dry_run=True)
    except PermanentError as error:
        lesser = step.goes_on or how == "perhaps" or error.code != "no_undo_key"
        return [Problem(path=step.path, message=str(error), severity="warning" if lesser else "error")]
    except StepError as error:
        message = f"whether the old values of secrets can be kept is not known: {error}"
        return [Problem(path=step.path, message=message, severity="warning")]
    return []
