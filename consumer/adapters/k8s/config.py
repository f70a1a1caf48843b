"""The `config` of a k8s step: one model per action, and the targets that the command's parameters give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AliasChoices, BeforeValidator, Field, JsonValue, RootModel

from consumer.adapters.k8s import configs_jobs, configs_metrics, configs_nodes, kinds
from consumer.adapters.k8s.configs_base import (
    ActionConfig,
    Manifest,
    Name,
    SelectingConfig,
    Text,
    field_path,
    no_text,
)
from consumer.adapters.k8s.configs_changes import ApplyConfig, ChangingConfig, KeepingConfig
from consumer.adapters.k8s.configs_jobs import JobConfig
from consumer.adapters.k8s.configs_metrics import MetricsConfig
from consumer.adapters.k8s.configs_nodes import CordonConfig, DrainConfig, UncordonConfig
from consumer.ports import JsonObject, Scope
from schemas.failure import Problem
from schemas.scalars import Duration


class LogsConfig(SelectingConfig):
    """The pods' log lines, streamed to the log topic."""

    action: Literal["logs"]
    lines: int = Field(default=100, ge=1, le=100_000)
    """The newest lines of each container."""
    previous: bool = False
    """Of the container's run before the present one: what it said before it crashed."""
    container: Name | None = None
    """Else all containers of each pod, the init containers first."""
    since: Duration | None = None
    """Only lines younger than this."""
    follow: bool = False
    """Go on with new lines until the containers end, or for `duration`; the step's timeout is a failure."""
    duration: Duration | None = None
    """How long to follow; the step ends well then."""


class EventsConfig(SelectingConfig):
    """The events of the resource or kind, oldest first."""

    action: Literal["events"]
    limit: int = Field(default=50, ge=1, le=1000)
    """The newest so many."""


class GetConfig(SelectingConfig):
    """The object, the list, or one field."""

    action: Literal["get"]
    field: Annotated[str, BeforeValidator(field_path)] | None = None
    """JSONPath or dotted: `spec.replicas`, `{.status.phase}`, `metadata.annotations['a.b/c']`."""


class RestartConfig(ChangingConfig, SelectingConfig):
    """Rolling restart, as `kubectl rollout restart` does it; pods are deleted, for their controller to replace."""

    action: Literal["restart"]
    grace_period: Duration | None = None
    """For pods: the time they get to end. A rolling restart uses the pods' own terminationGracePeriodSeconds."""


class ScaleConfig(ChangingConfig, SelectingConfig):
    """Replicas through the scale subresource. Give `replicas` or `scale_factor`."""

    action: Literal["scale"]
    replicas: Annotated[int, Field(ge=0)] | Literal["original"] | None = None
    """A number, or `original`: what it was before this execution first scaled it."""
    scale_factor: float | None = Field(default=None, gt=0, le=1000)
    """Times the present number, rounded up; a change of that number meanwhile is an error, not a wrong product."""
    current_replicas: int | None = Field(default=None, ge=0)
    """Scale only where the present number is this one, as `kubectl scale --current-replicas`."""
    max_replicas: int | None = Field(default=None, ge=0)
    """The result of `scale_factor` is not above."""
    min_replicas: int | None = Field(default=None, ge=0)
    """The result of `scale_factor` is not below."""


class WaitConfig(SelectingConfig):
    """Until a condition holds for the object, or for all that the selector finds."""

    action: Literal["wait"]
    condition: str | None = Field(default=None, min_length=1, max_length=1000)
    """ready, available, complete, created, deleted, rollout, `jsonpath={.status.phase}=Running`, or any condition.

    Else complete for a job and ready for all others.
    """
    timeout: Duration | None = None
    """Else the step's."""


class RollbackConfig(ChangingConfig, SelectingConfig):
    """As `kubectl rollout undo` does it."""

    action: Literal["rollback"]
    revision: Annotated[int, Field(ge=0)] | Literal["previous"] = "previous"
    """`previous` (or 0): the one before the newest."""


class CreateConfig(ChangingConfig):
    """Creates an object. One that this step has created before (a repeated attempt) is left as it is."""

    action: Literal["create"]
    manifest: Manifest
    """The whole object. `generateName` gets a suffix that is the same for every attempt of the step."""


