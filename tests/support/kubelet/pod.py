"""The life of one pod on its node: created, run, perhaps crashing, told to the server, and ended when it is deleted."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable

from tests.support.kubelet.api import STRATEGIC, Api, ApiError, Object, Trouble
from tests.support.kubelet.behaviour import Behaviour, behaviour
from tests.support.kubelet.container import Container, Log, now
from tests.support.kubelet.events import Events
from tests.support.kubelet.news import News
from tests.support.kubelet.status import Conditions, phase

_RETRY = 0.2
#: Seconds before a crashed container starts again: doubling as a kubelet's, but for tests (that one begins with 10).
_BACKOFF = (0.5, 1.0, 2.0, 4.0)
_KILLED = 137
_HOST = "127.0.0.1"

_log = logging.getLogger(__name__)


class Pod:
    """One pod, from when it was seen on its node until it is gone."""

    def __init__(self, api: Api, events: Events, item: Object, ip: str) -> None:
        self._item = item
        self._api = api
        self._events = events
        self._ip = ip
        self._news = News()
        self._gone = False
        self._ended = item.get("status", {}).get("phase") in ("Succeeded", "Failed")
        self._conditions = Conditions()
        self._since: str = item.get("status", {}).get("startTime") or now()
        self._told: Object = {}
        self._init_containers = self._containers_of("initContainers", "initContainerStatuses")
        self._containers = self._containers_of("containers", "containerStatuses")

    def _containers_of(self, key: str, statuses: str) -> list[Container]:
        known = {status["name"]: status for status in self._item.get("status", {}).get(statuses, [])}
        return [Container(spec, known.get(spec["name"])) for spec in self._item["spec"].get(key, [])]

    @property
    def name(self) -> tuple[str, str]:
        """Its namespace and name."""
        return self._item["metadata"]["namespace"], self._item["metadata"]["name"]

    def update(self, item: Object) -> None:
        """Takes the pod as somebody changed it."""
        self._item = item
        self._news.tell()

    def end(self) -> None:
        """The server has it no more."""
        self._gone = True
        self._news.tell()

    def container(self, name: str) -> Container | None:
        everyone = (*self._containers, *self._init_containers)
        return next((container for container in everyone if container.name == name), None)

    async def run(self) -> None:
        """Its whole life, to its end on the server."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tell_on())
            living = group.create_task(self._live())
            await self._news.until(lambda: self._gone or "deletionTimestamp" in self._item["metadata"])
            await self._stop()
            living.cancel()
            for container in (*self._init_containers, *self._containers):
                container.end(_KILLED if self._gone else 0)
            self._ended = True
            self._news.tell()
        await self._remove()

    async def _stop(self) -> None:
        """Waits as long as the pod takes to end."""
        await self._news.until(lambda: self._gone or not self._behaviour().ignores_deletion)
        if not self._gone and self._phase not in ("Succeeded", "Failed"):
            self._events.record(self._item, "Normal", "Killing", "Stopping the containers")
            began = asyncio.get_running_loop().time()
            await self._until_time(lambda: began if self._gone else began + self._stopping_time())

    def _stopping_time(self) -> float:
        grace: float = self._item["metadata"].get("deletionGracePeriodSeconds") or 0
        return min(grace, self._behaviour().stop_seconds)

    # --- containers ------------------------------------------------------------------------------------------

    @property
    def _policy(self) -> str:
        return str(self._item["spec"].get("restartPolicy", "Always"))

    def _behaviour(self, container: Container | None = None) -> Behaviour:
        return behaviour(self._item, container.spec if container else {})

    async def _live(self) -> None:
        if self._ended:
            return
        for container in self._init_containers:
            if not await self._initialized(container):
                return
        async with asyncio.TaskGroup() as group:
            for container in self._containers:
                group.create_task(self._keep(container))

    async def _initialized(self, container: Container) -> bool:
        """Runs an init container, again where its policy says so; whether it came to a good end."""
        while container.code != 0:
            await self._start(container)
            container.end(1 if self._behaviour(container).tag == "crash" else 0)
            self._news.tell()
            if container.code != 0:
                if self._policy == "Never":
                    return False
                await self._back_off(container)
        return True

    async def _keep(self, container: Container) -> None:
        """Runs a container as long as its policy says so."""
        while True:
            if not container.running and container.code is None:
                await self._start(container)
            await self._run(container)
            if self._policy == "Never" or (self._policy == "OnFailure" and container.code == 0):
                return
            await self._back_off(container)

    async def _start(self, container: Container) -> None:
        while self._behaviour(container).missing:
            image = container.spec.get("image", "")
            self._wait(container, "ImagePullBackOff", f'Back-off pulling image "{image}"')
            self._events.record(self._item, "Warning", "Failed", f'Failed to pull image "{image}": not found')
            await self._news.until(lambda: not self._behaviour(container).missing)
        began = asyncio.get_running_loop().time()
        await self._until_time(lambda: began + self._behaviour(container).start_seconds)
        log = container.start()
        container.warm = self._behaviour(container).ready_seconds <= 0
        for line in self._behaviour(container).first_lines(container.name, container.restarts):
            log.write(line)
        self._news.tell()
        self._events.record(self._item, "Normal", "Started", "Container started", container.name)

    async def _run(self, container: Container) -> None:
        """Lets it run to the end that its behaviour sets."""
        if not container.running or container.log is None:
            return
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(self._write_on(container, container.log)),
                group.create_task(self._warm_up(container, began)),
            ]
            await self._until_time(lambda: self._end_of(container, began))
            for task in beside:
                task.cancel()
        container.end(self._behaviour(container).exit_code)
        self._news.tell()

    def _end_of(self, container: Container, began: float) -> float | None:
        seconds = self._behaviour(container).run_seconds
        return None if seconds is None else began + seconds

    async def _write_on(self, container: Container, log: Log) -> None:
        for number in itertools.count(1):
            await self._news.until(lambda: self._behaviour(container).log_every is not None)
            await asyncio.sleep(self._behaviour(container).log_every or 0)
            log.write(f"tick {number}")

    async def _warm_up(self, container: Container, began: float) -> None:
        await self._until_time(lambda: began + self._behaviour(container).ready_seconds)
        container.warm = True
        self._news.tell()
        await self._news.until(lambda: self._behaviour(container).unready)
        message = "Readiness probe failed"
        self._events.record(self._item, "Warning", "Unhealthy", message, container.name)

    async def _back_off(self, container: Container) -> None:
        seconds = _BACKOFF[min(container.restarts, len(_BACKOFF) - 1)]
        self._wait(container, "CrashLoopBackOff", f"back-off {seconds:g}s restarting failed container={container.name}")
        message = f"Back-off restarting failed container {container.name}"
        self._events.record(self._item, "Warning", "BackOff", message, container.name)
        await asyncio.sleep(seconds)

    def _wait(self, container: Container, reason: str, message: str) -> None:
        container.wait(reason, message)
        self._news.tell()

    async def _until_time(self, when: Callable[[], float | None]) -> None:
        """Returns once the loop's time is what `when` says, which may change with the pod; None is never."""
        clock = asyncio.get_running_loop().time
        while (moment := when()) is None or moment > clock():
            await self._news.within(None if moment is None else moment - clock())

    # --- the server ------------------------------------------------------------------------------------------

    async def _tell_on(self) -> None:
        """Keeps the server's picture of the pod true, until its last word is told."""
        while not self._gone:
            status = self._status()
            if status != self._told:
                await self._tell(status)
            elif self._ended and "deletionTimestamp" in self._item["metadata"]:
                return
            else:
                await self._news.wait()

    async def _tell(self, status: Object) -> None:
        body = {"metadata": {"uid": self._item["metadata"]["uid"]}, "status": status}
        if await self._call("PATCH", "/status", body):
            self._told = status

    async def _remove(self) -> None:
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": self._item["metadata"]["uid"]}}
        while not self._gone:
            if await self._call("DELETE", "", options):
                return

    async def _call(self, method: str, subresource: str, body: Object) -> bool:
        """Whether it was done; where not, some time has passed. What is refused for good counts as done."""
        namespace, name = self.name
        kind = STRATEGIC if method == "PATCH" else "application/json"
        try:
            await self._api.call(method, f"/api/v1/namespaces/{namespace}/pods/{name}{subresource}", body, kind=kind)
        except ApiError as error:
            if error.status == 404:
                self.end()
            elif error.status in (400, 403, 422):
                _log.error("%s of pod %s/%s was refused: %s", method, namespace, name, error)
                return True
        except Trouble as error:
            _log.info("%s of pod %s/%s failed: %r", method, namespace, name, error)
        else:
            return True
        await asyncio.sleep(_RETRY)
        return False

    @property
    def _phase(self) -> str:
        return phase(self._policy, self._init_containers, self._containers, ended=self._ended)

    def _is_ready(self, container: Container) -> bool:
        return container.running and container.warm and not self._behaviour(container).unready

    def _status(self) -> Object:
        unready = [container.name for container in self._containers if not self._is_ready(container)]
        status = {
            "phase": self._phase,
            "observedGeneration": self._item["metadata"].get("generation"),
            "conditions": self._conditions.of(self._phase, self._init_containers, unready),
            "hostIP": _HOST,
            "hostIPs": [{"ip": _HOST}],
            "podIP": self._ip,
            "podIPs": [{"ip": self._ip}],
            "startTime": self._since,
            "containerStatuses": [each.status(ready=self._is_ready(each)) for each in self._containers],
        }
        if self._init_containers:
            statuses = [each.status(ready=each.code == 0) for each in self._init_containers]
            status["initContainerStatuses"] = statuses
        return status
