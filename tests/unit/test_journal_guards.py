"""The repairs of aiokafka: each is still needed by the pinned version, and works."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import struct
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import aiokafka
import pytest
from aiokafka import TopicPartition, errors
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer import fetcher, group_coordinator
from aiokafka.producer import sender
from aiokafka.protocol.commit import OffsetFetchResponse_v3
from aiokafka.record import default_records
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from consumer.journal import guards

PARTITION = TopicPartition("wpk.state", 0)


@pytest.fixture(autouse=True)
def installed() -> None:
    guards.install()


def test_the_guards_were_made_for_this_version_of_aiokafka() -> None:
    assert aiokafka.__version__.startswith("0.14.")


def test_installing_twice_wraps_once() -> None:
    wrapped = group_coordinator.GroupCoordinator._send_req
    guards.install()
    assert group_coordinator.GroupCoordinator._send_req is wrapped
    assert guards.installed()


# --- OffsetFetch ------------------------------------------------------------------------------------------------


class Coordinator:
    """What `GroupCoordinator`'s methods need of it to ask for offsets."""

    group_id = "wpk-agent"
    coordinator_id = 1
    _do_fetch_commit_offsets = group_coordinator.GroupCoordinator._do_fetch_commit_offsets

    def __init__(self, send: Callable[..., Any], error_code: int) -> None:
        self._send = send
        self.dead = False
        self._client = SimpleNamespace(send=self._answer)
        self._error_code = error_code

    async def _answer(self, *_: object, **__: object) -> object:
        return OffsetFetchResponse_v3(throttle_time_ms=0, topics=[], error_code=self._error_code)

    async def _send_req(self, request: object) -> object:
        return await self._send(self, request)

    def coordinator_dead(self) -> None:
        self.dead = True


async def test_aiokafka_still_takes_a_failed_offset_fetch_for_no_offsets() -> None:
    original = group_coordinator.GroupCoordinator._send_req.__wrapped__
    coordinator = Coordinator(original, error_code=14)
    assert await coordinator._do_fetch_commit_offsets([PARTITION]) == {}


@pytest.mark.parametrize(
    ("error_code", "error", "dead", "retriable"),
    [
        pytest.param(14, errors.GroupLoadInProgressError, False, True, id="loading"),
        pytest.param(15, errors.GroupCoordinatorNotAvailableError, True, True, id="not available"),
        pytest.param(16, errors.NotCoordinatorForGroupError, True, True, id="not the coordinator"),
        pytest.param(30, errors.GroupAuthorizationFailedError, False, False, id="not allowed"),
    ],
)
async def test_a_failed_offset_fetch_is_an_error(
    error_code: int, error: type[Exception], dead: bool, retriable: bool
) -> None:
    coordinator = Coordinator(group_coordinator.GroupCoordinator._send_req, error_code)
    with pytest.raises(error) as raised:
        await coordinator._do_fetch_commit_offsets([PARTITION])
    assert coordinator.dead is dead
    assert raised.value.retriable is retriable


async def test_a_good_offset_fetch_passes() -> None:
    coordinator = Coordinator(group_coordinator.GroupCoordinator._send_req, 0)
    assert await coordinator._do_fetch_commit_offsets([PARTITION]) == {}


# --- empty control batches ----------------------------------------------------------------------------------------


def batch(base_offset: int, *, control: bool, record: tuple[bytes, bytes] | None, producer_id: int = 7) -> bytes:
    """A batch of format 2 by its specification; aiokafka's builder makes no control batches."""
    attributes = 0x10 | (0x20 if control else 0)
    body = b""
    if record is not None:
        key, value = record
        fields = b"\x00\x00\x00" + bytes([len(key) * 2]) + key + bytes([len(value) * 2]) + value + b"\x00"
        body = bytes([len(fields) * 2]) + fields
    checked = struct.pack(">hiqqqhii", attributes, 0, 0, 0, producer_id, 0, -1, 1 if record else 0) + body
    tail = struct.pack(">ibI", 0, 2, calc_crc32c(checked)) + checked
    return struct.pack(">qi", base_offset, len(tail)) + tail


def read(data: bytes, aborted: list[tuple[int, int]] | None = None) -> tuple[list[bytes | None], int]:
    records = fetcher.PartitionRecords(
        PARTITION, MemoryRecords(data), aborted, 0, None, None, True, fetcher.READ_COMMITTED
    )
    values = [record.value for record in records]
    return values, records.next_fetch_offset


EMPTY_CONTROL = batch(1, control=True, record=None)
COMMIT = (b"\x00\x00\x00\x01", b"\x00\x00\x00\x00\x00\x00")
ABORT = (b"\x00\x00\x00\x00", b"\x00\x00\x00\x00\x00\x00")


def test_aiokafka_still_stops_for_ever_at_an_empty_control_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    original = fetcher.PartitionRecords._contains_abort_marker.__wrapped__
    monkeypatch.setattr(fetcher.PartitionRecords, "_contains_abort_marker", original)
    with pytest.raises(errors.KafkaError, match="did not contain any records"):
        read(EMPTY_CONTROL)


