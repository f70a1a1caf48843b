"""Which steps deal with what nobody may read: values of Secrets, and of the agent's own secrets. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from consumer.adapters.k8s import config as configs
from consumer.adapters.k8s import kinds, preflight
from consumer.ports import JsonObject, Scope
from consumer.workflow import values
from consumer.workflow.scope import may_be_secret

#: Fields of a config whose values a change puts into objects.
_VALUES = ("manifest", "data", "patch", "value", "annotations", "labels")
#: Actions whose undo records hold values of their config, and those that hold values of the object too.
_KEEPING = ("apply", "patch", "annotate", "label")
_SEALING = (*_KEEPING, "delete")


def holds_secret(config: JsonObject, scope: Scope) -> bool:
    """Whether a secret of the agent's is put into an object; an upper-case name is a parameter's where there is one."""
    found = values.expressions({name: config[name] for name in _VALUES if name in config})
    return any(
        may_be_secret(expression) and (expression.startswith("secrets.") or expression not in scope.parameters)
        for _, expression in found
    )


def seals(config: JsonObject, scope: Scope) -> Literal["no", "perhaps", "yes"]:
    """Whether the step will keep old values that must be sealed; an apply only where the object is there already."""
    if config.get("action") not in _SEALING or config.get("undo") is False:
        return "no"
    private = config["action"] in _KEEPING and holds_secret(configs.complete(config, scope), scope)
    if not private and not _of_secrets(preflight.read(config, scope)):
        return "no"
    return "perhaps" if config["action"] == "apply" else "yes"


def _of_secrets(found: Sequence[preflight.Wanted]) -> bool:
    return any(preflight.built_in(wanted) == kinds.SECRET for wanted in found)
