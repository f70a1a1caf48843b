"""SCRAM from the client's side: a server that does not prove itself is told as such.

The server proves by its last message that it knows the password too (RFC 5802, section 3). aiokafka 0.14 checks that
proof, but says by a ValueError or KeyError that it does not hold: no error of Kafka's, so that it ends in a traceback.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from aiokafka import conn as connections
from aiokafka.errors import SaslAuthenticationFailed

NOT_PROVEN = (
    "it did not prove that it knows the password of KAFKA_SASL_USERNAME, so it may be no broker of this cluster; check "
    "KAFKA_BOOTSTRAP_SERVERS and what stands between"
)


class ServerNotProven(SaslAuthenticationFailed):  # type: ignore[misc]  # aiokafka has no types
    """The server's part of the exchange is wrong."""


_Part = Callable[[object, str], None]


def install() -> None:
    """Makes aiokafka raise ServerNotProven; does nothing the second time."""
    authenticator = connections.ScramAuthenticator
    if not hasattr(authenticator.process_server_final_message, "__wrapped__"):
        authenticator.process_server_first_message = _mapped(authenticator.process_server_first_message)
        authenticator.process_server_final_message = _mapped(authenticator.process_server_final_message)


def _mapped(original: _Part) -> _Part:
    @functools.wraps(original)
    def part(self: object, message: str) -> None:
        try:
            original(self, message)
        except (ValueError, KeyError, OverflowError) as error:
            raise ServerNotProven(NOT_PROVEN) from error

    return part
