"""The cluster that the chaos suite stands on: each of its faults is shown by what a real client sees of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka
import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined] # it exports them without saying so
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from tests.support.eventually import eventually
from tests.support.kafka import Api, ClientSet, KafkaCluster, jars, wire
from tests.support.require import require

ROOT = Path(__file__).parents[2]
#: Generous: this machine may run other brokers and their tests at the same time.
PATIENCE = 60
pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]


@pytest.fixture
def topic(kafka_cluster: KafkaCluster, prefix: str) -> str:
    """A topic of one partition on all nodes, led by node 1."""
    name = f"{prefix}.of-three"
    admin = AdminClient({"bootstrap.servers": kafka_cluster.direct})  # its futures need it to live
    made = admin.create_topics([NewTopic(name, 1, replica_assignment=[[1, 2, 3]])], request_timeout=PATIENCE)
    made[name].result(PATIENCE)
    kafka_cluster.leader(name)  # the nodes get to know it one after another
    kafka_cluster.await_healthy()
    return name


def producer(bootstrap: str, **settings: object) -> confluent_kafka.Producer:
    return confluent_kafka.Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "message.timeout.ms": PATIENCE * 1_000,
            "socket.timeout.ms": 2_500,
            "reconnect.backoff.max.ms": 200,
            "log_level": 0,
            **settings,
        }
    )


def send(bootstrap: str, topic: str, *values: bytes) -> None:
    """Returns when all of them are acknowledged."""
    sender = producer(bootstrap)
    failed: list[object] = []
    for value in values:
        sender.produce(topic, value, partition=0, on_delivery=lambda error, _: failed.append(error) if error else None)
    assert sender.flush(PATIENCE) == 0
    assert not failed


def read(bootstrap: str, topic: str) -> list[bytes]:
    """All that is committed in the topic's partition."""
    reader = confluent_kafka.Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "unused",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
            "log_level": 0,
        }
    )
    found = []
    try:
        reader.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
        while True:
            message = reader.poll(PATIENCE)
            assert message is not None, "neither a record nor the end"
            if (error := message.error()) is None:
                found.append(bytes(message.value() or b""))
            elif error.code() == confluent_kafka.KafkaError._PARTITION_EOF:
                return found
    finally:
        reader.close()


def answers(port: int) -> bool:
    try:
        wire.look(port, timeout=1.0)
    except wire.NoAnswer:
        return False
    return True


@pytest.fixture
def a(kafka_cluster: KafkaCluster) -> Iterator[ClientSet]:
    """The network of the clients a, whole again afterwards."""
    clients = kafka_cluster.clients["a"]
    yield clients
    clients.heal()


def test_clients_reach_every_node_by_proxies_of_their_own_alone(kafka_cluster: KafkaCluster, topic: str) -> None:
    for clients in kafka_cluster.clients.values():
        seen = AdminClient({"bootstrap.servers": clients.bootstrap}).list_topics(topic, PATIENCE)
        ports = {node: broker.port for node, broker in seen.brokers.items()}
        assert ports == {node: proxy.port for node, proxy in clients.proxies.items()}
    observed = AdminClient({"bootstrap.servers": kafka_cluster.direct}).list_topics(topic, PATIENCE)
    assert {node: broker.port for node, broker in observed.brokers.items()} == {
        node.id: node.port for node in kafka_cluster.nodes.values()
    }

    before = kafka_cluster.clients["a"].proxies[1].look()
    send(kafka_cluster.clients["a"].bootstrap, topic, b"x" * 1_000)
    after = kafka_cluster.clients["a"].proxies[1].look()

    assert after.carried["to_node"] - before.carried["to_node"] > 1_000
    assert read(kafka_cluster.direct, topic) == [b"x" * 1_000]


