"""What a k8s step touches, for the policy: `action`, `kind`, `namespace`, `name`, and whether it `changes` anything."""

from __future__ import annotations

from consumer.adapters.k8s import config as configs
from consumer.adapters.k8s import kinds
from consumer.ports import JsonObject, Scope
from consumer.workflow.facts import ANYTHING, Called, Fact, Facts, Reader
from consumer.workflow.scope import UNKNOWN, Unknown

#: Actions that change nothing in the cluster.
READS = frozenset({"logs", "events", "get", "metrics", "wait"})
_NAMES = (("name",), ("resource_name",), ("resource",))
#: What an action looks at where the step names no kind.
_UNNAMED = {**configs.DEFAULT_KINDS, "logs": "pod", "events": "event", "job": "job"}


def of(config: JsonObject, scope: Scope) -> Facts:
    """The facts of one step.

    A kind's namespace is certain only where the agent itself knows that the kind lives in one: `namespace: shop` at a
    cluster-wide kind means nothing. A step without a namespace works in the connection's, which is not known here.
    """
    full = configs.complete(config, scope)
    action = str(full.get("action"))
    reader = Reader(full, scope)
    if action == "metrics" and reader.at("query") is not None:  # of the Prometheus server, and so of all namespaces
        return {"action": action, "changes": False, "kind": "prometheus", "namespace": "", "name": ANYTHING}
    if action == "apply" and not isinstance(reader.at("manifest"), dict):
        return _of_several(full, scope)
    kind, name = _kind_and_name(reader, action)
    word: Fact = kind.singular if isinstance(kind, kinds.Kind) else kind
    return {
        "action": action,
        "changes": action not in READS,
        "kind": word,
        "namespace": _namespace(reader, kind),
        "name": name,
    }


def _of_several(config: JsonObject, scope: Scope) -> Facts:
    """The facts that all of a list of manifests have in common; what differs may be anything."""
    manifests = config.get("manifest")
    whole: Facts = {"action": "apply", "changes": True, "kind": ANYTHING, "namespace": ANYTHING, "name": ANYTHING}
    if not isinstance(manifests, list) or not all(isinstance(each, dict) for each in manifests):
        return whole
    found = [of({**config, "manifest": each}, scope) for each in manifests]
    return {fact: found[0][fact] if len({each[fact] for each in found}) == 1 else ANYTHING for fact in whole}


def _kind_and_name(reader: Reader, action: str) -> tuple[kinds.Kind | Called | Unknown, Fact]:
    name: Fact | None = reader.text(*_NAMES)
    if action in ("create", "apply", "job"):
        named = reader.text(("manifest", "metadata", "name")) or name
        kind = kinds.JOB if action == "job" else _of_manifest(reader)
        return kind, named if named else ANYTHING
    word = reader.text(("resource_type",))
    if isinstance(name, str) and "/" in name:
        first, _, name = name.partition("/")
        word = word or first
    if name is None or reader.at("selector") is not None:
        name = ANYTHING
    return _known(word or _UNNAMED.get(action, "")), name


def _of_manifest(reader: Reader) -> kinds.Kind | Called | Unknown:
    word = reader.text(("manifest", "kind"))
    version = reader.text(("manifest", "apiVersion"))
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


def _namespace(reader: Reader, kind: kinds.Kind | Called | Unknown) -> Fact:
    if isinstance(kind, Unknown):
        return kind
    if isinstance(kind, Called):
        return ANYTHING
    if not kind.namespaced:
        return ""
    return reader.text(("manifest", "metadata", "namespace"), ("namespace",)) or ANYTHING
