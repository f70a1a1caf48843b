"""Signed checkpoints: what was signed can't be changed, removed or written anew behind anybody's back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import confluent_kafka
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from consumer.audit import checkpoint as checkpoints
from consumer.audit.checkpoint import Checkpoint, CheckpointError, Mark
from consumer.audit.findings import Finding, Kind, Report
from consumer.audit.verify import Scope, Verifier
from consumer.client import Auditor, Window
from consumer.journal.connection import KafkaConnection
from consumer.journal.reader import LogRecord
from consumer.journal.topics import TopicNames
from consumer.policy import signing
from consumer.ports import Topic
from schemas import events
from tests.audit.test_histories import CHANNELS, records
from tests.audit.trail import Json, Trail, completed, fields, lay_down, sealed, undone
from tests.support.kafka import KafkaBroker
from tests.support.processes import environment, wpk
from tests.support.stories import Story

if TYPE_CHECKING:
    from consumer.policy.signing import SigningKey

pytestmark = pytest.mark.timeout(120)

KEY = ec.generate_private_key(ec.SECP256R1())
MOMENT = datetime(2026, 3, 2, tzinfo=UTC)


# --- the file ---


def some() -> Checkpoint:
    marks = {
        "run-1": Mark(0, 11, "ab" * 32, "events.results", 4),
        "run-2": Mark(1, 4, "cd" * 32, "events.logs", 0),
        "a name\nof two lines": Mark(0, 1, "ef" * 32, "events.progress", 7),
    }
    ends = {(name, number): 9 for name in CHANNELS for number in range(2)}
    return Checkpoint(made_at=MOMENT, prefix="wpk", ends=ends, marks=marks)


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["p256", "p384", "ed25519", "rsa"],
)
def test_a_checkpoint_is_read_again_as_it_was_signed(key: SigningKey) -> None:
    assert checkpoints.opened(checkpoints.seal(some(), key), signing.public_pem(key)) == some()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda file: file["executions"]["run-1"].__setitem__(2, "12" * 32), "not those that were signed"),
        (lambda file: file["executions"].pop("run-2"), "not those that were signed"),
        (
            lambda file: file["executions"].update(extra=[0, 1, "12" * 32, "events.logs", 1]),
            "not those that were signed",
        ),
        (lambda file: file["statement"]["partitions"][0]["ends"].update({"events.logs": 1}), "its signature is not"),
        (lambda file: file["statement"].update(made_at="2026-03-03T00:00:00Z"), "its signature is not"),
        (lambda file: file["statement"].update(version=2), "statement.version"),
        (lambda file: file.update(signature="AAAA"), "no ECDSA signature"),
        (lambda file: file.update(more=1), "more: Extra inputs"),
    ],
)
def test_a_checkpoint_that_was_changed_is_refused(change: Callable[[Json], object], told: str) -> None:
    file = json.loads(checkpoints.seal(some(), KEY))
    change(file)
    with pytest.raises(CheckpointError, match=told):
        checkpoints.opened(json.dumps(file).encode(), signing.public_pem(KEY))


def test_a_checkpoint_of_another_key_is_refused() -> None:
    other = signing.public_pem(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(CheckpointError, match="not of that key"):
        checkpoints.opened(checkpoints.seal(some(), KEY), other)


# --- what it shows, on a real broker ---


@dataclass(frozen=True, slots=True)
class Desk:
    """A trail, its checkpoint, and where changed copies of it are judged."""

    connection: KafkaConnection
    prefix: str
    trail: Trail
    checkpoint: Checkpoint

    async def judge(self) -> tuple[Report, Report]:
        """Of the trail as it is now: without the checkpoint, and with it."""
        names = TopicNames(f"{self.prefix}-copy")
        await lay_down(self.connection, names, self.trail)
        signed = checkpoints.opened(checkpoints.seal(self.checkpoint, KEY), signing.public_pem(KEY))
        return (
            await Auditor(self.connection, names, strict=True).verify(),
            await Auditor(self.connection, names, strict=True, checkpoint=signed).verify(),
        )

    async def only_by_the_checkpoint(self) -> Finding:
        """The one thing that it alone shows."""
        without, beside = await self.judge()
        assert without.holds, without.broken
        [finding] = beside.broken
        return finding


def undone_later(name: str) -> Story:
    """A run that completed, and was undone on demand when it had."""
    story = completed(name)
    story.rolling_back("undo").step_started("undo", phase="rollback").step_succeeded("undo", phase="rollback")
    return story.tell(events.ExecutionRolledBack.model_validate(fields(story)))


@pytest.fixture
async def desk(embedded_kafka: KafkaBroker, prefix: str) -> AsyncIterator[Desk]:
    """The checkpoint names the topics of the copy, which has the same records at the same offsets."""
    connection = KafkaConnection(bootstrap_servers=embedded_kafka.bootstrap)
    stories = [completed("good-1"), undone("good-2"), undone_later("later"), completed("mine")]
    trail = Trail.of(stories)
    await lay_down(connection, TopicNames(prefix), trail)
    report, made = await Auditor(connection, TopicNames(prefix), strict=True).checkpoint()
    assert report.holds, report.broken
    named = Checkpoint(made_at=made.made_at, prefix=f"{prefix}-copy", ends=made.ends, marks=made.marks)
    yield Desk(connection, prefix, trail, named)


def forget(trail: Trail) -> None:
    """As the state's retention does it: no second witness is left."""
    for (topic, _), row in trail.records.items():
        if topic is Topic.STATE:
            row.clear()


