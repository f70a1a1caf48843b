"""The action wait: until a condition holds, with the meanings of `kubectl wait` and `kubectl rollout status`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from consumer.adapters.k8s import fields, kinds, rollout, targets
from consumer.adapters.k8s.actions.causes import MOST, causes
from consumer.adapters.k8s.client import Cluster
from consumer.adapters.k8s.config import WaitConfig
from consumer.adapters.k8s.patience import time_for
from consumer.adapters.k8s.together import beside
from consumer.adapters.k8s.watching import Scene, State, until
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject, Plan, StepContext
from schemas.scalars import format_duration

Test = Callable[[JsonObject], rollout.Status]
#: Seconds for a look at what has become of it while nobody waited.
_ONE_LOOK = 5.0
#: Seconds between looks for what holds it up, and for the last of them.
_CAUSES_EVERY = 10.0
_LAST_LOOK = 3.0
#: How a message names conditions that are no adjectives.
_WORDS = {"rollout": "rolled out", "create": "created", "delete": "deleted"}


@dataclass(slots=True)
class _Progress:
    """What was seen last, for the message when time is over."""

    message: str = "nothing seen yet"
    seen: set[str] = field(default_factory=set)
    open: list[JsonObject] = field(default_factory=list)
    """What does not yet hold."""
    causes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Output: `{resource, condition, state}`; `state` says in words what was reached.

    A failed rollout (progress deadline), a failed job, or an object that is deleted meanwhile end the wait at once. One
    that a new owner takes up again has only the time that is left, but looks at least once. What holds pods up (a
    quota, an image, a crash) goes to the step's log while it waits, and into the error.
    """

    cluster: Cluster
    config: WaitConfig
    repeatable: bool = True

    @property
    def waits(self) -> bool:
        """See `ports.Action`."""
        return True

    @property
    def time_limit(self) -> float | None:
        return self.config.timeout

    async def plan(self, step: StepContext) -> Plan:
        scene = await self._scene()
        condition = self._condition(scene)
        if not _is_deletion(condition) and not _is_creation(condition):
            test_of(condition, scene.kind)
        found = await self.cluster.items(scene.kind, scene.namespace, scene.query)
        summary = f"wait until {_subject(scene)} is {condition}"
        if not found and not _is_deletion(condition):
            summary += " (it is not there yet)"  # an earlier step may make it
        return Plan(summary=summary, changes=False, detail={"resource": _subject(scene)})

    async def run(self, step: StepContext) -> JsonObject:
        scene = await self._scene()
        subject, condition = _subject(scene), self._condition(scene)
        progress = _Progress()

        async def trouble(message: str) -> None:
            await step.log("agent", f"still waiting: {message}")

        if _is_deletion(condition):
            look = _gone(subject)
        elif _is_creation(condition):
            look = _there(subject, progress)
        else:
            look = _all_hold(subject, test_of(condition, scene.kind), progress, named=scene.name is not None)
        whole = time_for(self.config.timeout, step)
        try:
            async with asyncio.timeout(_left(whole, step)), beside(self._explain(scene, progress, step)):
                state = await until(self.cluster, scene, look, trouble)
        except TimeoutError as error:
            await self._last_look(scene, progress, _spare(whole, step))
            limit = format_duration(whole or 0.0)
            message = f"{subject} is not {_WORDS.get(condition, condition)} after {limit}: {progress.message}"
            raise TemporaryError(_because(message, progress), code="timeout") from error
        except PermanentError as error:
            if error.code != "failed":
                raise
            await self._last_look(scene, progress, _LAST_LOOK)
            raise PermanentError(_because(str(error), progress), code="failed") from error
        return {"resource": subject, "condition": condition, "state": state}

    async def _explain(self, scene: Scene, progress: _Progress, step: StepContext) -> None:
        """Logs what holds it up, once for each that is new."""
        while True:
            await asyncio.sleep(_CAUSES_EVERY)
            before = progress.causes
            await self._look_for_causes(scene, progress)
            for why in progress.causes:
                if why not in before:
                    await step.log("agent", f"still waiting: {progress.message}; {why}")

    async def _last_look(self, scene: Scene, progress: _Progress, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._look_for_causes(scene, progress)

    async def _look_for_causes(self, scene: Scene, progress: _Progress) -> None:
        found = [why for item in progress.open[:MOST] for why in await causes(self.cluster, scene.kind, item)]
        progress.causes = found[:MOST]

    def _condition(self, scene: Scene) -> str:
        return self.config.condition or ("complete" if scene.kind == kinds.JOB else "ready")

    async def _scene(self) -> Scene:
        if self.config.name is not None:
            ref = await targets.reference(self.cluster, self.config)
            return Scene(ref.kind, ref.namespace, name=ref.name)
        kind = kinds.POD if self.config.resource_type is None else await targets.kind_of(self.cluster, self.config)
        namespace = await targets.namespace_of(self.cluster, self.config, kind)
        return Scene(kind, namespace, selector=self.config.selector)


def _spare(whole: float | None, step: StepContext) -> float:
    """Seconds for the last look: most of what the attempt has beyond the wait itself."""
    return _LAST_LOOK if step.timeout is None or whole is None else min(_LAST_LOOK, 0.7 * (step.timeout - whole))


def _left(whole: float | None, step: StepContext) -> float | None:
    """What is left of the time (seconds) since the attempt first began."""
    if whole is None or not step.repeated:
        return whole
    gone = (datetime.now(UTC) - step.first_started_at).total_seconds()
    return min(whole, max(whole - gone, _ONE_LOOK))


def _subject(scene: Scene) -> str:
    if scene.name is not None:
        return str(kinds.Ref(scene.kind, scene.namespace, scene.name))
    where = f" in namespace {scene.namespace}" if scene.namespace else ""
    return f"{scene.kind.plural} {scene.selector}{where}"


def _because(message: str, progress: _Progress) -> str:
    return f"{message}; {'; '.join(progress.causes)}" if progress.causes else message


def _is_deletion(condition: str) -> bool:
    return condition.lower() in ("deleted", "delete")


def _is_creation(condition: str) -> bool:
    return condition.lower() in ("created", "create")


def _there(subject: str, progress: _Progress) -> Callable[[State], str | None]:
    """Holds once anything is there, as `kubectl wait --for=create`."""
    progress.message = "nothing is there"
    return lambda state: f"{subject} is there" if state else None


def _gone(subject: str) -> Callable[[State], str | None]:
    """Holds once all that was there at first is gone; what is made meanwhile does not count (kubectl waits by uid)."""
    first: set[str] | None = None

    def look(state: State) -> str | None:
        nonlocal first
        first = set(state) if first is None else first
        return None if first & set(state) else f"{subject} is gone"

    return look


def _all_hold(subject: str, test: Test, progress: _Progress, *, named: bool) -> Callable[[State], str | None]:
    """Holds when the test does for all; a named object must stay the same one, selected ones may come and go."""

    def look(state: State) -> str | None:
        if not progress.seen and not state:
            raise PermanentError(f"{subject} not found", code="not_found")
        if named and progress.seen and not progress.seen & set(state):
            raise PermanentError(f"{subject} was deleted while it was waited for", code="not_found")
        progress.seen = progress.seen or set(state)
        if not state:
            progress.message = "nothing is there now"
            return None
        results = [(targets.name_of(item), test(item)) for item in state.values()]
        open_ones = [(name, result) for name, result in results if not result.done]
        progress.open = [item for item, (_, result) in zip(state.values(), results, strict=True) if not result.done]

        def said(name: str, result: rollout.Status) -> str:
            return result.message if named else f"{name}: {result.message}"

        for name, result in open_ones:
            if result.failed:
                raise PermanentError(f"{subject}: {said(name, result)}", code="failed")
        if open_ones:
            progress.message = "; ".join(said(name, result) for name, result in open_ones[:3])
            return None
        return "; ".join(result.message for _, result in results[:3])

    return look


# --- conditions -------------------------------------------------------------------------------------------------


def test_of(condition: str, kind: kinds.Kind) -> Test:
    """The test for a condition as users write it. Raises PermanentError for one that can't be understood."""
    text = condition.strip()
    word = text.lower()
    if word.startswith("jsonpath="):
        return _jsonpath(text[len("jsonpath=") :])
    if word == "rollout" or (word == "ready" and kind.name in kinds.ROLLING):
        return rollout.status
    if word == "available" and kind.name in ("StatefulSet", "DaemonSet"):
        return rollout.status
    if word == "ready" and kind.name == "ReplicaSet":
        return _replicas_ready
    if word == "complete" and kind.name == "Job":
        return _job_complete
    name, _, wanted = text.removeprefix("condition=").partition("=")
    return _condition(name, wanted or "true")


def _condition(name: str, wanted: str) -> Test:
    """As `kubectl wait` does it: names and values in any case; a condition of an older generation does not count."""

    def test(item: JsonObject) -> rollout.Status:
        for entry in rollout.conditions(item):
            if str(entry.get("type")).lower() != name.lower():
                continue
            observed = rollout.integer(entry, "observedGeneration")
            if observed and observed < rollout.integer(item, "metadata", "generation"):
                return rollout.Status(False, f"{name} is of an older generation")
            value = str(entry.get("status"))
            reason = f" ({entry['reason']})" if entry.get("reason") else ""
            return rollout.Status(value.lower() == wanted.lower(), f"{entry.get('type')} is {value}{reason}")
        return rollout.Status(False, f"has no condition {name}")

    return test


def _job_complete(item: JsonObject) -> rollout.Status:
    failed = _condition("Failed", "true")(item)
    if failed.done:
        return rollout.Status(False, f"the job failed: {failed.message}", failed=True)
    return _condition("Complete", "true")(item)


def _replicas_ready(item: JsonObject) -> rollout.Status:
    ready, wanted = (
        rollout.integer(item, "status", "readyReplicas"),
        rollout.integer(item, "spec", "replicas", default=1),
    )
    seen = rollout.integer(item, "status", "observedGeneration") >= rollout.integer(item, "metadata", "generation")
    return rollout.Status(seen and ready >= wanted, f"{ready} of {wanted} pods ready")


def _jsonpath(text: str) -> Test:
    """`{.status.phase}=Running`; without a value: the field is there."""
    path_text, found, wanted = text.partition("}=") if text.strip().startswith("{") else text.partition("=")
    path_text = path_text + "}" if found == "}=" else path_text
    try:
        path = fields.parse(path_text)
    except ValueError as error:
        raise PermanentError(f"condition: {error}", code="invalid") from error
    wanted = wanted.strip("'\"")

    def test(item: JsonObject) -> rollout.Status:
        values = [fields.text_of(value) for value in fields.find(item, path)]
        said = f"{path_text} is {', '.join(values)[:100] or 'missing'}"
        return rollout.Status(bool(values) and (not found or all(v == wanted for v in values)), said)

    return test
