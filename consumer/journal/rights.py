"""What each kind of user must be allowed on Kafka, and what is missing: the one table of ACLs.

docs/kafka-security.md shows it as kafka-acls.sh takes it, a test on a real broker shows that nothing in it can be left
out, and the agent asks for its own rights at the start (KIP-430), so that all that is missing is told at once.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from aiokafka import errors
from aiokafka.client import AIOKafkaClient

from consumer.journal import authorized
from consumer.journal.authorized import Forbidden, Operation
from consumer.journal.connection import KafkaConnection, chain
from consumer.ports import CommandTopic, SharedTopic, Topic

Resource = Literal["topic", "group", "transactional-id"]
Kind = Literal["agent", "requester", "approver", "reader", "publisher", "operator"]
KINDS: Final[tuple[Kind, ...]] = ("agent", "requester", "approver", "reader", "publisher", "operator")

#: In the id of the producer by which an agent asks whether there are transactions.
PROBE = "probe"
_PAGE = "docs/kafka-security.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """An ACL that somebody needs. Read and Write include Describe, as they do in Kafka."""

    resource: Resource
    name: str
    operation: Operation
    prefixed: bool = False
    """Whether it is for all names that begin with this one."""

    def covers(self, name: str) -> bool:
        """Whether it is about the resource of that name."""
        return name.startswith(self.name) if self.prefixed else name == self.name

    def command(self, principal: str) -> str:
        """How it is granted."""
        pattern = " --resource-pattern-type prefixed" if self.prefixed else ""
        return (
            f"kafka-acls.sh --add --allow-principal {shlex.quote(principal)} --operation {self.operation} "
            f"--{self.resource} {self.name}{pattern}"
        )


def rights_of(kind: Kind, prefix: str, group: str) -> tuple[Right, ...]:
    """The least that lets such a user work, for a topic prefix and a consumer group.

    The agent works; requesters send execute commands; approvers send control and rollback commands; readers follow,
    list and verify; publishers put packages into the registry; operators make and check the topics.
    """
    commands, registry = f"{prefix}.commands.", f"{prefix}.{SharedTopic.REGISTRY}"

    def topic(operation: Operation, name: str, *, prefixed: bool = False) -> Right:
        return Right(resource="topic", name=name, operation=operation, prefixed=prefixed)

    match kind:
        case "agent":
            state = f"{prefix}.{Topic.STATE}"
            return (
                topic("Read", commands, prefixed=True),
                topic("Write", f"{prefix}.events.", prefixed=True),
                topic("Write", f"{prefix}.{Topic.DEAD_LETTER}"),
                topic("Read", state),
                topic("Write", state),
                topic("Read", registry),
                topic("DescribeConfigs", f"{prefix}.", prefixed=True),
                Right(resource="group", name=group, operation="Read"),
                Right(
                    resource="transactional-id",
                    name=transactional_ids(prefix, group),
                    operation="Write",
                    prefixed=True,
                ),
            )
        case "requester":
            return (topic("Write", f"{prefix}.{CommandTopic.EXECUTE}"), topic("Describe", commands, prefixed=True))
        case "approver":
            return (
                topic("Write", f"{prefix}.{CommandTopic.CONTROL}"),
                topic("Write", f"{prefix}.{CommandTopic.ROLLBACK}"),
                topic("Describe", commands, prefixed=True),
            )
        case "reader":
            return (
                topic("Read", f"{prefix}.events.", prefixed=True),
                topic("Read", f"{prefix}.{Topic.STATE}"),
                topic("Read", f"{prefix}.{Topic.DEAD_LETTER}"),
            )
        case "publisher":
            return (topic("Read", registry), topic("Write", registry))
        case "operator":
            return tuple(
                topic(operation, f"{prefix}.", prefixed=True) for operation in ("Create", "Describe", "DescribeConfigs")
            )


def transactional_ids(prefix: str, group: str) -> str:
    """What the transactional ids of a group's agents begin with."""
    return f"{prefix}-{group}-"


