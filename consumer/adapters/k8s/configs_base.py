"""What the configs of all k8s actions are made of: the base models, and the types of their fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

from consumer.adapters.k8s import fields


def _selector(value: object) -> object:
    """Labels may be written as an object too: `{app: web}` is `app=web`."""
    if isinstance(value, dict):
        return ",".join(f"{key}={wanted}" for key, wanted in value.items())
    return value


def _text(value: object) -> object:
    """Numbers and booleans as the texts that labels and annotations are."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _named(value: str) -> str:
    """What no part of a URL's path can hold, no object is called; `kind/name` is taken apart later."""
    if any(character.isspace() or character in "?#%" for character in value):
        raise ValueError(f'"{value[:80]}" is no name of an object')
    return value


def no_text(value: object) -> object:
    if isinstance(value, str):
        raise ValueError("is a text; write it as an object (YAML in YAML), so that values in it stay data")  # noqa: TRY004
    return value


def field_path(value: str) -> str:
    fields.parse(value)
    return value


Selector = Annotated[str, BeforeValidator(_selector), Field(min_length=1)]
Text = Annotated[str, BeforeValidator(_text)]
Name = Annotated[str, Field(min_length=1, max_length=253), AfterValidator(_named)]
Manifest = Annotated[dict[str, JsonValue], BeforeValidator(no_text)]


class ActionConfig(BaseModel):
    """Base of all actions: what they work on."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_by_name=True)

    resource_type: str | None = Field(default=None, min_length=1, max_length=253)
    """deployment, statefulset, daemonset, pod, job, secret, configmap, node, or any kind the cluster serves."""
    name: Name | None = Field(default=None, validation_alias=AliasChoices("name", "resource_name", "resource"))
    """The object's name, also as `deployment/api`; else the parameter of the same name."""
    namespace: Name | None = None
    """Else the parameter `namespace`, else the kubeconfig context's, else `default`."""


class SelectingConfig(ActionConfig):
    """An action that may work on several objects."""

    selector: Selector | None = None
    """A label selector, `app=web,tier!=test`, instead of a name."""
