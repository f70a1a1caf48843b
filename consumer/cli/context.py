"""What the verbs need of the surroundings: settings, the client, durations, who asks."""

from __future__ import annotations

import getpass
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from consumer.cli.execute import CliError
from consumer.cli.options import Options, SendingOptions
from consumer.settings import Settings, load
from schemas.scalars import parse_duration

if TYPE_CHECKING:
    from consumer.client import Client
    from consumer.journal.connection import KafkaConnection
    from consumer.policy.signing import SigningKey


def settings_of(options: Options) -> Settings:
    """The settings; raises SettingsError."""
    _quiet(verbose=options.verbose)
    return load(options.config)


def _quiet(*, verbose: bool) -> None:
    """Keeps the libraries' own logs off the screen: what they have to say is in the error's sentence."""
    level = logging.WARNING if verbose else logging.CRITICAL
    logging.basicConfig(level=level, stream=sys.stderr, force=True)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def connection_of(settings: Settings) -> KafkaConnection:
    """How to reach Kafka. Raises SettingsError."""
    from consumer.journal.connection import KafkaConnection  # noqa: PLC0415 - some verbs need no Kafka

    return KafkaConnection.of(settings, client_id="wpk")


def client_of(options: Options) -> Client:
    """The client that the settings describe."""
    from consumer.client import Client  # noqa: PLC0415 - some verbs need no Kafka
    from consumer.journal.topics import TopicNames  # noqa: PLC0415

    settings = settings_of(options)
    path = options.sign_key if isinstance(options, SendingOptions) else None
    key = private_key(path) if path is not None else None
    return Client(connection_of(settings), TopicNames(settings.topic_prefix), sign_key=key)


def private_key(path: Path) -> SigningKey:
    """The private key in that file. Raises CliError."""
    from consumer.policy import signing  # noqa: PLC0415 - most calls sign nothing
    from consumer.policy.signatures import SignatureError  # noqa: PLC0415

    try:
        return signing.load_private_key(path.read_bytes(), os.environ.get("WPK_KEY_PASSWORD"))
    except SignatureError as error:
        raise CliError(f"{path}: {error}") from error
    except OSError as error:
        raise CliError(f"{path}: can't be read: {error.strerror or error}") from error


def duration(text: str | None, option: str) -> float | None:
    """Seconds of an option's value. Raises CliError."""
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise CliError(f"{option}: {error}") from error


def whoami() -> str | None:
    """The user of this machine, as whom commands are sent unless --requested-by says otherwise."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user: a container with a bare uid
        return None
