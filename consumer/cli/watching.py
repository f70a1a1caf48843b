"""Publishing a command and looking on: what `--watch` does."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from rich.console import Group
from rich.live import Live

from consumer.cli import execute
from consumer.cli.output import Output
from consumer.cli.render.text import clean, utcnow, words
from consumer.cli.render.watch import WatchView
from consumer.client import Client, Follower, Published, TimedOut
from consumer.client.client import since_of
from consumer.client.follow import Since
from consumer.client.read import read_state
from schemas.commands import Command
from schemas.events import CommandRejected, Event, ExecutionRejected, ExecutionResult, Status
from schemas.execution import ExecutionState
from schemas.failure import Problem

#: Seconds without any answer after which a hint is due.
_PATIENCE = 10.0
_FRAMES_PER_SECOND = 8


@dataclass(slots=True)
class Outcome:
    """What came of a command."""

    state: ExecutionState | None = None
    result: ExecutionResult | None = None
    """The last result of the execution itself."""
    refused: tuple[Problem, ...] = ()
    """Why the command was not carried out."""

    def take(self, event: Event, state: ExecutionState | None, answer_to: Published | None) -> None:
        """The next event and the state after it."""
        data = event.data
        self.state = state
        if isinstance(data, CommandRejected) and answer_to is not None and answer_to.answered_by(event):
            self.refused = data.errors
        elif isinstance(data, ExecutionResult) and not (isinstance(data, ExecutionRejected) and data.command):
            self.result = data

    @property
    def vain(self) -> bool:
        """Whether the command was refused to an execution that goes on without it: who sent it waits for nothing."""
        return bool(self.refused) and self.state is not None and self.state.status is not None

    def code(self, goal: frozenset[Status]) -> int:
        """The exit code: whether it ended as was asked for."""
        reached = self.result is not None and self.result.status in goal and not self.refused
        return execute.OK if reached else execute.ENDED_OTHERWISE


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """How a command is to be sent."""

    watch: bool
    timeout: float | None = None
    """Seconds to wait for the end."""
    known: bool = True
    """Whether the execution may exist already; then its history is shown too."""
    goal: frozenset[Status] = field(default_factory=lambda: frozenset({Status.COMPLETED}))


async def send(client: Client, command: Command, output: Output, sending: Sending) -> int:
    """Publishes the command, and looks on where that is asked for; the exit code."""
    if not sending.watch:
        async with client.publisher() as publisher:
            published = await publisher.publish(command)
        _confirm(published, output)
        return execute.OK
    async with sent(client, command, known=sending.known) as (follower, published, after):
        outcome = await look_on(
            follower, output, Look(answer_to=published, after=after, timeout=sending.timeout, view=WatchView())
        )
    return outcome.code(sending.goal)


@asynccontextmanager
async def sent(client: Client, command: Command, *, known: bool) -> AsyncIterator[tuple[Follower, Published, int]]:
    """Publishes the command while a follower is in place already, so that no event is missed.

    Gives the follower, where the command lies, and the number of the last event before it.
    """
    assert command.execution_id is not None, "an id is needed to follow"
    state = await read_state(client.connection, client.topics, command.execution_id) if known else None
    since: Since = since_of(state) if known else "now"
    async with client.follower(command.execution_id, since=since) as follower, client.publisher() as publisher:
        yield follower, await publisher.publish(command), state.seq if state else 0


def _confirm(published: Published, output: Output) -> None:
    key = published.execution_id
    if output.json:
        output.document(
            {
                "execution_id": key,
                "topic": published.topic,
                "partition": published.partition,
                "offset": published.offset,
            }
        )
        return
    output.lines([f"sent: execution {key}   ({published.topic}-{published.partition} at {published.offset})"])
    output.lines([f"      wpk status {key} · wpk logs {key} -f"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What to look for, and how long."""

    view: WatchView
    answer_to: Published | None = None
    after: int = 0
    timeout: float | None = None
    silent: bool = False
    """Show only that something goes on; the caller shows the rest."""


async def look_on(follower: Follower, output: Output, look: Look) -> Outcome:
    """Shows the execution until it is over. Raises TimedOut; an interrupt leaves a note that the execution goes on."""
    outcome = Outcome()
    events = follower.events(answer_to=look.answer_to, after=look.after)
    try:
        async with asyncio.timeout(look.timeout) as timer, aclosing(events):
            if output.live:
                await _live(follower, events, output, look, outcome)
            else:
                await _plain(follower, events, output, look, outcome)
    except TimeoutError as error:
        if not timer.expired():
            raise
        raise TimedOut(_overdue(follower, look.timeout or 0.0)) from error
    except asyncio.CancelledError:
        key = clean(follower.execution_id, 128)
        output.note(f"\nno longer watching; the execution goes on: wpk status {key} · wpk cancel {key}")
        raise
    return outcome


def _overdue(follower: Follower, timeout: float) -> str:
    key, state = clean(follower.execution_id, 128), follower.state
    if state is None:
        return f"no agent took the command of execution {key} within {timeout:g} s: does one run? It will when one does"
    return (
        f"execution {key} was not over within {timeout:g} s, it is {words(state.status)}; look again: wpk status {key}"
    )


async def _plain(
    follower: Follower, events: AsyncGenerator[Event, None], output: Output, look: Look, outcome: Outcome
) -> None:
    hint = asyncio.get_running_loop().call_later(_PATIENCE, _hint, follower, output)
    try:
        async for event in events:
            outcome.take(event, follower.state, look.answer_to)
            assert follower.state is not None
            look.view.observe(event, follower.state)
            if output.json and not look.silent:
                output.raw(event.model_dump_json(exclude_none=True, serialize_as_any=True).encode())
            elif not look.silent:
                output.lines(look.view.lines(event))
            if outcome.vain:
                return
    finally:
        hint.cancel()


def _hint(follower: Follower, output: Output) -> None:
    if follower.state is None:
        output.note("no agent has taken the command yet; does one run? Still waiting")


async def _live(
    follower: Follower, events: AsyncGenerator[Event, None], output: Output, look: Look, outcome: Outcome
) -> None:
    ticks = itertools.count()

    def picture() -> Group:
        lines = look.view.block(utcnow(), next(ticks))
        return Group(*(lines[:1] if look.silent else lines))

    live = Live(
        get_renderable=picture,
        console=output.console,
        refresh_per_second=_FRAMES_PER_SECOND,
        transient=look.silent,
        vertical_overflow="ellipsis",
    )
    with live:
        async for event in events:
            outcome.take(event, follower.state, look.answer_to)
            assert follower.state is not None
            look.view.observe(event, follower.state)
            if outcome.vain:
                break
        live.vertical_overflow = "visible"