def place_in(desk: Desk, execution_id: str, name: str) -> tuple[str, int, int]:
    row, index = desk.trail.find(execution_id, name)
    role = row[index].topic
    return f"{desk.prefix}-copy.{role.removeprefix(f'{desk.prefix}.')}", row[index].partition, index


async def test_a_trail_that_only_grew_is_what_the_checkpoint_says(desk: Desk) -> None:
    for told in completed("new"):
        desk.trail.append(Topic(told.event.data.channel), "new", told.value, int(told.event.time.timestamp() * 1000))
    forget(desk.trail)
    _, report = await desk.judge()
    assert (report.holds, report.executions, report.attested) == (True, 5, 4), report
    assert report.checkpoint == desk.checkpoint.name


async def test_an_execution_that_was_written_anew_with_right_hashes_is_found(desk: Desk) -> None:
    anew = {told.event.data.seq: told.value for told in completed("mine")}
    before = ""
    for seq in sorted(anew):  # alice never asked for it, it says now
        raw = orjson.loads(anew[seq])
        raw["data"].pop("hash")
        raw["data"]["prev_hash"] = before
        if seq == 1:
            raw["data"]["requested_by"] = "mallory"
        anew[seq] = sealed(raw)
        before = orjson.loads(anew[seq])["data"]["hash"]
    for row, record in desk.trail.of_execution("mine"):
        seq = orjson.loads(record.value or b"")["data"]["seq"]
        row[row.index(record)] = record._replace(value=anew[seq])
    forget(desk.trail)
    finding = await desk.only_by_the_checkpoint()
    assert (finding.kind, finding.execution_id) == (Kind.ALTERED, "mine")
    assert finding.place == place_in(desk, "mine", "execution.completed")
    assert "written anew" in finding.message


async def test_an_execution_that_was_removed_as_a_whole_is_found(desk: Desk) -> None:
    there = place_in(desk, "mine", "execution.completed")
    for row, record in desk.trail.of_execution("mine"):
        row.remove(record)
    forget(desk.trail)
    finding = await desk.only_by_the_checkpoint()
    assert (finding.kind, finding.execution_id, finding.place) == (Kind.CUT, "mine", there)
    assert "none of it is there" in finding.message


async def test_a_later_rollback_that_was_cut_off_is_found(desk: Desk) -> None:
    for row, record in desk.trail.of_execution("later"):
        if orjson.loads(record.value or b"")["data"]["seq"] > 11:
            row.remove(record)
    forget(desk.trail)
    finding = await desk.only_by_the_checkpoint()
    assert (finding.kind, finding.execution_id) == (Kind.CUT, "later")
    assert finding.place == place_in(desk, "later", "execution.completed")