def test_a_record_is_acknowledged_when_two_of_three_nodes_have_it(kafka_cluster: KafkaCluster, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka_cluster.direct})
    for name in (topic, "__consumer_offsets", "__transaction_state"):
        resource = ConfigResource(ResourceType.TOPIC, name)
        settings = admin.describe_configs([resource])[resource].result(PATIENCE)
        assert settings["min.insync.replicas"].value == "2"
        partitions = [of for (of_topic, _), of in kafka_cluster.view().partitions.items() if of_topic == name]
        assert [sorted(partition.replicas) for partition in partitions] == [[1, 2, 3]] * len(partitions)


def test_the_partitions_of_a_killed_node_get_another_leader_and_it_catches_up(
    kafka_cluster: KafkaCluster, topic: str
) -> None:
    send(kafka_cluster.direct, topic, b"before")
    old = kafka_cluster.leader(topic)
    assert old.id == 1

    old.kill()
    assert not old.alive
    send(kafka_cluster.direct, topic, b"without it")
    assert kafka_cluster.leader(topic).id in {2, 3}
    old.restart()
    kafka_cluster.await_healthy()

    assert old.view().partitions[topic, 0].in_sync == {1, 2, 3}
    kafka_cluster.prefer_leaders()
    assert kafka_cluster.leader(topic) is old
    assert read(kafka_cluster.direct, topic) == [b"before", b"without it"]


def test_the_others_do_without_a_frozen_node_until_it_is_revived(kafka_cluster: KafkaCluster, topic: str) -> None:
    frozen = kafka_cluster.leader(topic)
    sender = producer(kafka_cluster.direct)
    sender.list_topics(topic, PATIENCE)

    frozen.freeze()
    assert frozen.alive
    assert not answers(frozen.port)
    sender.produce(topic, b"all the same", partition=0)
    assert sender.flush(PATIENCE) == 0
    assert kafka_cluster.leader(topic) is not frozen
    with pytest.raises(RuntimeError, match=r"not within 0\.5 s: all nodes are in"):
        kafka_cluster.await_healthy(0.5)

    frozen.revive()
    kafka_cluster.await_healthy()
    assert answers(frozen.port)
    assert read(kafka_cluster.direct, topic) == [b"all the same"]


def test_a_node_that_is_stopped_gives_its_partitions_away_first(kafka_cluster: KafkaCluster, topic: str) -> None:
    kafka_cluster.nodes[1].stop()

    # It ended in order, so nobody had to wait for its session to end.
    assert kafka_cluster.nodes[2].view().partitions[topic, 0].leader in {2, 3}
    assert not kafka_cluster.nodes[1].alive
    kafka_cluster.heal()
    assert kafka_cluster.leader(topic).id == 1


def test_a_rolling_restart_loses_and_doubles_no_record(kafka_cluster: KafkaCluster, topic: str) -> None:
    sender = producer(kafka_cluster.clients["a"].bootstrap)
    sent: list[bytes] = []
    over = threading.Event()

    def load() -> None:
        while not over.wait(0.01):
            sent.append(str(len(sent)).encode())
            sender.produce(topic, sent[-1], partition=0)
            sender.poll(0)

    pids = [node.pid for node in kafka_cluster.nodes.values()]
    thread = threading.Thread(target=load)
    thread.start()
    try:
        kafka_cluster.roll()
    finally:
        over.set()
        thread.join()

    assert sender.flush(PATIENCE) == 0
    assert not set(pids) & {node.pid for node in kafka_cluster.nodes.values()}
    assert read(kafka_cluster.direct, topic) == sent


def test_a_partition_moves_to_the_leader_that_a_test_wants(kafka_cluster: KafkaCluster, topic: str) -> None:
    for wanted in (3, 2):
        kafka_cluster.move_partition(topic, 0, wanted)
        assert kafka_cluster.leader(topic).id == wanted
        kafka_cluster.prefer_leaders()
        assert kafka_cluster.leader(topic).id == wanted


