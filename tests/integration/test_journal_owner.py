"""Owners on real brokers: what is durable, what a successor finds, and who is fenced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from consumer.errors import OwnershipLost
from consumer.journal import lineage, producers
from consumer.journal.owner import Limits, PartitionOwner
from consumer.ports import CommandTopic, Record, Topic
from tests.support.eventually import eventually
from tests.support.journal_house import PARTITIONS, House, house_on, progress, state
from tests.support.kafka import KafkaBroker

APACHE = pytest.mark.kafka
#: A bound for what must end, far above what it takes on a busy machine.
PATIENCE = 60


EMBEDDED = pytest.param(("embedded", "at_least_once"), id="embedded-at_least_once")
PLAIN = pytest.param(("apache", "at_least_once"), id="apache-at_least_once", marks=APACHE)
TRANSACTIONAL = pytest.param(("apache", "exactly_once"), id="apache-exactly_once", marks=APACHE)


@pytest.fixture(params=[EMBEDDED, PLAIN, TRANSACTIONAL])
def place(request: pytest.FixtureRequest) -> tuple[KafkaBroker, str]:
    kind, mode = request.param
    return request.getfixturevalue(f"{kind}_kafka"), mode


@pytest.fixture
async def house(place: tuple[KafkaBroker, str], prefix: str) -> AsyncIterator[House]:
    broker, mode = place
    async with house_on(broker.bootstrap, prefix, mode) as house:  # type: ignore[arg-type]
        house.rebalance_ms = rebalance_ms(broker)
        yield house


@pytest.fixture
async def transactional(apache_kafka: KafkaBroker, prefix: str) -> AsyncIterator[House]:
    async with house_on(apache_kafka.bootstrap, prefix, "exactly_once") as house:
        yield house


@pytest.fixture
async def grouped(kafka: KafkaBroker, prefix: str) -> AsyncIterator[House]:
    async with house_on(kafka.bootstrap, prefix, "at_least_once") as house:
        house.rebalance_ms = rebalance_ms(kafka)
        yield house


def rebalance_ms(broker: KafkaBroker) -> int:
    """The embedded broker lets each joining member wait for half of it."""
    return 4_000 if broker.kind == "embedded" else 10_000


async def test_a_successor_finds_what_was_written(house: House) -> None:
    first = house.owner()
    restored = await first.open()
    assert (restored.state, restored.offsets) == ({}, {})
    await first.append([state("a", "1"), state("b", "1"), progress("p1")], {CommandTopic.EXECUTE: 1})
    await first.append([state("a", "2"), progress("p2")], {CommandTopic.EXECUTE: 2, CommandTopic.CONTROL: 1})
    await first.append([state("b", None)])
    await first.close()
    second = house.owner(agent="agent-2")
    restored = await second.open()
    assert restored.state == {b"a": b"2"}
    assert restored.offsets == {CommandTopic.EXECUTE: 2, CommandTopic.CONTROL: 1}
    assert restored.epoch == second.epoch > first.epoch
    assert [record.value for record in await house.read(Topic.PROGRESS, at_least=2)] == [b"p1", b"p2"]


async def test_partitions_have_nothing_to_do_with_each_other(house: House) -> None:
    owners = [house.owner(partition) for partition in range(3)]
    await asyncio.gather(*(owner.open() for owner in owners))
    await asyncio.gather(*(owner.append([state("a", str(owner.partition))]) for owner in owners))
    for owner in owners:
        await owner.close()
    successors = [house.owner(partition) for partition in range(3)]
    restored = await asyncio.gather(*(owner.open() for owner in successors))
    assert [each.state for each in restored] == [{b"a": b"0"}, {b"a": b"1"}, {b"a": b"2"}]


async def test_appends_made_together_share_batches_and_keep_their_order(house: House) -> None:
    owner = house.owner()
    await owner.open()
    before = owner.stats.batches
    await asyncio.gather(*(owner.append([progress(str(number)), state("a", str(number))]) for number in range(1000)))
    assert owner.stats.batches - before < 50
    values = [record.value for record in await house.read(Topic.PROGRESS, at_least=1000)]
    assert values == [str(number).encode() for number in range(1000)]

    async def newest_state_is_seen() -> bool:
        states = [record.value for record in await house.read(Topic.STATE) if record.key == b"a"]
        assert 0 < len(states) < 50
        return states[-1] == b"999"

    await eventually(newest_state_is_seen)


async def test_records_keep_key_value_and_headers_for_any_reader(house: House) -> None:
    owner = house.owner()
    await owner.open()
    await owner.append(
        [
            Record(Topic.DEAD_LETTER, None, b"\x00\xff", (("reason", b"no JSON"), ("reason", b"twice"))),
            Record(Topic.RESULTS, b"id", b"{}", (("content-type", b"application/json"),)),
        ]
    )
    (dead,) = await house.read(Topic.DEAD_LETTER, at_least=1)
    assert (dead.key, dead.value, dead.headers) == (None, b"\x00\xff", (("reason", b"no JSON"), ("reason", b"twice")))
    (result,) = await house.read(Topic.RESULTS, at_least=1)
    assert (result.key, result.headers) == (b"id", (("content-type", b"application/json"),))


async def test_large_records_and_more_of_them_than_a_batch_holds_are_written(house: House) -> None:
    owner = house.owner()
    await owner.open()
    large = "x" * 900_000
    await asyncio.gather(*(owner.append([state(f"k{number}", large), progress(large)]) for number in range(6)))
    await owner.close()
    restored = await house.owner().open()
    assert restored.state == {f"k{number}".encode(): large.encode() for number in range(6)}
    assert [record.value for record in await house.read(Topic.PROGRESS, at_least=6)] == [large.encode()] * 6


async def test_many_owners_follow_each_other_and_each_has_a_higher_epoch(house: House) -> None:
    epochs = []
    for number in range(5):
        owner = house.owner()
        restored = await owner.open()
        assert len(restored.state) == number
        epochs.append(owner.epoch)
        await owner.append([state(f"k{number}", "v")])
    assert epochs == sorted(set(epochs))


async def test_the_consumed_offsets_are_the_groups(house: House) -> None:
    async with house.member() as consumer:
        owner = house.owner(1, commit=house.membership(consumer, 1))
        await owner.open()
        await owner.append([progress("1")], {CommandTopic.EXECUTE: 7, CommandTopic.ROLLBACK: 3})
        expected = {CommandTopic.EXECUTE: 7, CommandTopic.ROLLBACK: 3, CommandTopic.CONTROL: None}

        async def committed() -> bool:  # a transaction's offsets are there when its markers are written
            found = {topic: await consumer.committed(TopicPartition(house.names.name(topic), 1)) for topic in expected}
            return found == expected

        await eventually(committed)


@pytest.mark.long
@pytest.mark.parametrize("place", [PLAIN, TRANSACTIONAL], indirect=True)  # the embedded broker forgets all
async def test_a_broker_that_dies_and_comes_back_costs_an_owner_nothing(
    house: House, place: tuple[KafkaBroker, str]
) -> None:
    broker, mode = place
    owner = house.owner(limits=Limits(write_seconds=3))
    await owner.open()
    epoch = owner.epoch
    await owner.append([progress("0"), state("a", "0")], {CommandTopic.EXECUTE: 1})
    appends = [owner.append([progress("1"), state("a", "1")])]
    await asyncio.to_thread(broker.kill)
    appends += [owner.append([progress(str(n)), state("a", str(n))], {CommandTopic.EXECUTE: n}) for n in (2, 3)]
    await eventually(lambda: owner.trouble is not None)
    await asyncio.to_thread(broker.restart)
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*appends)
    assert (owner.alive, owner.trouble, owner.epoch) == (True, None, epoch)
    written = [record.value for record in await house.read(Topic.PROGRESS, at_least=4)]
    if mode == "exactly_once":
        assert written == [b"0", b"1", b"2", b"3"]
    else:
        assert set(written) == {b"0", b"1", b"2", b"3"}
    restored = await house.owner().open()
    assert (restored.state, restored.offsets) == ({b"a": b"3"}, {CommandTopic.EXECUTE: 3})


async def test_a_broker_that_hangs_costs_an_owner_nothing_but_its_time(
    house: House, place: tuple[KafkaBroker, str]
) -> None:
    broker, _ = place
    owner = house.owner(limits=Limits(write_seconds=2, start_seconds=10))
    await owner.open()
    epoch = owner.epoch
    await owner.append([state("a", "1")])
    await asyncio.to_thread(broker.pause)
    try:
        append = owner.append([state("a", "2")])
        await eventually(lambda: owner.trouble is not None)
        assert "unknown" in owner.trouble.reason  # type: ignore[union-attr]
    finally:
        await asyncio.to_thread(broker.resume)
    async with asyncio.timeout(PATIENCE):
        await append
    assert owner.epoch == epoch
    assert (await house.owner().open()).state == {b"a": b"2"}


async def test_an_owner_whose_broker_is_gone_can_be_closed_within_a_bound(
    house: House, place: tuple[KafkaBroker, str]
) -> None:
    broker, _ = place
    owner = house.owner(limits=Limits(write_seconds=2))
    await owner.open()
    await asyncio.to_thread(broker.pause)
    try:
        append = owner.append([state("a", "2")])
        async with asyncio.timeout(PATIENCE):
            await owner.close(grace=1)
            with pytest.raises(OwnershipLost, match="closed"):
                await append
    finally:
        await asyncio.to_thread(broker.resume)


# --- exactly_once -------------------------------------------------------------------------------------------------


async def test_a_new_owner_fences_the_old_one_and_nothing_of_it_is_seen_any_more(transactional: House) -> None:
    first = transactional.owner()
    await first.open()
    await first.append([state("a", "1"), progress("1")], {CommandTopic.EXECUTE: 1})
    second = transactional.owner(agent="agent-2")
    await second.open()
    with pytest.raises(OwnershipLost, match="another agent"):
        await first.append([state("a", "zombie"), progress("zombie")], {CommandTopic.EXECUTE: 9})
    assert first.lost.is_set()
    await second.append([state("a", "2"), progress("2")])
    assert [record.value for record in await transactional.read(Topic.PROGRESS, at_least=2)] == [b"1", b"2"]
    third = transactional.owner()
    restored = await third.open()
    assert restored.state == {b"a": b"2"}
    assert restored.offsets == {CommandTopic.EXECUTE: 1}
    assert restored.repairs == {}


async def test_an_owner_that_only_waits_learns_of_the_fencing_before_it_acts(transactional: House) -> None:
    first = transactional.owner(limits=Limits(proof_seconds=0))
    await first.open()
    await first.may_act()
    second = transactional.owner(agent="agent-2")
    await second.open()
    with pytest.raises(OwnershipLost, match="another agent"):
        await first.may_act()


async def test_what_a_dead_owner_left_uncommitted_is_aborted_and_not_restored(transactional: House) -> None:
    first = transactional.owner()
    await first.open()
    await first.append([state("a", "1")])
    await first.close()
    # An owner that died between writing and committing, in the middle of a transaction.
    dead = producers.build(
        transactional.connection,
        "dead",
        transactional_id=f"{transactional.names.prefix}-{transactional.group}-0",
        transaction_timeout_ms=60_000,
    )
    await producers.start(dead, transactional.names)
    try:
        await dead.begin_transaction()
        half_done = Record(Topic.STATE, b"a", b"half-done", (("epoch", str(first.epoch).encode()),))
        await producers.send(dead, transactional.names, 0, [half_done])
        async with asyncio.timeout(PATIENCE):
            restored = await transactional.owner().open()
        assert restored.state == {b"a": b"1"}
        with pytest.raises((KafkaError, AssertionError)):
            await dead.commit_transaction()
    finally:
        await producers.close(dead, force=True)


async def test_a_reader_of_committed_records_sees_nothing_of_an_open_transaction(transactional: House) -> None:
    producer = AIOKafkaProducer(
        **transactional.connection.options(), transactional_id=f"{transactional.names.prefix}-other"
    )
    await producer.start()
    try:
        await producer.begin_transaction()
        await producers.send(producer, transactional.names, 0, [progress("open")])
        assert await transactional.read(Topic.PROGRESS) == []
        await producer.commit_transaction()
        assert [record.value for record in await transactional.read(Topic.PROGRESS, at_least=1)] == [b"open"]
        await producer.begin_transaction()
        await producers.send(producer, transactional.names, 0, [progress("aborted")])
        await producer.abort_transaction()
        assert [record.value for record in await transactional.read(Topic.PROGRESS)] == [b"open"]
    finally:
        await producer.stop()


# --- at_least_once --------------------------------------------------------------------------------------------------


async def owners_of_all(house: House, consumer: AIOKafkaConsumer) -> list[PartitionOwner]:
    """An open owner for each partition: which of them a member keeps is the group's choice."""
    owners = [house.owner(number, commit=house.membership(consumer, number)) for number in range(PARTITIONS)]
    await asyncio.gather(*(owner.open() for owner in owners))
    return owners


