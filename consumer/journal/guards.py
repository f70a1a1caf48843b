"""Five repairs of aiokafka 0.14's internals, without which commands can be lost, a restore hangs or connections stay.

1. OffsetFetch answers of version 2 and later carry the group's error at their top, with no topics in them. aiokafka
   looks only into the topics, takes "coordinator is loading" for "nothing was ever committed", and starts at
   `auto_offset_reset`: a skip or a full replay.
2. The log cleaner leaves empty control batches in compacted topics of transactional producers. aiokafka raises on one
   and never gets past it; the Java consumer takes it for "no abort marker".
3. A transaction that begins right after another waits 20 ms when the broker is still writing the markers of the last
   one; 2 ms bring the median of back-to-back transactions from 25 ms to 5 ms.
4. An EndTxn whose answer is lost is sent again, and again. The first one may lie in a broker that stands still, or in
   the network, and be carried out when the producer's next transaction is open already: half of that is committed then,
   since both have the same epoch (KIP-890 tells of it; its remedy, an epoch for each transaction, needs a newer
   protocol than aiokafka speaks). Here it is sent once. A lost answer ends the producer, and the next one's epoch
   fences whatever comes late.
5. A client that is cancelled while it makes itself known to its first broker forgets that connection: nobody closes
   it, and a task goes on reading until the garbage is collected.

`tests/unit/test_journal_guards.py` says whether they still are needed and still fit the pinned version.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from typing import Protocol

from aiokafka import client, errors
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer import fetcher, group_coordinator
from aiokafka.producer import sender
from aiokafka.record import default_records

OFFSET_FETCH = 9
CONCURRENT_TRANSACTIONS_PAUSE = 0.002


class _ControlRecord(Protocol):
    @property
    def key(self) -> bytes: ...


class _Response(Protocol):
    @property
    def API_KEY(self) -> int: ...  # noqa: N802 - aiokafka's name


class _Coordinator(Protocol):
    group_id: str

    def coordinator_dead(self) -> None: ...


class _Client(Protocol):
    async def send(self, node_id: int, request: object, *, group: object) -> object: ...


class _Sender(Protocol):
    @property
    def client(self) -> _Client: ...


class _EndTxn(Protocol):
    group: object
    _sender: _Sender

    def create_request(self) -> object: ...

    def handle_response(self, response: object) -> float | None: ...

    def handle_error(self) -> float: ...


_SendRequest = Callable[[_Coordinator, object], Awaitable[_Response]]
_ContainsAbortMarker = Callable[[object, Iterator[_ControlRecord]], bool]
_Bootstrap = Callable[[client.AIOKafkaClient], Awaitable[None]]
_CreateConnection = Callable[..., Awaitable[AIOKafkaConnection]]

#: The connections of the `bootstrap` that runs.
_bootstrapping: ContextVar[list[AIOKafkaConnection] | None] = ContextVar("bootstrapping", default=None)


def install() -> None:
    """Puts the repairs in place; does nothing the second time. Called before any client is built."""
    if installed():
        return
    coordinator = group_coordinator.GroupCoordinator
    coordinator._send_req = _raising_group_errors(coordinator._send_req)
    records = fetcher.PartitionRecords
    records._contains_abort_marker = _tolerating_empty(records._contains_abort_marker)
    sender.EndTxnHandler.do = _end_once
    client.create_conn = _noting(client.create_conn)
    client.AIOKafkaClient.bootstrap = _closing_on_the_way_out(client.AIOKafkaClient.bootstrap)
    if not isinstance(sender.BACKOFF_OVERRIDE, float):
        raise TypeError("aiokafka.producer.sender.BACKOFF_OVERRIDE is gone; journal/guards.py must be looked at")
    sender.BACKOFF_OVERRIDE = CONCURRENT_TRANSACTIONS_PAUSE


def installed() -> bool:
    """Whether `install` was called in this process."""
    return hasattr(group_coordinator.GroupCoordinator._send_req, "__wrapped__")


def _raising_group_errors(original: _SendRequest) -> _SendRequest:
    @functools.wraps(original)
    async def send_request(self: _Coordinator, request: object) -> _Response:
        response = await original(self, request)
        if response.API_KEY != OFFSET_FETCH:
            return response
        error = errors.for_code(getattr(response, "error_code", 0))
        if error is errors.NoError:
            return response
        if error in (errors.NotCoordinatorForGroupError, errors.GroupCoordinatorNotAvailableError):
            self.coordinator_dead()
        raise error(self.group_id)

    return send_request


def _tolerating_empty(original: _ContainsAbortMarker) -> _ContainsAbortMarker:
    @functools.wraps(original)
    def contains_abort_marker(_self: object, batch: Iterator[_ControlRecord]) -> bool:
        control = next(batch, None)
        return control is not None and bool(fetcher.ControlRecord.parse(control.key) == fetcher.ABORT_MARKER)

    return contains_abort_marker


async def _end_once(self: _EndTxn, node_id: int) -> bool:
    """Whether the transaction has ended; False: it is to be asked again. Raises KafkaError where no answer came."""
    try:
        response = await self._sender.client.send(node_id, self.create_request(), group=self.group)
    except errors.NodeNotReadyError:  # then it was not sent
        pause: float | None = self.handle_error()
    else:
        pause = self.handle_response(response)
    if pause is None:
        return True
    await asyncio.sleep(pause)
    return False


def _noting(original: _CreateConnection) -> _CreateConnection:
    @functools.wraps(original)
    async def create_conn(*address: object, **options: object) -> AIOKafkaConnection:
        connection = await original(*address, **options)
        made = _bootstrapping.get()
        # The task that keeps the metadata fresh inherits the variable; its connections belong to the client, and tell
        # it of their end.
        if made is not None and "on_close" not in options:
            made.append(connection)
        return connection

    return create_conn


def _closing_on_the_way_out(original: _Bootstrap) -> _Bootstrap:
    @functools.wraps(original)
    async def bootstrap(self: client.AIOKafkaClient) -> None:
        made: list[AIOKafkaConnection] = []
        token = _bootstrapping.set(made)
        try:
            await original(self)
        except BaseException:  # a cancellation above all
            for connection in made:
                connection.close()  # does nothing the second time
            raise
        finally:
            _bootstrapping.reset(token)

    return bootstrap


def has_extension() -> bool:
    """Whether aiokafka's C extension is used; its wheels have it, a build from source may silently lack it."""
    module: str = default_records.DefaultRecordBatch.__module__
    return module.startswith("aiokafka.record._crecords")
