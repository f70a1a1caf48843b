"""The options of all verbs, with their help. Imports nothing heavy, so that `wpk --help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What every verb takes."""

    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Settings from a .env or YAML file; the environment wins."),
    ] = None
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the cause of an error.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingOptions(Options):
    """What verbs that read take."""

    json: Annotated[bool, typer.Option("--json", help="One JSON document per line, nothing else on stdout.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingOptions(ReadingOptions):
    """What verbs that may wait take."""

    timeout: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Wait no longer than this (30s, 5m), then exit with 4."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SendingOptions(WaitingOptions):
    """What verbs that publish commands take."""

    requested_by: Annotated[
        str | None, typer.Option(metavar="WHO", help="Who asks; default: the user of this machine.")
    ] = None
    sign_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Sign the command with this private key (PEM; its password is read from WPK_KEY_PASSWORD).",
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageOptions(SendingOptions):
    """What both verbs take."""

    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="The package, YAML or JSON; - reads stdin. Or the NAME-VERSION or sha256:… of one in the registry.",
        ),
    ]
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "-p", "--parameter", metavar="NAME=VALUE", help="A parameter; the value is JSON or a YAML scalar, or @FILE."
        ),
    ] = None
    id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="The execution's id; the same id never runs twice.")
    ] = None
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A label for the trail.")] = None
    no_check: Annotated[bool, typer.Option("--no-check", help="Send the file as it is, without checking it.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitOptions(PackageOptions):
    """Options of `wpk submit`."""

    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look on until it is over.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be done.")] = False
    dry_run_id: Annotated[
        str | None,
        typer.Option("--dry-run-id", metavar="ID", help="The dry run (wpk plan) of the same package and parameters."),
    ] = None
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Let the agent check it, and run nothing.")] = (
        False
    )
    run_timeout: Annotated[
        str | None, typer.Option(metavar="DURATION", help="The run may take this long; then it is cancelled.")
    ] = None
    deadline: Annotated[str | None, typer.Option(metavar="TIME", help="The same as a moment, in ISO 8601.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOptions(ReadingOptions):
    """Options of `wpk publish`."""

    file: Annotated[str, typer.Argument(metavar="FILE", help="The package, YAML or JSON; - reads stdin.")]
    published_by: Annotated[
        str | None, typer.Option(metavar="WHO", help="Who publishes it; default: the user of this machine.")
    ] = None
    no_check: Annotated[bool, typer.Option("--no-check", help="Publish it without checking it.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagesOptions(ReadingOptions):
    """Options of `wpk packages`."""

    reference: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Only this workflow; or a NAME-VERSION or sha256:… to print whole."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SteerOptions(SendingOptions):
    """What these verbs take."""

    execution_id: Annotated[str, typer.Argument(metavar="ID", help="The execution.")]
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; it is kept in the trail.")] = None
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look on until it is over.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ApproveOptions(SteerOptions):
    """Options of `wpk approve`."""

    digest: Annotated[
        str | None,
        typer.Option(
            metavar="SHA256", help="Of the plan that you approve: if it would do something else, it is refused."
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RollbackOptions(SteerOptions):
    """Options of `wpk rollback`."""

    force: Annotated[
        bool, typer.Option("--force", help="Also where it still runs (it is cancelled first), or a rollback failed.")
    ] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be undone.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusOptions(WaitingOptions):
    """Options of `wpk status`."""

    execution_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="The execution; without it: those that live.")
    ] = None
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look on until it is over.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LogsOptions(ReadingOptions):
    """Options of `wpk logs`."""

    execution_id: Annotated[str, typer.Argument(metavar="ID", help="The execution.")]
    step: Annotated[str | None, typer.Argument(metavar="[STEP]", help="Only this step.")] = None
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the execution is over.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ListOptions(ReadingOptions):
    """Options of `wpk list`."""

    status: Annotated[
        list[str] | None, typer.Option(metavar="STATUS", help="Only with this status; may be repeated.")
    ] = None
    since: Annotated[
        str | None, typer.Option(metavar="WHEN", help="Only those that changed since: 2h, 7d or an ISO 8601 time.")
    ] = None
    workflow: Annotated[str | None, typer.Option(metavar="NAME", help="Only of this workflow.")] = None
    stuck: Annotated[bool, typer.Option("--stuck", help="Only those that live and of which nothing is heard.")] = False
    stuck_after: Annotated[
        str, typer.Option(metavar="DURATION", help="With --stuck: nothing was heard for so long.")
    ] = "15m"
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest.")] = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditOptions(ReadingOptions):
    """What verbs take that read the whole trail."""

    since: Annotated[
        str | None, typer.Option("--from", metavar="WHEN", help="From that time on: 2h, 7d or an ISO 8601 time.")
    ] = None
    until: Annotated[str | None, typer.Option("--to", metavar="WHEN", help="To that time.")] = None
    execution_id: Annotated[str | None, typer.Option("--id", metavar="ID", help="Only this execution.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditVerifyOptions(AuditOptions):
    """Options of `wpk audit verify`."""

    strict: Annotated[
        bool,
        typer.Option("--strict", help="Records that are there twice or are void count as broken (exactly_once)."),
    ] = False
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Show that nothing before this checkpoint was changed since.")
    ] = None
    key: Annotated[
        Path | None, typer.Option("--key", metavar="FILE", help="Public key in PEM of who signed the checkpoint.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointOptions(ReadingOptions):
    """Options of `wpk audit checkpoint`."""

    key: Annotated[
        Path,
        typer.Option("--key", metavar="FILE", help="Private key in PEM; its password is read from WPK_KEY_PASSWORD."),
    ]
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where to write it.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectOptions(AuditOptions):
    """What verbs take that tell a part of the trail."""

    workflow: Annotated[str | None, typer.Option(metavar="NAME", help="Only of this workflow.")] = None
    requester: Annotated[
        str | None, typer.Option(metavar="WHO", help="Only what WHO asked for, approved, cancelled or undid.")
    ] = None
    target: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only what works on that: a namespace, payments/api, a host.")
    ] = None
    status: Annotated[
        list[str] | None, typer.Option(metavar="STATUS", help="Only with this status at the end; may be repeated.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions(SelectOptions):
    """Options of `wpk audit replay`."""

    executions: Annotated[bool, typer.Option("--executions", help="One line for each execution, not each event.")] = (
        False
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions(SelectOptions):
    """Options of `wpk audit export`."""

    output: Annotated[
        str,
        typer.Option("-o", "--output", metavar="FILE", help="Where to; - is stdout. The suffix says the format."),
    ] = "-"
    format: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="jsonl, csv or parquet; default: by the suffix, else jsonl.")
    ] = None
    table: Annotated[str, typer.Option(metavar="TABLE", help="events, or executions: one row for each.")] = "events"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineOptions(ReadingOptions):
    """Options of `wpk audit timeline`."""

    execution_id: Annotated[str, typer.Argument(metavar="ID", help="The execution.")]
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as an SVG picture.")] = None
    png: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as a PNG picture.")] = None
    width: Annotated[int, typer.Option(min=40, max=400, help="Columns of the text.")] = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions(ReadingOptions):
    """Options of `wpk explain`."""

    execution_id: Annotated[str, typer.Argument(metavar="ID", help="The execution.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class LettersOptions(ReadingOptions):
    """Options of `wpk dead-letter list`."""

    since: Annotated[str | None, typer.Option(metavar="WHEN", help="Only those since: 2h, 7d or a time.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterOptions(ReadingOptions):
    """Options of `wpk dead-letter show`."""

    place: Annotated[str, typer.Argument(metavar="PLACE", help="Which: PARTITION@OFFSET, as the list has it.")]
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write its value there, byte by byte.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RedriveOptions(ReadingOptions):
    """Options of `wpk dead-letter redrive`."""

    place: Annotated[str, typer.Argument(metavar="PLACE", help="Which: PARTITION@OFFSET, as the list has it.")]
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Send this in place of its value: the corrected one.")
    ] = None
    again: Annotated[bool, typer.Option("--again", help="Also where it was sent again before.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateOptions(Options):
    """Options of `wpk topics create`."""

    replication: Annotated[
        int | None, typer.Option(min=1, help="Replicas of each partition; default: what the brokers allow, at most 3.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DevOptions(Options):
    """Options of `wpk dev`."""

    port: Annotated[int | None, typer.Option(min=1, max=65_535, help="Port of the broker; default: a free one.")] = None
    example: Annotated[str | None, typer.Option(metavar="NAME", help="Run this example and show it.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateOptions(ReadingOptions):
    """Options of `wpk validate`."""

    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Packages, YAML or JSON; - reads stdin.")]
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "-p", "--parameter", metavar="NAME=VALUE", help="Check with these parameters, as submit has them."
        ),
    ] = None
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaOptions(Options):
    """Options of `wpk schema`."""

    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Where to write; without it, one document to stdout.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionOptions(Options):
    """Options of `wpk completion`."""

    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class CanonicalizeOptions(Options):
    """Options of `wpk canonicalize`."""

    file: Annotated[str, typer.Argument(metavar="FILE", help="The package, YAML or JSON; - reads stdin.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignOptions(Options):
    """Options of `wpk sign`."""

    file: Annotated[str, typer.Argument(metavar="FILE", help="The package, YAML or JSON; - reads stdin.")]
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="FILE", help="Private key in PEM; its password is read from WPK_KEY_PASSWORD."),
    ] = None
    attach: Annotated[
        Path | None,
        typer.Option("--attach", metavar="FILE", help="A signature of cosign or openssl, or cosign's bundle."),
    ] = None
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write; default: the same file.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions(ReadingOptions):
    """Options of `wpk verify`."""

    file: Annotated[str, typer.Argument(metavar="FILE", help="The package, YAML or JSON; - reads stdin.")]
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Public key in PEM (cosign.pub).")] = None
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="A policy, for its keys and their times.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCheckOptions(ReadingOptions):
    """Options of `wpk policy check`."""

    policy: Annotated[str, typer.Argument(metavar="POLICY", help="The policy file; `none`: what holds without one.")]
    file: Annotated[str, typer.Argument(metavar="PACKAGE", help="The package, YAML or JSON; - reads stdin.")]
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", "--param", metavar="NAME=VALUE", help="A parameter, as submit has them."),
    ] = None
    requester: Annotated[str | None, typer.Option("--requester", metavar="WHO", help="Who asks.")] = None
    command_key: Annotated[
        str | None,
        typer.Option("--command-key", metavar="NAME", help="As if the command were signed by this command key."),
    ] = None
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="A label of the command.")
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge a dry run.")] = False