async def test_an_execution_that_was_put_in_before_the_checkpoint_is_found(desk: Desk) -> None:
    for told in reversed([*completed("forged")]):
        row, timestamp = desk.trail.records[Topic(told.event.data.channel), 0], int(told.event.time.timestamp() * 1000)
        row.insert(0, LogRecord(told.event.data.channel, 0, 0, timestamp, b"forged", told.value, ()))
    forget(desk.trail)
    finding = await desk.only_by_the_checkpoint()
    assert (finding.kind, finding.execution_id, finding.seq) == (Kind.FOREIGN, "forged", 1)
    assert finding.place == (f"{desk.prefix}-copy.events.progress", 0, 0)


async def test_one_execution_is_compared_alone_and_no_part_of_the_trail_is(desk: Desk) -> None:
    await lay_down(desk.connection, TopicNames(f"{desk.prefix}-copy"), desk.trail)
    auditor = Auditor(desk.connection, TopicNames(f"{desk.prefix}-copy"), checkpoint=desk.checkpoint)
    report = await auditor.verify(Window(execution_id="later"))
    assert (report.holds, report.executions, report.attested) == (True, 1, 1)
    with pytest.raises(CheckpointError, match="leave out --from and --to"):
        await auditor.verify(Window(since=MOMENT))
    elsewhere = Auditor(desk.connection, TopicNames(desk.prefix), checkpoint=desk.checkpoint)
    with pytest.raises(CheckpointError, match=f"is of the topics {desk.prefix}-copy"):
        await elsewhere.verify()


# --- what it can't show any more, and what is no fault ---


def compared(story: Story, checkpoint: Checkpoint, **scope: object) -> Report:
    verifier = Verifier(Scope(channels=CHANNELS, checkpoint=checkpoint, **{"beginnings": {}, **scope}))  # type: ignore[arg-type]
    verifier.add(records([told.value for told in story]))
    verifier.finish()
    verifier.attest(checkpoint)
    return verifier.report


def test_what_is_beyond_the_retention_is_counted_and_what_should_be_there_is_not() -> None:
    gone = Checkpoint(made_at=MOMENT, prefix="wpk", ends={}, marks={"old": Mark(0, 11, "ab" * 32, "events.results", 4)})
    report = compared(completed("new"), gone, beginnings={("events.results", 0): 5})
    assert (report.holds, report.beyond, report.attested) == (True, 1, 0)
    report = compared(completed("new"), gone, beginnings={("events.results", 0): 4})
    [finding] = report.broken
    assert (finding.kind, finding.place) == (Kind.CUT, ("events.results", 0, 4))


def test_the_marked_event_itself_is_missed_where_later_ones_hide_that_it_is_gone() -> None:
    """Retention took what was before the trail's beginning, so that a gap there is no fault by itself."""
    story = completed("e1")
    signed = Mark(0, 3, story.told[2].state.last_hash, "events.progress", 2)
    checkpoint = Checkpoint(made_at=MOMENT, prefix="wpk", ends={}, marks={"e1": signed})
    rest = Story("e1", told=story.told[4:])
    took = {("events.logs", 0): 1}
    report = compared(rest, checkpoint, beginnings=took)
    [finding] = report.broken
    assert (finding.kind, finding.seq, report.begun_before) == (Kind.MISSING, 3, 1)
    report = compared(rest, checkpoint, beginnings={**took, ("events.progress", 0): 3})
    assert (report.holds, report.beyond) == (True, 1)


def test_an_exchanged_event_is_told_even_where_the_old_one_is_said_to_be_beyond_the_retention() -> None:
    forged = Mark(0, 11, "ab" * 32, "events.results", 4)
    checkpoint = Checkpoint(made_at=MOMENT, prefix="wpk", ends={}, marks={"e1": forged})
    report = compared(completed("e1"), checkpoint, beginnings={("events.results", 0): 5})
    assert [finding.kind for finding in report.broken] == [Kind.ALTERED]