class DeleteConfig(KeepingConfig, SelectingConfig):
    """Deletes objects, and waits until they are gone."""

    action: Literal["delete"]
    grace_period: Duration | None = None
    """The time that pods get to end; else their own."""
    propagation: Literal["background", "foreground", "orphan"] = "background"
    """What becomes of what the object owns."""
    ignore_not_found: bool = False
    """True: nothing to delete is a success."""
    wait: bool = True
    """False: don't wait until the objects are gone."""


class PatchConfig(KeepingConfig, SelectingConfig):
    """As `kubectl patch` does it. Fields that the kind does not have are refused."""

    action: Literal["patch"]
    data: Annotated[dict[str, JsonValue] | list[dict[str, JsonValue]], BeforeValidator(no_text)] = Field(
        validation_alias=AliasChoices("data", "manifest", "patch")
    )
    """The patch. For a secret or a configmap also just its `data`: `{password: cGFzcw==}`."""
    patch_type: Literal["strategic", "merge", "json"] | None = None
    """Else json for a list, strategic for built-in kinds, merge for others."""


class AnnotateConfig(ChangingConfig, SelectingConfig):
    """Sets annotations; null removes one."""

    action: Literal["annotate"]
    annotation: str | None = Field(default=None, min_length=1)
    value: Text | None = None
    """The value; `increment` adds one to a number (none counts as 0)."""
    annotations: dict[str, Text | None] = Field(default_factory=dict)
    """Several at once."""
    overwrite: bool = True
    """False: an annotation that has another value already is an error."""


class LabelConfig(ChangingConfig, SelectingConfig):
    """Sets labels; null removes one."""

    action: Literal["label"]
    label: str | None = Field(default=None, min_length=1)
    value: Text | None = None
    labels: dict[str, Text | None] = Field(default_factory=dict)
    """Several at once."""
    overwrite: bool = True
    """False: a label that has another value already is an error."""


AnyConfig = (
    LogsConfig
    | EventsConfig
    | GetConfig
    | RestartConfig
    | ScaleConfig
    | WaitConfig
    | RollbackConfig
    | CreateConfig
    | DeleteConfig
    | PatchConfig
    | AnnotateConfig
    | LabelConfig
    | CordonConfig
    | UncordonConfig
    | DrainConfig
    | JobConfig
    | MetricsConfig
    | ApplyConfig
)


class K8sConfig(RootModel[Annotated[AnyConfig, Field(discriminator="action")]]):
    """The `config` of a k8s step."""


MODELS: dict[str, type[ActionConfig]] = {
    "logs": LogsConfig,
    "events": EventsConfig,
    "get": GetConfig,
    "restart": RestartConfig,
    "scale": ScaleConfig,
    "wait": WaitConfig,
    "rollback": RollbackConfig,
    "create": CreateConfig,
    "delete": DeleteConfig,
    "patch": PatchConfig,
    "annotate": AnnotateConfig,
    "label": LabelConfig,
    "cordon": CordonConfig,
    "uncordon": UncordonConfig,
    "drain": DrainConfig,
    "job": JobConfig,
    "metrics": MetricsConfig,
    "apply": ApplyConfig,
}
#: Actions whose manifest says what they work on.
_BY_MANIFEST = ("create", "apply", "job")
_NAMES = ("name", "resource_name", "resource")
#: Parameters that name a kind and an object at once, in the order in which an action looks for them.
_KIND_PARAMETERS = {
    "logs": ("pod", "deployment", "job"),
    "restart": ("deployment", "pod"),
    "scale": ("deployment",),
    "rollback": ("deployment",),
    "wait": ("deployment", "job", "pod"),
    **dict.fromkeys(configs_nodes.ACTIONS, ("node",)),
    "metrics": ("pod", "deployment", "job", "node"),
}
#: What an action works on where nothing says it.
DEFAULT_KINDS = {
    **dict.fromkeys(("restart", "scale", "rollback", "wait"), "deployment"),
    **dict.fromkeys(configs_nodes.ACTIONS, "node"),
    "metrics": "pod",
}


