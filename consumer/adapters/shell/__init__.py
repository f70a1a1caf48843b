"""The shell adapter: runs a command in a sandbox, with values that are data and never code."""

from __future__ import annotations

from consumer.adapters.shell.adapter import ShellAdapter, mode_of
from consumer.errors import SettingsError
from consumer.ports import Adapter


def build(settings: object) -> Adapter:
    """The adapter, from `settings.sandbox` (a mode) and `settings.shell_env` (names that are passed through).

    Raises SettingsError where the mode is none.
    """
    try:
        mode = mode_of(str(getattr(settings, "sandbox", "required")))
    except ValueError as error:
        raise SettingsError(f"WPK_SANDBOX: {error}") from error
    return ShellAdapter(mode=mode, environment=tuple(getattr(settings, "shell_env", ())))
