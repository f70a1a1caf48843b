"""The owner's states, its batches and its death, with a log in memory."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from consumer.errors import OwnershipLost
from consumer.journal import lineage
from consumer.journal import owner as owner_module
from consumer.journal.owner import Identity, Limits, PartitionOwner, Phase
from consumer.ports import CommandTopic, Journal, Record, Topic
from tests.support.eventually import eventually
from tests.support.memory_log import MemoryPartition, MemoryWriter

IDENTITY = Identity(agent="agent-1", group="wpk-agent")


def state(key: str, value: str | None = "v") -> Record:
    return Record(Topic.STATE, key.encode(), None if value is None else value.encode())


def progress(value: str) -> Record:
    return Record(Topic.PROGRESS, b"k", value.encode())


class House:
    """Makes owners of one partition and closes them at the end."""

    def __init__(self) -> None:
        self.log = MemoryPartition()
        self._owners: list[PartitionOwner] = []
        self.writers: dict[PartitionOwner, list[MemoryWriter]] = {}
        self.prepare: Callable[[MemoryWriter], MemoryWriter] = lambda writer: writer
        """Sees each new writer before its owner does."""

    def progress(self, owner: PartitionOwner) -> list[bytes | None]:
        """What that owner's writers wrote to the progress topic."""
        batches = [records for writer in self.writers[owner] for records, _ in writer.batches]
        return [record.value for records in batches for record in records if record.topic is Topic.PROGRESS]

    def build(self, *, fencing: bool = True, limits: Limits | None = None) -> tuple[PartitionOwner, MemoryWriter]:
        """An owner and its first writer; of one that recovers `writers` has the others too."""
        made: list[MemoryWriter] = []

        def new_writer() -> MemoryWriter:
            made.append(self.prepare(MemoryWriter(self.log, fencing=fencing)))
            return made[-1]

        owner = PartitionOwner(0, new_writer, self.log.open_log, IDENTITY, limits or Limits())
        self._owners.append(owner)
        self.writers[owner] = made
        return owner, made[0]

    async def opened(
        self, *, fencing: bool = True, limits: Limits | None = None
    ) -> tuple[PartitionOwner, MemoryWriter]:
        owner, writer = self.build(fencing=fencing, limits=limits)
        await owner.open()
        return owner, writer

    async def close(self) -> None:
        for owner in self._owners:
            await owner.close(grace=0)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    yield house
    await house.close()


async def never_before(waiting: Awaitable[object], happens: Callable[[], object]) -> None:
    """Asserts that `waiting` does not end until `happens` was called, and then does."""
    task = asyncio.ensure_future(waiting)
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()
    happens()
    async with asyncio.timeout(30):
        await task


async def test_an_owner_goes_through_its_phases(house: House) -> None:
    owner, writer = house.build()
    phases = [owner.phase]
    with pytest.raises(RuntimeError, match="not open"):
        await owner.append([state("a")])
    await owner.open()
    phases.append(owner.phase)
    await owner.close()
    phases.append(owner.phase)
    assert phases == [Phase.FENCING, Phase.ACTIVE, Phase.DEAD]
    assert owner.lost.is_set()
    assert writer.stopped
    assert not writer.forced


async def test_the_claim_comes_first_and_its_offset_is_the_epoch(house: House) -> None:
    house.log.add(Record(Topic.STATE, b"old", b"1"))
    owner, writer = await house.opened()
    first = writer.batches[0][0][0]
    claim = lineage.Claim.decode(first.value or b"")
    assert first.key == lineage.OWNER_KEY
    assert (claim.agent, claim.group, claim.after) == ("agent-1", "wpk-agent", None)
    assert owner.epoch == 1


async def test_state_records_carry_epoch_and_batch_and_others_do_not(house: House) -> None:
    owner, writer = await house.opened()
    await owner.append([state("a"), progress("p")])
    await owner.append([state("a")])
    headers = [[record.headers for record in records] for records, _ in writer.batches[-2:]]
    assert headers == [[lineage.stamp(owner.epoch, 2), ()], [lineage.stamp(owner.epoch, 3)]]


