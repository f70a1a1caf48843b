"""Waiting for objects: list, then watch from there, then list again where the watch ends.

The library's own watch is not used: it reconnects without a pause, and after a 410 it tries the same stale version.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from consumer.adapters.k8s import kinds, rollout, targets
from consumer.adapters.k8s.client import Cluster
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject

T = TypeVar("T")
_WATCH_SECONDS = 240
_POLL_SECONDS = 2.0
_MAX_PAUSE = 10.0

#: What is there, by uid.
State = Mapping[str, JsonObject]


@dataclass(frozen=True, slots=True)
class Scene:
    """What is waited for: one object, or all that a label selector or a field selector finds."""

    kind: kinds.Kind
    namespace: str | None
    name: str | None = None
    selector: str | None = None
    fields: str | None = None

    @property
    def query(self) -> dict[str, str | int]:
        if self.fields is not None:
            return {"fieldSelector": self.fields}
        if self.name is not None:
            return {"fieldSelector": f"metadata.name={self.name}"}
        return {"labelSelector": self.selector} if self.selector else {}


async def until(
    cluster: Cluster,
    scene: Scene,
    look: Callable[[State], T | None],
    trouble: Callable[[str], Awaitable[None]] | None = None,
) -> T:
    """What `look` first gives that is not None; it is called with every state seen. Raises StepError.

    Once something was seen, lost connections are waited out, as the step's own timeout bounds the whole; `trouble` is
    told of the first one in a row.
    """
    failures, seen = 0, False
    while True:
        try:
            listing = await cluster.listing(scene.kind, scene.namespace, scene.query)
            failures, seen = 0, True
            items = listing["items"]
            state = (
                {targets.uid_of(item): item for item in items if isinstance(item, dict)}
                if isinstance(items, list)
                else {}
            )
            found = look(state)
            if found is None:
                found = await _follow(cluster, scene, look, state, rollout.text(listing, "metadata", "resourceVersion"))
            if found is not None:
                return found
            await asyncio.sleep(random.uniform(0.05, 0.2))  # noqa: S311 - a pause
        except TemporaryError as error:
            failures += 1
            if not seen:
                raise
            if failures == 1 and trouble is not None:
                await trouble(str(error))
            await asyncio.sleep(random.uniform(0.1, min(0.2 * 2**failures, _MAX_PAUSE)))  # noqa: S311 - a pause


async def _follow(
    cluster: Cluster, scene: Scene, look: Callable[[State], T | None], state: dict[str, JsonObject], version: str
) -> T | None:
    """Watches from a version on; None where the watch ended and a new list is due."""
    query = {**scene.query, "resourceVersion": version}
    try:
        async with aclosing(cluster.watch(scene.kind, scene.namespace, query, _WATCH_SECONDS)) as events:
            async for event in events:
                item = event.get("object")
                if event.get("type") == "ERROR" or not isinstance(item, dict):
                    return None
                if event.get("type") == "BOOKMARK":
                    continue
                if event.get("type") == "DELETED":
                    state.pop(targets.uid_of(item), None)
                else:
                    state[targets.uid_of(item)] = {"kind": scene.kind.name, **item}
                found = look(state)
                if found is not None:
                    return found
    except PermanentError as error:
        if error.code != "forbidden":
            raise
        await asyncio.sleep(_POLL_SECONDS)  # may list but not watch: then look from time to time
    return None


async def until_gone(cluster: Cluster, ref: kinds.Ref, uid: str) -> None:
    """Returns once the object with that uid is gone."""
    now = await cluster.find(ref)
    if now is None or targets.uid_of(now) != uid:
        return
    await until(cluster, Scene(ref.kind, ref.namespace, ref.name), lambda state: None if uid in state else True)
