"""The config of the action metrics."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from consumer.adapters.k8s.configs_base import SelectingConfig
from consumer.ports import JsonObject
from schemas.failure import Problem


class MetricsConfig(SelectingConfig):
    """What pods or nodes use of CPU and memory now, as `kubectl top` shows it; or a Prometheus query.

    `resource_type`: pod (the default), node, or a workload, whose pods are meant. Without a name or a selector all pods
    of the namespace, or all nodes.
    """

    action: Literal["metrics"]
    query: str | None = Field(default=None, min_length=1, max_length=10_000)
    """An instant query in PromQL for the server of WPK_PROMETHEUS_URL, instead of a target."""


def conflicts(given: set[str], config: JsonObject) -> list[Problem]:
    """What is wrong between the fields of a completed config."""
    others = sorted(given & {"resource_type", "name", "resource_name", "resource", "selector"})
    if "query" in given and others:
        return [Problem(path=others[0], message="give query or a target, not both; a query names its pods itself")]
    return []
