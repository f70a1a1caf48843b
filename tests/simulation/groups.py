"""The group coordinator: the classic eager protocol with generations, sessions, and commits that they guard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from aiokafka.errors import IllegalGenerationError, KafkaError, RebalanceInProgressError, UnknownMemberIdError

from tests.simulation.loop import Loop
from tests.simulation.transactions import Place

Assignment = tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Joined:
    """JoinGroup's answer; the leader is told all members."""

    generation: int
    member: str
    members: tuple[str, ...]
    """Empty for all but the leader."""


Reply = Callable[[Joined | KafkaError], None]
SyncReply = Callable[[Assignment | KafkaError], None]


@dataclass(slots=True, eq=False)
class _Member:
    name: str
    session: float
    rebalance: float
    seen: float
    join: Reply | None = None
    sync: SyncReply | None = None


@dataclass(slots=True)
class Group:
    """One consumer group."""

    loop: Loop
    phase: str = "empty"
    """empty, joining, syncing, stable."""
    generation: int = 0
    offsets: dict[Place, int] = field(default_factory=dict)
    members: dict[str, _Member] = field(default_factory=dict)
    _assignments: dict[str, Assignment] = field(default_factory=dict)
    _names: int = 0
    _round: int = 0

    # --- requests ---

    def join(self, member: str, session: float, rebalance: float, reply: Reply) -> None:
        """JoinGroup; answered when all have joined, or their time is over."""
        if member and member not in self.members:
            reply(UnknownMemberIdError())
            return
        if not member:
            self._names += 1
            member = f"m{self._names}"
            self.members[member] = _Member(member, session, rebalance, self.loop.time())
            self._watch(self.members[member])
        mine = self.members[member]
        mine.seen = self.loop.time()
        if mine.join is not None:
            mine.join(UnknownMemberIdError())
        mine.join = reply
        if self.phase != "joining":
            self._rebalance()
        self._maybe_complete()

    def sync(self, member: str, generation: int, assignments: Mapping[str, Assignment], reply: SyncReply) -> None:
        """SyncGroup; the leader's brings the assignments."""
        error = self._unknown(member, generation)
        if error is not None or self.phase == "joining":
            reply(error or RebalanceInProgressError())
            return
        self.members[member].seen = self.loop.time()
        if self.phase == "stable":
            reply(self._assignments.get(member, ()))
            return
        self.members[member].sync = reply
        if assignments:
            self._assignments = dict(assignments)
            self.phase = "stable"
            for each in self.members.values():
                if each.sync is not None:
                    tell, each.sync = each.sync, None
                    tell(self._assignments.get(each.name, ()))

    def heartbeat(self, member: str, generation: int) -> None:
        """Heartbeat."""
        error = self._unknown(member, generation)
        if error is not None:
            raise error
        self.members[member].seen = self.loop.time()
        if self.phase == "joining":
            raise RebalanceInProgressError

    def commit(self, member: str, generation: int, offsets: Mapping[Place, int]) -> None:
        """OffsetCommit. Without a member's id it is taken where the group is empty, as from a simple consumer."""
        if not (generation < 0 and not self.members):
            error = self._unknown(member, generation)
            if error is not None:
                raise error
            self.members[member].seen = self.loop.time()
            if self.phase == "syncing":
                raise RebalanceInProgressError
        self.take_offsets(offsets)

    def take_offsets(self, offsets: Mapping[Place, int]) -> None:
        """What a commit, or a transaction's marker, makes durable."""
        self.offsets |= offsets

    def leave(self, member: str) -> None:
        """LeaveGroup."""
        self._remove([member])

    # --- inside ---

    def _unknown(self, member: str, generation: int) -> KafkaError | None:
        if member not in self.members:
            return UnknownMemberIdError()
        if generation != self.generation:
            return IllegalGenerationError()
        return None

    def _rebalance(self) -> None:
        fresh = self.phase == "empty"
        self.phase = "joining"
        self._round += 1
        for each in self.members.values():
            if each.sync is not None:
                tell, each.sync = each.sync, None
                tell(RebalanceInProgressError())
        patience = max((each.rebalance for each in self.members.values()), default=0.0)
        self.loop.at_world(patience, self._complete, self._round)
        if fresh:  # group.initial.rebalance.delay.ms
            self._initial = self._round
            self.loop.at_world(self.loop.random.uniform(0, 0.5), self._begin, self._round)

    _initial: int = 0

    def _begin(self, number: int) -> None:
        if self._initial == number:
            self._initial = 0
            self._maybe_complete()

    def _maybe_complete(self) -> None:
        waiting = all(each.join is not None for each in self.members.values())
        if self.phase == "joining" and waiting and self._initial != self._round:
            self._complete(self._round)

    def _complete(self, number: int) -> None:
        if self.phase != "joining" or number != self._round:
            return
        self.members = {name: each for name, each in self.members.items() if each.join is not None}
        self._assignments = {}
        self.generation += 1
        if not self.members:
            self.phase = "empty"
            return
        self.phase = "syncing"
        self.loop.note(f"group generation {self.generation}: {', '.join(self.members)}")
        leader = next(iter(self.members))
        for name, each in self.members.items():
            tell, each.join = each.join, None
            each.seen = self.loop.time()
            assert tell is not None
            tell(Joined(self.generation, name, tuple(self.members) if name == leader else ()))

    def _watch(self, member: _Member) -> None:
        self.loop.at_world(member.session, self._look, member)

    def _look(self, member: _Member) -> None:
        if self.members.get(member.name) is not member:
            return
        if member.join is not None:  # who waits for the group to gather needs no heartbeat
            member.seen = self.loop.time()
        left = member.seen + member.session - self.loop.time()
        if left > 0:
            self.loop.at_world(left + 0.001, self._look, member)
        else:
            self.loop.note(f"group: the session of {member.name} expired")
            self._remove([member.name])

    def _remove(self, names: Iterable[str]) -> None:
        gone = [self.members.pop(name, None) for name in names]
        if not any(gone):
            return
        if not self.members:
            self.phase = "empty"
            self.generation += 1
            self._round += 1
        elif self.phase != "joining":
            self._rebalance()
        self._maybe_complete()


def ranges(members: Iterable[str], topics: Iterable[str], partitions: int) -> dict[str, Assignment]:
    """Kafka's range assignor: contiguous partitions, the same numbers of all topics together."""
    ordered = sorted(members)
    each, more = divmod(partitions, len(ordered))
    assigned: dict[str, Assignment] = {}
    at = 0
    for number, member in enumerate(ordered):
        size = each + (1 if number < more else 0)
        assigned[member] = tuple((topic, number) for topic in sorted(topics) for number in range(at, at + size))
        at += size
    return assigned
