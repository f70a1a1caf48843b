"""The topics and users as Strimzi's resources: `python -m consumer.journal.strimzi topics|users`.

Made from the same two tables that the agent checks a cluster by: topics.wanted_settings and rights.rights_of.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import yaml
from pydantic import JsonValue

from consumer.journal import rights, topics
from consumer.journal.rights import KINDS, Right
from consumer.ports import SharedTopic

#: Since Strimzi 0.49; before, it is kafka.strimzi.io/v1beta2 with the same fields.
API_VERSION: Final = "kafka.strimzi.io/v1"
_RESOURCES: Final = {"topic": "topic", "group": "group", "transactional-id": "transactionalId"}


def topic_resources(prefix: str, partitions: int, cluster: str) -> list[dict[str, JsonValue]]:
    """A KafkaTopic for each topic, with the configuration that `wpk topics create` gives it on three brokers."""
    names = topics.TopicNames(prefix)
    return [
        _resource(
            "KafkaTopic",
            names.name(role),
            cluster,
            {
                "topicName": names.name(role),
                "partitions": 1 if role in SharedTopic else partitions,
                "replicas": topics.REPLICATION,
                "config": {**topics.wanted_settings(role, replication=topics.REPLICATION)},
            },
        )
        for role in topics.ROLES
    ]


def user_resources(prefix: str, group: str, cluster: str) -> list[dict[str, JsonValue]]:
    """A KafkaUser `wpk-KIND` for each kind of user, who has a password (SCRAM-SHA-512) and the least ACLs."""
    return [
        _resource(
            "KafkaUser",
            f"wpk-{kind}",
            cluster,
            {
                "authentication": {"type": "scram-sha-512"},
                "authorization": {"type": "simple", "acls": _acls(rights.rights_of(kind, prefix, group))},
            },
        )
        for kind in KINDS
    ]


def _acls(wanted: Sequence[Right]) -> list[JsonValue]:
    """Strimzi's form: one entry for each resource, with all operations on it."""
    operations: dict[tuple[str, str, bool], list[JsonValue]] = defaultdict(list)
    for right in wanted:
        operations[right.resource, right.name, right.prefixed].append(right.operation)
    return [
        {
            "resource": {
                "type": _RESOURCES[resource],
                "name": name,
                "patternType": "prefix" if prefixed else "literal",
            },
            "operations": allowed,
        }
        for (resource, name, prefixed), allowed in operations.items()
    ]


def _resource(kind: str, name: str, cluster: str, spec: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        # A name in Kafka may have capitals and underscores, which one in Kubernetes may not.
        "metadata": {"name": name.lower().replace("_", "-"), "labels": {"strimzi.io/cluster": cluster}},
        "spec": dict(spec),
    }


def manifest(what: str, *, prefix: str, group: str, partitions: int, cluster: str) -> str:
    """The file of `what`, "topics" or "users"."""
    made = {
        "topics": lambda: topic_resources(prefix, partitions, cluster),
        "users": lambda: user_resources(prefix, group, cluster),
    }[what]()
    head = (
        f"# Made by: python -m consumer.journal.strimzi {what} > deploy/strimzi/{what}.yaml\n"
        "# With --prefix, --group, --partitions and --cluster it makes those of other settings.\n"
    )
    bodies = [yaml.safe_dump(each, sort_keys=False, width=110) for each in made]
    return head + "".join(f"---\n{body}" for body in bodies)


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the file to standard output."""
    parser = argparse.ArgumentParser(prog="python -m consumer.journal.strimzi", description=__doc__)
    parser.add_argument("what", choices=["topics", "users"])
    parser.add_argument("--prefix", default="wpk", help="WPK_TOPIC_PREFIX")
    parser.add_argument("--group", default="wpk-agent", help="WPK_GROUP_ID")
    parser.add_argument("--partitions", type=int, default=12, help="of each topic: how many agents can share the work")
    parser.add_argument("--cluster", default="kafka", help="the name of the Kafka resource")
    given = parser.parse_args(arguments)
    sys.stdout.write(
        manifest(given.what, prefix=given.prefix, group=given.group, partitions=given.partitions, cluster=given.cluster)
    )


if __name__ == "__main__":
    main()
