"""A real Prometheus scrapes a real busy agent: each query of the dashboard and of the alerts finds its data there."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from schemas.events import Status
from tests.support import agents, http_server, processes, prometheus
from tests.support.agents import PLUGINS, Topics
from tests.support.eventually import eventually
from tests.support.kafka import KafkaBroker
from tests.support.prometheus import Prometheus
from tests.support.require import require
from tests.watch import boards

pytestmark = [pytest.mark.long, pytest.mark.timeout(480)]

_PATIENCE = 180.0
#: What the busy agent's runs, its dead letter and its webhook that is not there must raise; all without a `for`.
_RAISED = {"WpkWorkflowFailing", "WpkRollbackFailed", "WpkDeadLetters", "WpkNoticesFailing"}


def _package(name: str, *steps: dict[str, Any], **spec: Any) -> dict[str, Any]:
    handlers = [{"name": f"s{number}", "type": "probe", "config": {}, **step} for number, step in enumerate(steps)]
    return {"metadata": {"name": name, "version": "1.0.0"}, "spec": {"handlers": handlers, **spec}}


_GOOD = _package("good", {"config": {"fail_times": 1}, "retry": {"max_attempts": 2, "backoff": "10ms"}}, {})


def _shell() -> dict[str, Any]:
    """How much memory a step had is known without a sandbox only where it is more than the agent ever had, and that
    begins with what this process had, which has started it (getrusage(2)): `tail` keeps all of it, and more."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 + 200
    command = f"head -c {size}M /dev/zero | tail -c {size}M | head -c 1 >/dev/null"
    return _package("shell", {"type": "shell", "config": {"command": command}})


_BAD = _package("bad", {"config": {"fail_times": 9, "permanent": True}})
_UNDONE = _package(
    "undone",
    {"config": {"capture": "1", "undo_fails": True}},
    {"config": {"fail_times": 9, "permanent": True}},
    rollback={"enabled": True},
)
_ASKING = _package("asking", {}, safety={"approval_required": True})


async def _round(topics: Topics, number: int) -> None:
    """One more run of every kind: a rate is of what rises between two scrapes."""
    kinds = [("good", _GOOD), ("bad", _BAD), ("undone", _UNDONE)]
    if number % 3 == 0:  # it takes its time
        kinds.append(("shell", _shell()))
    for name, wpk in kinds:
        await topics.execute(f"{name}-{number}", wpk)
        await topics.over(f"{name}-{number}")


@asynccontextmanager
async def _watched(kafka: KafkaBroker, prefix: str) -> AsyncIterator[tuple[Topics, Prometheus]]:
    async with http_server.serve() as nowhere:
        nowhere.answer("/hook", 404)
        config = agents.settings(kafka, prefix)
        await agents.create_topics(config)
        plugins = {"PYTHONPATH": f"{processes.ROOT}:{PLUGINS}"}
        variables = processes.environment(kafka, prefix, WPK_NOTIFY_WEBHOOK=nowhere.url("/hook"), **plugins)
        async with processes.agent(variables) as agent, agents.user(config) as topics:
            metrics = str((await agent.logged("agent.started"))["metrics"])
            address = metrics.removeprefix("http://").removesuffix("/metrics")
            scrape = {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(boards.RULES)],
                "scrape_configs": [{"job_name": boards.JOB, "static_configs": [{"targets": [address]}]}],
            }
            with prometheus.serve(scrape) as server:
                yield topics, server


def _has_data(server: Prometheus, query: str) -> bool:
    return any(not math.isnan(float(series["value"][1])) for series in server.query(query))


async def _find_data(server: Prometheus, topics: Topics, queries: dict[str, str]) -> None:
    """Fails where a query finds none, however long it is waited and whatever runs meanwhile."""
    missing, numbers = dict(queries), itertools.count()

    async def look() -> bool:
        await _round(topics, next(numbers))
        for name, query in list(missing.items()):
            if await asyncio.to_thread(_has_data, server, query):
                del missing[name]
        return not missing

    try:
        await eventually(look, timeout=_PATIENCE, interval=0.5)
    except pytest.fail.Exception:
        pytest.fail(f"without data: {missing}")


def _selectors(rule: dict[str, Any]) -> dict[str, str]:
    found = re.findall(r"\b(?:wpk_|workflow_|process_|up\b)\w*\{[^}]*\}", rule["expr"])
    return {f"{rule['alert']}: {selector}": selector for selector in found}


async def test_every_query_finds_data_and_the_alerts_fire(embedded_kafka: KafkaBroker, prefix: str) -> None:
    try:
        prometheus.programs()
    except prometheus.Unavailable as error:
        require(False, f"there is no Prometheus: {error}")
    async with _watched(embedded_kafka, prefix) as (topics, server):
        await eventually(lambda: _has_data(server, 'up{job="wpk-agent"} == 1'), timeout=_PATIENCE, interval=0.2)
        await topics.execute("asking", _ASKING)
        await topics.until("asking", lambda state: state.status is Status.AWAITING_APPROVAL)
        await topics.publish("execute", b"this is no command")

        drawn = {
            f"{panel['title']} {at}": query
            for panel in boards.panels()
            for at, query in enumerate(boards.queries(panel, window="5m"))
        }
        watched = {name: query for rule in boards.rules() for name, query in _selectors(rule).items()}
        await _find_data(server, topics, drawn | watched)
        await _assert_rules(server)


async def _assert_rules(server: Prometheus) -> None:
    async def firing() -> list[dict[str, Any]] | None:
        (group,) = (await asyncio.to_thread(server.get, "rules"))["groups"]
        assert {rule["health"] for rule in group["rules"]} == {"ok"}, [rule["lastError"] for rule in group["rules"]]
        raised = [alert for rule in group["rules"] for alert in rule["alerts"] if alert["state"] == "firing"]
        assert {alert["labels"]["alertname"] for alert in raised} == _RAISED
        return raised

    alerts = await eventually(firing, timeout=_PATIENCE, interval=0.5, because="the alerts fire, and no others")
    assert alerts is not None
    assert [alert for alert in alerts if "error" in alert["annotations"]["description"]] == []


def test_a_query_without_data_is_found_out() -> None:
    """The check itself can fail."""
    with prometheus.serve({"scrape_configs": []}) as server:
        assert not _has_data(server, 'up{job="wpk-agent"}')
        assert _has_data(server, "vector(1)")
        assert not _has_data(server, "vector(0) / 0")
