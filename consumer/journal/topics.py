"""The topics: their names, the settings they should have, creating them, and saying what is wrong with those there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, TopicAuthorizationFailedError, for_code

from consumer.errors import SettingsError
from consumer.journal import authorized, diagnosis
from consumer.journal.authorized import Forbidden
from consumer.journal.connection import KafkaConnection, explain
from consumer.ports import CommandTopic, SharedTopic, Topic

Role = Topic | CommandTopic | SharedTopic
ROLES: Final[tuple[Role, ...]] = (*CommandTopic, *Topic, *SharedTopic)

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
#: A state snapshot or an accepted event carries a whole package (900 KB) and the outputs beside it.
MAX_MESSAGE_BYTES = 2 << 20
#: Left of `max.message.bytes` for the batch's and the record's own fields.
MESSAGE_OVERHEAD = 4096
#: Records younger than this are not compacted, so that what a fenced owner still wrote can be told and repaired.
STATE_COMPACTION_LAG_MS = HOUR_MS
REPLICATION = 3
CREATE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class TopicNames:
    """The topics' names: the prefix and the role."""

    prefix: str

    def name(self, role: Role) -> str:
        """The topic's name: `wpk.events.progress`."""
        return f"{self.prefix}.{role.value}"

    def role(self, name: str) -> Role | None:
        """The role of a topic; None where it is not one of these."""
        return next((role for role in ROLES if self.name(role) == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicProblem:
    """One thing that is wrong with a topic."""

    topic: str
    message: str
    remedy: str
    fatal: bool
    """Whether the agent must not start: commands or state would be lost, or land with the wrong owner."""

    def __str__(self) -> str:
        return f"{self.topic}: {self.message}; {self.remedy}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicReport:
    """What `check` found."""

    partitions: int | None
    """The common number of partitions; None where they differ or there are no topics."""
    record_limit: int
    """The largest record, in bytes, that all the output topics take."""
    problems: tuple[TopicProblem, ...]

    @property
    def fatal(self) -> tuple[TopicProblem, ...]:
        """Those problems with which the agent must not start."""
        return tuple(problem for problem in self.problems if problem.fatal)


@dataclass(frozen=True, slots=True)
class _Found:
    """A topic as the brokers describe it; settings are those the broker tells, maybe not all."""

    partitions: int
    leaderless: tuple[int, ...]
    replicas: int
    settings: Mapping[str, str]


def wanted_settings(role: Role, *, replication: int = 1) -> dict[str, str]:
    """The topic's configuration as `create` makes it."""
    settings = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
    match role:
        case Topic.STATE:
            settings |= {
                "cleanup.policy": "compact",
                "min.compaction.lag.ms": str(STATE_COMPACTION_LAG_MS),
                "delete.retention.ms": str(DAY_MS),  # a tombstone must outlive the longest restore
                "segment.ms": str(HOUR_MS),  # the active segment is never compacted
                "min.cleanable.dirty.ratio": "0.2",
            }
        case SharedTopic.REGISTRY:
            settings |= {"cleanup.policy": "compact"}
        case Topic.PROGRESS | Topic.RESULTS:
            settings |= {"cleanup.policy": "delete", "retention.ms": str(365 * DAY_MS)}
        case Topic.DEAD_LETTER:
            settings |= {"cleanup.policy": "delete", "retention.ms": str(90 * DAY_MS)}
        case Topic.LOGS:
            settings |= {"cleanup.policy": "delete", "retention.ms": str(14 * DAY_MS)}
        case _:
            settings |= {"cleanup.policy": "delete", "retention.ms": str(7 * DAY_MS)}
    if replication >= REPLICATION:
        settings["min.insync.replicas"] = "2"
    return settings


async def create(
    connection: KafkaConnection, names: TopicNames, partitions: int, *, replication: int | None = None
) -> list[str]:
    """Creates the topics that are missing and waits until they have leaders; the names of the new ones.

    Those there stay as they are (see `check`). The replication is 3, or less where there are fewer brokers. Raises
    SettingsError.
    """
    async with _admin(connection) as admin:
        existing = await _describe(admin, names)
        missing = [role for role in ROLES if role not in existing]
        if not missing:
            return []
        if replication is None:
            cluster = await admin.describe_cluster()
            replication = max(1, min(REPLICATION, len(cluster["brokers"])))
        new = [
            NewTopic(
                names.name(role),
                1 if role in SharedTopic else partitions,
                replication,
                topic_configs=wanted_settings(role, replication=replication),
            )
            for role in missing
        ]
        response = await admin.create_topics(new)
        created = _created(response.topic_errors)
        await _until_led(admin, names)
        return created


async def exists(connection: KafkaConnection, names: TopicNames, role: Role) -> bool:
    """Whether that topic is there. Raises SettingsError."""
    async with _admin(connection) as admin:
        return role in await _describe(admin, names, [role])


def _created(answers: list[tuple[str, int, str | None]]) -> list[str]:
    created = []
    if forbidden := {name for name, code, _ in answers if code == TopicAuthorizationFailedError.errno}:
        raise Forbidden(forbidden, "Create")
    for name, code, message in answers:
        if code == TopicAlreadyExistsError.errno:
            continue  # another agent was faster
        if code:
            error = for_code(code)()
            raise SettingsError(f"topic {name} can't be created: {message or explain(error)}") from error
        created.append(name)
    return created


async def _until_led(admin: AIOKafkaAdminClient, names: TopicNames) -> None:
    try:
        async with asyncio.timeout(CREATE_SECONDS):
            while True:
                found = await _describe(admin, names)
                if len(found) == len(ROLES) and not any(topic.leaderless for topic in found.values()):
                    return
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise SettingsError(
            f"the topics {names.prefix}.* were created, but after {CREATE_SECONDS:g} s not all of their partitions "
            "have a leader; are all brokers up?"
        ) from error


async def check(connection: KafkaConnection, names: TopicNames, *, partitions: int | None = None) -> TopicReport:
    """All that is wrong with the topics. `partitions` is the setting WPK_PARTITIONS. Raises SettingsError."""
    async with _admin(connection) as admin:
        found = await _describe(admin, names)
        settings = await _settings(admin, [names.name(role) for role in found])
    topics = {
        role: _Found(topic.partitions, topic.leaderless, topic.replicas, settings.get(names.name(role), {}))
        for role, topic in found.items()
    }
    counts = {topic.partitions for role, topic in topics.items() if role not in SharedTopic}
    problems = [*_missing(topics, names), *_counts(topics, names, partitions)]
    for role, topic in topics.items():
        problems += _problems(role, names.name(role), topic)
    return TopicReport(
        partitions=counts.pop() if len(counts) == 1 else None,
        record_limit=_record_limit(topics),
        problems=tuple(problems),
    )


def _missing(topics: Mapping[Role, _Found], names: TopicNames) -> list[TopicProblem]:
    remedy = "run `wpk topics create`"
    missing = [role for role in ROLES if role not in topics]
    return [
        TopicProblem(topic=names.name(role), message="does not exist", remedy=remedy, fatal=True)
        if role not in SharedTopic
        else TopicProblem(
            topic=names.name(role),
            message="does not exist: commands that only name their package are refused",
            remedy=remedy,
            fatal=False,
        )
        for role in missing
    ]


def _counts(topics: Mapping[Role, _Found], names: TopicNames, wanted: int | None) -> list[TopicProblem]:
    counts = {role: topic.partitions for role, topic in topics.items() if role not in SharedTopic}
    if not counts:
        return []
    most = max(counts.values())
    problems = [
        TopicProblem(
            topic=names.name(role),
            message=f"has {count} partitions, others have {most}",
            remedy=f"stop the agents and give it {most}: kafka-topics.sh --alter --topic {names.name(role)} "
            f"--partitions {most}",
            fatal=True,
        )
        for role, count in counts.items()
        if count != most
    ]
    if not problems and wanted is not None and wanted != most:
        problems.append(
            TopicProblem(
                topic=f"{names.prefix}.*",
                message=f"have {most} partitions, WPK_PARTITIONS says {wanted}",
                remedy=f"set WPK_PARTITIONS={most}, or use another WPK_TOPIC_PREFIX",
                fatal=False,
            )
        )
    return problems


def _problems(role: Role, name: str, topic: _Found) -> list[TopicProblem]:
    problems = []

    def add(message: str, remedy: str, *, fatal: bool) -> None:
        problems.append(TopicProblem(topic=name, message=message, remedy=remedy, fatal=fatal))

    def alter(setting: str, value: str) -> str:
        return f"kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config {setting}={value}"

    if role in SharedTopic and topic.partitions != 1:
        message = f"has {topic.partitions} partitions: only what lies on the first one counts"
        add(message, "publish with `wpk publish`, which writes there", fatal=False)
    if topic.leaderless:
        listed = ", ".join(map(str, topic.leaderless))
        add(f"has no leader for partition {listed}", "are all brokers up?", fatal=False)
    wanted = wanted_settings(role)
    policy = topic.settings.get("cleanup.policy")
    if policy is not None and set(policy.split(",")) != {wanted["cleanup.policy"]}:
        lost = {Topic.STATE: "the state would expire", SharedTopic.REGISTRY: "packages would expire"}
        why = lost.get(role, "records would be thrown away")
        add(f"cleanup.policy is {policy}: {why}", alter("cleanup.policy", wanted["cleanup.policy"]), fatal=True)
    lag = topic.settings.get("min.compaction.lag.ms")
    if role is Topic.STATE and lag is not None and int(lag) < STATE_COMPACTION_LAG_MS:
        add(
            f"min.compaction.lag.ms is {lag}: what a fenced owner wrote could hide what counts",
            alter("min.compaction.lag.ms", str(STATE_COMPACTION_LAG_MS)),
            fatal=False,
        )
    size = topic.settings.get("max.message.bytes")
    if size is not None and int(size) < MAX_MESSAGE_BYTES:
        add(
            f"max.message.bytes is {size}: large packages will be rejected",
            alter("max.message.bytes", str(MAX_MESSAGE_BYTES)),
            fatal=False,
        )
    return problems


def _record_limit(topics: Mapping[Role, _Found]) -> int:
    sizes = [int(topic.settings.get("max.message.bytes", MAX_MESSAGE_BYTES)) for topic in topics.values()]
    return min(sizes, default=MAX_MESSAGE_BYTES) - MESSAGE_OVERHEAD


async def _describe(
    admin: AIOKafkaAdminClient, names: TopicNames, roles: Collection[Role] = ROLES
) -> dict[Role, _Found]:
    """The topics there. All of the cluster's are asked for: asking by name creates a topic on some brokers."""
    found: dict[Role, _Found] = {}
    for topic in await admin.describe_topics(None):
        role = names.role(topic["topic"])
        parts = topic["partitions"]
        if role is not None and not topic["error_code"] and parts:
            leaderless = tuple(sorted(part["partition"] for part in parts if part["leader"] < 0))
            found[role] = _Found(len(parts), leaderless, min(len(part["replicas"]) for part in parts), {})
    # What may not be described looks as if it were not there.
    if hidden := await authorized.hidden(admin._client, [names.name(role) for role in roles if role not in found]):
        raise Forbidden(hidden, "Describe")
    return found


async def _settings(admin: AIOKafkaAdminClient, topics: list[str]) -> dict[str, dict[str, str]]:
    if not topics:
        return {}
    settings: dict[str, dict[str, str]] = {}
    forbidden = set()
    for response in await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in topics]):
        for code, _, _, name, entries in response.resources:
            if code == TopicAuthorizationFailedError.errno:
                forbidden.add(name)
            if not code:
                settings[name] = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
    if forbidden:
        raise Forbidden(forbidden, "DescribeConfigs")
    return settings


@asynccontextmanager
async def _admin(connection: KafkaConnection) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**connection.options("admin"))
    try:
        await admin.start()
        yield admin
    except (KafkaError, OSError) as error:
        raise await diagnosis.failure(connection, error) from error
    finally:
        await admin.close()
