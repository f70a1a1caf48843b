"""The rule that says which state records count, against the full history that no reader has."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consumer.journal import lineage
from consumer.journal.lineage import Claim, Lineage
from consumer.ports import CommandTopic


def test_a_claim_survives_the_wire() -> None:
    claim = Claim(agent="a", group="g", at="2026-01-01T00:00:00.000Z", after=7, token="t")
    assert Claim.decode(claim.encode()) == claim


@pytest.mark.parametrize(
    "value", [b"", b"{}", b"[]", b'{"agent":"a","group":"g","at":"t","after":"7","token":"t"}', b"\xff"]
)
def test_what_is_no_claim_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        Claim.decode(value)


def test_offsets_survive_the_wire_and_unknown_topics_are_left_out() -> None:
    offsets = {CommandTopic.EXECUTE: 5, CommandTopic.CONTROL: 0}
    assert lineage.decode_offsets(lineage.encode_offsets(offsets)) == offsets
    assert lineage.decode_offsets(b'{"commands.execute": 1, "commands.later": 2}') == {CommandTopic.EXECUTE: 1}
    with pytest.raises(ValueError, match="no offsets"):
        lineage.decode_offsets(b'{"commands.execute": "1"}')


def test_the_journals_keys_can_be_no_execution_id() -> None:
    assert all(lineage.is_reserved(key) for key in (lineage.OWNER_KEY, lineage.OFFSETS_KEY))
    assert not lineage.is_reserved(b"__owner")
    assert not lineage.is_reserved(None)


@pytest.mark.parametrize(
    ("headers", "epoch"),
    [
        pytest.param((("epoch", b"12"),), 12, id="there"),
        pytest.param((), None, id="absent"),
        pytest.param((("epoch", b"1"), ("other", b""), ("epoch", b"2")), 2, id="the last counts"),
        pytest.param((("epoch", b"-1"),), None, id="unreadable"),
    ],
)
def test_the_epoch_is_read_from_the_headers(headers: tuple[tuple[str, bytes], ...], epoch: int | None) -> None:
    assert lineage.epoch_of(headers) == epoch


def test_a_stamp_is_read_back() -> None:
    assert (lineage.epoch_of(lineage.stamp(7, 3)), lineage.batch_of(lineage.stamp(7, 3))) == (7, 3)
    assert lineage.batch_of((("epoch", b"7"),)) == 0


def test_a_late_claim_that_names_an_older_owner_is_void() -> None:
    owners = Lineage()
    assert owners.claim(10, None)
    assert owners.claim(20, 10)
    assert not owners.claim(30, 10)
    assert owners.record(20)
    assert not owners.record(10)


def test_a_void_claim_that_compaction_left_alone_is_refuted_by_what_the_valid_owner_wrote() -> None:
    owners = Lineage()
    assert owners.record(10)
    assert owners.claim(30, 10)  # the claim at 20, valid, was compacted away
    assert owners.record(20)
    assert not owners.record(10)
    assert owners.claim(40, 20)


def test_a_batch_that_comes_late_is_void_after_a_later_one_and_the_same_again_is_not() -> None:
    owners = Lineage()
    assert owners.claim(10, None)
    assert [owners.record(10, batch) for batch in (1, 2, 2, 1, 3, 2)] == [True, True, True, False, True, False]
    assert owners.claim(20, 10)
    assert owners.record(20, 1)


def test_even_a_void_first_claim_is_refuted() -> None:
    owners = Lineage()
    assert owners.claim(1, None)  # the claim at 0, valid, was compacted away
    assert owners.record(0)
    assert owners.epoch == 0


# --- the property: races, zombies and compaction against the full history ------------------------------------------


@dataclass
class Entry:
    offset: int
    key: str
    epoch: int | None = None
    after: int | None = None
    claim: bool = False


@dataclass
class Agent:
    """One that believes it owns the partition; it may be frozen between any two of its actions."""

    read: int | None = None
    has_read: bool = False
    epoch: int | None = None
    attested: bool = False


@dataclass
class World:
    log: list[Entry] = field(default_factory=list)
    history: list[Entry] = field(default_factory=list)

    def write(self, entry: Entry) -> None:
        self.log.append(entry)
        self.history.append(entry)

    def fold(self) -> tuple[Lineage, dict[int, bool]]:
        owners, valid = Lineage(), {}
        for entry in self.log:
            if entry.claim:
                valid[entry.offset] = owners.claim(entry.offset, entry.after)
            else:
                assert entry.epoch is not None
                valid[entry.offset] = owners.record(entry.epoch)
        return owners, valid

    def truth(self) -> dict[int, bool]:
        """By the full history: a claim is a compare-and-set, a record counts under the present claim."""
        current: int | None = None
        valid = {}
        for entry in self.history:
            if entry.claim:
                valid[entry.offset] = entry.after == current
                current = entry.offset if valid[entry.offset] else current
            else:
                valid[entry.offset] = entry.epoch == current
        return valid

    def settled(self) -> bool:
        """Whether the present owner has attested its claim."""
        truth = self.truth()
        claims = [entry.offset for entry in self.history if entry.claim and truth[entry.offset]]
        return not claims or any(entry.epoch == claims[-1] for entry in self.history)

    def compact(self) -> None:
        newest = {entry.key: entry.offset for entry in self.log}
        self.log = [entry for entry in self.log if newest[entry.key] == entry.offset]


def step(world: World, agent: Agent, key: str) -> None:
    """The agent's next action: read; claim; find its claim valid, repair and attest; then write under its epoch."""
    offset = len(world.history)
    if not agent.has_read:
        agent.read, agent.has_read = world.fold()[0].epoch, True
    elif agent.epoch is None:
        world.write(Entry(offset, "@owner", after=agent.read, claim=True))
        agent.epoch = offset
    elif not agent.attested:
        owners, valid = world.fold()
        if owners.epoch == agent.epoch:
            newest = {entry.key: valid[entry.offset] for entry in world.log if not entry.claim}
            repairs = [voided for voided, counts in newest.items() if not counts]
            for written in (*repairs, "@offsets"):  # the latter is the attest
                world.write(Entry(len(world.history), written, epoch=agent.epoch))
            agent.attested = True
        else:
            agent.read, agent.has_read, agent.epoch = None, False, None  # it lost; a new owner object begins anew
    else:
        world.write(Entry(offset, key, epoch=agent.epoch))


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 3), st.sampled_from(["a", "b"])),
        st.just("compact"),
        st.tuples(st.just("restart"), st.integers(0, 3)),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(ACTIONS)
def test_every_reader_judges_as_the_full_history_does(actions: list[object]) -> None:
    world = World()
    agents = [Agent() for _ in range(4)]
    for action in actions:
        match action:
            case "compact":
                # Compaction lags behind by an hour: a claim is attested, or given up for another, long before.
                if world.settled() and all(agent.epoch is None or agent.attested for agent in agents):
                    world.compact()
            case ("restart", int(number)):
                agents[number] = Agent()
            case (int(number), str(key)):
                step(world, agents[number], key)
    truth = world.truth()
    _, judged = world.fold()
    wrong = {
        entry.offset: (entry, judged[entry.offset])
        for entry in world.log
        if not entry.claim and judged[entry.offset] != truth[entry.offset]
    }
    assert not wrong, world.log
