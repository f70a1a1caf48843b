"""Asks the broker what this client may do with topics and a group (KIP-430, Kafka 2.3), which aiokafka can't.

Brokers that do not know the question, or leave the answer out, say nothing: then nothing is known, and nothing is
concluded. Who may not even describe a topic is not told whether there is one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from aiokafka import errors
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.protocol.admin import DescribeGroupsResponse_v3
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

Operation = Literal["Read", "Write", "Create", "Describe", "DescribeConfigs"]
#: The numbers of operations in Kafka's protocol (AclOperation).
_NUMBERS: Final[Mapping[Operation, int]] = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}

#: A new cluster makes the topic of its groups when the first one asks.
_NO_COORDINATOR = (
    errors.GroupCoordinatorNotAvailableError,
    errors.NotCoordinatorForGroupError,
    errors.GroupLoadInProgressError,
)


class Forbidden(errors.TopicAuthorizationFailedError):  # type: ignore[misc]  # aiokafka has no types
    """What this client may not do with some topics; aiokafka's own error does not say what it was."""

    def __init__(self, topics: Collection[str], operation: Operation) -> None:
        super().__init__(set(topics))
        self.operation = operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What is allowed on one topic or group."""

    visible: bool
    operations: frozenset[Operation] | None
    """None: the broker does not say."""

    def lacks(self, operation: Operation) -> bool:
        """Whether it is certain that this is not allowed."""
        return not self.visible or (self.operations is not None and operation not in self.operations)


async def on_topics(client: AIOKafkaClient, topics: Collection[str]) -> dict[str, Allowed]:
    """What is allowed on those topics; without those of which nothing is known, as they do not exist.

    Creates none. The client must be bootstrapped. Raises KafkaError.
    """
    try:
        answer = await client.send(_any_node(client), _DescribeTopics(topics))
    except (NotImplementedError, errors.IncompatibleBrokerVersion):
        return {}
    found = {}
    for code, name, _, _, operations in answer.topics:
        if code == errors.TopicAuthorizationFailedError.errno:
            found[name] = Allowed(visible=False, operations=frozenset())
        elif not code:
            found[name] = Allowed(visible=True, operations=_named(operations))
    return found


async def hidden(client: AIOKafkaClient, topics: Collection[str]) -> set[str]:
    """Those of the topics that this client may not describe, whether they exist or not. Raises KafkaError."""
    if not topics:
        return set()
    return {name for name, allowed in (await on_topics(client, topics)).items() if not allowed.visible}


async def on_group(client: AIOKafkaClient, group: str) -> Allowed:
    """What is allowed on that group, which need not exist. Raises KafkaError."""
    try:
        node = await client.coordinator_lookup(CoordinationType.GROUP, group)
        await client.ready(node)
        answer = await client.send(node, _DescribeGroup(group))
        code, *_, operations = answer.groups[0]
        if code:
            raise errors.for_code(code)(group)
    except errors.GroupAuthorizationFailedError:
        return Allowed(visible=False, operations=frozenset())
    except (NotImplementedError, errors.IncompatibleBrokerVersion, *_NO_COORDINATOR):
        return Allowed(visible=True, operations=None)
    return Allowed(visible=True, operations=_named(operations))


def _any_node(client: AIOKafkaClient) -> int:
    node: int | None = client.get_random_node()
    if node is None:
        raise errors.NodeNotReadyError("the cluster has no brokers yet")
    return node


def _named(bits: int) -> frozenset[Operation] | None:
    """A broker that told them told Describe, since it described the topic or group; other numbers mean nothing."""
    if bits < 0 or not bits >> _NUMBERS["Describe"] & 1:
        return None
    return frozenset(name for name, number in _NUMBERS.items() if bits >> number & 1)


class _Metadata8Response(Response):  # type: ignore[misc]  # aiokafka has no types
    API_KEY: ClassVar[int] = 3
    API_VERSION: ClassVar[int] = 8
    SCHEMA: ClassVar[Schema] = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8"))),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                (
                    "partitions",
                    Array(
                        ("error_code", Int16),
                        ("partition", Int32),
                        ("leader", Int32),
                        ("leader_epoch", Int32),
                        ("replicas", Array(Int32)),
                        ("isr", Array(Int32)),
                        ("offline_replicas", Array(Int32)),
                    ),
                ),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class _Metadata8(RequestStruct):  # type: ignore[misc]  # aiokafka has no types
    API_KEY: ClassVar[int] = 3
    API_VERSION: ClassVar[int] = 8
    RESPONSE_TYPE: ClassVar[type[Response]] = _Metadata8Response
    SCHEMA: ClassVar[Schema] = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _DescribeTopics(Request[_Metadata8]):  # type: ignore[misc]  # aiokafka has no types
    API_KEY: ClassVar[int] = 3

    def __init__(self, topics: Collection[str]) -> None:
        self._topics = list(topics)

    def build(self, request_struct_class: type[_Metadata8]) -> _Metadata8:
        return request_struct_class(self._topics, False, False, True)


class _DescribeGroups3(RequestStruct):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka reads its answer as version 2, without what is asked for."""

    API_KEY: ClassVar[int] = 15
    API_VERSION: ClassVar[int] = 3
    RESPONSE_TYPE: ClassVar[type[Response]] = DescribeGroupsResponse_v3
    SCHEMA: ClassVar[Schema] = Schema(
        ("groups", Array(String("utf-8"))),
        ("include_authorized_operations", Boolean),
    )


class _DescribeGroup(Request[_DescribeGroups3]):  # type: ignore[misc]  # aiokafka has no types
    API_KEY: ClassVar[int] = 15

    def __init__(self, group: str) -> None:
        self._group = group

    def build(self, request_struct_class: type[_DescribeGroups3]) -> _DescribeGroups3:
        return request_struct_class([self._group], True)
