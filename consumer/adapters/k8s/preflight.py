"""Before a package's first step: whether its steps have all the rights that they will need, by SelfSubjectAccessReview.

Only a clear no of the API server is an error. What can't be asked is a warning: the steps themselves will tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from pydantic import JsonValue

from consumer.adapters.k8s import config as configs
from consumer.adapters.k8s import errors, kinds, rights
from consumer.adapters.k8s.client import Call, Cluster
from consumer.adapters.k8s.rights import Right, Target
from consumer.adapters.k8s.together import together
from consumer.errors import PermanentError, StepError
from consumer.ports import Intention, JsonObject, Scope
from consumer.workflow import values
from schemas.failure import Problem

_AT_ONCE = 8
#: A package may name as many objects as it likes; so many of its rights are asked for.
_MAX_ASKED = 200
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_WHO = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a config says of its target, as far as it is known before the step runs."""

    action: str
    word: str | None
    """What the kind is called."""
    version: str | None
    """The manifest's `apiVersion`."""
    namespace: str | None
    placed: bool
    """False: the namespace is not known yet."""
    name: str
    selected: bool
    template: bool
    undoable: bool
    """False: the step is told to keep nothing for its undo."""

    def target(self, kind: kinds.Kind | None, namespace: str | None) -> Target:
        """With the kind and the namespace that the words stand for."""
        return Target(
            action=self.action,
            kind=kind,
            namespace=namespace,
            name=self.name,
            selected=self.selected,
            template=self.template,
        )


def read(config: JsonObject, scope: Scope) -> list[Wanted]:
    """What the config of a step says of its target; of each, where there are several manifests."""
    manifests = config.get("manifest")
    each = [{**config, "manifest": one} for one in manifests] if isinstance(manifests, list) else [config]
    return [wanted for one in each if (wanted := _read(one, scope)) is not None]


def _read(config: JsonObject, scope: Scope) -> Wanted | None:
    """None where not even the kind is known."""
    if configs.wrong_action(config) is not None or config.get("query") is not None:  # Prometheus is asked
        return None
    found = values.substitute(configs.complete(config, scope), scope)
    full = found.value
    unknown = {path[0] for path in found.unknown if path}
    if not isinstance(full, dict) or "resource_type" in unknown:
        return None

    def text(*keys: str) -> str | None:
        given = (full.get(key) for key in keys if key not in unknown)
        return next((value for value in given if isinstance(value, str) and value), None)

    manifest = full.get("manifest")
    manifest = manifest if isinstance(manifest, dict) and full["action"] in ("create", "apply", "job") else {}
    metadata = manifest.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    action = str(full["action"])
    name = text("name", "resource_name", "resource") or str(metadata.get("name") or "")
    word, _, rest = name.rpartition("/")
    return Wanted(
        action=action,
        word=text("resource_type") or _text(manifest.get("kind")) or word or _default_kind(action, full),
        version=_text(manifest.get("apiVersion")),
        namespace=text("namespace") or _text(metadata.get("namespace")),
        placed=not unknown & {"namespace"} and ("manifest", "metadata", "namespace") not in found.unknown,
        name="" if ("manifest", "metadata", "name") in found.unknown else rest,
        selected=full.get("selector") is not None,
        template=full.get("template") is not None,
        undoable=full.get("undo") is not False,
    )


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) and value else None


def _default_kind(action: str, config: JsonObject) -> str | None:
    if action == "job":
        return "job"
    if action == "wait" and config.get("selector") is not None:
        return "pod"
    return configs.DEFAULT_KINDS.get(action)


def undeclared(config: JsonObject, scope: Scope, declared: Sequence[str], *, undone: bool) -> list[str]:
    """What of the step's rights `required_permissions` lack; for kinds that are known without asking the cluster."""
    needed: list[Right] = []
    for wanted in read(config, scope):
        kind = built_in(wanted)
        if kind is not None or wanted.word is None:
            needed += _rights(wanted.target(kind, None), undone=undone and wanted.undoable)
    return rights.undeclared(needed, declared)


def _rights(target: Target, *, undone: bool) -> list[Right]:
    own = rights.needed(target)
    own += rights.needed_to_undo(target) if undone else []
    return [right for right in own if not right.optional]


def built_in(wanted: Wanted) -> kinds.Kind | None:
    """The kind, where it is one that Kubernetes itself brings."""
    if wanted.word is None:
        return None
    if wanted.version is not None:
        return kinds.of_manifest(wanted.version, wanted.word)
    return kinds.built_in(wanted.word)


