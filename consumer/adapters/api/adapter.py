"""The api adapter: checks configurations and makes actions of them. It has nothing to undo."""

from __future__ import annotations

from collections.abc import Sequence

from consumer.adapters.api.action import ApiAction
from consumer.adapters.api.config import ApiConfig
from consumer.adapters.api.expectation import Expectation, compile_expectation
from consumer.adapters.api.guard import AddressGuard
from consumer.adapters.api.transport import Transport
from consumer.errors import ConfigError, PermanentError
from consumer.ports import JsonObject, Plan, Scope, StepContext
from consumer.workflow import values
from schemas.failure import Problem


class ApiAdapter:
    """Steps of type `api`."""

    def __init__(self, *, allow: Sequence[str] = ()) -> None:
        """`allow`: what besides public addresses may be connected to; see guard.parse_rule. Raises SettingsError."""
        self._transport = Transport(AddressGuard(allow))

    @property
    def name(self) -> str:
        return "api"

    @property
    def config_model(self) -> type[ApiConfig]:
        return ApiConfig

    def check(self, config: JsonObject, scope: Scope) -> Sequence[Problem]:
        rest, text = _without_expect(config)
        problems = list(values.check_config(ApiConfig, rest, scope))
        if text is not None:
            problems += compile_expectation(text, scope)[1]
        return problems

    def prepare(self, config: JsonObject, scope: Scope) -> ApiAction:
        rest, text = _without_expect(config)
        expectation: Expectation | None = None
        problems: list[Problem] = []
        if text is not None:
            expectation, problems = compile_expectation(text, scope)
        try:
            bound = values.bind(ApiConfig, rest, scope)
        except ConfigError as error:
            raise ConfigError([*error.problems, *problems]) from error
        if problems:
            raise ConfigError(problems)
        return ApiAction(config=bound, expectation=expectation, transport=self._transport)

    async def plan_undo(self, record: JsonObject, step: StepContext) -> Plan:
        raise _nothing_to_undo(step)

    async def undo(self, record: JsonObject, step: StepContext) -> JsonObject:
        raise _nothing_to_undo(step)

    async def aclose(self) -> None:
        """Nothing is open between requests."""


def _nothing_to_undo(step: StepContext) -> PermanentError:
    return PermanentError(
        f"the agent can't undo the api step {step.step}; write the request that does into spec.rollback.handlers",
        code="nothing_to_undo",
    )


def _without_expect(config: JsonObject) -> tuple[JsonObject, str | None]:
    """`expect` is taken out before placeholders are put in: there they are data and must not become code.

    What is no text of the allowed length stays in, so that the model says what is wrong with it.
    """
    text = config.get("expect")
    if not isinstance(text, str) or not 0 < len(text) <= 4096:
        return config, None
    return {name: value for name, value in config.items() if name != "expect"}, text
