"""The api adapter: checks configurations and makes actions of them. It has nothing to undo."""

from __future__ import annotations

from collections.abc import Sequence

from consumer.adapters.api import facts, urls
from consumer.adapters.api.action import ApiAction
from consumer.adapters.api.config import MAX_EXPECT, ApiConfig
from consumer.adapters.api.expectation import Expectation, compile_expectation
from consumer.adapters.api.guard import AddressGuard
from consumer.adapters.api.transport import Transport
from consumer.errors import ConfigError, PermanentError
from consumer.ports import Facts, JsonObject, Plan, Scope, StepContext
from consumer.workflow import values
from schemas.failure import Problem

_SOUND = "http://host/"


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
        rest, _, problems = _in_place(config, scope)
        return [*values.check_config(ApiConfig, rest, scope), *problems]

    def prepare(self, config: JsonObject, scope: Scope) -> ApiAction:
        rest, expectation, problems = _in_place(config, scope)
        try:
            bound = values.bind(ApiConfig, rest, scope)
        except ConfigError as error:
            raise ConfigError([*error.problems, *problems]) from None  # the cause may show values
        if problems:
            raise ConfigError(problems)
        return ApiAction(config=bound, expectation=expectation, transport=self._transport)

    def facts(self, config: JsonObject, scope: Scope) -> Sequence[Facts]:
        """What the step touches, for the policy."""
        return facts.of(config, scope)

    async def plan_undo(self, record: JsonObject, step: StepContext) -> Plan:
        raise _nothing_to_undo(step)

    async def undo(self, record: JsonObject, step: StepContext) -> JsonObject:
        raise _nothing_to_undo(step)

    async def aclose(self) -> None:
        self._transport.close()


def _nothing_to_undo(step: StepContext) -> PermanentError:
    return PermanentError(
        f"the agent can't undo the api step {step.step}; write the request that does into spec.rollback.handlers",
        code="nothing_to_undo",
    )


def _in_place(config: JsonObject, scope: Scope) -> tuple[JsonObject, Expectation | None, list[Problem]]:
    """The configuration with the values of `url` and `expect` in place, and what is wrong with these two.

    In them a value that was put in as plain text could become a part of the host or of the expression. What is no text
    stays as it is, so that the model says what is wrong with it.
    """
    rest = dict(config)
    expectation: Expectation | None = None
    problems: list[Problem] = []
    text = config.get("expect")
    if isinstance(text, str) and 0 < len(text) <= MAX_EXPECT:
        del rest["expect"]
        expectation, problems = compile_expectation(text, scope)
    url = config.get("url")
    if isinstance(url, str) and "${" in url:
        filled, wrong = urls.fill(url, scope)
        problems += wrong
        if filled is not None:
            rest["url"] = values.escape(filled)
        elif wrong:
            rest["url"] = _SOUND  # one complaint is enough
    return rest, expectation, problems
