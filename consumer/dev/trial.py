"""A broker, the topics and an agent in one process: for trying out, with an open policy, nothing kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from consumer import agent
from consumer.agent import Started
from consumer.dev.broker import EmbeddedBroker
from consumer.errors import AgentError
from consumer.journal import topics
from consumer.journal.connection import KafkaConnection
from consumer.journal.topics import TopicNames
from consumer.settings import Settings

#: The embedded broker holds a joining member for half of it (seconds).
_SESSION_TIMEOUT = 3.0
_READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is running."""

    settings: Settings
    """As the agent has them, and as a client of it needs them."""
    started: Started
    working: asyncio.Task[None]
    """The agent; it ends only when the block does, or because it failed."""


def open_settings(settings: Settings, bootstrap: str) -> Settings:
    """The settings for a trial: on the embedded broker, on this machine only, with nothing forbidden.

    A policy that is set is kept, so that it can be tried out.
    """
    return settings.model_copy(
        update={
            "kafka_bootstrap_servers": bootstrap,
            "kafka_security_protocol": "PLAINTEXT",
            "fetch_max_wait_ms": 10,
            "session_timeout": _SESSION_TIMEOUT,
            "prometheus_host": "127.0.0.1",
            "prometheus_port": 0,
            "http_allow": ("*",),
            "sandbox": "preferred",
            "processing_guarantee": "auto",
            "policy_file": settings.policy_file or "open",
        }
    )


@asynccontextmanager
async def trial(settings: Settings, *, port: int = 0) -> AsyncIterator[Trial]:
    """Runs broker (on `port`, 0: a free one) and agent while the block lasts; entered when the agent is ready.

    Raises SettingsError where the broker is missing or the port is taken.
    """
    async with EmbeddedBroker(port=port) as broker:
        mine = open_settings(settings, broker.bootstrap)
        await topics.create(
            KafkaConnection.of(mine, client_id="wpk-dev"), TopicNames(mine.topic_prefix), mine.partitions
        )
        stop, ready = asyncio.Event(), asyncio.Event()
        told: list[Started] = []
        working = asyncio.create_task(agent.work(mine, stop, on_start=told.append, ready=ready), name="agent")
        try:
            await _until_ready(working, ready)
            yield Trial(settings=mine, started=told[0], working=working)
        finally:
            stop.set()
            await working


async def _until_ready(working: asyncio.Task[None], ready: asyncio.Event) -> None:
    waiting = asyncio.create_task(ready.wait(), name="ready")
    try:
        await asyncio.wait([working, waiting], timeout=_READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not ready.is_set() and not working.done():
            raise AgentError(f"the agent was not ready in {_READY_SECONDS:g} s; its log says more: LOG_LEVEL=debug")
    finally:
        waiting.cancel()