def test_an_event_of_a_lost_owner_that_a_newer_one_took_the_place_of_is_no_forgery_without_transactions() -> None:
    before = Story("e1").accepted().started("hello").step_started("hello")
    lost = Story("e1", told=[*before.told], now=before.now).step_failed("hello", "no")
    won = Story("e1", told=[*before.told], now=before.now, epoch=9).step_failed("hello", "never")
    signed = Mark(0, 4, lost.state.last_hash, "events.progress", 3)
    checkpoint = Checkpoint(made_at=MOMENT, prefix="wpk", ends={}, marks={"e1": signed})
    both = Story("e1", told=[*lost.told, *won.told[3:]])
    report = compared(both, checkpoint)
    assert (report.holds, set(report.counts)) == (True, {Kind.FENCED}), report.broken
    assert not compared(both, checkpoint, strict=True).holds


# --- as a user has it ---


@pytest.mark.long
async def test_the_verbs_sign_a_trail_that_holds_and_tell_one_that_was_changed_since(
    embedded_kafka: KafkaBroker, prefix: str, tmp_path: Path
) -> None:
    private, public, file = tmp_path / "key.pem", tmp_path / "public.pem", tmp_path / "checkpoint.json"
    private.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_text(signing.public_pem(KEY))
    connection = KafkaConnection(bootstrap_servers=embedded_kafka.bootstrap)
    variables = environment(embedded_kafka, prefix)
    trail = Trail.of([completed("one"), undone("two")])
    await lay_down(connection, TopicNames(prefix), trail)
    done = await wpk(variables, "audit", "checkpoint", "--key", str(private), "-o", str(file))
    assert (done.code, done.stdout) == (0, f"signed {file}: 2 executions, 23 events\n"), done.stderr
    compare = ("audit", "verify", "--checkpoint", str(file), "--key", str(public))
    done = await wpk(variables, *compare)
    assert done.code == 0, done.stdout
    assert "2 executions are what the checkpoint of 20" in done.stdout

    row = trail.records[Topic.PROGRESS, trail.find("two", "step.captured")[0][0].partition]
    await lay_down(
        connection, TopicNames(prefix), Trail({(Topic.PROGRESS, row[0].partition): [row[0]._replace(value=b"{}")]})
    )
    done = await wpk(variables, *compare)
    assert done.code == 1
    other = await wpk(variables, "audit", "checkpoint", "--key", str(private), "-o", str(tmp_path / "other.json"))
    assert (other.code, "nothing was signed" in other.stderr) == (1, True)
    assert not (tmp_path / "other.json").exists()
    file.write_bytes(file.read_bytes().replace(b'"one"', b'"six"'))
    done = await wpk(variables, *compare)
    assert (done.code, "not those that were signed" in done.stderr) == (2, True)


# --- reading what is being written ---


async def test_events_that_are_written_while_the_trail_is_read_are_not_missing(
    embedded_kafka: KafkaBroker, prefix: str
) -> None:
    """The log topic was read to its end when a line came to it, and the progress topic was not."""
    connection, story = KafkaConnection(bootstrap_servers=embedded_kafka.bootstrap), completed("mine")
    trail = Trail.of([story])
    row, index = trail.find("mine", "log.lines", 1)
    late = row.pop(index)
    await lay_down(connection, TopicNames(prefix), trail)
    sent = False

    def write(report: Report, fraction: float) -> None:
        nonlocal sent
        if not sent:
            sent = True
            producer = confluent_kafka.Producer({"bootstrap.servers": embedded_kafka.bootstrap, "log_level": 0})
            producer.produce(f"{prefix}.events.logs", late.value, late.key, late.partition)
            assert producer.flush(30) == 0

    report = await Auditor(connection, TopicNames(prefix), strict=True, progress=write).verify()
    assert sent
    assert report.holds, report.broken
    assert report.events == len(story.told)
