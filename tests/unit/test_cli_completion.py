"""`wpk completion`: what a real bash makes of its script, and that all verbs and options are in each of them."""

from __future__ import annotations

import subprocess

import pytest
import typer

from consumer.cli.completing import completion
from consumer.cli.execute import CliError
from consumer.cli.main import application
from consumer.cli.options import CompletionOptions

VERBS = set(typer.main.get_command(application()).commands)  # type: ignore[attr-defined]  # it is a group


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert completion(CompletionOptions(shell=shell)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (("",), VERBS),
        (("sub",), {"submit"}),
        (("audit", ""), {"verify", "checkpoint", "export", "timeline", "replay"}),
        (("audit", "verify", "--str"), {"--strict"}),
        (("submit", "--dry"), {"--dry-run", "--dry-run-id"}),
        (("submit", "--id", "list", "--stuck"), set()),
        (("status", "x", "--wat"), {"--watch"}),
        (("verify", "--str"), set()),
        (("submit", "run"), set()),
    ],
)
def test_bash_offers_what_can_come_next(
    typed: tuple[str, ...], offered: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = " ".join(f"'{word}'" for word in ("wpk", *typed))
    call = f'COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _wpk; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "-eu", "-c", script("bash", capsys) + call], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert set(done.stdout.split()) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_has_every_verb(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    assert [verb for verb in VERBS if f" -a {verb} " not in text and f'"{verb}"' not in text] == []


def test_another_shell_is_told_which_there_are() -> None:
    with pytest.raises(CliError, match='no completion for "tcsh"; there are bash, zsh and fish'):
        completion(CompletionOptions(shell="tcsh"))