async def test_all_that_is_queued_meanwhile_goes_in_one_batch(house: House) -> None:
    owner, writer = await house.opened()
    before = len(writer.batches)
    writer.stall()
    first = owner.append([progress("0")])
    await asyncio.wait_for(writer.writing.wait(), 30)
    others = [owner.append([progress(str(n))]) for n in range(1, 50)]
    writer.resume()
    await asyncio.gather(first, *others)
    batches = [[r.value for r in records if r.topic is Topic.PROGRESS] for records, _ in writer.batches[before:]]
    assert batches == [[b"0"], [str(n).encode() for n in range(1, 50)]]


async def test_of_a_keys_state_records_in_a_batch_only_the_newest_is_written(house: House) -> None:
    owner, writer = await house.opened()
    await asyncio.gather(
        owner.append([state("a", "1"), progress("1"), state("b", "1")]),
        owner.append([state("a", "2"), progress("2")]),
        owner.append([state("a", None)]),
    )
    written = [(record.topic, record.key, record.value) for record in writer.batches[-1][0]]
    assert written == [
        (Topic.PROGRESS, b"k", b"1"),
        (Topic.STATE, b"b", b"1"),
        (Topic.PROGRESS, b"k", b"2"),
        (Topic.STATE, b"a", None),
    ]


async def test_a_batch_is_bounded_but_an_append_is_never_split(house: House) -> None:
    owner, writer = await house.opened(limits=Limits(batch_records=3))
    before = len(writer.batches)
    writer.stall()
    blocked = owner.append([progress("x")])
    await asyncio.wait_for(writer.writing.wait(), 30)
    appends = [owner.append([progress("x")] * count) for count in (2, 2, 5, 1)]
    writer.resume()
    await asyncio.gather(blocked, *appends)
    sizes = [sum(r.topic is Topic.PROGRESS for r in records) for records, _ in writer.batches[before:]]
    assert sizes == [1, 2, 2, 5, 1]


async def test_offsets_are_written_with_the_records_and_kept_in_the_state(house: House) -> None:
    owner, writer = await house.opened()
    await owner.append([progress("1")], {CommandTopic.EXECUTE: 5})
    await owner.append([progress("2")], {CommandTopic.CONTROL: 3})
    assert writer.batches[-1][1] == {CommandTopic.CONTROL: 3}
    successor, _ = house.build()
    restored = await successor.open()
    assert successor.stats.restored > 0, "by it is seen that the taking makes progress"
    assert restored.offsets == {CommandTopic.EXECUTE: 5, CommandTopic.CONTROL: 3}
    assert restored.resume_at(CommandTopic.EXECUTE, 9) == 9
    assert restored.resume_at(CommandTopic.EXECUTE, None) == 5
    assert restored.resume_at(CommandTopic.ROLLBACK, None) is None


async def test_a_new_owner_gets_the_newest_values_and_none_of_the_journals_own_keys(house: House) -> None:
    owner, _ = await house.opened()
    await owner.append([state("a", "1"), state("b", "1")], {CommandTopic.EXECUTE: 1})
    await owner.append([state("a", "2"), state("b", None)])
    successor, _ = house.build()
    restored = await successor.open()
    assert restored.state == {b"a": b"2"}
    assert restored.epoch == successor.epoch > owner.epoch
    assert restored.repairs == {}


async def test_a_fenced_owner_dies_at_its_next_write_with_all_that_is_pending(house: House) -> None:
    owner, _ = await house.opened()
    await house.opened()
    pending = [owner.append([progress(str(n))]) for n in range(3)]
    for append in pending:
        with pytest.raises(OwnershipLost, match="another agent took the partition"):
            await append
    assert not owner.alive
    assert owner.reason
    assert owner.lost.is_set()
    for wait in (owner.append([progress("x")]), owner.may_act(), owner.backlog()):
        with pytest.raises(OwnershipLost, match="another agent took the partition"):
            await wait


