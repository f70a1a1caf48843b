"""Which processing guarantee this broker can give, found out by asking it and never by its name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, UnknownError, UnsupportedVersionError

from consumer.errors import SettingsError
from consumer.journal import diagnosis, producers
from consumer.journal.connection import KafkaConnection

Mode = Literal["exactly_once", "at_least_once"]

PROBE_SECONDS = 20.0
#: A broker without transactions answers InitProducerId with "unknown error", which others may do in a bad moment.
ATTEMPTS = 3
PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """The mode to work in, and why, as one sentence for the log."""

    mode: Mode
    reason: str


async def decide(
    connection: KafkaConnection, asked: Literal["exactly_once", "at_least_once", "auto"], transactional_id: str
) -> Guarantee:
    """The guarantee to use. `transactional_id` is one of the agent's own prefix that no partition uses.

    `auto` takes at_least_once only where the broker says that it has no transactions. A broker that does not answer,
    or that forbids them, is no reason: agents of one group would work by different rules. Raises SettingsError.
    """
    if asked == "at_least_once":
        return Guarantee(mode="at_least_once", reason="WPK_PROCESSING_GUARANTEE asks for it")
    with _expected_errors_unlogged():
        refusal = await _refusal(connection, transactional_id)
    if refusal is None:
        reason = "the broker has transactions" if asked == "auto" else "WPK_PROCESSING_GUARANTEE asks for it"
        return Guarantee(mode="exactly_once", reason=reason)
    if asked == "exactly_once":
        raise SettingsError(
            f"WPK_PROCESSING_GUARANTEE is exactly_once, but this broker has no transactions ({refusal}); "
            "set it to at_least_once or auto, or use Apache Kafka"
        )
    return Guarantee(mode="at_least_once", reason=f"the broker has no transactions ({refusal})")


async def _refusal(connection: KafkaConnection, transactional_id: str) -> str | None:
    """How the broker says that it has no transactions; None where it has."""
    for attempt in range(1, ATTEMPTS + 1):
        producer = producers.build(connection, "probe", transactional_id=transactional_id)
        started = False
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await producer.start()
            started = True
        except (IncompatibleBrokerVersion, UnsupportedVersionError) as error:
            return f"InitProducerId: {type(error).__name__}"
        except UnknownError as error:
            if attempt == ATTEMPTS:
                return f"InitProducerId: {type(error).__name__}"
            await asyncio.sleep(PAUSE_SECONDS)
        except TimeoutError as error:
            raise SettingsError(
                f"Kafka did not say within {PROBE_SECONDS:g} s whether it has transactions; are enough brokers up for "
                "the topic __transaction_state (transaction.state.log.replication.factor, "
                "transaction.state.log.min.isr)? WPK_PROCESSING_GUARANTEE=at_least_once works without"
            ) from error
        except (KafkaError, OSError) as error:
            raise await diagnosis.failure(connection, error) from error
        finally:
            await producers.close(producer, force=not started)
        if started:
            return None
    raise AssertionError("unreachable")


@contextmanager
def _expected_errors_unlogged() -> Iterator[None]:
    """aiokafka logs as an error what is an answer here."""
    logger = logging.getLogger("aiokafka.producer.sender")

    def other(record: logging.LogRecord) -> bool:
        return "InitProducerId" not in record.getMessage()

    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)
