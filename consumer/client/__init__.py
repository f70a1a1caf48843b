"""Talking to the agents over Kafka: publish commands, follow executions, read states. For programs and for `wpk`.

async with Publisher(connection, topics) as publisher:
    published = await publisher.publish(ExecuteCommand(wpk_content=package))
state = await Client(connection, topics).result(published.execution_id, timeout=60)

A name's module is imported when the name is used: a verb that needs an error's class alone need not pay for a Kafka
client, half a second.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from consumer.client.audits import Auditor, Window
    from consumer.client.client import Client
    from consumer.client.dead_letters import DeadLetter, DeadLetters
    from consumer.client.errors import ClientError, Refused, TimedOut, UnknownExecution, Unreachable
    from consumer.client.follow import Follower
    from consumer.client.partitions import partition_of
    from consumer.client.publish import Published, Publisher, new_execution_id
    from consumer.client.read import Filter, History, Listing
    from consumer.client.registry import Registry
    from consumer.client.replayed import ReplayedEvent

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
    "ReplayedEvent",
    "TimedOut",
    "UnknownExecution",
    "Unreachable",
    "Window",
    "new_execution_id",
    "partition_of",
]

_MODULES = {
    "audits": ("Auditor", "Window"),
    "client": ("Client",),
    "dead_letters": ("DeadLetter", "DeadLetters"),
    "errors": ("ClientError", "Refused", "TimedOut", "UnknownExecution", "Unreachable"),
    "follow": ("Follower",),
    "partitions": ("partition_of",),
    "publish": ("Published", "Publisher", "new_execution_id"),
    "read": ("Filter", "History", "Listing"),
    "registry": ("Registry",),
    "replayed": ("ReplayedEvent",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    """A name of `__all__` that was not used yet (PEP 562)."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = found
    return found
