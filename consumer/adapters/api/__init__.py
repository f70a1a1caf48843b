"""Steps of type `api`: one HTTP request each, over guarded connections. Only this package talks HTTP for steps."""

from __future__ import annotations

from consumer.adapters.api.adapter import ApiAdapter
from consumer.ports import Adapter

__all__ = ["ApiAdapter", "build"]


def build(settings: object) -> Adapter:
    """The adapter under the agent's settings; of them it reads `http_allow`. Raises SettingsError."""
    return ApiAdapter(allow=tuple(getattr(settings, "http_allow", ())))