def principal(connection: KafkaConnection) -> str:
    """Whom the broker takes the connection's user for, as far as a client can know; `User:NAME` where it can't.

    A certificate's name is its whole subject, unless the broker's ssl.principal.mapping.rules make another of it.
    """
    if connection.uses_sasl:
        if connection.sasl_mechanism == "OAUTHBEARER":
            return f"User:{getattr(connection.sasl_token, 'subject', None) or 'NAME'}"
        return f"User:{connection.sasl_username}"
    if connection.uses_tls and connection.ssl_certfile:
        from cryptography import x509  # noqa: PLC0415 - for messages only

        try:
            certificate = x509.load_pem_x509_certificate(Path(connection.ssl_certfile).read_bytes())
            return f"User:{certificate.subject.rfc4514_string()}"
        except (OSError, ValueError):
            return "User:NAME"
    return "User:ANONYMOUS"


def told(connection: KafkaConnection, missing: Iterable[Right]) -> str:
    """What is missing, and how to grant it."""
    user = principal(connection)
    parts = [
        f"{right.operation} on {right.resource.replace('-', ' ')}{'s that begin with' if right.prefixed else ''} "
        f"{right.name} ({right.command(user)})"
        for right in missing
    ]
    return f"Kafka does not allow {user}: {'; '.join(parts)}; see {_PAGE}"


def refusal(connection: KafkaConnection, error: BaseException) -> str | None:
    """The sentence for an error by which the broker says that something is not allowed; None for others."""
    for cause in chain(error):
        match cause:
            case errors.TopicAuthorizationFailedError():
                return told(connection, _wanted(_names(cause), cause))
            case errors.GroupAuthorizationFailedError():
                return told(
                    connection, [Right(resource="group", name=name, operation="Read") for name in _names(cause)]
                )
            case errors.TransactionalIdAuthorizationFailed():
                return told(connection, [_ids_of(name) for name in _names(cause)])
            case errors.ClusterAuthorizationFailedError():
                return f"Kafka does not allow {principal(connection)} something on the cluster; see {_PAGE}"
    return None


def _names(error: errors.KafkaError) -> Collection[str]:
    """What the error is about: aiokafka gives one name or several."""
    about = error.args[0] if error.args else "?"
    return [about] if isinstance(about, str) else [str(each) for each in about]


def _ids_of(transactional_id: str) -> Right:
    """An agent's right on all of its ids: the one of its probe tells what they begin with."""
    name, found, _ = transactional_id.partition(f"-{PROBE}-")
    return Right(
        resource="transactional-id", name=f"{name}-" if found else name, operation="Write", prefixed=bool(found)
    )


def _wanted(topics: Collection[str], error: errors.TopicAuthorizationFailedError) -> list[Right]:
    """What a client most likely lacks: it writes commands, and reads all else. For several topics by their prefix."""
    operation: Operation = "Read"
    if isinstance(error, Forbidden):
        operation = error.operation
    elif any(topic.endswith(f".{role}") for topic in topics for role in CommandTopic):
        operation = "Write"
    labels = zip(*(topic.split(".") for topic in topics), strict=False)
    shared = "".join(f"{each[0]}." for each in itertools.takewhile(lambda each: len(set(each)) == 1, labels))
    if len(topics) > 1 and shared:  # an empty one would be a right on everything
        return [Right(resource="topic", name=shared, operation=operation, prefixed=True)]
    return [Right(resource="topic", name=topic, operation=operation) for topic in sorted(topics)]


async def missing(connection: KafkaConnection, prefix: str, group: str) -> list[Right]:
    """Those of an agent's rights on topics and its group that it certainly has not.

    Transactional ids can't be asked for; starting a producer tells. Raises KafkaError and OSError.
    """
    wanted = rights_of("agent", prefix, group)
    topics = [f"{prefix}.{role}" for role in (*CommandTopic, *Topic, *SharedTopic)]
    async with _client(connection) as client:
        allowed = await authorized.on_topics(client, topics)
        on_group = await authorized.on_group(client, group)
    lacking = []
    for right in wanted:
        if right.resource == "topic":
            if any(right.covers(name) and found.lacks(right.operation) for name, found in allowed.items()):
                lacking.append(right)
        elif right.resource == "group" and on_group.lacks(right.operation):
            lacking.append(right)
    return lacking


@asynccontextmanager
async def _client(connection: KafkaConnection) -> AsyncIterator[AIOKafkaClient]:
    client = AIOKafkaClient(**connection.options("rights"), request_timeout_ms=10_000)
    try:
        await client.bootstrap()
        yield client
    finally:
        await client.close()
