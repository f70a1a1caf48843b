"""One container that there is not: its states as a pod's status tells them, and what it wrote."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime

from tests.support.kubelet.api import Object
from tests.support.kubelet.news import News


def now() -> str:
    """The time as the API has it, in whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(slots=True)
class Log:
    """The lines of one run of a container."""

    lines: list[tuple[datetime, str]] = field(default_factory=list)
    closed: bool = False
    news: News = field(default_factory=News)

    def write(self, line: str) -> None:
        self.lines.append((datetime.now(UTC), line))
        self.news.tell()

    def close(self) -> None:
        self.closed = True
        self.news.tell()


class Container:
    """A container's state. Who changes it tells the pod's news."""

    def __init__(self, spec: Object, adopted: Object | None = None) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self.last_state: Object = {}
        self.restarts = 0
        self.warm = False
        """Whether it has run for its `ready-seconds`."""
        self.log: Log | None = None
        self.previous: Log | None = None
        self._id = ""
        if adopted is not None:
            self._adopt(adopted)

    def _adopt(self, status: Object) -> None:
        """Takes over what an earlier kubelet said of it; what it wrote before is lost."""
        self.state, self.last_state = status.get("state", self.state), status.get("lastState", {})
        self.restarts, self._id = status.get("restartCount", 0), status.get("containerID", "")
        if not self.waiting:
            self.log = Log(closed=self.code is not None)
            self.warm = bool(status.get("ready"))

    @property
    def waiting(self) -> str | None:
        """Why it waits, or None where it doesn't."""
        reason: str | None = self.state.get("waiting", {}).get("reason")
        return reason

    @property
    def running(self) -> bool:
        return "running" in self.state

    @property
    def code(self) -> int | None:
        """What it ended with, or None where it has not ended (or is to be started again)."""
        code: int | None = self.state.get("terminated", {}).get("exitCode")
        return code

    @property
    def last_code(self) -> int | None:
        """What its run before this wait ended with."""
        code: int | None = self.last_state.get("terminated", {}).get("exitCode")
        return code

    def wait(self, reason: str, message: str = "") -> None:
        """Waits to be started; a run that has ended becomes the last one."""
        if "terminated" in self.state:
            self.last_state = self.state
        self.state = {"waiting": {"reason": reason, **({"message": message} if message else {})}}

    def start(self) -> Log:
        """Starts it: again, where it ran before."""
        if self._id:
            self.restarts += 1
            self.previous = self.log
        if "terminated" in self.state:
            self.last_state = self.state
        self._id = f"simulated://{secrets.token_hex(16)}"
        self.state = {"running": {"startedAt": now()}}
        self.warm = False
        self.log = Log()
        return self.log

    def end(self, code: int) -> None:
        """Ends it, if it runs."""
        if not self.running:
            return
        started = self.state["running"].get("startedAt") or now()
        reason = "Error" if code else "Completed"
        ended = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": now()}
        self.state = {"terminated": {**ended, "containerID": self._id}}
        if self.log is not None:
            self.log.close()

    def status(self, *, ready: bool) -> Object:
        """Its entry in the pod's status."""
        return {
            "name": self.name,
            "image": self.spec.get("image", ""),
            "imageID": f"simulated://{self.spec.get('image', '')}" if self._id else "",
            "containerID": self._id,
            "ready": ready,
            "started": self.running,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last_state,
        }