def test_the_coordinators_are_those_that_clients_use_and_change_with_their_death(
    kafka_cluster: KafkaCluster, prefix: str
) -> None:
    group, transactional = f"{prefix}-group", f"{prefix}-writer"
    coordinator = kafka_cluster.group_coordinator(group)
    assert _coordinator_of(group, kafka_cluster.direct) == coordinator.id

    before = kafka_cluster.transaction_coordinator(transactional)
    before.kill()
    after = kafka_cluster.transaction_coordinator(transactional)
    assert after is not before
    producer(kafka_cluster.direct, **{"transactional.id": transactional}).init_transactions(PATIENCE)


def _coordinator_of(group: str, bootstrap: str) -> int:
    """What librdkafka says. A node that has become the coordinator may not know it yet, and then refuses."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return int(admin.describe_consumer_groups([group])[group].result(PATIENCE).coordinator.id)
        except confluent_kafka.KafkaException as error:
            if error.args[0].code() != confluent_kafka.KafkaError.NOT_COORDINATOR or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def test_another_node_becomes_the_active_controller_where_that_one_dies(kafka_cluster: KafkaCluster) -> None:
    before = kafka_cluster.controller()

    before.kill()

    assert kafka_cluster.controller() is not before


def test_a_cut_concerns_one_set_of_clients_until_it_heals(kafka_cluster: KafkaCluster, a: ClientSet) -> None:
    other = kafka_cluster.clients["b"]
    for _ in range(20):  # a connection that the proxy is just taking is none that may stay either
        a.heal()
        with socket.create_connection(("127.0.0.1", a.proxies[1].port), 10) as held:
            held.settimeout(PATIENCE)
            a.cut()
            with pytest.raises(ConnectionResetError):
                held.recv(1)
    for proxy in a.proxies.values():
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port), 10)
    assert all(answers(proxy.port) for proxy in other.proxies.values())

    a.heal()

    assert all(answers(proxy.port) for proxy in a.proxies.values())


async def test_dropped_connections_are_reset_and_new_ones_welcome(a: ClientSet) -> None:
    proxy = a.proxies[2]
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as held:
        held.settimeout(PATIENCE)
        await eventually(lambda: proxy.look().connections)
        proxy.drop_connections()
        with pytest.raises(ConnectionResetError):
            held.recv(1)

    assert answers(proxy.port)


def test_a_delay_is_on_both_ways(a: ClientSet) -> None:
    began = time.monotonic()
    a.delay(0.4, jitter=0.1)

    wire.look(a.proxies[1].port, timeout=PATIENCE)

    assert time.monotonic() - began >= 0.8


def test_a_dead_node_s_proxy_resets_its_clients(kafka_cluster: KafkaCluster, a: ClientSet) -> None:
    kafka_cluster.nodes[3].kill()

    with pytest.raises(wire.NoAnswer, match="ConnectionResetError"):
        wire.look(a.proxies[3].port, timeout=PATIENCE)


async def test_what_is_stalled_comes_late_but_comes(kafka_cluster: KafkaCluster, a: ClientSet, topic: str) -> None:
    sender = producer(a.bootstrap, **{"socket.timeout.ms": PATIENCE * 1_000})
    sender.list_topics(topic, PATIENCE)
    send_one(sender, topic, b"connected")
    a.stall("to_node")

    sender.produce(topic, b"late", partition=0)
    assert sender.flush(1) == 1
    assert read(kafka_cluster.direct, topic) == [b"connected"]

    a.heal()
    assert sender.flush(PATIENCE) == 0
    assert read(kafka_cluster.direct, topic) == [b"connected", b"late"]


async def test_an_answer_that_never_comes_leaves_a_record_written_once(
    kafka_cluster: KafkaCluster, a: ClientSet, topic: str
) -> None:
    sender = producer(a.bootstrap)
    send_one(sender, topic, b"heard of")
    a.proxies[1].half_cut("to_client", after=Api.PRODUCE)

    sender.produce(topic, b"unheard of", partition=0)
    await eventually(lambda: sender.poll(0) or a.proxies[1].look().lost["to_client"])

    assert not a.proxies[1].look().armed
    assert read(kafka_cluster.direct, topic) == [b"heard of", b"unheard of"]
    assert len(sender) == 1
    a.heal()
    assert sender.flush(PATIENCE) == 0
    assert read(kafka_cluster.direct, topic) == [b"heard of", b"unheard of"]


def test_a_half_cut_hides_the_requests_from_the_node(a: ClientSet) -> None:
    proxy = a.proxies[1]
    before = proxy.look()

    proxy.half_cut("to_node")

    with pytest.raises(wire.NoAnswer, match="TimeoutError"):
        wire.look(proxy.port, timeout=0.5)
    after = proxy.look()
    assert after.lost["to_node"] > before.lost["to_node"]
    assert after.carried["to_client"] == before.carried["to_client"]


def test_a_commit_whose_answer_is_lost_is_a_commit(
    kafka_cluster: KafkaCluster, a: ClientSet, topic: str, prefix: str
) -> None:
    coordinator = kafka_cluster.transaction_coordinator(f"{prefix}-writer").id
    sender = producer(a.bootstrap, **{"transactional.id": f"{prefix}-writer"})
    sender.init_transactions(PATIENCE)
    sender.begin_transaction()
    sender.produce(topic, b"paid", partition=0)
    assert sender.flush(PATIENCE) == 0
    proxy = a.proxies[coordinator]
    proxy.half_cut("to_client", after=Api.END_TXN)

    with pytest.raises(confluent_kafka.KafkaException):
        sender.commit_transaction(3)

    assert proxy.look().lost["to_client"] > 0
    assert read(kafka_cluster.direct, topic) == [b"paid"]


def test_a_connection_may_end_just_after_the_request_that_matters(
    kafka_cluster: KafkaCluster, a: ClientSet, topic: str
) -> None:
    sender = producer(a.bootstrap)
    send_one(sender, topic, b"first")
    proxy = a.proxies[1]
    proxy.drop_connections(after=Api.PRODUCE)
    assert proxy.look().armed

    send_one(sender, topic, b"second")

    assert not proxy.look().armed
    assert read(kafka_cluster.direct, topic) == [b"first", b"second"]


def send_one(sender: confluent_kafka.Producer, topic: str, value: bytes) -> None:
    sender.produce(topic, value, partition=0)
    assert sender.flush(PATIENCE) == 0


def test_all_that_was_written_is_kept_for_a_diagnosis(kafka_cluster: KafkaCluster) -> None:
    kafka_cluster.nodes[2].kill()
    deadline = time.monotonic() + PATIENCE
    while "WARN" not in kafka_cluster.nodes[1].log.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)  # it notices by and by that node 2 is gone
    kept = kafka_cluster.keep_logs()

    assert {path.name for path in kept.iterdir()} == {
        "describe.txt",
        "proxies.log",
        *(f"node-{n}.log" for n in (1, 2, 3)),
    }
    assert "<node 2, dead" in (kept / "describe.txt").read_text()
    assert "WARN" in (kept / "node-1.log").read_text()
    for path in kept.iterdir():
        path.unlink()
    kept.rmdir()


@pytest.mark.kafka
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
async def test_the_nodes_and_the_proxies_die_with_an_owner_that_is_killed() -> None:
    try:
        jars.distribution()
    except jars.Unavailable as error:
        require(False, f"there is no Apache Kafka: {error}")
    program = textwrap.dedent("""
        import time
        from tests.support.kafka import apache_cluster

        with apache_cluster() as cluster:
            print(*(node.port for node in cluster.nodes.values()), cluster.clients["a"].proxies[1].port, flush=True)
            time.sleep(600)
    """)
    owner = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    try:
        assert owner.stdout is not None
        ports = [int(word) for word in (await asyncio.wait_for(owner.stdout.readline(), 90)).split()]
        assert len(ports) == 4
        assert all(answers(port) for port in ports)
    finally:
        with contextlib.suppress(ProcessLookupError):
            owner.kill()
        await owner.wait()

    assert await eventually(lambda: not any(listens(port) for port in ports))


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True