@pytest.mark.parametrize("written", [pytest.param(False, id="not there"), pytest.param(True, id="there")])
async def test_a_batch_whose_outcome_is_unknown_is_written_once(house: House, written: bool) -> None:
    owner, writer = await house.opened()
    epoch = owner.epoch
    writer.failure, writer.written_before_failure = ConnectionError("the broker died"), written
    await asyncio.gather(owner.append([progress("1"), state("a", "1")]), owner.append([progress("2")]))
    await owner.append([progress("3")])
    assert (owner.alive, owner.epoch, owner.trouble) == (True, epoch, None)
    assert writer.forced
    assert house.progress(owner) == [b"1", b"2", b"3"]


async def test_a_batch_is_found_again_though_its_new_leader_does_not_know_yet_that_it_is_committed(
    house: House,
) -> None:
    owner, writer = await house.opened()
    house.log.told_end = len(house.log.records)
    writer.failure, writer.written_before_failure = ConnectionError("the leader died"), True
    await owner.append([progress("1"), state("a", "1")])
    assert house.progress(owner) == [b"1"]


async def test_a_hold_costs_no_processor_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, _ = await house.opened(fencing=False, limits=Limits(mend_soon_seconds=0))
    turns = 0
    original = owner._next_change

    async def counted() -> None:
        nonlocal turns
        turns += 1
        await original()

    monkeypatch.setattr(owner, "_next_change", counted)
    owner.hold()
    for _ in range(100):
        await asyncio.sleep(0)
    assert turns <= 2


async def test_a_batch_without_state_is_found_again_too(house: House) -> None:
    owner, writer = await house.opened()
    writer.failure, writer.written_before_failure = ConnectionError("the answer was lost"), True
    await owner.append([progress("1")])
    assert house.progress(owner) == [b"1"]


async def test_without_transactions_the_batch_is_written_again_since_it_may_be_there_in_part(house: House) -> None:
    owner, writer = await house.opened(fencing=False)
    writer.failure, writer.written_before_failure = ConnectionError("the answer was lost"), True
    await owner.append([progress("1"), state("a", "1")])
    assert house.progress(owner) == [b"1", b"1"]
    restored = await house.build(fencing=False)[0].open()
    assert restored.state == {b"a": b"1"}


async def test_an_outage_costs_nothing_but_its_time(house: House) -> None:
    owner, writer = await house.opened()
    away = ConnectionError("the broker is away")
    writer.failure = away

    def still_away(writer: MemoryWriter) -> MemoryWriter:
        writer.failure = away if len(house.writers[owner]) < 3 else None
        return writer

    house.prepare = still_away
    append = owner.append([progress("1")])
    await asyncio.wait_for(append, 30)
    assert len(house.writers[owner]) == 4
    assert house.progress(owner) == [b"1"]
    assert owner.alive


async def test_an_owner_says_why_nothing_is_written_and_begins_no_effect_meanwhile(house: House) -> None:
    owner, writer = await house.opened(limits=Limits(proof_seconds=0))
    writer.failure = ConnectionError("the broker is away")
    house.prepare = _stalled
    append = owner.append([progress("1")])
    await eventually(lambda: len(house.writers[owner]) == 2)
    assert owner.trouble is not None
    assert "the connection to Kafka was lost" in owner.trouble.reason
    await never_before(owner.may_act(), house.writers[owner][-1].resume)
    await append
    assert owner.trouble is None


async def test_a_membership_that_is_lost_for_a_moment_costs_nothing(house: House) -> None:
    owner, writer = await house.opened(fencing=False)
    writer.member = False
    await owner.append([progress("1")])
    assert owner.alive


async def test_who_could_not_write_while_another_took_over_is_lost(house: House) -> None:
    owner, writer = await house.opened()
    writer.stall()
    append = owner.append([progress("1")])
    await asyncio.wait_for(writer.writing.wait(), 30)
    await house.opened()
    writer.resume()
    with pytest.raises(OwnershipLost, match="another agent took the partition"):
        await append
    assert house.progress(owner) == []


async def test_a_write_that_does_not_end_in_time_has_an_unknown_outcome(house: House) -> None:
    owner, writer = await house.opened(limits=Limits(write_seconds=0.05))
    writer.stall()
    await asyncio.wait_for(owner.append([progress("1")]), 30)
    assert house.progress(owner) == [b"1"]


