"""Drives a run: brokers, agents and load, round after round of faults, and after each chapter the check of it all.

A chapter has topics of its own, so that what must be remembered stays bounded and a violation is found early. Faults
and workload are functions of the seed; what happened is in the diary (`record.jsonl`) and the agents' logs.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from consumer.client import Auditor
from consumer.journal import topics
from consumer.journal.connection import KafkaConnection
from consumer.journal.topics import TopicNames
from tests.chaos import faults, invariants, marks, reading, report
from tests.chaos import history as histories
from tests.chaos.agents import Agents, Death
from tests.chaos.faults import Fault, Round
from tests.chaos.history import History
from tests.chaos.record import Record
from tests.chaos.report import Report
from tests.chaos.stage import GUEST, PLACES, Kafka, Mode, NotApplied, Setting, Stage, blocking, kafka
from tests.chaos.workload import Load
from tests.support import processes

_QUIET_SECONDS = 240.0
_FAULT_SECONDS = 500.0
#: In a chapter that forgets: how long after its end an execution is known, and how often that is looked at. All that a
#: user sends about an execution comes soon after its end, so that it is still known then.
_RETENTION_SECONDS, _SWEEP_SECONDS = 90, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run is to be."""

    rounds: int
    seed: int
    mode: Mode
    nodes: int
    directory: Path
    """Where everything is kept."""
    chapter: int = 25
    """Rounds of a chapter."""
    first: int = 0
    """The number of the first round: to draw again what came late in a long run."""
    rate: float = 4.0
    """Executions a second."""
    partitions: int = 4
    session: float = 6.0
    calm: float = 0.0
    """Rest after each round (seconds), at least: what a single fault costs shows only where no other is near."""
    only: tuple[str, ...] = ()
    """Names of the faults to be drawn, or beginnings of names; empty: all."""
    shells: float = 0.1
    """The share of steps that are processes."""
    audit: bool = False
    """Whether the trail is verified too, as `wpk audit verify` does it."""

    def setting(self, number: int) -> Setting:
        """What the faults of that round are drawn for. Every other chapter forgets."""
        return Setting(
            nodes=self.nodes,
            mode=self.mode,
            partitions=self.partitions,
            session=self.session,
            forgets=number // self.chapter % 2 == 1,
        )

    def allows(self, name: str) -> bool:
        """Whether that fault may be drawn."""
        names = {kind.name for kind in faults.KINDS}
        return not self.only or any(name == want or (want not in names and name.startswith(want)) for want in self.only)


