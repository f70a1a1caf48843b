"""Real brokers for the tests: the embedded one and Apache Kafka, wherever this machine can have it from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from tests.support.kafka.cluster import KafkaCluster, apache_cluster
from tests.support.kafka.container import apache_container, docker_answers
from tests.support.kafka.handle import ExternalBroker, KafkaBroker
from tests.support.kafka.jars import KAFKA_VERSION, Unavailable
from tests.support.kafka.node import Node
from tests.support.kafka.processes import ProcessBroker, apache_broker, embedded_broker
from tests.support.kafka.proxy import Api, ClientSet, Proxy

__all__ = [
    "KAFKA_VERSION",
    "Api",
    "ClientSet",
    "ExternalBroker",
    "KafkaBroker",
    "KafkaCluster",
    "Node",
    "ProcessBroker",
    "Proxy",
    "Unavailable",
    "any_apache",
    "apache_broker",
    "apache_cluster",
    "apache_container",
    "embedded_broker",
]


@contextlib.contextmanager
def any_apache() -> Iterator[KafkaBroker]:
    """An Apache Kafka: the one that KAFKA_BOOTSTRAP names, else a container, else from jars. Raises Unavailable."""
    if bootstrap := os.environ.get("KAFKA_BOOTSTRAP"):
        yield ExternalBroker(bootstrap)
        return
    with apache_container() if docker_answers() else apache_broker() as broker:
        yield broker