def complete(config: JsonObject, scope: Scope) -> JsonObject:
    """The config with the targets that the command's parameters give, as placeholders: their values stay data."""
    done = dict(config)
    action = str(config.get("action"))

    def has(name: str) -> bool:
        try:
            value = scope.lookup(f"parameters.{name}")
        except KeyError:
            return False
        return value is not None and value != ""

    if done.get("namespace") is None and has("namespace") and not _is_placed(config):
        done["namespace"] = "${parameters.namespace}"
    if action in _BY_MANIFEST or any(done.get(key) is not None for key in (*_NAMES, "selector", "query")):
        return done
    kind = done.get("resource_type")
    known = kinds.built_in(kind) if isinstance(kind, str) else None
    wanted = _KIND_PARAMETERS.get(action, ("deployment", "pod", "job"))
    for word in wanted if kind is None else [known.singular] if known else []:
        if word in ("deployment", "pod", "job", "node") and has(word):
            return {**done, "resource_type": word, "name": f"${{parameters.{word}}}"}
    for word in ("name", "resource_name"):
        if has(word):
            return {**done, "name": f"${{parameters.{word}}}"}
    if has("selector") and issubclass(MODELS[action], SelectingConfig):
        done["selector"] = "${parameters.selector}"
    return done


def _is_placed(config: JsonObject) -> bool:
    """Whether a manifest says its namespace itself."""
    manifest = config.get("manifest")
    each = manifest if isinstance(manifest, list) else [manifest]
    metadata = [one.get("metadata") if isinstance(one, dict) else None for one in each]
    return all(isinstance(one, dict) and one.get("namespace") is not None for one in metadata)


def wrong_action(config: JsonObject) -> Problem | None:
    """What is wrong with `action`; None if it is one of ours."""
    action = config.get("action")
    if isinstance(action, str) and action in MODELS:
        return None
    supported = ", ".join(MODELS)
    if action is None:
        return Problem(path="action", message=f"is missing; supported: {supported}")
    return Problem(path="action", message=f'"{str(action)[:80]}" is no action of k8s; supported: {supported}')


def conflicts(config: JsonObject) -> list[Problem]:
    """What is wrong between the fields of a completed config; each of them is checked by its model."""
    action = str(config["action"])
    given = {key for key, value in config.items() if value is not None}
    problems: list[Problem] = []
    names = [key for key in _NAMES if key in given]
    if len(names) > 1:
        problems.append(Problem(path=names[1], message=f"is the same as {names[0]}; give one of them"))
    if names and "selector" in given:
        problems.append(Problem(path="selector", message="give a name or a selector, not both"))
    if action not in (*_BY_MANIFEST, "events", "get", "metrics") and not names and "selector" not in given:
        alternatives = "name or a selector" if issubclass(MODELS[action], SelectingConfig) else "name"
        problems.append(
            Problem(path="name", message=f"no target; give a {alternatives}, here or as a parameter of that name")
        )
    untyped = "resource_type" not in given and not any("/" in str(config[key]) for key in names)
    if untyped and action not in (*DEFAULT_KINDS, *_BY_MANIFEST, "logs", "events"):
        problems.append(
            Problem(path="resource_type", message="is missing; name the kind: deployment, pod, job, secret, …")
        )
    own = _OWN_CONFLICTS.get(action)
    return problems + (own(given, config) if own is not None else [])


def _of_logs(given: set[str], config: JsonObject) -> list[Problem]:
    if "duration" in given and config.get("follow") in (None, False):
        return [Problem(path="duration", message="is how long to follow; give follow: true too, or since for the past")]
    return []


def _of_scale(given: set[str], config: JsonObject) -> list[Problem]:
    if len(given & {"replicas", "scale_factor"}) != 1:
        return [Problem(path="replicas", message="give replicas or scale_factor, one of them")]
    return []


def _of_marks(given: set[str], config: JsonObject) -> list[Problem]:
    annotates = config["action"] == "annotate"
    one, many = ("annotation", "annotations") if annotates else ("label", "labels")
    if not given & {one, many}:
        return [Problem(path=one, message=f"is missing; give {one} and value, or {many}")]
    if one in given and "value" not in config:
        return [Problem(path="value", message=f"is missing; write null to remove the {one}")]
    if "value" in given and one not in given:
        return [Problem(path=one, message="is missing; value alone says nothing")]
    values = config.get(many)
    counted = [config.get("value"), *(values.values() if isinstance(values, dict) else [])]
    if annotates and "selector" in given and "increment" in counted:
        return [Problem(path="selector", message="increment counts on one object; give its name")]
    return []


#: What can be wrong between an action's own fields.
_OWN_CONFLICTS: dict[str, Callable[[set[str], JsonObject], list[Problem]]] = {
    "logs": _of_logs,
    "scale": _of_scale,
    "annotate": _of_marks,
    "label": _of_marks,
    "job": configs_jobs.conflicts,
    "metrics": configs_metrics.conflicts,
    **dict.fromkeys(configs_nodes.ACTIONS, configs_nodes.conflicts),
}
