"""What the configs of changing actions have in common, and the config of apply."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from consumer.adapters.k8s.configs_base import ActionConfig, Manifest


class ChangingConfig(ActionConfig):
    """An action that can be undone."""

    on_foreign_change: Literal["stop", "skip", "overwrite"] = "stop"
    """What an undo does where somebody else has changed the object since.

    `stop`: it touches nothing of the object and fails; the error names the fields and who set them. `skip`: what nobody
    else has changed goes back, and the rest is named. `overwrite`: all goes back, and the other's change is lost.
    """


class KeepingConfig(ChangingConfig):
    """A changing action that may be told to keep nothing of the old state."""

    undo: bool = True
    """False: nothing of the old state is kept, and a rollback leaves this step's change as it is and says so.

    For what is too large to be kept, or for secrets whose old values must lie nowhere. Otherwise the old values of a
    Secret are kept encrypted; the key lies in the cluster.
    """


def _applicable(manifest: Manifest) -> Manifest:
    metadata = manifest.get("metadata")
    if isinstance(metadata, dict) and metadata.get("managedFields"):
        raise ValueError("metadata.managedFields is set by the API server; leave it out")
    if isinstance(metadata, dict) and metadata.get("generateName") and not metadata.get("name"):
        raise ValueError("an object can't be applied by metadata.generateName; give metadata.name, or use create")
    return manifest


Applicable = Annotated[Manifest, AfterValidator(_applicable)]


class ApplyConfig(KeepingConfig):
    """Server-side apply, as `kubectl apply --server-side` does it: the manifest's fields become so, others stay."""

    action: Literal["apply"]
    manifest: Applicable | Annotated[list[Applicable], Field(min_length=1, max_length=100)]
    """One object with its apiVersion, kind and name, or a list of objects; they are applied in that order."""
    force: bool = False
    """True: fields that other managers own are taken over from them; else such a conflict is an error."""

    @property
    def manifests(self) -> list[Manifest]:
        """The objects."""
        return self.manifest if isinstance(self.manifest, list) else [self.manifest]