def numbers(consumer: AIOKafkaConsumer) -> set[int]:
    """The partition numbers assigned to it."""
    return {tp.partition for tp in consumer.assignment()}


async def shared(consumer: AIOKafkaConsumer, other: AIOKafkaConsumer) -> None:
    """Waits until the two members share the partitions."""
    await eventually(
        lambda: (
            numbers(consumer)
            and numbers(other)
            and not numbers(consumer) & numbers(other)
            and numbers(consumer) | numbers(other) == set(range(PARTITIONS))
        )
    )


async def test_what_is_written_after_the_partition_went_elsewhere_is_never_acknowledged(
    grouped: House,
) -> None:
    async with grouped.member() as consumer:
        zombies = await owners_of_all(grouped, consumer)
        await asyncio.gather(*(zombie.append([state("a", "1")], {CommandTopic.EXECUTE: 1}) for zombie in zombies))
        async with grouped.member() as other:
            await shared(consumer, other)
            moved = min(numbers(other))
            owner = grouped.owner(moved, agent="agent-2", commit=grouped.membership(other, moved))
            await owner.open()
            append = zombies[moved].append([state("a", "zombie")], {CommandTopic.EXECUTE: 9})
            await eventually(lambda: zombies[moved].trouble is not None)
            assert "not assigned" in zombies[moved].trouble.reason  # type: ignore[union-attr]
            zombies[moved].kill("the group gave it to another agent")
            with pytest.raises(OwnershipLost, match="gave it to another"):
                await append
            await owner.append([state("b", "2")], {CommandTopic.EXECUTE: 2})
            assert await other.committed(TopicPartition(grouped.names.name(CommandTopic.EXECUTE), moved)) == 2
            third = grouped.owner(moved, agent="agent-3", commit=grouped.membership(other, moved))
            restored = await third.open()
            assert restored.state == {b"a": b"1", b"b": b"2"}
            assert restored.offsets == {CommandTopic.EXECUTE: 2}


