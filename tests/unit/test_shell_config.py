"""The configuration of shell steps: all that is wrong with it is said before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from consumer.adapters.shell import ShellAdapter, build
from consumer.errors import ConfigError, PermanentError, SettingsError
from consumer.ports import JsonObject
from consumer.workflow.scope import UNKNOWN
from tests.support.shell_steps import FixedScope, Recorder, Unknowing, context


def problems(config: JsonObject, **values: Any) -> dict[str, str]:
    return {problem.path: problem.message for problem in ShellAdapter().check(config, FixedScope(**values))}


def test_a_command_with_all_of_its_fields_is_accepted() -> None:
    config: JsonObject = {
        "command": "echo ${x}",
        "env": {"TOKEN": "${secrets.token}", "PORT": 8080},
        "cwd": "/tmp",
        "stdin": {"a": 1},
        "success_codes": [0, 3],
        "parse": "json",
        "limits": {"cpu": "30s", "memory": "1Gi", "processes": 10, "file_size": "1Mi", "open_files": 64},
        "network": True,
    }
    assert problems(config, x="y", secrets_token="t") == {}
    action = ShellAdapter().prepare(config, FixedScope(x="y", secrets_token="t"))
    assert action.config.env == {"TOKEN": "t", "PORT": "8080"}
    assert action.config.stdin == '{"a":1}'
    assert not action.repeatable
    assert action.time_limit is None


@pytest.mark.parametrize(
    ("config", "path", "message"),
    [
        ({}, "", "neither command nor args"),
        ({"command": "a", "args": ["b"]}, "", "exclude each other"),
        ({"command": " \n"}, "", "command is empty"),
        ({"command": ["a"]}, "command", "no text"),
        ({"args": []}, "args", "at least 1"),
        ({"args": [""]}, "", "names no program"),
        ({"args": ["a", None]}, "args[1]", "null"),
        ({"command": "a", "timeout": "5s"}, "timeout", ""),
        ({"command": "a", "comand": "b"}, "comand", "command"),
        ({"command": "a", "env": {"1A": "x"}}, "env", ""),
        ({"command": "a", "env": {"WPK_STEP": "x"}}, "env", "reserved"),
        ({"command": "a\0b"}, "command", "NUL"),
        ({"command": "a", "env": {"A": "x\0"}}, "env.A", "NUL"),
        ({"command": "a", "env": {"A": "\ud800"}}, "env.A", "surrogate"),
        ({"command": "a", "success_codes": []}, "success_codes", "at least 1"),
        ({"command": "a", "success_codes": [256]}, "success_codes[0]", "255"),
        ({"command": "a", "parse": "yaml"}, "parse", "json"),
        ({"command": "a", "network": "yes"}, "network", "neither true nor false"),
        ({"command": "a", "limits": {"cpu": "10ms"}}, "limits", "1s"),
        ({"command": "a", "limits": {"memory": "much"}}, "limits.memory", "quantity"),
        ({"command": "echo ${nope}"}, "command", '"nope"'),
        ({"command": "echo ${nope"}, "command", "closing"),
        ({"command": "eval ${x}"}, "command", "eval"),
        ({"args": ["sh", "-c", "${x}"]}, "args[2]", "${x}"),
        ({"args": ["curl", "${secrets.x}"]}, "args[1]", "env"),
        ({"args": ["curl", "${nope}"]}, "args[1]", '"nope"'),
        ({"command": "echo ${nul}"}, "command", "NUL"),
        ({"command": "echo ${null}"}, "command", "null"),
        ({"command": "sh -s", "stdin": "echo ${x}"}, "stdin", "${x}"),
        ({"args": ["python3", "-"], "stdin": "${x}"}, "stdin", "${x}"),
        ({"command": "a", "env": {"BASH_ENV": "${x}"}}, "env.BASH_ENV", "${x}"),
        ({"command": "${bad} a"}, "command", "name of the program"),
    ],
)
def test_what_is_wrong_is_said_with_its_path(config: JsonObject, path: str, message: str) -> None:
    found = problems(config, x="y", secrets_x="s", nul="a\0b", null=None, bad="a b")
    assert any(where == path or where.startswith((f"{path}.", f"{path}[")) or path == "" for where in found), found
    assert message in " ".join(found.values())


def test_all_problems_are_said_at_once() -> None:
    config: JsonObject = {"command": "eval ${x}; sh -c ${y}", "cwd": "${nope}", "success_codes": [], "timeout": 3}
    found = ShellAdapter().check(config, FixedScope(x="1", y="2"))
    assert {problem.path for problem in found} == {"command", "cwd", "success_codes", "timeout"}
    assert sum(problem.path == "command" for problem in found) == 2
    with pytest.raises(ConfigError) as caught:
        ShellAdapter().prepare(config, FixedScope(x="1", y="2"))
    assert len(caught.value.problems) == 5


def test_values_that_a_later_moment_gives_are_no_problem_but_a_bad_place_for_them_is() -> None:
    config: JsonObject = {"command": "${x} ${y}", "env": {"A": "${x}"}, "cwd": "${z}", "limits": {"cpu": "${n}"}}
    assert ShellAdapter().check(config, Unknowing()) == []
    assert [problem.path for problem in ShellAdapter().check({"command": "eval ${x}"}, Unknowing())] == ["command"]


def test_a_value_that_is_not_known_can_not_be_prepared() -> None:
    with pytest.raises(ConfigError):
        ShellAdapter().prepare({"command": "echo ${x}"}, FixedScope(x=UNKNOWN))


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"command": "echo ${big}"}, "command"),
        ({"command": "a", "env": {"A": "${big}"}}, "env.A"),
        ({"args": ["a", "${big}"]}, "args[1]"),
        ({"command": "echo " + " ".join(f"${{x{n}}}" for n in range(20))}, ""),
    ],
)
def test_what_the_system_could_not_start_is_refused_with_a_remedy(config: JsonObject, path: str) -> None:
    values = {"big": "x" * 131_072, **{f"x{n}": "x" * 60_000 for n in range(20)}}
    with pytest.raises(ConfigError) as caught:
        ShellAdapter().prepare(config, FixedScope(**values))
    assert [problem.path for problem in caught.value.problems] == [path]


def test_values_of_other_types_are_put_in_as_json() -> None:
    action = ShellAdapter().prepare({"command": "echo ${n} ${b} ${o}"}, FixedScope(n=3, b=True, o={"a": [1, "ü"]}))
    assert dict(action.values) == {"WPK_VALUE_1": "3", "WPK_VALUE_2": "true", "WPK_VALUE_3": '{"a":[1,"ü"]}'}


def test_what_the_shell_is_to_expand_is_left_to_it_even_beside_a_value() -> None:
    action = ShellAdapter().prepare({"command": "echo $${HOME} $HOME $$ ${x}"}, FixedScope(x="${y} $${z}"))
    assert action.config.command == 'echo ${HOME} $HOME $$ "${WPK_VALUE_1}"'
    assert dict(action.values) == {"WPK_VALUE_1": "${y} $${z}"}


async def test_a_plan_shows_the_command_the_values_and_the_sandbox() -> None:
    adapter = ShellAdapter(mode="off")
    config: JsonObject = {"command": "echo '${x}'", "env": {"A": "${x}"}, "stdin": "in", "network": True}
    plan = await adapter.prepare(config, FixedScope(x="a b")).plan(context(Recorder().log, dry_run=True))
    assert plan.changes
    assert plan.summary == "run `echo 'a b'` without a sandbox, with network"
    assert plan.detail["command"] == "echo 'a b'"
    assert plan.detail["script"] == "echo ''\"${WPK_VALUE_1}\"''"
    assert plan.detail["values"] == {"x": "a b"}
    assert plan.detail["env"] == {"A": "a b"}
    assert plan.detail["sandbox"] == "none"
    assert plan.detail["network"] is True


async def test_a_plan_shows_arguments_as_one_would_type_them() -> None:
    action = ShellAdapter(mode="off").prepare({"args": ["echo", "${x}"]}, FixedScope(x="a b"))
    assert (await action.plan(context(Recorder().log))).detail["command"] == "echo 'a b'"


async def test_nothing_can_be_undone_and_the_reason_names_the_remedy() -> None:
    adapter = ShellAdapter(mode="off")
    for undo in (adapter.plan_undo, adapter.undo):
        with pytest.raises(PermanentError, match=r"rollback\.handlers") as caught:
            await undo({}, context(Recorder().log))
        assert caught.value.code == "nothing_to_undo"
    await adapter.aclose()


@dataclass
class Settings:
    sandbox: str = "off"
    shell_env: tuple[str, ...] = ()


async def test_the_adapter_is_built_from_the_agents_settings() -> None:
    adapter = build(Settings())
    assert adapter.name == "shell"
    assert isinstance(adapter, ShellAdapter)
    assert (await adapter.report()).mode == "off"
    with pytest.raises(SettingsError, match="WPK_SANDBOX"):
        build(Settings(sandbox="maybe"))
