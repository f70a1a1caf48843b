"""One schedule from its plan to its verdict."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from consumer.adapters.delay import DelayAdapter
from consumer.clock import SystemClock
from consumer.engine.services import Limits, Services
from consumer.engine.supervisor import supervising
from consumer.intake.listener import Listener
from consumer.intake.member import Options
from consumer.journal.connection import KafkaConnection
from consumer.journal.factory import OwnerFactory
from consumer.journal.owner import Identity
from consumer.journal.owner import Limits as OwnerLimits
from consumer.journal.topics import TopicNames
from consumer.policy.load import OPEN
from consumer.ports import Adapter, Journal
from consumer.telemetry.health import Facts, Health
from tests.simulation import environment, invariants
from tests.simulation.broker import Cluster
from tests.simulation.effects import Effects, Truth, adapters
from tests.simulation.log import Log, Payload
from tests.simulation.loop import Loop, Process, SimulationError, current
from tests.simulation.network import REQUEST_SECONDS
from tests.simulation.plan import Fault, Plan, Sent
from tests.simulation.producer import cluster as cluster_of_context

GROUP = "agents"
_CONNECTION = KafkaConnection(bootstrap_servers="sim:9092")
_NAMES = TopicNames("wpk")
_OPTIONS = Options(session_timeout=6.0, fetch_max_wait_ms=100, max_command_bytes=900_000)
_LIMITS = Limits(max_executions=4, step_timeout=30.0, approval_timeout=20.0)
_GRACE = 6.0
#: All must have come to its end so long after the last fault (virtual seconds).
_PATIENCE = 300.0
#: Requests that were lost or late before the calm have been made again, or have arrived, by then (virtual seconds).
_SETTLE = 2.5 * REQUEST_SECONDS
_MOST_CALLBACKS = 300_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a schedule."""

    plan: Plan
    violations: tuple[str, ...]
    digest: int
    callbacks: int
    seconds: float
    """Of virtual time."""


def run(plan: Plan, trace: Callable[[str], None] | None = None) -> Verdict:
    """Runs the schedule; `environment.installed` must be in place."""
    loop = Loop(plan.random, shuffle=plan.shuffle, trace=trace)  # type: ignore[abstract]  # no sockets, no signals
    wall = environment.AgentClock(loop, {f"a{number}": skew for number, skew in enumerate(plan.skew)})
    with environment.deterministic(loop, plan.seed, wall):
        world = World(plan, loop)
        try:
            violations = loop.drive(world.live(), _MOST_CALLBACKS)
        except SimulationError as error:
            violations = [str(error)]
        finally:
            digest, callbacks, seconds = loop.digest, loop.handled, loop.time()
            told = list(environment.defects)
            loop.abandon()
    return Verdict(plan, (*violations, *told), digest, callbacks, seconds)


@dataclass(slots=True, eq=False)
class _Agent:
    """One agent over its incarnations."""

    number: int
    faults: list[Fault]
    process: Process = field(default_factory=lambda: Process("none"))
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    incarnation: int = 0
    up: bool = False

    def arm(self, strike: Callable[[_Agent], None]) -> None:
        """The next fault comes after as many of its callbacks as the plan says."""
        if self.faults:
            self.process.trip_at = self.process.steps + self.faults[0].after_steps
            self.process.trip = lambda: strike(self)


