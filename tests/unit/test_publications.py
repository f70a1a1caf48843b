"""The registry's topic where Kafka is away for a while: who waited for a reading that failed reads anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from consumer.errors import TemporaryError
from consumer.journal import publications, rights, topics
from consumer.journal.connection import KafkaConnection
from consumer.journal.publications import Publications
from consumer.journal.reader import LogRecord
from consumer.journal.topics import TopicNames


async def test_who_waited_for_a_reading_that_failed_reads_again(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, gate, readings = asyncio.Event(), asyncio.Event(), 0

    async def exists(*_: Any) -> bool:
        return True

    async def failing(*_: Any) -> AsyncIterator[LogRecord]:
        nonlocal readings
        readings += 1
        begun.set()
        await gate.wait()
        raise OSError("kafka is away")
        yield

    monkeypatch.setattr(topics, "exists", exists)
    monkeypatch.setattr(rights, "refusal", lambda *_: None)
    monkeypatch.setattr(publications, "read_partition", failing)
    registry = Publications(KafkaConnection(bootstrap_servers="nowhere:9092"), TopicNames("wpk"))
    asked = [asyncio.create_task(registry.resolve("small-1.0.0")) for _ in range(3)]
    await begun.wait()
    gate.set()
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(answer, TemporaryError), "that it is unknown is known only after a reading"
        assert answer.code == "registry_unavailable"
    assert readings == 3
