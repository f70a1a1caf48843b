"""What every execution is given by the agent: who it is, what time it is, what it may use, how much."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from consumer.clock import Clock
from consumer.engine.looked import Looked
from consumer.engine.strays import Strays
from consumer.errors import PermanentError
from consumer.policy.judge import Policy
from consumer.ports import Adapter, Packages, Resolved
from consumer.telemetry.metrics import Metrics
from consumer.telemetry.traces import Traces


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds, in seconds and bytes."""

    max_executions: int = 64
    """How many executions may run steps at the same time; above it new commands wait on the topic."""
    max_waiting: int = 1000
    """How many executions may wait (approval, backoff, delay) besides."""
    max_held_bytes: int = 64 * 1024 * 1024
    """How much the commands of all those may have, as JSON: a large package counts for more than a small one."""
    step_timeout: float = 300.0
    """Of an attempt whose step says nothing."""
    approval_timeout: float = 86_400.0
    state_retention: float = 7 * 86_400.0
    """How long after its end an execution can be rolled back, and its id is remembered."""
    max_output_bytes: int = 256 * 1024
    """A larger output of a step is cut, with a mark."""
    max_command_bytes: int = 900_000
    """Of a command with the package that it names."""
    alerts: bool = False
    """Whether this agent sends the alerts of packages."""
    registry_timeout: float = 120.0
    """How long a registry that does not answer is asked again before the command is refused."""
    max_log_bytes: int = 64 * 1024 * 1024
    """What one attempt may write to the log topic; the rest is counted and dropped, and the log says so."""


class NoPackages:
    """An agent without a registry."""

    async def resolve(self, reference: str) -> Resolved:
        """Refuses, with the remedy."""
        message = (
            f'there is no registry to take "{reference}" from; send the package itself in wpk_content, as an object or '
            "as YAML text"
        )
        raise PermanentError(message, code="unknown_package")


@dataclass(slots=True, kw_only=True)
class Services:
    """Shared by all executions of an agent. Only the policy is ever replaced, as a whole."""

    agent: str
    clock: Clock
    adapters: Mapping[str, Adapter]
    secrets: Callable[[Iterable[str]], Awaitable[Mapping[str, str]]]
    """The values of those of the named secrets that there are."""
    policy: Policy
    """Who may run what. Another one once its file has changed: within one decision, ask one."""
    metrics: Metrics
    partitions: int = 1
    """How many each topic has: a signed command counts on its key's own only."""
    draw: Callable[[], float]
    """A number in [0, 1): the jitter of a backoff."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The environment variables that packages may name."""
    limits: Limits = Limits()
    traces: Traces | None = None
    """Who is told of durable events; None where no traces are sent."""
    packages: Packages = field(default_factory=NoPackages)
    """Where packages are found that commands only name."""
    looked: Looked = field(default_factory=Looked)
    """What was said of packages that were checked lately."""
    strays: Strays = field(default_factory=Strays)
    """Runs the adapters' work."""
