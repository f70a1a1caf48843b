"""Follows what pods write, through restarts of their containers and of the API server.

Each container's log is asked for with time stamps, so that after an interruption it goes on with the next line: none is
passed on twice, and none is lost that the kubelet still has. What can't be read is said and is no error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from consumer.adapters.k8s import errors, kinds, rollout, targets
from consumer.adapters.k8s.client import Call, Cluster
from consumer.adapters.k8s.loglines import Position, split_lines
from consumer.adapters.k8s.watching import Scene, State, until
from consumer.errors import PermanentError, StepError, TemporaryError
from consumer.ports import JsonObject

#: Seconds that a container may be silent.
_SILENCE = 24 * 3600.0
_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 5.0
#: Logs read at the same time: each holds a connection, and there are a hundred for all steps.
_AT_ONCE = 20

Say = Callable[[str], Awaitable[None]]


@dataclass(slots=True)
class PodLogs:
    """Follows all containers of the pods that a label selector finds."""

    cluster: Cluster
    namespace: str | None
    selector: str
    say: Say
    """Gets the lines."""
    note: Say
    """Gets what is to be said about them."""
    prefixed: bool
    """Whether each line begins with `pod/container: `."""
    pods: dict[str, None] = field(default_factory=dict)
    """The names of all pods seen, in their order."""
    lines: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by the owner: no further pods will come."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Set here: all is read."""
    _known: set[tuple[str, str]] = field(default_factory=set)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def run(self) -> None:
        """Returns when all is read of what there was when `over` was set."""
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch(group))
            await self.over.wait()
            watching.cancel()
            await self._look_once(group)
        self.ended.set()

    async def _watch(self, group: asyncio.TaskGroup) -> None:
        def look(state: State) -> None:
            self._see(state, group)

        try:
            await until(self.cluster, Scene(kinds.POD, self.namespace, selector=self.selector), look)
        except StepError as error:
            await self.note(f"the pods can't be followed: {error}")

    async def _look_once(self, group: asyncio.TaskGroup) -> None:
        try:
            pods = await self.cluster.items(kinds.POD, self.namespace, {"labelSelector": self.selector})
        except StepError:
            return  # the watch has said so
        self._see({targets.uid_of(pod): pod for pod in pods}, group)

    def _see(self, state: State, group: asyncio.TaskGroup) -> None:
        for uid, pod in state.items():
            ref = kinds.Ref(kinds.POD, self.namespace, targets.name_of(pod))
            self.pods.setdefault(ref.name)
            for container in _started(pod):
                if (uid, container) not in self._known:
                    self._known.add((uid, container))
                    group.create_task(self._container(ref, uid, container))

    async def _container(self, ref: kinds.Ref, uid: str, container: str) -> None:
        position, pause, over = Position(), _FIRST_PAUSE, False
        async with self._slots:
            while True:
                before = self.lines
                try:
                    await self._read(ref, container, position)
                except TemporaryError:
                    over = False  # it may have been cut off
                except PermanentError as error:
                    if error.code != "bad_request":  # that is a container which waits to be started
                        if not position.stamp:
                            await self.note(f"no log of {ref.name}/{container}: {error}")
                        return
                if over:
                    return
                over = await self._is_over(ref, uid, container)
                if not over:
                    pause = _FIRST_PAUSE if self.lines > before else min(pause * 2, _LONGEST_PAUSE)
                    await asyncio.sleep(pause)

    async def _read(self, ref: kinds.Ref, container: str, position: Position) -> None:
        """Passes on the lines until the server ends them."""
        query = [("container", container), ("follow", "true"), ("timestamps", "true")]
        query += [("sinceTime", position.stamp)] if position.stamp else []
        request = errors.Request("get", f"pods/log in namespace {ref.namespace}", str(ref))
        position.opened()
        prefix = f"{ref.name}/{container}: " if self.prefixed else ""
        call = Call("GET", f"{ref.path}/log", request, tuple(query), read_seconds=_SILENCE)
        async with self.cluster.open(call) as response:
            async for line in split_lines(response.content.iter_any()):
                text = position.takes(line)
                if text is not None:
                    self.lines += 1
                    await self.say(prefix + text)

    async def _is_over(self, ref: kinds.Ref, uid: str, container: str) -> bool:
        """Whether the container will write no more. What it wrote last may still be to be read."""
        try:
            pod = await self.cluster.find(ref)
        except TemporaryError:
            return False
        except PermanentError:
            return True
        if pod is None or targets.uid_of(pod) != uid or rollout.text(pod, "status", "phase") in ("Succeeded", "Failed"):
            return True
        ended = _ended(pod, container)
        policy = rollout.text(pod, "spec", "restartPolicy")
        return ended is not None and (policy == "Never" or (policy == "OnFailure" and ended == 0))


def container_statuses(pod: JsonObject) -> list[JsonObject]:
    """What the status says of each container, the init containers first."""
    status = rollout.mapping(pod, "status")
    lists = (status.get("initContainerStatuses"), status.get("containerStatuses"))
    return [entry for some in lists if isinstance(some, list) for entry in some if isinstance(entry, dict)]


def _started(pod: JsonObject) -> list[str]:
    """The containers that have run, or do."""
    return [
        rollout.text(entry, "name")
        for entry in container_statuses(pod)
        if rollout.mapping(entry, "state").keys() & {"running", "terminated"} or rollout.mapping(entry, "lastState")
    ]


def _ended(pod: JsonObject, container: str) -> int | None:
    """The exit code of a container that has ended."""
    for entry in container_statuses(pod):
        if entry.get("name") == container and rollout.mapping(entry, "state", "terminated"):
            return rollout.integer(entry, "state", "terminated", "exitCode")
    return None
