"""The configs of the actions on nodes: cordon, uncordon and drain."""

from __future__ import annotations

from typing import Literal

from consumer.adapters.k8s import kinds
from consumer.adapters.k8s.configs_base import SelectingConfig, Selector
from consumer.adapters.k8s.configs_changes import ChangingConfig
from consumer.ports import JsonObject
from schemas.failure import Problem
from schemas.scalars import Duration

ACTIONS = frozenset({"cordon", "uncordon", "drain"})


class CordonConfig(ChangingConfig, SelectingConfig):
    """Keeps new pods away from nodes, as `kubectl cordon` does it."""

    action: Literal["cordon"]


class UncordonConfig(ChangingConfig, SelectingConfig):
    """Lets new pods onto nodes again, as `kubectl uncordon` does it."""

    action: Literal["uncordon"]


class DrainConfig(ChangingConfig, SelectingConfig):
    """Empties nodes, as `kubectl drain` does it: cordons them, evicts their pods, and waits until those are gone."""

    action: Literal["drain"]
    grace_period: Duration | None = None
    """The time that pods get to end; else their own."""
    ignore_daemonsets: bool = False
    """True: pods of DaemonSets stay where they are. False: one of them is a reason not to drain."""
    delete_emptydir_data: bool = False
    """True: pods that keep data in an emptyDir are evicted too, and the data is gone."""
    force: bool = False
    """True: pods without a controller are evicted too, and nothing makes them again."""
    pod_selector: Selector | None = None
    """A label selector: only these pods."""
    timeout: Duration | None = None
    """For all nodes together; else the step's. Until then an eviction that a PodDisruptionBudget refuses is retried."""


def conflicts(given: set[str], config: JsonObject) -> list[Problem]:
    """What is wrong between the fields of a completed config of one of `ACTIONS`."""
    word = config.get("resource_type")
    if "resource_type" in given and isinstance(word, str) and "${" not in word and kinds.built_in(word) != kinds.NODE:
        return [Problem(path="resource_type", message=f'"{word[:80]}" is no node; leave it out')]
    return []