async def test_a_frozen_owners_late_records_are_void_and_overruled_in_the_log(grouped: House) -> None:
    zombie = grouped.owner()  # nobody checks it: as if its last proof had come just before the freeze
    await zombie.open()
    await zombie.append([state("a", "1"), state("b", "1"), state("c", "1")])
    owner = grouped.owner(agent="agent-2")
    await owner.open()
    await owner.append([state("a", "2"), state("b", None)])
    await zombie.append([state("a", "zombie"), state("b", "zombie")], {CommandTopic.EXECUTE: 99})
    third = grouped.owner(agent="agent-3")
    restored = await third.open()
    assert restored.state == {b"a": b"2", b"c": b"1"}
    assert restored.offsets == {}
    assert restored.repairs == {b"a": b"2", b"b": None}
    newest = {record.key: record.value for record in await grouped.read(Topic.STATE, at_least=1)}
    assert {key: newest[key] for key in (b"a", b"b", b"c")} == {b"a": b"2", b"b": None, b"c": b"1"}
    assert newest[lineage.OFFSETS_KEY] == b"{}"


async def test_a_member_that_left_the_group_can_not_open_an_owner(grouped: House) -> None:
    async with grouped.member() as consumer:
        membership = grouped.membership(consumer, 0)
    with pytest.raises(OwnershipLost):
        await grouped.owner(commit=membership).open()
    assert await grouped.read(Topic.STATE) == []


