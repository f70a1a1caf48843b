"""What a k8s step touches, for the policy: `action`, `kind`, `namespace`, `name`, and whether it `changes` anything."""

from __future__ import annotations

from consumer.adapters.k8s import config as configs
from consumer.adapters.k8s import kinds
from consumer.ports import JsonObject, Scope
from consumer.workflow.facts import ANYTHING, Called, Fact, Facts, Reader
from consumer.workflow.scope import UNKNOWN, Unknown
from schemas.problems import Path

#: Actions that change nothing in the cluster.
READS = frozenset({"logs", "events", "get", "metrics", "wait"})
#: Actions whose object a manifest describes.
_BY_MANIFEST = frozenset({"apply", "create", "job"})
_NAMES = (("name",), ("resource_name",), ("resource",))
#: What an action looks at where the step names no kind.
_UNNAMED = {**configs.DEFAULT_KINDS, "logs": "pod", "events": "event"}


def of(config: JsonObject, scope: Scope) -> list[Facts]:
    """The facts of one step: one entry, or one for each object that it applies.

    A kind's namespace is certain only where the agent itself knows that the kind lives in one: `namespace: shop` at a
    cluster-wide kind means nothing. A step without a namespace works in the connection's, which is not known here.
    """
    full = configs.complete(config, scope)
    action = str(full.get("action"))
    reader = Reader(full, scope)
    if action == "metrics" and reader.at("query") is not None:  # of the Prometheus server, and so of all namespaces
        return [{"action": action, "changes": False, "kind": "prometheus", "namespace": "", "name": ANYTHING}]
    if action in _BY_MANIFEST:
        manifest = reader.at("manifest")
        places: list[Path] = [("manifest",)]
        if isinstance(manifest, list):
            places = [("manifest", index) for index in range(len(manifest))]
        found = [(*_made(reader, action, place), place) for place in places]
    else:
        found = [(*_named(reader, action), ())]
    return [
        {
            "action": action,
            "changes": action not in READS,
            "kind": kind.singular if isinstance(kind, kinds.Kind) else kind,
            "namespace": _namespace(reader, kind, place),
            "name": name,
        }
        for kind, name, place in found
    ]


def _made(reader: Reader, action: str, place: Path) -> tuple[kinds.Kind | Called | Unknown, Fact]:
    """Of an object that a manifest describes."""
    kind = kinds.JOB if action == "job" else _of_manifest(reader, place)
    return kind, reader.text((*place, "metadata", "name"), *_NAMES) or ANYTHING


def _named(reader: Reader, action: str) -> tuple[kinds.Kind | Called | Unknown, Fact]:
    """Of the object that the step names, or of those that it selects."""
    name: Fact | None = reader.text(*_NAMES)
    word = reader.text(("resource_type",))
    if isinstance(name, str) and "/" in name:
        first, _, name = name.partition("/")
        word = word or first
    if name is None or reader.at("selector") is not None:
        name = ANYTHING
    return _known(word or _UNNAMED.get(action, "")), name


def _of_manifest(reader: Reader, place: Path) -> kinds.Kind | Called | Unknown:
    word = reader.text((*place, "kind"))
    version = reader.text((*place, "apiVersion"))
    if isinstance(word, Unknown) or isinstance(version, Unknown):
        return UNKNOWN
    if word is None:
        return _known(reader.text(("resource_type",)) or "")
    if version is None:
        return _known(word)
    group = version.rpartition("/")[0]
    return kinds.of_manifest(version, word) or _known(f"{word}.{group}" if group else word)


def _known(word: str | Unknown) -> kinds.Kind | Called | Unknown:
    if isinstance(word, Unknown):
        return word
    return kinds.built_in(word) or Called(word.lower())


def _namespace(reader: Reader, kind: kinds.Kind | Called | Unknown, manifest: Path) -> Fact:
    if isinstance(kind, Unknown):
        return kind
    if isinstance(kind, Called):
        return ANYTHING
    if not kind.namespaced:
        return ""
    own: list[Path] = [(*manifest, "metadata", "namespace")] if manifest else []
    return reader.text(*own, ("namespace",)) or ANYTHING
