"""Reads the settings from the environment and a file, and says all that is wrong with them at once."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

import yaml
from dotenv.parser import parse_stream
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from consumer.errors import SettingsError
from consumer.settings.model import Settings, is_secret, secret_files, variables


def load(config: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The settings from the environment and, with less weight, a file.

    A file that ends in .yaml, .yml or .json is YAML, every other a list of NAME=value lines. What is secret may lie in
    a file of its own, which the setting's name and `_FILE` names. Raises SettingsError that tells of all that is wrong
    at once, where those files can be read.
    """
    environ = os.environ if environ is None else environ
    known = variables()
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    if config is not None:
        for name, value in _read(config).items():
            values[name], origins[name] = value, config.name
        _refuse_unknown(values, known, config)
    for name in (*known, *secret_files()):
        if environ.get(name):
            values[name], origins[name] = environ[name], "environment"
    values = {name: value for name, value in values.items() if value not in ("", None)}
    _read_secrets(values, origins)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = [_sentence(details, origins) for details in error.errors(include_url=False)]
        raise SettingsError("\n".join(dict.fromkeys(lines))) from None  # the cause would show a password


def unknown_variables(settings: Settings, environ: Mapping[str, str] | None = None) -> list[str]:
    """One warning for each variable WPK_… that means nothing: it is most likely misspelt."""
    environ = os.environ if environ is None else environ
    known = variables()
    return [
        f"the environment variable {name} is unknown and has no effect{_did_you_mean(name, known)}"
        for name in sorted(environ)
        if name.startswith("WPK_")
        and name not in known
        and name not in secret_files()
        and not name.startswith(settings.secrets_env_prefix)
    ]


def _read_secrets(values: dict[str, object], origins: dict[str, str]) -> None:
    """Puts what the files of `…_FILE` hold in their place. A line's end after the secret does not belong to it."""
    for variable, name in secret_files().items():
        if variable not in values:
            continue
        path = Path(str(values.pop(variable)))
        if name in values:
            raise SettingsError(
                f"{variable} ({origins[variable]}) and {name} ({origins[name]}) are both set: keep one of them"
            )
        try:
            secret = path.read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text, or no path"
            raise SettingsError(f"{variable} ({origins[variable]}): {path} can't be read: {reason}") from None
        if not secret:
            raise SettingsError(f"{variable} ({origins[variable]}): {path} is empty")
        values[name], origins[name] = secret, str(path)


def _read(path: Path) -> dict[str, object]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise SettingsError(f"the configuration file {path} can't be read: {reason}") from error
    if path.suffix in (".yaml", ".yml", ".json"):
        return _read_yaml(path, text)
    values: dict[str, object] = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key is not None and binding.value is None):
            raise SettingsError(f"the configuration file {path}, line {binding.original.line}, is not NAME=value")
        if binding.key is not None:
            values[binding.key] = binding.value
    return values


def _read_yaml(path: Path, text: str) -> dict[str, object]:
    try:
        document = yaml.safe_load(text)
    except Exception as error:  # what is almost YAML also raises whatever the parts of PyYAML meet
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        raise SettingsError(f"the configuration file {path} is no YAML{where}") from None  # it may quote a password
    if document is not None and not isinstance(document, dict):
        raise SettingsError(f"the configuration file {path} must hold NAME: value pairs")
    return {str(name): value for name, value in (document or {}).items()}


def _refuse_unknown(names: Mapping[str, object], known: Mapping[str, str], path: Path) -> None:
    lines = []
    for name in names:
        if name.startswith("WPK_SECRET_"):
            lines.append(f"{name} in {path}: secrets come from the environment or from files in WPK_SECRETS_DIR only")
        elif name not in known and name not in secret_files():
            lines.append(f"{name} in {path} is no setting{_did_you_mean(name, known)}")
    if lines:
        raise SettingsError("\n".join(lines))


def _did_you_mean(name: str, known: Mapping[str, str]) -> str:
    asked = name.upper()
    near = get_close_matches(asked, known, 1, 0.75) or get_close_matches(f"WPK_{asked}", known, 1, 0.75)
    return f"; did you mean {near[0]}?" if near else "; `wpk agent --help` lists them all"


def _sentence(details: ErrorDetails, origins: Mapping[str, str]) -> str:
    """The setting, its value (unless it is secret), where that came from, and what to write instead."""
    if not details["loc"]:
        return _remedy(details)
    name = str(details["loc"][0])
    remedy, value = _remedy(details), str(details["input"])
    secret = is_secret(name)
    shown = "***" if secret else re.sub(r"//[^/@]*@", "//***@", value)[:200]
    said = "" if not secret and value in remedy else f' is "{shown}"'
    return f"{name}{said} ({origins.get(name, 'default')}): {remedy}"


_REMEDIES = {
    "value_error": "{error}",
    "literal_error": "write {expected}",
    "bool_parsing": "write true or false",
    "int_parsing": "write a whole number",
    "int_type": "write a whole number",
    "int_from_float": "write a whole number",
    "greater_than": "write more than {gt}",
    "greater_than_equal": "write at least {ge}",
    "less_than_equal": "write at most {le}",
    "string_type": "write a text; in YAML, put it in quotes",
}


def _remedy(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    kind = details["type"]
    return _REMEDIES[kind].format(**context) if kind in _REMEDIES else details["msg"]