async def test_an_owner_that_recovers_tries_again_as_soon_as_a_rebalance_is_over(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner_module, "_PAUSES", (3600.0, 3600.0))
    owner, writer = await house.opened()

    def not_a_member(made: MemoryWriter) -> MemoryWriter:
        made.member = False
        return made

    house.prepare = not_a_member
    writer.failure = ConnectionError("cut")
    durable = owner.append([progress("p")])
    await eventually(lambda: owner.trouble is not None and "not a member" in owner.trouble.reason)
    house.prepare = lambda made: made
    owner.release()
    async with asyncio.timeout(60):
        await durable
    assert owner.trouble is None


async def test_an_owner_that_recovers_can_be_closed(house: House) -> None:
    owner, writer = await house.opened()
    writer.failure = ConnectionError("the broker is away")
    house.prepare = _stalled
    append = owner.append([progress("1")])
    await eventually(lambda: owner.trouble is not None)
    await asyncio.wait_for(owner.close(grace=0.05), 30)
    with pytest.raises(OwnershipLost, match="closed"):
        await append


def _stalled(writer: MemoryWriter) -> MemoryWriter:
    writer.stall()
    return writer


async def test_a_failed_append_that_nobody_awaits_makes_no_noise(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    owner, writer = await house.opened()
    writer.stall()
    owner.append([progress("1")])
    await asyncio.wait_for(writer.writing.wait(), 30)
    owner.kill("by the test")
    owner.append([progress("2")])
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_cancelling_the_wait_does_not_take_the_records_back(house: House) -> None:
    owner, writer = await house.opened()
    writer.stall()
    waiting = asyncio.ensure_future(owner.append([progress("1")]))
    await asyncio.wait_for(writer.writing.wait(), 30)
    waiting.cancel()
    writer.resume()
    await owner.append([progress("2")])
    assert [record.value for records, _ in writer.batches for record in records if record.topic is Topic.PROGRESS] == [
        b"1",
        b"2",
    ]


async def test_effects_wait_out_a_hold_and_begin_after_a_new_proof(house: House) -> None:
    owner, writer = await house.opened()
    owner.hold()
    assert owner.held
    before = len(writer.batches)
    await never_before(owner.may_act(), owner.release)
    (records, _) = writer.batches[-1]
    assert len(writer.batches) == before + 1
    assert [record.key for record in records] == [lineage.OFFSETS_KEY]


async def test_no_effect_begins_after_a_hold_in_which_another_took_over(house: House) -> None:
    owner, _ = await house.opened()
    owner.hold()
    await house.opened()
    owner.release()
    with pytest.raises(OwnershipLost):
        await owner.may_act()


async def test_a_fresh_proof_lets_an_effect_begin_without_a_write(house: House) -> None:
    owner, writer = await house.opened()
    await owner.append([state("a")])
    before = len(writer.batches)
    await owner.may_act()
    assert len(writer.batches) == before


async def test_an_old_proof_is_renewed_before_an_effect_begins(house: House) -> None:
    owner, writer = await house.opened(limits=Limits(proof_seconds=0))
    before = len(writer.batches)
    await asyncio.wait_for(owner.may_act(), 30)
    assert len(writer.batches) == before + 1


async def test_without_fencing_nothing_is_written_in_a_hold(house: House) -> None:
    owner, writer = await house.opened(fencing=False)
    owner.hold()
    await asyncio.wait_for(owner.idle(), 30)
    before = len(writer.batches)
    await never_before(owner.append([progress("1")]), owner.release)
    assert len(writer.batches) == before + 1


async def test_without_fencing_idle_waits_for_the_write_under_way(house: House) -> None:
    owner, writer = await house.opened(fencing=False)
    writer.stall()
    append = owner.append([progress("1")])
    await asyncio.wait_for(writer.writing.wait(), 30)
    owner.hold()
    await never_before(owner.idle(), writer.resume)
    await append


async def test_without_fencing_a_partition_is_not_taken_in_a_hold(house: House) -> None:
    owner, _ = house.build(fencing=False)
    owner.hold()
    opening = asyncio.ensure_future(owner.open())
    await never_before(opening, owner.release)
    assert owner.phase is Phase.ACTIVE


async def test_without_fencing_idle_waits_for_the_claim_under_way(house: House) -> None:
    owner, writer = house.build(fencing=False)
    writer.stall()
    opening = asyncio.ensure_future(owner.open())
    await asyncio.wait_for(writer.writing.wait(), 30)
    owner.hold()
    await never_before(owner.idle(), writer.resume)
    assert not opening.done()
    owner.release()
    await opening


async def test_with_fencing_writes_go_on_in_a_hold(house: House) -> None:
    owner, _ = await house.opened()
    owner.hold()
    await asyncio.wait_for(owner.append([progress("1")]), 30)


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(Limits(backlog_bytes=2000), id="bytes"),
        pytest.param(Limits(backlog_records=10), id="records"),
    ],
)
async def test_backlog_waits_while_too_much_is_queued(house: House, limits: Limits) -> None:
    owner, writer = await house.opened(limits=limits)
    await asyncio.wait_for(owner.backlog(), 30)
    writer.stall()
    appends = [owner.append([progress("x" * 200)]) for _ in range(20)]
    await never_before(owner.backlog(), writer.resume)
    await asyncio.gather(*appends)


