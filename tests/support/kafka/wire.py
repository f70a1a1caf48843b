"""Asks one very broker one thing, on a connection of its own: a client's library would ask whichever it likes."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, ClassVar

from aiokafka.protocol.admin import AlterPartitionReassignmentsRequest_v0
from aiokafka.protocol.api import RequestStruct, Response
from aiokafka.protocol.coordination import FindCoordinatorRequest_v1
from aiokafka.protocol.metadata import MetadataRequest_v1
from aiokafka.protocol.types import Array, CompactArray, CompactString, Int8, Int16, Int32, Schema, String, TaggedFields

from consumer.dev.broker import HOST

GROUP, TRANSACTION = 0, 1
_ALTER_TIMEOUT_MS = 10_000
_ALTER_PATIENCE = 15.0
_ELECTION_NOT_NEEDED = 84


class NoAnswer(Exception):
    """The broker did not answer, or not in time; the message says what came instead."""


class Refusal(Exception):
    """The broker answered with an error code of Kafka's protocol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """What a broker knows of a partition."""

    leader: int | None
    replicas: Sequence[int]
    """The first is the preferred leader."""
    in_sync: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The cluster as one broker sees it. A broker that was cut off, or is starting, may see what is no longer so."""

    brokers: frozenset[int]
    """Those that the controller counts as alive."""
    partitions: Mapping[tuple[str, int], Partition]


class _ElectLeadersResponse(Response):  # type: ignore[misc] # aiokafka has no types
    API_KEY: ClassVar[int] = 43
    API_VERSION: ClassVar[int] = 1
    SCHEMA: ClassVar[Schema] = Schema(
        ("throttle_time_ms", Int32),
        ("error_code", Int16),
        (
            "topics",
            Array(
                ("topic", String("utf-8")),
                (
                    "partitions",
                    Array(("partition", Int32), ("error_code", Int16), ("error_message", String("utf-8"))),
                ),
            ),
        ),
    )


class _ElectLeadersRequest(RequestStruct):  # type: ignore[misc] # aiokafka has no types
    """Kafka's ElectLeaders, which aiokafka has not. Type 0 elects the preferred leaders (KIP-460)."""

    API_KEY: ClassVar[int] = 43
    API_VERSION: ClassVar[int] = 1
    RESPONSE_TYPE: ClassVar[type[Response]] = _ElectLeadersResponse
    SCHEMA: ClassVar[Schema] = Schema(
        ("election_type", Int8),
        ("topics", Array(("topic", String("utf-8")), ("partitions", Array(Int32)))),
        ("timeout_ms", Int32),
    )


class _DescribeQuorumResponse(Response):  # type: ignore[misc] # aiokafka has no types
    """Its beginning only: what comes after the one partition's leader is not read."""

    API_KEY: ClassVar[int] = 55
    API_VERSION: ClassVar[int] = 0
    SCHEMA: ClassVar[Schema] = Schema(
        ("error_code", Int16),
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                ("partitions", CompactArray(("partition", Int32), ("error_code", Int16), ("leader", Int32))),
            ),
        ),
    )


class _DescribeQuorumRequest(RequestStruct):  # type: ignore[misc] # aiokafka has no types
    """Kafka's DescribeQuorum (KIP-595), which aiokafka has not."""

    FLEXIBLE_VERSION: ClassVar[bool] = True
    API_KEY: ClassVar[int] = 55
    API_VERSION: ClassVar[int] = 0
    RESPONSE_TYPE: ClassVar[type[Response]] = _DescribeQuorumResponse
    SCHEMA: ClassVar[Schema] = Schema(
        (
            "topics",
            CompactArray(
                ("topic", CompactString("utf-8")),
                ("partitions", CompactArray(("partition", Int32), ("tags", TaggedFields))),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


def look(port: int, *, timeout: float = 2.0) -> View:
    """The cluster as the broker at that loopback port sees it. Raises NoAnswer."""
    answer = _ask(port, MetadataRequest_v1(None), timeout)
    return View(
        brokers=frozenset(broker[0] for broker in answer.brokers),
        partitions={
            (topic, number): Partition(
                leader=leader if leader >= 0 else None, replicas=tuple(replicas), in_sync=frozenset(in_sync)
            )
            for _, topic, _, partitions in answer.topics
            for _, number, leader, replicas, in_sync in partitions
        },
    )


def controller(port: int) -> int:
    """The node that is the active controller. Raises NoAnswer, and Refusal where none is (yet)."""
    tags: dict[int, bytes] = {}
    answer = _ask(port, _DescribeQuorumRequest([("__cluster_metadata", [(0, tags)], tags)], tags), 5.0)
    _check(answer.error_code, "the active controller")
    [(_, [(_, code, leader)])] = answer.topics
    _check(code, "the active controller")
    return int(leader)


def coordinator(port: int, kind: int, name: str, *, timeout: float = 5.0) -> int:
    """The node that coordinates that group or transactional id. Raises NoAnswer, and Refusal where none does (yet)."""
    answer = _ask(port, FindCoordinatorRequest_v1(name, kind), timeout)
    _check(answer.error_code, f"the coordinator of {name}: {answer.error_message}")
    return int(answer.coordinator_id)


def reassign(port: int, topic: str, partition: int, replicas: Sequence[int]) -> None:
    """Gives a partition these replicas, in this order of preference. Raises NoAnswer or Refusal."""
    tags: dict[int, bytes] = {}
    change = (topic, [(partition, list(replicas), tags)], tags)
    answer = _ask(port, AlterPartitionReassignmentsRequest_v0(_ALTER_TIMEOUT_MS, [change], tags), _ALTER_PATIENCE)
    _check(answer.error_code, f"{answer.error_message}")
    for name, partitions, _ in answer.responses:
        for number, code, message, _ in partitions:
            _check(code, f"{name}-{number}: {message}")


def elect_preferred(port: int, partitions: Iterable[tuple[str, int]]) -> None:
    """Lets the first replica of each partition lead it; nothing where it does already. Raises NoAnswer or Refusal."""
    by_topic: dict[str, list[int]] = {}
    for topic, number in partitions:
        by_topic.setdefault(topic, []).append(number)
    answer = _ask(port, _ElectLeadersRequest(0, list(by_topic.items()), _ALTER_TIMEOUT_MS), _ALTER_PATIENCE)
    _check(answer.error_code, "the election")
    for topic, results in answer.topics:
        for number, code, message in results:
            if code != _ELECTION_NOT_NEEDED:
                _check(code, f"the election for {topic}-{number}: {message}")


def _check(code: int, what: str) -> None:
    if code:
        raise Refusal(f"error {code}: {what}")


def _ask(port: int, request: RequestStruct, timeout: float) -> Any:
    head = request.build_request_header(correlation_id=1, client_id="wpk-tests").encode()
    message = head + request.encode()
    try:
        with contextlib.closing(socket.create_connection((HOST, port), timeout)) as connection:
            connection.settimeout(timeout)
            connection.sendall(struct.pack(">i", len(message)) + message)
            (length,) = struct.unpack(">i", _read(connection, 4))
            answer = BytesIO(_read(connection, length))
    except OSError as error:
        raise NoAnswer(f"port {port}: {error!r}") from error
    request.parse_response_header(answer)
    return request.RESPONSE_TYPE.decode(answer)


def _read(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        piece = connection.recv(length - len(data))
        if not piece:
            raise ConnectionError("it closed the connection instead of an answer")
        data += piece
    return data