async def run(options: Options) -> Report:
    """The whole run. Violations are in the report."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(32, thread_name_prefix="chaos"))
    options.directory.mkdir(parents=True, exist_ok=True)
    record = Record(options.directory / "record.jsonl")
    record.note("options", **asdict(options))
    result = Report(seed=options.seed, mode=options.mode, nodes=options.nodes, session_seconds=options.session)
    began = time.monotonic()
    try:
        with kafka(options.nodes) as brokers:
            record.say(f"{options.nodes} node(s) run; seed {options.seed}")
            for first in range(options.first, options.first + options.rounds, options.chapter):
                last = min(first + options.chapter, options.first + options.rounds)
                await _Chapter(options, brokers, record, result, range(first, last)).run()
                result.seconds = time.monotonic() - began
                result.write(options.directory / "report.json")
                if result.violations:
                    break
    finally:
        result.seconds = time.monotonic() - began
        result.write(options.directory / "report.json")
        record.close()
    return result


class _Chapter:
    def __init__(self, options: Options, brokers: Kafka, record: Record, result: Report, rounds: range) -> None:
        self._options = options
        self._kafka = brokers
        self._record = record
        self._result = result
        self._rounds = rounds
        self._setting = options.setting(rounds.start)
        self._prefix = f"c{rounds.start}"
        self._group = f"{self._prefix}-agents"
        self._directory = options.directory / f"chapter-{rounds.start}"
        self._struck: list[tuple[float, float, str]] = []
        """When each fault began and ended, by the wall clock."""

    async def run(self) -> None:
        """Faults under load, then quiet, then the check."""
        self._directory.mkdir(parents=True)
        self._marks = marks.prepare(self._directory / "steps")
        await self._create_topics()
        load = Load(
            self._kafka.direct,
            self._prefix,
            partitions=self._options.partitions,
            seed=self._options.seed,
            marks=self._marks,
            book=self._directory / "published.jsonl",
            first=self._rounds.start * 1000,
            shells=self._options.shells,
        )
        try:
            async with self._agents() as agents:
                agents.want(*PLACES)
                if not await agents.until_ready(PLACES):
                    self._record.say("not all agents were ready in time; the faults begin all the same")
                load.start(self._options.rate)
                stage = Stage(
                    setting=self._setting,
                    kafka=self._kafka,
                    agents=agents,
                    prefix=self._prefix,
                    group=self._group,
                    record=self._record,
                )
                for number in self._rounds:
                    await self._round(stage, number)
                    load.open()  # raises if the load has failed
                await self._quiet(stage, load)
            await self._check(load, agents)
        finally:
            await asyncio.to_thread(load.close)

    # --- before ---

    async def _create_topics(self) -> None:
        names = TopicNames(self._prefix)
        connection = KafkaConnection(bootstrap_servers=self._kafka.direct, client_id="chaos")
        await topics.create(connection, names, self._options.partitions)
        once = self._options.mode == "exactly_once"
        compacted = {
            "segment.ms": "4000",
            "segment.bytes": str(8 << 20),
            "min.cleanable.dirty.ratio": "0.001",
            "delete.retention.ms": "100",
            # Without transactions what a fenced owner wrote is void by the claim, which must still be there to be read.
            "min.compaction.lag.ms": "0" if once else "90000",
        }
        changes = [ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in compacted.items()]
        state = ConfigResource(ResourceType.TOPIC, f"{self._prefix}.state", incremental_configs=changes)
        admin = AdminClient({"bootstrap.servers": self._kafka.direct, "log_level": 0})
        for future in admin.incremental_alter_configs([state]).values():
            await asyncio.to_thread(future.result, 60)

    def _agents(self) -> Agents:
        forgets: dict[str, object] = {}
        if self._setting.forgets:
            forgets = {"WPK_STATE_RETENTION": f"{_RETENTION_SECONDS}s", "CHAOS_SWEEP_SECONDS": _SWEEP_SECONDS}
        variables = {
            place: processes.environment(
                self._kafka.bootstrap(place),
                self._prefix,
                WPK_GROUP_ID=self._group,
                WPK_PARTITIONS=self._options.partitions,
                WPK_SESSION_TIMEOUT=f"{self._options.session:g}s",
                WPK_PROCESSING_GUARANTEE=self._options.mode,
                WPK_SHUTDOWN_GRACE="8s",
                PYTHONPATH=f"{processes.ROOT}:{marks.PLUGIN}",
                PYTHONFAULTHANDLER="1",
                **forgets,
            )
            for place in (*PLACES, GUEST)
        }
        return Agents((*PLACES, GUEST), variables, self._directory, self._record)

    # --- the faults ---

    async def _round(self, stage: Stage, number: int) -> None:
        drawn: Round = faults.draw_round(self._options.seed, number, self._setting, self._options.allows)
        self._record.say(f"round {number}: " + ", ".join(f"+{at:.1f} s {fault}" for at, fault in drawn.faults))
        async with asyncio.TaskGroup() as group:
            for at, fault in drawn.faults:
                group.create_task(self._strike(stage, at, fault))
        for place in stage.agents.places.values():
            place.order("disarm")
        await asyncio.sleep(max(drawn.pause, self._options.calm))
        self._result.rounds += 1

    async def _strike(self, stage: Stage, at: float, fault: Fault) -> None:
        await asyncio.sleep(at)
        began = time.time()
        try:
            async with asyncio.timeout(_FAULT_SECONDS):
                try:
                    await fault.strike(stage)
                    self._result.struck[fault.name] += 1
                    self._record.note("struck", fault=fault.name, facts=fault.facts())
                    await asyncio.sleep(fault.hold)
                except NotApplied as reason:
                    self._result.not_applied[fault.name] += 1
                    self._record.note("not_applied", fault=fault.name, reason=str(reason), facts=fault.facts())
                finally:
                    await fault.heal(stage)
        except (TimeoutError, RuntimeError, NotApplied) as error:
            self._record.say(f"{fault.name} could not be ended in order: {type(error).__name__}: {str(error)[:300]}")
        self._record.note("healed", fault=fault.name)
        self._struck.append((began, time.time(), fault.name))

    # --- after ---

    async def _quiet(self, stage: Stage, load: Load) -> None:
        load.pause()
        for place in stage.agents.places.values():
            place.order("disarm")
            if place.alive:
                place.signal(signal.SIGCONT)
        stage.agents[GUEST].wanted = False
        stage.agents[GUEST].signal(signal.SIGTERM)
        try:
            await blocking(self._kafka.heal, 300.0)
        except (RuntimeError, TimeoutError) as error:
            self._record.say(f"the brokers can't be healed: {error}")
        began = time.monotonic()
        left = await asyncio.to_thread(load.settled, _QUIET_SECONDS)
        self._record.note("quiet", seconds=time.monotonic() - began, left=str(left))
        if left:
            self._violation("stuck", f"after {_QUIET_SECONDS:g} s without faults there still is: {left}"[:4000], "")
            (self._directory / "kafka.txt").write_text(self._kafka.describe())
            for place in stage.agents.places.values():
                with contextlib.suppress(Exception):
                    (self._directory / f"{place.agent}.health").write_text(await _health(place.events))

    async def _check(self, load: Load, agents: Agents) -> None:
        result, options = self._result, self._options
        history = await reading.read(self._kafka.direct, self._prefix, partitions=options.partitions, group=self._group)
        left = marks.read(self._marks)
        for violation in await asyncio.to_thread(
            lambda: invariants.violations(
                history, left, load.published, mode=options.mode, forgets=self._setting.forgets
            )
        ):
            self._violation(violation.name, violation.message, violation.evidence)
        if options.audit:
            await self._audit()
        result.late_marks += len(invariants.late_marks(history, left, load.published, options.mode))
        logs = sorted(self._directory.glob("*.log"))
        result.add(history)
        result.chapters += 1
        result.marks += len(left)
        result.executions += len(load.published.plans)
        result.commands += len(load.published.acknowledged)
        result.owners += report.owners_in(history)
        result.agents += len(logs)
        result.deaths += len(agents.deaths)
        result.ended_by_itself += [f"{d.agent} with {d.code} (chapter {self._rounds.start})" for d in _alone(agents)]
        for death in _alone(agents):
            log = self._directory / f"{death.agent}.log"
            if death.code and "Traceback" in log.read_text(errors="replace"):
                self._violation("agents end in order", f"{death.agent} crashed with {death.code}", str(log))
        result.warnings += report.warnings_in(logs)
        for place in agents.places.values():
            result.points.update(hit["point"] for hit in place.points_hit())
        kills = [(death, self._is_alone(death)) for death in agents.deaths if death.asked and death.code == -9]
        result.takeovers += report.takeovers(history, kills)
        self._record.say(
            f"chapter {self._rounds.start}: {len(load.published.plans)} executions, {len(left)} marks, "
            f"{len(result.violations)} violation(s)"
        )
        self._keep(history)

    async def _audit(self) -> None:
        """The project's own reader must find nothing either, nor let what is void pass with transactions."""
        connection = KafkaConnection(bootstrap_servers=self._kafka.direct, client_id="chaos")
        strict = self._options.mode == "exactly_once"
        found = await Auditor(connection, TopicNames(self._prefix), strict=strict).verify()
        for finding in found.broken:
            execution = f"execution {finding.execution_id}: " if finding.execution_id else ""
            self._violation("the trail verifies", f"{execution}{finding.kind}: {finding.message}", str(finding.place))
        self._record.say(f"audit: {found.executions} executions, {found.events} events, {dict(found.counts)}")

    def _keep(self, history: History) -> None:
        if self._result.violations:
            histories.save(history, self._directory / "history.jsonl")
            return
        admin = AdminClient({"bootstrap.servers": self._kafka.direct, "log_level": 0})
        names = [history.topic(role) for role in histories.ROLES]
        for future in admin.delete_topics(names, operation_timeout=30).values():
            with contextlib.suppress(Exception):
                future.result(60)

    def _violation(self, name: str, sentence: str, evidence: object) -> None:
        self._result.violations.append(
            {"chapter": self._rounds.start, "name": name, "sentence": sentence, "evidence": evidence}
        )
        self._record.say(f"VIOLATION {name}: {sentence}")

    def _is_alone(self, death: Death) -> bool:
        """Whether nothing but that kill was struck shortly before or in the time that a takeover takes."""
        near = [
            name
            for began, ended, name in self._struck
            if began <= death.at + 2 * self._options.session
            and (began if name == "agent.kill" else ended) >= death.at - 2 * self._options.session
        ]
        return near == ["agent.kill"]


def _alone(agents: Agents) -> list[Death]:
    return [death for death in agents.deaths if not death.asked]


async def _health(events: Callable[..., list[dict[str, object]]]) -> str:
    started = events("agent.started")
    base = str(started[0]["metrics"]).removesuffix("/metrics")
    answers = [await asyncio.to_thread(processes.fetch, f"{base}/{path}") for path in ("readyz", "healthz", "metrics")]
    return "\n".join(f"{status}\n{body}" for status, body in answers)