async def test_closing_writes_what_is_queued_and_takes_no_more(house: House) -> None:
    owner, writer = await house.opened()
    writer.stall()
    append = owner.append([progress("1")])
    await asyncio.wait_for(writer.writing.wait(), 30)
    closing = asyncio.create_task(owner.close(grace=60))
    await asyncio.sleep(0)
    assert owner.phase is Phase.QUIESCING
    with pytest.raises(OwnershipLost, match="closed"):
        await owner.append([progress("2")])
    writer.resume()
    await append
    await closing
    assert owner.reason == "closed"
    assert not writer.forced


async def test_closing_is_bounded_where_a_write_hangs(house: House) -> None:
    owner, writer = await house.opened()
    writer.stall()
    append = owner.append([progress("1")])
    await asyncio.wait_for(owner.close(grace=0.05), 30)
    with pytest.raises(OwnershipLost):
        await append
    assert writer.forced


async def test_an_owner_can_be_closed_twice_and_without_being_opened(house: House) -> None:
    owner, _ = await house.opened()
    await asyncio.gather(owner.close(), owner.close())
    unopened, _ = house.build()
    await unopened.close()
    assert not unopened.alive


async def test_a_cancelled_close_still_ends_the_writer(house: House) -> None:
    owner, writer = await house.opened()
    writer.stall()
    append = owner.append([progress("1")])
    closing = asyncio.create_task(owner.close(grace=60))
    await asyncio.wait_for(writer.writing.wait(), 30)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert writer.stopped
    with pytest.raises(OwnershipLost):
        await append


async def test_killing_fails_what_is_pending_at_once(house: House) -> None:
    owner, writer = await house.opened()
    writer.stall()
    append = owner.append([progress("1")])
    await asyncio.wait_for(writer.writing.wait(), 30)
    owner.kill("assigned to another agent")
    with pytest.raises(OwnershipLost, match="assigned to another agent"):
        await append


async def test_an_owner_that_can_not_prove_its_membership_does_not_open(house: House) -> None:
    owner, writer = house.build(fencing=False)
    writer.member = False
    with pytest.raises(OwnershipLost, match="not a member"):
        await owner.open()
    assert not owner.alive
    assert writer.stopped
    assert house.log.records == []


async def test_a_writer_that_does_not_start_in_time_is_given_up(house: House) -> None:
    owner, writer = house.build(limits=Limits(start_seconds=0.05))

    async def hangs() -> None:
        await asyncio.Event().wait()

    writer.start = hangs  # type: ignore[method-assign]
    with pytest.raises(OwnershipLost, match=r"did not let the writer start in 0\.05 s"):
        await owner.open()
    assert writer.forced


