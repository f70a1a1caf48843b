"""Talking to the agents over Kafka: publish commands, follow executions, read states. For programs and for `wpk`.

async with Publisher(connection, topics) as publisher:
    published = await publisher.publish(ExecuteCommand(wpk_content=package))
state = await Client(connection, topics).result(published.execution_id, timeout=60)
"""

from __future__ import annotations

from consumer.client.audits import Auditor, Window
from consumer.client.client import Client
from consumer.client.dead_letters import DeadLetter, DeadLetters
from consumer.client.errors import ClientError, Refused, TimedOut, UnknownExecution, Unreachable
from consumer.client.follow import Follower
from consumer.client.partitions import partition_of
from consumer.client.publish import Published, Publisher, new_execution_id
from consumer.client.read import Filter, History, Listing
from consumer.client.registry import Registry

__all__ = [
    "Auditor",
    "Client",
    "ClientError",
    "DeadLetter",
    "DeadLetters",
    "Filter",
    "Follower",
    "History",
    "Listing",
    "Published",
    "Publisher",
    "Refused",
    "Registry",
    "TimedOut",
    "UnknownExecution",
    "Unreachable",
    "Window",
    "new_execution_id",
    "partition_of",
]
