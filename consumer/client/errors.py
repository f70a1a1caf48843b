"""What can go wrong for whoever talks to the agent over Kafka; each message is one sentence with its remedy."""

from __future__ import annotations

from consumer.errors import AgentError


class ClientError(AgentError):
    """The topics are not as they must be, or what was asked for is not there."""


class Unreachable(ClientError):
    """Kafka does not answer."""


class Refused(ClientError):
    """Kafka is there and does not take the client, or does not allow what it wants; or the client does not trust it."""


class UnknownExecution(ClientError):
    """Nothing is known of an execution."""

    def __init__(self, execution_id: str) -> None:
        super().__init__(
            f"execution {execution_id} is not known: no such id, or its retention has passed; "
            "see what there is with: wpk list"
        )


class TimedOut(ClientError):
    """What was waited for did not happen in time; it may still."""
