"""A namespace of a test's own, seen through kubectl."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.control_plane.kubectl import Kubectl, KubectlFailed, Object
from tests.support.eventually import eventually

#: Seconds that kubectl waits for what comes in its own time.
PATIENCE = "--timeout=60s"


class Space:
    """kubectl in one namespace, and what tests look at most."""

    def __init__(self, kubectl: Kubectl, name: str) -> None:
        self.kubectl = kubectl
        self.name = name

    async def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints in this namespace. Raises KubectlFailed."""
        return await self.kubectl(*arguments, "--namespace", self.name, stdin=stdin)

    async def apply(self, *manifests: Object) -> None:
        """Puts objects there, or changes them to that."""
        await self.kubectl.apply(*manifests, namespace=self.name)

    async def wish(self, pod: str, wish: str) -> None:
        """Changes what a pod is to do while it runs: "unready=true", or "unready-" to take it back."""
        await self("annotate", f"pod/{pod}", f"kubelet.test/{wish}", "--overwrite")

    async def rolled_out(self, what: str) -> None:
        """Returns when the rollout of "deployment/NAME" or the like is over. Raises KubectlFailed where it fails."""
        await self("rollout", "status", what, PATIENCE)

    async def wait(self, what: str, condition: str) -> None:
        """Returns when "KIND/NAME" has a condition, as in "condition=Ready" or "delete"."""
        await self("wait", what, f"--for={condition}", PATIENCE)

    async def field(self, what: str, path: str) -> str:
        """A field of "KIND/NAME" as text; empty where there is no such field, or no such object."""
        return await self("get", what, "--ignore-not-found", "-o", f"jsonpath={{.{path}}}")

    async def has(self, what: str, path: str, value: str) -> bool:
        """Whether a field has that value."""
        return await self.field(what, path) == value

    async def pods(self, app: str) -> list[Object]:
        """The pods with the label app=APP."""
        return await self.kubectl.items("pods", "--namespace", self.name, "-l", f"app={app}")

    async def names(self, app: str) -> set[str]:
        """The names of those pods."""
        return {item["metadata"]["name"] for item in await self.pods(app)}

    async def alone(self) -> None:
        """Returns when no pod is left of the namespaces that are being deleted: those of the tests before."""
        for name in await self._ending():
            with contextlib.suppress(KubectlFailed):  # it may be gone by now
                await self.kubectl("delete", "pods", "--all", "--namespace", name, "--grace-period=0", "--force")
        await eventually(self._others_are_gone, timeout=90, interval=0.5)

    async def _ending(self) -> set[str]:
        namespaces = await self.kubectl.items("namespaces")
        return {item["metadata"]["name"] for item in namespaces if item["status"]["phase"] == "Terminating"}

    async def _others_are_gone(self) -> bool:
        ending = await self._ending()
        pods = await self.kubectl.items("pods", "--all-namespaces")
        return not any(item["metadata"]["namespace"] in ending for item in pods)

    async def waits(self, app: str, reason: str) -> bool:
        """Whether a container of those pods waits for that reason, such as CrashLoopBackOff."""
        waiting = [status["state"].get("waiting", {}) for item in await self.pods(app) for status in statuses(item)]
        return any(why.get("reason") == reason for why in waiting)


def statuses(item: Object) -> list[Object]:
    """What a pod's status says of its containers, the init containers first."""
    found = item.get("status", {})
    return [*found.get("initContainerStatuses", []), *found.get("containerStatuses", [])]


@asynccontextmanager
async def space_of(kubectl: Kubectl, name: str) -> AsyncIterator[Space]:
    """A new namespace while the block lasts."""
    await kubectl.create_namespace(name)
    try:
        yield Space(kubectl, name)
    finally:
        with contextlib.suppress(KubectlFailed):  # a test may have deleted it, or left the server dead
            await kubectl("delete", "namespace", name, "--wait=false")