def test_reading_goes_on_after_an_empty_control_batch() -> None:
    data = batch(0, control=False, record=(b"k", b"a")) + EMPTY_CONTROL + batch(2, control=False, record=(b"k", b"b"))
    assert read(data) == ([b"a", b"b"], 3)


def test_commit_and_abort_markers_are_told_as_before() -> None:
    data = (
        batch(0, control=False, record=(b"k", b"aborted"))
        + batch(1, control=True, record=ABORT)
        + batch(2, control=False, record=(b"k", b"kept"))
        + batch(3, control=True, record=COMMIT)
    )
    assert read(data, aborted=[(7, 0)]) == ([b"kept"], 4)


# --- the rest -------------------------------------------------------------------------------------------------------


def test_transactions_follow_each_other_without_a_long_pause() -> None:
    assert sender.BACKOFF_OVERRIDE == guards.CONCURRENT_TRANSACTIONS_PAUSE


def test_aiokafkas_fast_record_code_is_there() -> None:
    assert default_records.DefaultRecordBatch.__module__.startswith("aiokafka.record._crecords")


# --- EndTxn -----------------------------------------------------------------------------------------------------


class Ending:
    """What a sender's handler needs to end a transaction, with answers as a test wants them."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.completed = False
        self._retry_backoff = 0.0
        self._txn_manager = SimpleNamespace(
            transactional_id="id", producer_id=1, producer_epoch=1, complete_transaction=self._complete
        )
        self.client = SimpleNamespace(send=self._send)

    async def _send(self, *_: object, **__: object) -> object:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(error_code=answer)

    def _complete(self) -> None:
        self.completed = True

    def _coordinator_dead(self, *_: object) -> None:
        pass

    async def end(self) -> bool:
        done: bool = await sender.EndTxnHandler(self, True).do(1)
        return done


@pytest.mark.parametrize("error", [errors.KafkaConnectionError(), errors.RequestTimedOutError()])
async def test_an_end_of_a_transaction_whose_answer_is_lost_is_not_sent_again(error: Exception) -> None:
    with pytest.raises(type(error)):
        await Ending(error).end()


async def test_an_end_that_was_not_sent_or_is_answered_by_not_yet_is_asked_for_again() -> None:
    assert not await Ending(errors.NodeNotReadyError()).end()
    assert not await Ending(errors.ConcurrentTransactions.errno).end()
    ending = Ending(0)
    assert await ending.end()
    assert ending.completed


async def test_aiokafka_itself_would_send_it_again() -> None:
    handler = sender.EndTxnHandler(Ending(errors.KafkaConnectionError()), True)
    assert not await sender.BaseHandler.do(handler, 1)


# --- bootstrap --------------------------------------------------------------------------------------------------

API_VERSIONS = 18
METADATA = 3


@contextlib.asynccontextmanager
async def broker_that_hangs() -> AsyncIterator[tuple[str, asyncio.Event, asyncio.Event]]:
    """Says which versions it speaks, and never answers Metadata. Gives its address, when it was asked, and when its
    client closed the connection."""
    asked, closed = asyncio.Event(), asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                key, _, correlation = struct.unpack(">hhi", (await reader.readexactly(size))[:8])
                if key == METADATA:
                    asked.set()
                    continue
                assert key == API_VERSIONS
                body = struct.pack(">ih", correlation, 0) + struct.pack(">ihhh", 1, METADATA, 0, 5)
                writer.write(struct.pack(">i", len(body)) + body)
        closed.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}", asked, closed
        for writer in writers:  # the other end of one that was forgotten is closed by the collector, whenever that is
            writer.transport.abort()


async def _cancelled_in(bootstrap: Callable[[AIOKafkaClient], Any], address: str, asked: asyncio.Event) -> None:
    client = AIOKafkaClient(bootstrap_servers=address)
    starting = asyncio.create_task(bootstrap(client))
    async with asyncio.timeout(10):
        await asked.wait()
    starting.cancel()
    await asyncio.wait([starting])
    assert starting.cancelled()
    await client.close()


def _readers() -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if "AIOKafkaConnection._read" in repr(task)]


async def test_aiokafka_still_forgets_the_connection_of_a_bootstrap_that_is_cancelled() -> None:
    gc.disable()  # which would close it at a time of its own
    try:
        async with broker_that_hangs() as (address, asked, _):
            await _cancelled_in(AIOKafkaClient.bootstrap.__wrapped__, address, asked)
            (reader,) = _readers()
            reader.cancel()
            await asyncio.wait([reader])
    finally:
        gc.enable()


async def test_a_bootstrap_that_is_cancelled_closes_its_connection() -> None:
    async with broker_that_hangs() as (address, asked, closed):
        await _cancelled_in(AIOKafkaClient.bootstrap, address, asked)
        async with asyncio.timeout(10):
            await closed.wait()
        assert not _readers()
