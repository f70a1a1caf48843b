"""`wpk completion`: a script by which bash, zsh or fish completes verbs and options.

It holds them all, so that a completion starts no process; make it anew after an upgrade. What is no verb and no option
is completed as a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer

from consumer.cli import execute
from consumer.cli.execute import CliError
from consumer.cli.options import CompletionOptions
from consumer.cli.output import Output

_ZSH = "autoload -Uz compinit && compinit\nautoload -Uz bashcompinit && bashcompinit\n"


@dataclass(frozen=True, slots=True)
class Place:
    """What can follow some verbs."""

    path: str
    """The verbs before, like `audit verify`; empty: none."""
    about: str
    verbs: tuple[str, ...]
    """Those that can come next."""
    options: tuple[tuple[str, str], ...]
    """Each with its help."""


def completion(options: CompletionOptions) -> int:
    """Print the script of that shell. Raises CliError."""
    from consumer.cli.main import application  # noqa: PLC0415 - it is what imports this module

    places = tuple(_places("", typer.main.get_command(application())))
    match options.shell:
        case "bash":
            text = _bash(places)
        case "zsh":
            text = _ZSH + _bash(places)
        case "fish":
            text = _fish(places)
        case shell:
            raise CliError(f'no completion for "{shell}"; there are bash, zsh and fish')
    Output().raw(text.rstrip("\n").encode())
    return execute.OK


def _places(path: str, command: Any) -> Iterator[Place]:
    verbs: dict[str, Any] = getattr(command, "commands", {})
    found = tuple(
        (name, (parameter.help or "").split(". ")[0])
        for parameter in command.params
        if parameter.param_type_name == "option"
        for name in parameter.opts
    )
    yield Place(path, command.help or "", tuple(verbs), (*found, ("--help", "Show the help.")))
    for name, below in verbs.items():
        yield from _places(f"{path} {name}".strip(), below)


def _case(place: Place) -> str:
    options = " ".join(name for name, _ in place.options)
    return f'    "{place.path}") verbs="{" ".join(place.verbs)}" options="{options}" ;;'


def _bash(places: tuple[Place, ...]) -> str:
    paths = "|".join(f'"{place.path}"' for place in places if place.path)
    words = "\n".join(map(_case, places))
    return f"""\
_wpk() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} path= word verbs= options=
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "${{path:+$path }}$word" in
      {paths}) path="${{path:+$path }}$word" ;;
    esac
  done
  case "$path" in
{words}
  esac
  if [[ $current == -* ]]; then verbs=$options; fi
  COMPREPLY=($(compgen -W "$verbs" -- "$current"))
}}
complete -o default -F _wpk wpk
"""


def _fish(places: tuple[Place, ...]) -> str:
    about = {place.path: place.about for place in places}
    lines = []
    for place in places:
        seen = "".join(f"; and __fish_seen_subcommand_from {verb}" for verb in place.path.split())
        unseen = f"; and not __fish_seen_subcommand_from {' '.join(place.verbs)}" if place.verbs else ""
        when = f"true{seen}{unseen}"
        for verb in place.verbs:
            told = _quoted(about[f"{place.path} {verb}".strip()])
            lines.append(f"complete -c wpk -f -n '{when}' -a {verb} -d {told}")
        for name, told in place.options:
            kind = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
            lines.append(f"complete -c wpk -n '{when}' {kind} -d {_quoted(told)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """For fish, which knows only these two escapes in single quotes."""
    return "'" + " ".join(text.split()).replace("\\", "\\\\").replace("'", "\\'") + "'"
