"""What a test asks of its pods: by annotations of the pod, or for one container by the tag of its image.

The annotations, each with the prefix `kubelet.test/`; numbers are seconds and may have a fraction:

- `start-seconds`: how long containers are being created (0)
- `ready-seconds`: how long after its start a container becomes ready (0)
- `unready`: "true": containers run and are never ready
- `missing`: "true": the image can't be pulled
- `crash`: "true": containers end at once with exit code 1
- `run-seconds`: how long containers run; without it for ever, and not at all (0) where the pod's restartPolicy is
  Never or OnFailure, as those of jobs
- `exit-code`: what they end with (0)
- `stop-seconds`: how long they take to end once deleted, at most the grace period (0)
- `ignore-deletion`: "true": a deleted pod stays, as on a node that is lost
- `log`: what a container writes when it starts, with {container} and {restart} (how often it was restarted before)
- `log-repeat`: how often it writes that (1)
- `log-every`: seconds between the lines "tick 1", "tick 2" … that it writes after that
- `log-line-bytes`: a last line of that length

The image's tags `crash`, `unready` and `missing` do for one container what those annotations do for all.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.kubelet.api import Object

PREFIX = "kubelet.test/"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """The wishes that hold for one container now."""

    annotations: dict[str, str]
    tag: str
    restarts_always: bool

    @property
    def start_seconds(self) -> float:
        return self._number("start-seconds", 0)

    @property
    def ready_seconds(self) -> float:
        return self._number("ready-seconds", 0)

    @property
    def unready(self) -> bool:
        return self._is("unready")

    @property
    def missing(self) -> bool:
        return self._is("missing")

    @property
    def run_seconds(self) -> float | None:
        """None: for ever."""
        if self._is("crash"):
            return 0.0
        if PREFIX + "run-seconds" in self.annotations:
            return self._number("run-seconds", 0)
        return None if self.restarts_always else 0.0

    @property
    def exit_code(self) -> int:
        return 1 if self._is("crash") else int(self._number("exit-code", 0))

    @property
    def stop_seconds(self) -> float:
        return self._number("stop-seconds", 0)

    @property
    def ignores_deletion(self) -> bool:
        return self._is("ignore-deletion")

    @property
    def log_every(self) -> float | None:
        return self._number("log-every", 0) or None

    def first_lines(self, container: str, restart: int) -> list[str]:
        """What the container writes when it starts."""
        text = self.annotations.get(PREFIX + "log", "{container} started")
        lines = text.replace("{container}", container).replace("{restart}", str(restart)).splitlines()
        lines *= int(self._number("log-repeat", 1))
        if length := int(self._number("log-line-bytes", 0)):
            lines.append("x" * length)
        return lines

    def _is(self, name: str) -> bool:
        return self.annotations.get(PREFIX + name) == "true" or self.tag == name

    def _number(self, name: str, otherwise: float) -> float:
        try:
            return float(self.annotations.get(PREFIX + name, otherwise))
        except ValueError:
            return otherwise


def behaviour(pod: Object, container: Object) -> Behaviour:
    """What a pod, as it is now, asks of one of its containers."""
    return Behaviour(
        annotations=pod["metadata"].get("annotations", {}),
        tag=container.get("image", "").rpartition("/")[2].rpartition(":")[2],
        restarts_always=pod["spec"].get("restartPolicy", "Always") == "Always",
    )
