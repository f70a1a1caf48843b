"""The queries of what watches the agent: of the dashboard and of the alerts, and the names of metrics in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/rules.yml"
DASHBOARD = ROOT / "deploy/grafana/dashboards/wpk-agent.json"
JOB = "wpk-agent"

#: Of Prometheus itself, or of its client library.
FOREIGN = frozenset({"up", "ALERTS", "process_start_time_seconds", "process_resident_memory_bytes"}) | frozenset(
    {"process_cpu_seconds_total", "process_open_fds", "process_max_fds"}
)
_WORDS = frozenset({"sum", "max", "min", "by", "or", "on", "and", "unless", "offset"})


def rules() -> list[dict[str, Any]]:
    """The alert rules."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return board


def panels() -> list[dict[str, Any]]:
    """The dashboard's panels that show something."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries(panel: dict[str, Any], window: str = "1m") -> Iterator[str]:
    """A panel's queries, as Grafana would ask them with all agents chosen."""
    for target in panel["targets"]:
        query = target["expr"].replace("$job", JOB).replace("$instance", ".*")
        yield re.sub(r"\$__(rate_interval|range)", window, query)


def metrics_in(expression: str) -> set[str]:
    """The names of metrics in it: what is no function, no label, no text."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\b(by|on|without|ignoring)\s*\([^)]*\)", r"\1", bare)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    bare = re.sub(r"\[[^\]]*\]|\b\d+[smhd]\b", "", bare)
    names = set(re.findall(r"\b[a-zA-Z_]\w*\b(?!\s*\()", bare))
    return {re.sub(r"_(bucket|count|sum)$", "", name) for name in names - _WORDS}
