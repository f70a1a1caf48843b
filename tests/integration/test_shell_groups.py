"""Control groups of shell steps: real ones where this machine lets them be made, and what is written into them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import uuid
from pathlib import Path

import pytest

from consumer.adapters.shell import ShellAdapter, cgroup, launching
from consumer.adapters.shell.config import Limits
from consumer.adapters.shell.launching import Spec
from consumer.adapters.shell.sandbox import LEVELS, Level
from consumer.errors import TemporaryError
from consumer.ports import JsonObject
from tests.support.eventually import eventually
from tests.support.shell_steps import FixedScope, Recorder, adapter_at, context, processes_with, run

#: A process that leaves its session, its parent, its variables and its streams.
DAEMON = "setsid sh -c 'env -i sleep {mark} > /dev/null 2>&1 < /dev/null & :' > /dev/null 2>&1 < /dev/null"


@pytest.fixture
def mark() -> str:
    return f"86400.{uuid.uuid4().int % 10**12:012d}"


def left(groups: cgroup.Groups, agent: int | None = None) -> list[str]:
    """The groups of steps that are still there, of this process or another one."""
    return [path.name for path in groups.directory.glob(f"wpk-step-*-{agent or os.getpid()}-*")]


@pytest.mark.parametrize("level", (*LEVELS, "none"))
async def test_a_step_has_a_group_where_one_can_be_made_and_says_so(level: Level) -> None:
    adapter = await adapter_at(level)
    report, groups = await adapter.report(), cgroup.find()
    assert report.groups == groups
    if groups is None:
        assert report.limits == "rlimits"
        return
    assert "control groups" in report.limits
    result = await run(adapter, {"command": "grep -o '0::.*' /proc/self/cgroup; sleep 0.01 & wait"})
    if level != "bubblewrap":  # whose own namespace does not show it
        assert "/wpk-step-" in str(result["stdout"])


@pytest.mark.parametrize("level", (*LEVELS, "none"))
async def test_a_step_that_is_cancelled_leaves_no_group_and_no_process(level: Level, mark: str) -> None:
    groups = cgroup.find()
    adapter = await adapter_at(level, grace=0.2)
    recorder = Recorder()
    config: JsonObject = {"command": f"{DAEMON.format(mark=mark)}; echo ready; sleep {mark}"}
    task = asyncio.create_task(adapter.prepare(config, FixedScope()).run(context(recorder.log)))
    await eventually(lambda: recorder.of("stdout") == ["ready"])
    mine = left(groups) if groups is not None else []
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if groups is not None or level != "none":
        await eventually(lambda: not processes_with(mark))
    if groups is not None:
        assert mine
        assert left(groups) == []


async def test_where_groups_can_be_made_nothing_survives_a_step_without_a_sandbox(mark: str) -> None:
    adapter = await adapter_at("none")
    if (await adapter.report()).groups is None:
        return
    await run(adapter, {"command": DAEMON.format(mark=mark)})
    assert not processes_with(mark)


async def test_what_a_killed_agent_left_in_its_groups_is_ended_by_the_next_one(mark: str) -> None:
    groups = cgroup.find()
    if groups is None:
        return
    command = ["sleep", mark]
    with subprocess.Popen(command) as agent, subprocess.Popen(command) as survivor:  # noqa: ASYNC220 - at once done
        group = cgroup.Group(groups.directory / f"{cgroup._prefix()}{agent.pid}-test")
        try:
            group.directory.mkdir()
            group.add(survivor.pid)
            cgroup.clear(groups.directory)
            assert survivor.poll() is None, "its agent lives"
            agent.kill()
            agent.wait()
            await eventually(lambda: (cgroup.clear(groups.directory), survivor.poll() is not None)[1])
            assert survivor.returncode == -signal.SIGKILL
            await eventually(lambda: (cgroup.clear(groups.directory), not group.directory.exists())[1])
        finally:
            agent.kill()
            survivor.kill()


def fake(tmp_path: Path, *names: str) -> cgroup.Groups:
    """A directory as the kernel would fill it, for what this machine's kernel may not count."""
    tmp_path.joinpath("group").mkdir()
    for name in names:
        tmp_path.joinpath("group", name).touch()
    return cgroup.Groups(tmp_path, frozenset({"memory", "pids"}))


def test_limits_hold_for_all_of_a_step_where_the_controllers_are_there(tmp_path: Path) -> None:
    groups = fake(tmp_path, "memory.max", "memory.swap.max", "memory.oom.group", "pids.max")
    spec = Spec(argv=("true",), env={}, limits=Limits(memory="64Mi", processes=9), grouped=groups.controllers)  # type: ignore[arg-type]
    cgroup.Group(tmp_path / "group").bound(**launching.bounds(spec.limits, spec.grouped))
    written = {path.name: path.read_text() for path in (tmp_path / "group").iterdir()}
    assert written == {
        "memory.max": str(64 * 2**20),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": "9",
    }
    assert not [item for item in launching.gated(spec, 256) if item.startswith(("--as", "--nproc"))]


def test_limits_hold_for_each_process_where_no_controller_is_there() -> None:
    spec = Spec(argv=("true",), env={}, limits=Limits(memory="64Mi", processes=9))  # type: ignore[arg-type]
    assert launching.bounds(spec.limits, spec.grouped) == {"memory": None, "processes": None}
    assert {f"--as={64 * 2**20}", "--nproc=9"} <= set(launching.gated(spec, 256))


def test_a_directory_that_is_no_control_group_bounds_nothing_and_says_so(tmp_path: Path) -> None:
    fake(tmp_path)
    with pytest.raises(FileNotFoundError):
        cgroup.Group(tmp_path / "group").bound(memory=1, processes=1)
    assert list((tmp_path / "group").iterdir()) == []


async def test_a_step_whose_group_can_not_be_made_may_be_tried_again(tmp_path: Path) -> None:
    gone = cgroup.Groups(tmp_path / "gone")
    adapter = ShellAdapter(mode="off", find_groups=lambda: gone)
    with pytest.raises(TemporaryError, match="no control group can be made") as caught:
        await run(adapter, {"command": "true"})
    assert caught.value.code == "sandbox_failed"


async def test_a_group_that_tells_nothing_any_more_does_not_change_what_the_command_did(tmp_path: Path) -> None:
    """The command was done: to call it failed, or to do it again, would be worse than not to know what it used."""

    class Forgetful(cgroup.Groups):
        def make(self) -> cgroup.Group:
            return Mute(tmp_path / "group")

    class Mute(cgroup.Group):
        def add(self, pid: int) -> None:
            """As if it were in it."""

    adapter = ShellAdapter(mode="off", find_groups=lambda: Forgetful(tmp_path))
    assert (await run(adapter, {"command": "echo done"}))["stdout"] == "done\n"


def test_the_group_of_an_agent_whose_processes_can_not_be_seen_is_left_alone(tmp_path: Path) -> None:
    """As of another container that has the directory too: whether its agent lives can't be told."""
    foreign = tmp_path / "wpk-step-4026531836999-999999999-aa"
    foreign.mkdir()
    mine = tmp_path / cgroup.Groups(tmp_path).make().directory.name.replace(f"-{os.getpid()}-", "-999999999-")
    mine.mkdir()
    (mine / "cgroup.kill").touch()
    (foreign / "cgroup.kill").touch()
    cgroup.clear(tmp_path)
    assert (mine / "cgroup.kill").read_text() == "1"
    assert (foreign / "cgroup.kill").read_text() == ""