async def test_of_two_that_claim_in_the_same_moment_the_first_in_the_log_wins(house: House) -> None:
    first, first_writer = house.build(fencing=False)
    second, second_writer = house.build(fencing=False)
    for writer in (first_writer, second_writer):
        writer.stall()
    openings = [asyncio.create_task(owner.open()) for owner in (first, second)]
    for writer in (first_writer, second_writer):
        await asyncio.wait_for(writer.writing.wait(), 30)
        writer.resume()
    await openings[0]
    with pytest.raises(OwnershipLost, match="claim came first"):
        await openings[1]
    await first.append([state("a", "1")])
    third, _ = house.build(fencing=False)
    assert (await third.open()).state == {b"a": b"1"}


async def test_what_a_fenced_owner_still_writes_is_void_and_overruled(house: House) -> None:
    zombie, zombie_writer = await house.opened(fencing=False)
    await zombie.append([state("a", "1"), state("b", "1"), state("gone", "1")])
    owner, _ = await house.opened(fencing=False)
    await owner.append([state("a", "2"), state("gone", None)])
    zombie_writer.member = False
    with pytest.raises(OwnershipLost):
        await zombie.append([state("a", "zombie"), state("gone", "zombie")])
    third, third_writer = house.build(fencing=False)
    restored = await third.open()
    assert restored.state == {b"a": b"2", b"b": b"1"}
    assert restored.repairs == {b"a": b"2", b"gone": None}
    repaired = {record.key: record.value for record in third_writer.batches[-1][0]}
    assert repaired == {b"a": b"2", b"gone": None, lineage.OFFSETS_KEY: b"{}"}


async def test_an_owner_overrules_what_a_fenced_one_writes_meanwhile(house: House) -> None:
    zombie, _ = await house.opened(fencing=False)
    await zombie.append([state("a", "1"), state("b", "1")])
    owner, _ = await house.opened(fencing=False, limits=Limits(mend_soon_seconds=0.05))
    await owner.append([state("a", "2")])
    await owner.append([], {CommandTopic.EXECUTE: 5})
    late = [state("a", "zombie"), state("b", "zombie"), state("c", "zombie")]
    await zombie.append(late, {CommandTopic.EXECUTE: 3})  # nobody checks it

    def newest() -> dict[bytes | None, bytes | None]:
        return {record.key: record.value for record in house.log.records}

    await eventually(lambda: (newest()[b"a"], newest()[b"b"], newest()[b"c"]) == (b"2", b"1", None))
    assert lineage.decode_offsets(newest()[lineage.OFFSETS_KEY] or b"") == {CommandTopic.EXECUTE: 5}
    assert owner.alive
    await owner.append([state("a", "3")])
    assert newest()[b"a"] == b"3"


async def test_an_owner_overrules_what_its_own_former_writer_delivers_late(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.journal.owner._MEND_SECONDS", 0.05)
    owner, writer = await house.opened(fencing=False, limits=Limits(mend_soon_seconds=0.05))
    await owner.append([state("a", "1")])
    late = writer.batches[-1][0][0]
    await owner.append([state("a", "2")])
    read = house.log.reads
    await eventually(lambda: house.log.reads >= read + 2)
    house.log.add(late)
    await eventually(lambda: house.log.records[-1].value == b"2")
    assert owner.alive


@pytest.mark.parametrize(
    ("record", "message"),
    [
        pytest.param(Record(Topic.PROGRESS, b"k", b"x" * 2000), "2001 bytes", id="too large"),
        pytest.param(Record(Topic.STATE, b"@owner", b"x"), "can't be a key", id="the journal's own key"),
        pytest.param(Record(Topic.STATE, None, b"x"), "can't be a key", id="state without a key"),
        pytest.param(Record(Topic.LOGS, None, None), "neither", id="nothing"),
    ],
)
async def test_a_record_that_could_never_be_written_is_refused_and_harms_nothing(
    house: House, record: Record, message: str
) -> None:
    owner, _ = await house.opened(limits=Limits(record_bytes=1000))
    with pytest.raises(ValueError, match=message):
        owner.append([record])
    await owner.append([progress("fine")])
    assert owner.alive


async def test_an_owner_is_the_engines_journal(house: House) -> None:
    owner, _ = await house.opened()
    journal: Journal = owner
    assert (journal.partition, journal.epoch, journal.alive) == (0, owner.epoch, True)
