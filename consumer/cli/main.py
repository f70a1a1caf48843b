"""The command `wpk`: all its verbs."""

from __future__ import annotations

import importlib
import sys
from typing import Annotated

import typer

from consumer.cli import options
from consumer.cli.verbs import verb

_HELP = """Run workflow packages (WPK) from Kafka commands, durably, and see what happens.

Exit codes: 0 done and succeeded, 1 the execution ended otherwise, 2 wrong usage, settings, rights or package, 3 Kafka
can't be reached, 4 timed out waiting."""

_VERBS: tuple[tuple[str, type[options.Options], str, str], ...] = (
    ("submit", options.SubmitOptions, "run:submit", "Publish an execute command; --watch looks on."),
    ("plan", options.PackageOptions, "run:plan", "Show what a package would do, as a difference."),
    ("rollback", options.RollbackOptions, "steer:rollback", "Undo an execution that has ended (--force: or runs)."),
    ("approve", options.ApproveOptions, "steer:approve", "Let an execution that waits for approval run."),
    ("reject", options.SteerOptions, "steer:reject", "Refuse an execution that waits for approval."),
    ("cancel", options.SteerOptions, "steer:cancel", "Stop an execution; its package's rollback applies."),
    ("status", options.StatusOptions, "look:status", "Show how an execution stands; without an ID, all that live."),
    ("logs", options.LogsOptions, "look:logs", "Print the output of an execution's steps; -f follows."),
    ("list", options.ListOptions, "look:executions", "List executions, the newest first."),
    ("explain", options.ExplainOptions, "pages:explain", "Say what an execution did, what failed, what to do next."),
    ("validate", options.ValidateOptions, "offline:validate", "Check packages offline: every error, line and remedy."),
    (
        "publish",
        options.PublishOptions,
        "published:publish",
        "Put a package into the registry.",
    ),
    ("packages", options.PackagesOptions, "published:listed", "List the registry's packages, or print one."),
    ("schema", options.SchemaOptions, "describing:schema", "Write the JSON Schemas and the AsyncAPI document."),
    ("canonicalize", options.CanonicalizeOptions, "signing:canonicalize", "Print the bytes of a package to be signed."),
    ("sign", options.SignOptions, "signing:sign", "Sign a package, or attach a signature that cosign made."),
    ("verify", options.VerifyOptions, "signing:verify", "Say whose signature a package has."),
    ("dev", options.DevOptions, "trying:dev", "Run a broker, topics and an agent in one."),
    ("demo", options.Options, "trying:demo", "Run two examples on an embedded broker and show them."),
)
_AUDIT: tuple[tuple[str, type[options.Options], str, str], ...] = (
    ("verify", options.AuditVerifyOptions, "audit:verify", "Verify the hash chains; name the first broken record."),
    (
        "checkpoint",
        options.CheckpointOptions,
        "checkpoints:checkpoint",
        "Sign what the trail is now, to compare later.",
    ),
    ("export", options.ExportOptions, "exporting:export", "Write the trail as JSON Lines, CSV or Parquet."),
    ("timeline", options.TimelineOptions, "pages:timeline", "Draw an execution over time, as text, SVG or PNG."),
    ("replay", options.ReplayOptions, "audit:replay", "Tell what happened; --executions: who did what where, and why."),
)


def application() -> typer.Typer:
    """The command line, ready to be called."""
    app = _typer("wpk", _HELP)
    app.callback()(_root)
    for name, kind, target, text in _VERBS:
        verb(app, name, kind, target, text)
    group = _typer("topics", "Create the topics, or say what is wrong with those there.")
    verb(group, "create", options.CreateOptions, "topics:create", "Create the topics that are missing.")
    verb(group, "check", options.ReadingOptions, "topics:check", "Say what is wrong with the topics.")
    app.add_typer(group)
    group = _typer("policy", "Try a policy out.")
    verb(
        group,
        "check",
        options.PolicyCheckOptions,
        "judging:check",
        "Say what a policy allows a package to do, and why.",
    )
    app.add_typer(group)
    dead = _typer("dead-letter", "Records that no agent could understand: look at them, send one again.")
    verb(dead, "list", options.LettersOptions, "letters:listed", "List them: what came, from where, and why not.")
    verb(dead, "show", options.LetterOptions, "letters:show", "Show one, whatever its bytes are.")
    verb(dead, "redrive", options.RedriveOptions, "letters:redrive", "Send one again, as it is or corrected; once.")
    app.add_typer(dead)
    audit = _typer("audit", "Read, verify and export the trail, from the topics alone.")
    for name, kind, target, text in _AUDIT:
        verb(audit, name, kind, target, text)
    app.add_typer(audit)
    text = "Print the completions for bash, zsh or fish."
    verb(app, "completion", options.CompletionOptions, "completing:completion", text)
    text = "Run the agent (what the container runs)."
    verb(app, "agent", options.Options, "serve:agent", text, epilog=_settings())
    return app


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"wpk {importlib.import_module('importlib.metadata').version('wpk-agent')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Takes what stands before a verb."""


def _typer(name: str, text: str) -> typer.Typer:
    return typer.Typer(
        name=name,
        help=text,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def _settings() -> str:
    """The reference of the settings, which only the agent's help shows: making it costs an import."""
    if sys.argv[1:2] != ["agent"] or not {"-h", "--help"} & set(sys.argv):
        return ""
    text: str = importlib.import_module("consumer.cli.serve").settings_reference()
    return text


def main() -> None:
    """The console script."""
    application()()
