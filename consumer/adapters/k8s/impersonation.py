"""Steps that act in the cluster as who asked for them: Kubernetes' user impersonation.

The API server then decides by the requester's own rights, and its audit log names both. The agent needs the verb
`impersonate` on those users. What a command says of its requester is believed: who may write commands is for Kafka to
say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from consumer.adapters.k8s.client import Cluster
from consumer.errors import PermanentError
from consumer.ports import Action, JsonObject, Plan, StepContext

#: Users and service accounts of Kubernetes itself: nobody who asks for an execution is one of them.
_RESERVED = "system:"


def acting_for(cluster: Cluster, requested_by: str | None) -> Cluster:
    """The cluster as who asked sees it. Raises PermanentError where nobody is named, or somebody who can't be meant."""
    user = (requested_by or "").strip()
    if not user:
        raise PermanentError(
            "WPK_K8S_IMPERSONATE is on, and the command does not say who asked for it; give requested_by",
            code="no_requester",
        )
    if user.lower().startswith(_RESERVED) or not user.isprintable():
        raise PermanentError(f"requested_by {user[:80]!r}: nobody is impersonated by that name", code="bad_requester")
    return cluster.acting_as(user)


@dataclass(frozen=True, slots=True)
class ForRequester:
    """An action that is made for the cluster as the step's requester sees it."""

    cluster: Cluster
    make: Callable[..., Action]
    """Of the cluster, by its name."""

    @property
    def repeatable(self) -> bool:
        return self.make(cluster=self.cluster).repeatable

    @property
    def time_limit(self) -> float | None:
        return self.make(cluster=self.cluster).time_limit

    @property
    def waits(self) -> bool:
        """See `ports.Action`."""
        return bool(getattr(self.make(cluster=self.cluster), "waits", False))

    async def plan(self, step: StepContext) -> Plan:
        return await self.make(cluster=acting_for(self.cluster, step.requested_by)).plan(step)

    async def run(self, step: StepContext) -> JsonObject:
        return await self.make(cluster=acting_for(self.cluster, step.requested_by)).run(step)