class World:
    """Agents, users, brokers and their misfortunes."""

    def __init__(self, plan: Plan, loop: Loop) -> None:
        self._plan = plan
        self._loop = loop
        self._calm = False
        self.cluster = Cluster(loop, _NAMES, plan.partitions)
        self.cluster.network.latency = plan.latency
        self.cluster.network.weather = plan.weather
        self.cluster.transactions.slowest_marker = plan.slow_marker
        self.truth = Truth(self.cluster)
        self.partitions = {sent.execution_id: sent.partition for sent in plan.commands}
        self.effects = Effects(loop, self.truth, self.partitions.__getitem__)
        self.sent: list[tuple[Sent, int]] = []
        """The commands that were acknowledged, with their offsets."""
        self._died: list[str] = []
        self._agents = [_Agent(number, list(faults)) for number, faults in enumerate(plan.faults)]

    async def live(self) -> list[str]:
        """The whole schedule; what was wrong."""
        plan, loop = self._plan, self._loop
        for agent, joins in zip(self._agents, plan.joins, strict=True):
            loop.at_world(joins, self._start, agent)
        for sent in plan.commands:
            loop.at_world(sent.at, self._publish, sent)
        for at in plan.compactions:
            loop.at_world(at, self.cluster.compact)
        await asyncio.sleep(plan.calm_at)
        self._calm_down()
        await self._rest()
        if plan.stop_at_end:
            await self._stop_all()
        elif plan.compacts_at_end:
            await asyncio.sleep(_SETTLE + 2 * environment.MEND_SECONDS)
            self.cluster.compact()
        await asyncio.sleep(_SETTLE if plan.disturbed else 2.0)
        return [*self._wrong(), *(() if self._wrong() else invariants.broken(self))]

    async def _rest(self) -> None:
        """Waits until all is done."""
        until = self._loop.time() + _PATIENCE
        while not self._wrong() and not self._quiet():
            if self._loop.time() > until:
                what = f"no rest {_PATIENCE:g} s after the last fault: {self._left()}"
                self._died.append(f"{what}\n{self._loop.stacks()}")
            else:
                await asyncio.sleep(0.5)

    @property
    def plan(self) -> Plan:
        """What is run."""
        return self._plan

    def _wrong(self) -> list[str]:
        return [*self.effects.violations, *self._died]

    def _quiet(self) -> bool:
        """Whether every command was taken and every execution has ended, by what the next owner would go by."""
        return not self.truth.live and not self._lag()

    def _lag(self) -> dict[str, str]:
        """Commands that were not taken, by topic and partition."""
        return {
            f"{log.topic}-{log.partition}": f"{taken} of {log.end}"
            for log in self.cluster.command_logs
            if (taken := self.taken(log)) != log.end
        }

    def taken(self, log: Log) -> int:
        """How many of its commands were taken: by the group, or (where a commit failed) by the state."""
        place = log.topic, log.partition
        return max(self.cluster.group.offsets.get(place, 0), self.truth.offsets.get(place, 0))

    def _left(self) -> str:
        """What there is still to do."""
        return f"live {self.truth.live}, lag {self._lag()}"

    # --- users ---

    def _publish(self, sent: Sent) -> None:
        log = self.cluster.log(sent.topic, sent.partition)
        offset = self.cluster.produce(log, [Payload(sent.key, sent.value)])
        self._loop.note(f"command {sent.topic} {sent.partition}/{offset} {sent.execution_id} {_told(sent)}")
        self.sent.append((sent, offset))

    # --- agents ---

    def _start(self, agent: _Agent) -> None:
        if agent.up or self._stopping:
            return
        agent.up = True
        agent.process = Process(f"a{agent.number}.{agent.incarnation}")
        agent.stop = asyncio.Event()
        agent.incarnation += 1
        agent.arm(self._strike)
        self._loop.note(f"{agent.process.name} starts")
        self._loop.in_process(agent.process, self._begin, agent)

    def _begin(self, agent: _Agent) -> None:
        cluster_of_context.set(self.cluster)
        task = self._loop.create_task(self._work(agent, agent.stop), name="agent")
        task.add_done_callback(lambda done: self._loop.at_world(0.0, self._ended, agent, agent.process, done))

    async def _work(self, agent: _Agent, stop: asyncio.Event) -> None:
        """The part of `consumer.agent` that remains without settings, signals and the health endpoint."""
        name = current.get().name
        factory = OwnerFactory(
            connection=_CONNECTION,
            names=_NAMES,
            identity=Identity(agent=name, group=GROUP),
            mode=self._plan.mode,
            limits=OwnerLimits(write_seconds=self._plan.write_seconds, start_seconds=40.0, mend_soon_seconds=4.0),
        )

        async def read_state(journal: Journal) -> Mapping[str, bytes]:
            return {key.decode(): value for key, value in (await factory.read_state(journal.partition)).items()}

        services = Services(
            agent=name,
            clock=SystemClock(),
            adapters=self._adapters(),
            secrets=_no_secrets,
            policy=OPEN,
            metrics=environment.metrics(),
            draw=random.random,
            limits=_LIMITS,
        )
        health = Health(lambda: Facts(agent=name, assigned=False, owned=0), monotonic=self._loop.time)
        async with supervising(services, read_state) as supervisor:
            listener = Listener(factory, supervisor, _OPTIONS, environment.metrics(), health)
            await listener.run(stop, _GRACE)

    def _adapters(self) -> dict[str, Adapter]:
        return adapters(self.effects, DelayAdapter(SystemClock()))

    def _ended(self, agent: _Agent, process: Process, done: asyncio.Task[None]) -> None:
        self._loop.note(f"{process.name} has ended")
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._died.append(f"{process.name} ended with {error!r}")
        elif agent.process is process and not agent.stop.is_set():
            self._died.append(f"{process.name} ended although nobody asked it to")
        if agent.process is process:
            agent.up = False
            if not self._stopping:
                self._loop.at_world(0.2, self._start, agent)

    # --- misfortunes ---

    def _strike(self, agent: _Agent) -> None:
        if self._calm or not agent.faults:
            return
        fault = agent.faults.pop(0)
        process, seconds = agent.process, fault.seconds
        self._loop.note(f"{process.name}: {fault.kind} {seconds:.2f} s")
        match fault.kind:
            case "crash":
                self._loop.kill(process)
                agent.up = False
                self._loop.at_world(seconds, self._start, agent)
                return
            case "freeze":
                self._loop.freeze(process)
                self._loop.at_world(seconds, self._thaw, process)
            case "cut":
                self.cluster.network.cut(process, seconds)
            case "stop":
                self._ask_to_stop(agent)
        agent.arm(self._strike)

    def _thaw(self, process: Process) -> None:
        if process.frozen:
            self._loop.note(f"{process.name} thaws")
            self._loop.thaw(process)

    def _ask_to_stop(self, agent: _Agent) -> None:
        if agent.up:
            self._loop.in_process(agent.process, agent.stop.set)

    def _calm_down(self) -> None:
        self._loop.note("calm")
        self._calm = True
        self.cluster.network.heal()
        self.cluster.transactions.slowest_marker = 0.02
        for agent in self._agents:
            self._thaw(agent.process)
            if not agent.up:
                self._start(agent)

    _stopping = False

    async def _stop_all(self) -> None:
        self._stopping = True
        for agent in self._agents:
            self._ask_to_stop(agent)
        until = self._loop.time() + 60.0
        while any(agent.up for agent in self._agents):
            if self._loop.time() > until:
                self._died.append(f"no end of the stop in 60 s\n{self._loop.stacks()}")
                return
            await asyncio.sleep(0.5)


async def _no_secrets(names: object) -> Mapping[str, str]:
    return {}


def _told(sent: Sent) -> str:
    return sent.value[:200].decode() if len(sent.value) < 400 else f"{len(sent.value)} bytes"
