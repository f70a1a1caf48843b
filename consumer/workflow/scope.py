"""Where placeholders get their values: what may be named, and what each name means at a given moment."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Protocol

from pydantic import JsonValue


class Unknown(enum.Enum):
    """The value of a placeholder that can't be known yet (a step's output during validation)."""

    VALUE = enum.auto()


UNKNOWN = Unknown.VALUE


class Scope(Protocol):
    """Where placeholders get their values."""

    @property
    def parameters(self) -> Mapping[str, JsonValue]:
        """The command's parameters with the package's defaults applied; also the k8s adapter's default targets."""
        ...

    def lookup(self, expression: str) -> JsonValue | Unknown:
        """The value of `${expression}`; UNKNOWN where only a later moment tells.

        Raises KeyError with a message for the user where there is no such value.
        """
        ...
