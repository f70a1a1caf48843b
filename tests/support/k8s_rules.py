"""Defaults, validations and selectors of the tests' API server: a few of the real ones."""

from __future__ import annotations

import base64
import binascii
import re

from tests.support.k8s_kinds import Json, Object, Resource, bad_request, invalid

_TOP = {"apiVersion", "kind", "metadata"}
_KNOWN = {
    "Secret": _TOP | {"data", "stringData", "type", "immutable"},
    "ConfigMap": _TOP | {"data", "binaryData", "immutable"},
    "Deployment": _TOP | {"spec", "status"},
    "StatefulSet": _TOP | {"spec", "status"},
    "Job": _TOP | {"spec", "status"},
    "Pod": _TOP | {"spec", "status"},
}
_KNOWN_SPEC = {
    "Deployment": {
        *("replicas", "selector", "template", "strategy", "minReadySeconds"),
        *("revisionHistoryLimit", "paused", "progressDeadlineSeconds"),
    },
}


def prune(item: Object) -> None:
    """Empty labels and annotations are not kept, as with `omitempty`."""
    for metadata in (item["metadata"], item.get("spec", {}).get("template", {}).get("metadata", {})):
        for part in ("labels", "annotations"):
            if part in metadata and not metadata[part]:
                del metadata[part]


def default(item: Object) -> None:
    """A few of the real defaults."""
    spec = item.get("spec")
    if item["kind"] == "Secret":
        for key, value in item.pop("stringData", {}).items():
            item.setdefault("data", {})[key] = base64.b64encode(str(value).encode()).decode()
        item.setdefault("type", "Opaque")
    if not isinstance(spec, dict):
        return
    if item["kind"] == "Deployment":
        rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}}
        for name, value in (("replicas", 1), ("revisionHistoryLimit", 10), ("progressDeadlineSeconds", 600)):
            spec.setdefault(name, value)
        spec.setdefault("strategy", rolling)
    if item["kind"] in ("StatefulSet", "DaemonSet"):
        spec.setdefault("updateStrategy", {"type": "RollingUpdate"})
        if item["kind"] == "StatefulSet":
            spec.setdefault("replicas", 1)
    template = spec.get("template", {}).get("spec") if item["kind"] != "Pod" else spec
    if isinstance(template, dict):
        template.setdefault("restartPolicy", "Always")
        template.setdefault("terminationGracePeriodSeconds", 30)
        for container in template.get("containers", []):
            container.setdefault("imagePullPolicy", "IfNotPresent")
            container.setdefault("resources", {})


def check(resource: Resource, item: Object, before: Object | None = None) -> None:
    """A few of the real validations."""
    name, spec = item["metadata"]["name"], item.get("spec") or {}
    _check_marks(resource, item)
    if resource.kind == "Secret":
        _check_secret(resource, item)
    if isinstance(spec.get("replicas"), int) and spec["replicas"] < 0:
        why = f"Invalid value: {spec['replicas']}: must be greater than or equal to 0"
        raise invalid(resource, name, "spec.replicas", why)
    if resource.kind in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"):
        _check_workload(resource, item, before)


def _check_marks(resource: Resource, item: Object) -> None:
    metadata = item["metadata"]
    for part in ("labels", "annotations"):
        for key, value in (metadata.get(part) or {}).items():
            if not isinstance(value, str):
                raise bad_request(f"json: cannot unmarshal {type(value).__name__} into Go struct field .{part} ({key})")
    for key, value in (metadata.get("labels") or {}).items():
        if not re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", value):
            why = f'Invalid value: "{value}": a valid label must be an empty string or consist of … ({key})'
            raise invalid(resource, metadata["name"], "metadata.labels", why)


def _check_secret(resource: Resource, item: Object) -> None:
    for key, value in (item.get("data") or {}).items():
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise bad_request(f"illegal base64 data at input byte 0: {value}") from None
        if not re.fullmatch(r"[-._A-Za-z0-9]+", key):
            raise invalid(resource, item["metadata"]["name"], f"data[{key}]", f'Invalid value: "{value}"')


def _check_workload(resource: Resource, item: Object, before: Object | None) -> None:
    name, spec = item["metadata"]["name"], item["spec"]
    wanted = (spec.get("selector") or {}).get("matchLabels") or {}
    labels = (spec.get("template") or {}).get("metadata", {}).get("labels") or {}
    if not wanted or any(labels.get(key) != value for key, value in wanted.items()):
        raise invalid(resource, name, "spec.template.metadata.labels", "`selector` does not match template `labels`")
    if before is not None and before["spec"]["selector"] != spec["selector"]:
        raise invalid(resource, name, "spec.selector", "Invalid value: field is immutable")
    containers = spec["template"].get("spec", {}).get("containers")
    if not containers or any(not c.get("name") or not c.get("image") for c in containers):
        raise invalid(resource, name, "spec.template.spec.containers", "Required value")


def unknown_fields(resource: Resource, item: Object) -> list[str]:
    """Fields that the kind does not have; refused with `fieldValidation=Strict`."""
    top = set(item) - _KNOWN.get(resource.kind, set(item))
    spec = item.get("spec")
    inner = set(spec) - _KNOWN_SPEC.get(resource.kind, set(spec)) if isinstance(spec, dict) else set()
    return sorted(top) + [f"spec.{name}" for name in sorted(inner)]


# --- selectors --------------------------------------------------------------------------------------------------

_SET = re.compile(r"^\s*([\w./-]+)\s+(in|notin)\s+\(([^)]*)\)\s*$")
_FIELDS = {
    *("metadata.name", "metadata.namespace", "status.phase", "spec.nodeName", "type", "reason", "source"),
    *(f"involvedObject.{name}" for name in ("kind", "namespace", "name", "uid", "apiVersion", "fieldPath")),
}


def matches_labels(item: Object, selector: str) -> bool:
    labels = item["metadata"].get("labels") or {}
    parts = re.split(r",(?![^(]*\))", selector) if selector else []
    return all(_holds(labels, part.strip()) for part in parts)


def _holds(labels: dict[str, str], part: str) -> bool:
    if found := _SET.match(part):
        key, operator, values = found[1], found[2], {value.strip() for value in found[3].split(",")}
        return (labels.get(key) in values) == (operator == "in")
    if "=" in part:
        key, value = re.split("!=|==?", part, maxsplit=1)
        return (labels.get(key.strip()) == value.strip()) != ("!=" in part)
    return part[1:].strip() not in labels if part.startswith("!") else part in labels


def matches_fields(item: Object, selector: str) -> bool:
    for part in selector.split(",") if selector else []:
        path, value = re.split("!=|==?", part, maxsplit=1)
        if path not in _FIELDS:
            raise bad_request(
                f'Unable to find "v1" that match label selector "", field selector "{part}": not supported'
            )
        found: Json = item
        for name in path.split("."):
            found = found.get(name, "") if isinstance(found, dict) else ""
        if (found == value) == ("!=" in part):
            return False
    return True
