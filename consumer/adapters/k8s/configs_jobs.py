"""The config of the action job."""

from __future__ import annotations

from typing import Literal

from consumer.adapters.k8s import kinds
from consumer.adapters.k8s.configs_base import Manifest, Name
from consumer.adapters.k8s.configs_changes import ChangingConfig
from consumer.ports import JsonObject
from schemas.failure import Problem
from schemas.scalars import Duration

Cleanup = Literal["never", "on_success", "always"]


class JobConfig(ChangingConfig):
    """Runs a Job to its end and passes on what its pods write. Give `manifest` or `template`.

    `name` is the new Job's where the manifest has none, else one is made that is the same for every attempt.
    """

    action: Literal["job"]
    manifest: Manifest | None = None
    """The whole Job, as for `create`."""
    template: Name | None = None
    """A CronJob whose job is run now, as `kubectl create job --from=cronjob/NAME` does it."""
    timeout: Duration | None = None
    """Else the step's. The Job goes on when it is over, and a further attempt waits for the same one."""
    cleanup: Cleanup = "never"
    """Whether Kubernetes deletes the Job and its pods 10 minutes after its end; until then a repeated attempt finds
    it. A `ttlSecondsAfterFinished` in the manifest is kept as it is. The default leaves them for who looks why."""


def conflicts(given: set[str], config: JsonObject) -> list[Problem]:
    """What is wrong between the fields of a completed config."""
    problems: list[Problem] = []
    if len(given & {"manifest", "template"}) != 1:
        problems.append(Problem(path="manifest", message="give manifest or template, one of them"))
    word = config.get("resource_type")
    if "resource_type" in given and isinstance(word, str) and "${" not in word and kinds.built_in(word) != kinds.JOB:
        problems.append(Problem(path="resource_type", message=f'"{word[:80]}" is no job; leave it out'))
    manifest = config.get("manifest")
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    if isinstance(kind, str) and "${" not in kind and kind != "Job":
        problems.append(Problem(path="manifest.kind", message=f'"{kind[:80]}" is no Job; use the action create for it'))
    return problems