class Preflight:
    """One look at the rights of one package's steps."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def check(self, steps: Sequence[Intention]) -> list[Problem]:
        """An error for each right that is missing; a warning where they can't be asked for."""
        try:
            return await self._check(steps)
        except StepError as error:
            if error.code == "impersonation_forbidden":
                return [Problem(path="requested_by", message=str(error))]
            message = f"whether its steps have the rights they need in the cluster is not known: {error}"
            return [Problem(path="spec.handlers", message=message, severity="warning")]

    async def _check(self, steps: Sequence[Intention]) -> list[Problem]:
        wanted: dict[Right, Intention] = {}
        for step in sorted(steps, key=lambda step: step.goes_on):  # so that what must not fail decides
            for right in await self._rights(step):
                wanted.setdefault(right, step)
        asked = list(wanted)[:_MAX_ASKED]
        missing = await self._missing(asked)
        who = await self._who() if missing else ""
        problems = [_problem(right, wanted[right], who) for right in missing]
        if len(wanted) > len(asked):
            message = f"{len(wanted) - len(asked)} of the rights that its steps need were not asked for"
            problems.append(Problem(path="spec.handlers", message=message, severity="warning"))
        return problems

    async def _rights(self, step: Intention) -> list[Right]:
        found = [await self._of(wanted, step) for wanted in read(step.config, step.scope) if wanted.placed]
        return [right for some in found for right in some]

    async def _of(self, wanted: Wanted, step: Intention) -> list[Right]:
        kind = await self._kind(wanted)
        if kind is None and wanted.word is not None:
            return []
        namespace = None
        if kind is None or kind.namespaced:
            namespace = wanted.namespace or (await self._cluster.connection()).namespace
        return _rights(wanted.target(kind, namespace), undone=step.undone and wanted.undoable)

    async def _kind(self, wanted: Wanted) -> kinds.Kind | None:
        if wanted.word is None or (known := built_in(wanted)) is not None:
            return None if wanted.word is None else known
        group = (wanted.version or "").rpartition("/")[0]
        try:
            return await self._cluster.kind(f"{wanted.word}.{group}" if group else wanted.word)
        except PermanentError as error:
            if error.code != "unknown_kind":
                raise
            return None  # an earlier step may bring it

    async def _missing(self, asked: Sequence[Right]) -> list[Right]:
        """Those that are not granted. For all objects first, as many names of one kind are one question then."""
        granted = await self._granted({replace(right, name="") for right in asked})
        rest = [right for right in asked if replace(right, name="") not in granted]
        granted |= await self._granted({right for right in rest if right.name})
        return [right for right in rest if right not in granted]

    async def _granted(self, asked: Collection[Right]) -> set[Right]:
        granted: set[Right] = set()

        async def ask(right: Right) -> None:
            async with self._slots:
                if await self._one(right):
                    granted.add(right)

        await together(*(ask(right) for right in sorted(asked, key=str)))
        return granted

    async def _one(self, right: Right) -> bool:
        attributes: JsonObject = {
            "verb": right.verb,
            "group": right.group,
            "resource": right.resource.partition("/")[0],
            "subresource": right.subresource,
            "namespace": right.namespace or "",
            "name": right.name,
        }
        status = await self._review(_REVIEWS, "SelfSubjectAccessReview", {"resourceAttributes": attributes})
        return status.get("allowed") is True

    async def _who(self) -> str:
        """Whose rights these are."""
        try:
            info = (await self._review(_WHO, "SelfSubjectReview", {})).get("userInfo")
        except StepError:  # before Kubernetes 1.28
            return "the agent's account"
        return str(info.get("username")) if isinstance(info, dict) else "the agent's account"

    async def _review(self, path: str, kind: str, spec: JsonObject) -> JsonObject:
        """The status of a review. It changes nothing, so it is repeated as a read."""
        body: JsonObject = {"apiVersion": path.removeprefix("/apis/").rpartition("/")[0], "kind": kind}
        body |= {"spec": spec} if spec else {}
        request = errors.Request("get", kind, "the rights of the steps")
        status = (await self._cluster.json(Call("POST", path, request, (), body))).get("status")
        return status if isinstance(status, dict) else {}


def _problem(right: Right, step: Intention, who: str) -> Problem:
    which = f" (name {right.name})" if right.name else ""
    where = f"a Role in namespace {right.namespace}" if right.namespace else "a ClusterRole"
    rule = f'apiGroups ["{right.group}"], resources ["{right.resource}"], verbs ["{right.verb}"]'
    message = f"{who} may not {right}{which}; grant it by {where}: {rule}"
    return Problem(path=step.path, message=message, severity="warning" if step.goes_on else "error")
