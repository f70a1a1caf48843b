"""Requests on their way: drawn latencies, requests and answers that are lost, late or repeated, and whole outages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from aiokafka.errors import KafkaConnectionError, KafkaError, RequestTimedOutError

from tests.simulation.loop import Loop, Process, current

Answer = TypeVar("Answer")
#: A client gives a request up after so many seconds.
REQUEST_SECONDS = 8.0


@dataclass(slots=True)
class Weather:
    """How bad the network is: probabilities of what can happen to one request."""

    lost: float = 0.0
    """The request never arrives; the client learns it by its timeout."""
    unanswered: float = 0.0
    """It is carried out, and the answer is lost."""
    reset: float = 0.0
    """The connection breaks: an error at once, whether or not it was carried out."""
    late: float = 0.0
    """The client gives up, and it is carried out seconds after that, also where the client is dead by then."""

    @property
    def total(self) -> float:
        """The probability that anything happens."""
        return self.lost + self.unanswered + self.reset + self.late


class Network:
    """Between all clients and all brokers."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._draw = loop.random.random
        self.weather = Weather()
        self.latency = 0.01
        self._cut: dict[Process, float] = {}

    def cut(self, process: Process, seconds: float) -> None:
        """Nothing gets through to or from it for so long; what is sent meanwhile arrives afterwards."""
        self._cut[process] = self._loop.time() + seconds

    def heal(self) -> None:
        """No fault from now on."""
        self.weather = Weather()
        self._cut.clear()

    async def call(self, work: Callable[[], Answer], timeout: float = REQUEST_SECONDS) -> Answer:
        """Has a broker do the work and gives its answer. Raises what it raises, or what a broken network leads to."""
        answer: Answer = await self.ask(lambda reply: reply(_done(work)), timeout)
        return answer

    async def ask(self, work: Callable[[Callable[[Any], None]], None], timeout: float) -> Any:
        """The same for work that is answered later, by the given callback."""
        loop = self._loop
        process = current.get()
        answer: asyncio.Future[Any] = loop.create_future()
        fate = self._draw()
        weather = self.weather
        delay = self.latency * self._draw()
        cut = self._cut.get(process, 0.0) - loop.time()
        if cut > 0:
            delay += cut
        reply: Callable[[Any], None] = lambda value: self._answer(process, answer, value)  # noqa: E731
        if fate < weather.total:
            loop.note(f"{process.name}: network fault")
            if fate < weather.lost:
                return await self._wait(answer, timeout)
            silent: Callable[[Any], None] = lambda value: None  # noqa: E731
            if fate < weather.lost + weather.unanswered:
                loop.at_world(delay, work, silent)
                return await self._wait(answer, timeout)
            if fate < weather.lost + weather.unanswered + weather.reset:
                if self._draw() < 0.5:
                    loop.at_world(delay * self._draw(), work, silent)
                loop.at_world(delay, reply, KafkaConnectionError("the connection was reset"))
                return await self._wait(answer, timeout)
            loop.at_world(timeout * (1 + self._draw()), work, silent)
            return await self._wait(answer, timeout)
        loop.at_world(delay, work, reply)
        if cut <= 0 and timeout == REQUEST_SECONDS:  # it will be answered: no timer is needed
            return _opened(await answer)
        return await self._wait(answer, timeout)

    def _answer(self, process: Process, answer: asyncio.Future[Any], value: Any) -> None:
        delay = self.latency * self._draw()
        cut = self._cut.get(process, 0.0) - self._loop.time()
        self._loop.at_world(delay + max(0.0, cut), _set, answer, value)

    async def _wait(self, answer: asyncio.Future[Any], timeout: float) -> Any:
        timer = self._loop.call_later(timeout, _set, answer, RequestTimedOutError())
        try:
            return _opened(await answer)
        finally:
            timer.cancel()


def _done(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except KafkaError as error:
        return error


def _opened(value: Any) -> Any:
    if isinstance(value, KafkaError):
        raise value
    return value


def _set(answer: asyncio.Future[Any], value: Any) -> None:
    if not answer.done():
        answer.set_result(value)