@pytest.mark.long
@pytest.mark.parametrize("between", [False, True], ids=["nobody else", "another"])
async def test_a_member_that_was_thrown_out_and_came_back_goes_on_if_nobody_owned_its_partition_between(
    grouped: House, between: bool
) -> None:
    # Nothing is written by itself: an owner that finds out before the other has come would rightly go on.
    quiet = Limits(mend_soon_seconds=3600)
    async with grouped.member() as consumer:
        owner = grouped.owner(0, new_commit=lambda: grouped.membership(consumer, 0), limits=quiet)
        await owner.open()
        former = consumer._coordinator.member_id
        consumer._coordinator.reset_generation()  # what aiokafka does when the coordinator does not know it any more
        await eventually(lambda: consumer._coordinator.member_id not in ("", former) and numbers(consumer))
        if between:
            await grouped.owner(0, agent="agent-2", commit=grouped.membership(consumer, 0)).open()
        append = owner.append([state("a", "1")])
        if between:
            with pytest.raises(OwnershipLost, match="another agent took the partition"):
                await append
        else:
            await append
            assert owner.alive


async def test_an_owner_survives_a_rebalance_that_leaves_it_its_partition(grouped: House) -> None:
    async with grouped.member() as consumer:
        owners = await owners_of_all(grouped, consumer)
        for owner in owners:
            owner.hold()
        await asyncio.gather(*(owner.idle() for owner in owners))
        queued = [owner.append([state("a", "1")]) for owner in owners]
        async with grouped.member() as other:
            await shared(consumer, other)
            kept = min(numbers(consumer))
            owners[kept].release()
            async with asyncio.timeout(PATIENCE):
                await queued[kept]
                await owners[kept].may_act()
            assert owners[kept].alive
