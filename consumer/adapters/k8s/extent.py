"""How far a k8s step reaches by what its config says, for the package's `resource_limits`. No I/O."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import JsonValue

from consumer.adapters.k8s import config as configs
from consumer.adapters.k8s import preflight, rollout
from consumer.ports import JsonObject, Scope
from consumer.workflow import values
from consumer.workflow.limits import CONNECTIONS, Extent


def extent(config: JsonObject, scope: Scope) -> Extent:
    """What is not known yet counts as nothing: it is looked at again when the step begins."""
    if configs.wrong_action(config) is not None:
        return Extent()
    namespaces = {name for wanted in preflight.read(config, scope) if (name := _namespace(wanted)) is not None}
    full = values.substitute(configs.complete(config, scope), scope).value
    replicas = max(_replicas(full), default=0) if isinstance(full, dict) else 0
    return Extent(namespaces=frozenset(namespaces), replicas=replicas)


def _namespace(wanted: preflight.Wanted) -> str | None:
    """None: it is not known yet, or the kind lives in none. A kind of the cluster's own lives in one that is named."""
    kind = preflight.built_in(wanted)
    if not wanted.placed or (kind is not None and not kind.namespaced):
        return None
    if kind is None and wanted.word is not None:
        return wanted.namespace
    return wanted.namespace or CONNECTIONS


def _replicas(config: JsonObject) -> Iterator[int]:
    """The numbers that a scale, a manifest or a patch gives."""
    action, manifest, data = config.get("action"), config.get("manifest"), config.get("data")
    objects = [*manifest] if isinstance(manifest, list) else [manifest]
    found: list[JsonValue] = [config.get("replicas")] if action == "scale" else []
    if action in ("create", "apply"):
        found += [rollout.integer(each, "spec", "replicas") for each in objects if isinstance(each, dict)]
    patches = next((each for each in (data, config.get("patch"), manifest) if each is not None), None)
    if action == "patch" and isinstance(patches, dict):
        found.append(rollout.integer(patches, "spec", "replicas"))
    if action == "patch" and isinstance(patches, list):
        found += [each.get("value") for each in patches if isinstance(each, dict) and each.get("path") == _PATH]
    yield from (value for value in found if isinstance(value, int) and not isinstance(value, bool))


#: Of a JSON patch.
_PATH = "/spec/replicas"
