"""Shell steps with real processes, in the sandbox and without one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import resource
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from consumer.adapters.shell import ShellAdapter, keeper, landlock, launching, process, quoting, spawn
from consumer.adapters.shell.output import CUT_MARK, KEPT, LINE_LIMIT
from consumer.adapters.shell.sandbox import Level, Mode
from consumer.errors import PermanentError, TemporaryError
from consumer.ports import JsonObject, Stream
from tests.support.eventually import eventually
from tests.support.require import require
from tests.support.shell_steps import FixedScope, Recorder, adapter_at, context, processes_with, run

#: Long enough for any machine; a test that needs it has failed.
PATIENCE = 60.0


@pytest.fixture(params=["bubblewrap", "landlock", "none", "none, in a control group"])
async def adapter(request: pytest.FixtureRequest) -> AsyncIterator[ShellAdapter]:
    """The adapter in all of its ways to run; in bubblewrap with control groups where there are any."""
    level, _, grouped = request.param.partition(", ")
    more = {} if grouped or level == "bubblewrap" else {"find_groups": lambda: None}
    built = await adapter_at(level, grace=PATIENCE, **more)
    yield built
    await built.aclose()


@pytest.fixture
async def sandboxed() -> ShellAdapter:
    """In bubblewrap, with rlimits alone, whatever control groups this machine has."""
    return await adapter_at("bubblewrap", grace=PATIENCE, find_groups=lambda: None)


@pytest.fixture
def mark() -> str:
    """An argument by which the test's own processes are found: a number of seconds that nobody else sleeps."""
    return f"86400.{uuid.uuid4().int % 10**12:012d}"


async def gone(mark: str) -> None:
    await eventually(lambda: not processes_with(mark), because="processes of the step must be gone")


def children() -> set[int]:
    """This process's children, zombies too."""
    me = os.getpid()
    found: set[int] = set()
    for task in Path(f"/proc/{me}/task").iterdir():
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except OSError:
            continue
    return found


def running(mark: str) -> list[int]:
    """The processes that really sleep, launchers not among them."""
    return [pid for pid in processes_with(mark) if command_of(pid) == f"sleep\0{mark}\0"]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def stuck(pid: int) -> bool:
    """Whether it is a bwrap that waits for its dead launcher, before it has begun anything."""
    try:
        descriptors = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return "bwrap" in command_of(pid) and state == "S" and "anon_inode:[eventfd]" in descriptors


def present(path: str) -> bool:
    return Path(path).exists()


def network() -> str:
    """The network namespace of this process."""
    return str(Path("/proc/self/ns/net").readlink())


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- what a step gives ------------------------------------------------------------------------------------------


async def test_a_step_gives_its_output_its_exit_code_and_its_duration(adapter: ShellAdapter) -> None:
    recorder = Recorder()
    result = await run(adapter, {"command": "echo out; echo err >&2; printf last"}, recorder)
    duration = result.pop("duration")
    assert isinstance(duration, float)
    assert 0 <= duration < PATIENCE
    assert result == {"stdout": "out\nlast", "stderr": "err\n", "exit_code": 0}
    assert recorder.of("stdout") == ["out", "last"]
    assert recorder.of("stderr") == ["err"]


async def test_a_bad_exit_code_is_a_temporary_error_with_the_last_words_and_the_output(adapter: ShellAdapter) -> None:
    with pytest.raises(TemporaryError, match=r"^exit code 3: disk is full$") as caught:
        await run(adapter, {"command": "echo a; echo working >&2; echo disk is full >&2; exit 3"})
    assert caught.value.code == "exit_code"
    assert caught.value.output is not None
    assert caught.value.output["stdout"] == "a\n"
    assert caught.value.output["exit_code"] == 3


async def test_codes_that_mean_success_are_the_steps_own(adapter: ShellAdapter) -> None:
    assert (await run(adapter, {"command": "exit 3", "success_codes": [0, 3]}))["exit_code"] == 3
    with pytest.raises(TemporaryError, match="exit code 0"):
        await run(adapter, {"command": "exit 0", "success_codes": [1]})


async def test_a_command_killed_by_a_signal_says_which(adapter: ShellAdapter) -> None:
    with pytest.raises(TemporaryError, match=r"exit code 139 \(SIGSEGV\)"):
        await run(adapter, {"command": "kill -SEGV $$"})


async def test_arguments_run_without_a_shell(adapter: ShellAdapter) -> None:
    value = "$(id); `id` 'x' \"y\" *\n"
    result = await run(adapter, {"args": ["printf", "%s|", "$HOME", "${x}", "", "-n"]}, x=value)
    assert result["stdout"] == f"$HOME|{value}||-n|"


async def test_values_in_a_script_stay_data(adapter: ShellAdapter) -> None:
    value = "'; echo pwned; $(echo pwned) `echo pwned` \"\n\\ *"
    script = "printf '%s|' ${x} \"<${x}>\" '<${x}>' \"$(printf '%s' ${x})\""
    result = await run(adapter, {"command": script}, x=value)
    assert result["stdout"] == f"{value}|<{value}>|<{value}>|{value}|"


async def test_a_script_that_begins_with_a_dash_is_a_script(adapter: ShellAdapter) -> None:
    with pytest.raises(PermanentError, match="not found") as caught:
        await run(adapter, {"command": "-x y"})
    assert caught.value.code == "command_not_found"


@pytest.mark.parametrize("config", [{"command": "no-such-program a"}, {"args": ["no-such-program", "a"]}])
async def test_a_program_that_is_not_there_is_a_permanent_error_with_the_remedy(
    adapter: ShellAdapter, config: JsonObject
) -> None:
    with pytest.raises(PermanentError, match=r"no-such-program.*install") as caught:
        await run(adapter, config)
    assert caught.value.code == "command_not_found"


async def test_a_working_directory_that_is_not_there_is_a_permanent_error(adapter: ShellAdapter) -> None:
    with pytest.raises(PermanentError, match="/no/such/place") as caught:
        await run(adapter, {"command": "true", "cwd": "/no/such/place"})
    assert caught.value.code == "bad_cwd"


async def test_a_step_begins_in_an_empty_directory_of_its_own_that_is_home_and_writable(adapter: ShellAdapter) -> None:
    result = await run(adapter, {"command": 'ls -A; echo a > b && cat b; pwd; [ "$HOME" = "$PWD" ] && echo home'})
    assert isinstance(result["stdout"], str)
    content, directory, home = result["stdout"].splitlines()
    assert (content, home) == ("a", "home")
    assert not present(directory)


async def test_the_working_directory_can_be_elsewhere(adapter: ShellAdapter) -> None:
    assert (await run(adapter, {"args": ["pwd"], "cwd": "/usr"}))["stdout"] == "/usr\n"


async def test_stdin_is_what_the_step_says_however_large_and_else_empty(adapter: ShellAdapter) -> None:
    assert (await run(adapter, {"command": "cat"}))["stdout"] == ""
    assert (await run(adapter, {"command": "cat", "stdin": "ü\n${x}"}, x="$(y)"))["stdout"] == "ü\n$(y)"
    large = "0123456789abcdef" * 200_000
    assert (await run(adapter, {"command": "wc -c", "stdin": large}))["stdout"] == f"{len(large)}\n"
    assert (await run(adapter, {"command": "true", "stdin": large}))["exit_code"] == 0


async def test_a_step_may_open_its_streams_by_name(adapter: ShellAdapter) -> None:
    result = await run(adapter, {"command": "echo a > /dev/stdout; echo b > /dev/stderr; cat /dev/stdin", "stdin": "c"})
    assert (result["stdout"], result["stderr"]) == ("a\nc", "b\n")


async def test_a_step_sees_only_the_variables_it_is_given(
    adapter: ShellAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENT_SECRET", "canary")
    result = await run(adapter, {"command": "env", "env": {"OWN": "1", "NUMBER": 2}, "parse": "lines"})
    assert isinstance(result["parsed"], list)
    given = dict(str(line).partition("=")[::2] for line in result["parsed"])
    for name in ("WPK_RUN_ID", "TMPDIR"):  # where it has no directory /tmp of its own
        given.pop(name, None)
    assert {name: given.pop(name) for name in ("OWN", "NUMBER", "WPK_STEP", "WPK_ATTEMPT", "WPK_EPOCH")} == {
        "OWN": "1",
        "NUMBER": "2",
        "WPK_STEP": "a-step",
        "WPK_ATTEMPT": "1",
        "WPK_EPOCH": "1",
    }
    assert given.pop("WPK_EXECUTION_ID") == "run-1"
    assert given.pop("WPK_IDEMPOTENCY_KEY") == "run-1/run/a-step"
    assert set(given) <= {"PATH", "HOME", "LANG", "PWD", "OLDPWD", "SHLVL", "_"}


async def test_variables_of_the_agent_go_through_where_its_settings_name_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE", "berlin")
    adapter = ShellAdapter(mode="off", environment=("SITE", "NOT_SET"))
    assert (await run(adapter, {"command": 'echo "$SITE$${NOT_SET-unset}"'}))["stdout"] == "berlinunset\n"


@pytest.mark.parametrize(
    ("form", "printed", "parsed"),
    [("json", '{"a": [1, 2]}\n', {"a": [1, 2]}), ("lines", "a b\n\nc\n", ["a b", "", "c"]), ("json", "3", 3)],
)
async def test_output_is_parsed_as_the_step_says(form: str, printed: str, parsed: object) -> None:
    adapter = ShellAdapter(mode="off")
    result = await run(adapter, {"args": ["printf", "%s", "${x}"], "parse": form}, x=printed)
    assert result["parsed"] == parsed
    assert result["stdout"] == printed


@pytest.mark.parametrize("script", ["echo nonsense", "true", "head -c 400000 /dev/zero | tr '\\0' 1"])
async def test_output_that_can_not_be_parsed_fails_for_good_as_the_command_was_done(script: str) -> None:
    adapter = ShellAdapter(mode="off")
    with pytest.raises(PermanentError, match="the command succeeded") as caught:
        await run(adapter, {"command": script, "parse": "json"})
    assert caught.value.code == "output_format"
    assert caught.value.output is not None
    assert caught.value.output["exit_code"] == 0


# --- what it prints ---------------------------------------------------------------------------------------------


async def test_output_without_end_and_newline_costs_no_memory(adapter: ShellAdapter) -> None:
    recorder = Recorder()
    size = 1_000_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = await run(adapter, {"command": f"head -c {size} /dev/zero | tr '\\0' x; echo; echo end"}, recorder)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024, f"{grown} KiB more"
    assert recorder.of("stdout") == ["x" * LINE_LIMIT + CUT_MARK, "end"]
    assert recorder.of("agent") == [
        f"stdout: 1 too long lines were cut, {size - LINE_LIMIT} bytes of them are not here"
    ]
    assert isinstance(result["stdout"], str)
    assert len(result["stdout"]) < KEPT + 200
    assert result["stdout"].endswith("xx\nend\n")
    assert "bytes left out" in result["stdout"]


async def test_all_lines_reach_the_log_in_their_order_though_the_output_keeps_only_some(adapter: ShellAdapter) -> None:
    recorder = Recorder()
    await run(adapter, {"command": "seq 1 50000"}, recorder)
    assert recorder.of("stdout") == [str(number) for number in range(1, 50_001)]


async def test_bytes_that_are_no_text_are_replaced(adapter: ShellAdapter) -> None:
    recorder = Recorder()
    result = await run(adapter, {"command": r"printf '\377a\303\274\300\n\000b'"}, recorder)
    assert recorder.of("stdout") == ["\ufffdaü\ufffd", "\0b"]
    assert result["stdout"] == "\ufffdaü\ufffd\n\0b"


async def test_a_log_that_is_full_holds_the_command_up_and_loses_nothing(adapter: ShellAdapter) -> None:
    recorder, gate, waiting = Recorder(), asyncio.Event(), asyncio.Event()

    async def slow(stream: Stream, text: str) -> None:
        if stream == "stdout":
            waiting.set()
            await gate.wait()
        await recorder.log(stream, text)

    # More than the pipe and the agent's buffer hold, so it can't end before the log goes on.
    action = adapter.prepare({"command": "seq 1 100000; echo done >&2"}, FixedScope())
    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        running = group.create_task(action.run(context(slow)))
        await waiting.wait()
        assert recorder.lines == []
        assert not running.done()
        gate.set()
    assert recorder.of("stdout") == [str(number) for number in range(1, 100_001)]
    assert recorder.of("stderr") == ["done"]


async def test_a_log_that_fails_ends_the_command_and_the_step(adapter: ShellAdapter, mark: str) -> None:
    async def broken(stream: Stream, text: str) -> None:
        raise RuntimeError("the log is gone")

    action = adapter.prepare({"command": f"echo a; sleep {mark}; echo b"}, FixedScope())
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(RuntimeError, match="the log is gone"):
            await action.run(context(broken))
    await gone(mark)


# --- how it ends ------------------------------------------------------------------------------------------------


async def cancelled(task: asyncio.Task[JsonObject]) -> None:
    task.cancel()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_cancelling_lets_the_command_clean_up_and_leaves_nothing(adapter: ShellAdapter, mark: str) -> None:
    recorder = Recorder()
    script = f"trap 'echo cleaned; exit 9' TERM; echo ready; sleep {mark}; echo went on"
    task = asyncio.create_task(adapter.prepare({"command": script}, FixedScope()).run(context(recorder.log)))
    await eventually(lambda: processes_with(mark) and recorder.of("stdout") == ["ready"])
    await cancelled(task)
    assert recorder.of("stdout") == ["ready", "cleaned"]
    await gone(mark)


async def test_cancelling_lets_what_a_plain_shell_started_clean_up_before_the_shell_dies(
    adapter: ShellAdapter, mark: str
) -> None:
    recorder = Recorder()
    child = f"sh -c 'trap \"echo child cleaned; exit\" TERM; echo ready; while :; do sleep 0.05; : {mark}; done'"
    task = asyncio.create_task(
        adapter.prepare({"command": f"{child}; echo went on"}, FixedScope()).run(context(recorder.log))
    )
    await eventually(lambda: "ready" in recorder.of("stdout"))
    await cancelled(task)
    assert recorder.of("stdout") == ["ready", "child cleaned"]
    await gone(mark)


async def test_a_program_run_directly_gets_the_signal_itself(adapter: ShellAdapter, mark: str) -> None:
    script = 'BEGIN { print "ready"; fflush(); while (("sleep " m) | getline x); }'
    recorder = Recorder()
    task = asyncio.create_task(
        adapter.prepare({"args": ["awk", "-v", f"m={mark}", script]}, FixedScope()).run(context(recorder.log))
    )
    await eventually(lambda: recorder.of("stdout") == ["ready"])
    await cancelled(task)
    await gone(mark)


@pytest.mark.parametrize("level", ["bubblewrap", "landlock", "none"])
async def test_a_command_that_ignores_the_signal_is_killed_after_the_grace(level: Level, mark: str) -> None:
    adapter = await adapter_at(level, grace=0.5)
    recorder = Recorder()
    script = f"trap '' TERM; echo ready; (setsid sh -c 'trap \"\" TERM; sleep {mark}; :'); sleep {mark}; :"
    task = asyncio.create_task(adapter.prepare({"command": script}, FixedScope()).run(context(recorder.log)))
    await eventually(lambda: processes_with(f"sleep\0{mark}"))
    await cancelled(task)
    await gone(mark)


async def test_cancelling_again_kills_at_once(adapter: ShellAdapter, mark: str) -> None:
    recorder = Recorder()
    script = f"trap 'echo asked; sleep {mark}' TERM; echo ready; while :; do sleep 0.05; done"
    task = asyncio.create_task(adapter.prepare({"command": script}, FixedScope()).run(context(recorder.log)))
    await eventually(lambda: recorder.of("stdout") == ["ready"])
    task.cancel()
    await eventually(lambda: "asked" in recorder.of("stdout"))
    loop = asyncio.get_running_loop()
    began = loop.time()
    await cancelled(task)
    assert loop.time() - began < PATIENCE / 2, "the second cancellation waited for the grace"
    await gone(mark)


async def test_cancelling_while_it_starts_leaves_nothing(adapter: ShellAdapter, mark: str) -> None:
    await adapter.report()
    before = children()
    for delay in range(24):
        action = adapter.prepare({"command": f"sleep {mark}; :"}, FixedScope())
        task = asyncio.create_task(action.run(context(Recorder().log)))
        for _ in range(delay // 4):
            await asyncio.sleep(0)
        await asyncio.sleep((delay % 4) * 0.002)
        await cancelled(task)
    await gone(mark)
    await eventually(lambda: children() <= before, because="no zombie may be left")


async def test_a_launcher_that_has_not_told_of_its_child_yet_leaves_none_behind(mark: str) -> None:
    """bwrap is played by a shell that never tells: the moment between its fork and its message can't be hit at will."""

    async def nowhere(_source: spawn.Source, _chunk: bytes) -> None:
        pass

    before = children()
    argv = ("/bin/sh", "-c", f"setsid sleep {mark} & wait")
    launch = spawn.Launch(argv=argv, env=os.environ, cwd="/", arguments=b"")
    task = asyncio.create_task(process.execute(launch, nowhere, grace=0.0))
    await eventually(lambda: running(mark), because="the child runs")
    await cancelled(task)
    await gone(mark)
    await eventually(lambda: children() <= before, because="no zombie may be left")


async def test_a_timeout_around_the_step_is_a_timeout(adapter: ShellAdapter, mark: str) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await run(adapter, {"command": f"sleep {mark}; :"})
    await gone(mark)


async def test_what_a_command_leaves_running_ends_with_it(adapter: ShellAdapter, mark: str) -> None:
    script = f"sleep {mark} & setsid sleep {mark} & (setsid sh -c 'sleep {mark}; :' &) ; echo started"
    async with asyncio.timeout(PATIENCE):
        result = await run(adapter, {"command": script})
    assert result["stdout"] == "started\n"
    await gone(mark)


async def test_steps_leave_no_descriptor_and_no_process_behind(adapter: ShellAdapter) -> None:
    await run(adapter, {"command": "true"})
    before, running = descriptors(), children()
    async with asyncio.TaskGroup() as group:
        for number in range(12):
            group.create_task(run(adapter, {"command": f"echo {number}; cat", "stdin": "x"}))
    await eventually(lambda: descriptors() <= before)
    await eventually(lambda: children() <= running)


# --- the sandbox ------------------------------------------------------------------------------------------------


async def test_a_command_is_never_root_and_can_not_become_it(adapter: ShellAdapter) -> None:
    result = await run(adapter, {"command": "id -u; id -G; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status"})
    assert isinstance(result["stdout"], str)
    uid, groups, *status = result["stdout"].splitlines()
    assert int(uid) == (65534 if os.geteuid() == 0 else os.geteuid())
    assert "0" not in groups.split()
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status


async def test_the_sandbox_shows_nothing_of_the_machine_but_its_programs(
    sandboxed: ShellAdapter, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("secret")
    script = """
        ls /
        for file in /etc/shadow /root ${file} /var/log /home /run; do [ -e $file ] && echo "sees $file"; done
        for file in /usr/x /etc/x /x /dev/x /proc/x; do (echo a > $file) 2>/dev/null && echo "wrote $file"; done
        (mount -t tmpfs none /tmp || unshare -U true) 2>/dev/null && echo "made a namespace"
        ls -d /proc/[0-9]* | wc -l
        echo a > /tmp/x && echo "tmp is writable"
    """
    recorder = Recorder()
    await run(sandboxed, {"command": script}, recorder, file=str(tmp_path / "file"))
    *root, processes, tmp = recorder.of("stdout")
    assert set(root) <= {
        *("bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "tmp", "usr", "var", "workspace")
    }
    assert int(processes) < 10
    assert tmp == "tmp is writable"


async def test_the_sandbox_has_no_network_unless_the_step_asks_for_it(sandboxed: ShellAdapter) -> None:
    ours = network()
    script = "readlink /proc/self/ns/net; tail -n +3 /proc/net/dev | cut -d: -f1"
    apart = await run(sandboxed, {"command": script, "parse": "lines"})
    assert isinstance(apart["parsed"], list)
    assert apart["parsed"][0] != ours
    assert [str(name).strip() for name in apart["parsed"][1:]] == ["lo"]
    shared = await run(sandboxed, {"command": script, "parse": "lines", "network": True})
    assert isinstance(shared["parsed"], list)
    assert shared["parsed"][0] == ours


async def test_values_and_variables_are_in_no_command_line_of_the_machine(adapter: ShellAdapter, mark: str) -> None:
    secret = uuid.uuid4().hex
    config: JsonObject = {"command": f"echo ${{x}} > /dev/null; sleep {mark}; :", "env": {"TOKEN": "${x}"}}
    action = adapter.prepare(config, FixedScope(x=secret))
    task = asyncio.create_task(action.run(context(Recorder().log)))
    await eventually(lambda: processes_with(f"sleep\0{mark}"))
    assert processes_with(secret) == []
    await cancelled(task)
    await gone(mark)


async def test_the_directories_in_memory_are_bounded(sandboxed: ShellAdapter) -> None:
    for directory in ("/tmp", "/workspace", "/dev/shm"):
        result = await run(sandboxed, {"command": f"df -B1 --output=size {directory} | tail -n 1"})
        assert 0 < int(str(result["stdout"])) <= 256 * 1024 * 1024


@pytest.mark.parametrize(
    ("limits", "script", "message"),
    [
        ({"processes": 8}, "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo all", "fork"),
        ({"file_size": "64Ki"}, "head -c 100000 /dev/zero > a", r"153 \(SIGXFSZ, .*file_size"),
        ({"open_files": 8}, "exec 3<. 4<. 5<. 6<. 7<. 8<. 9<.; echo all", "exit code [12]:"),
        ({"cpu": "1s"}, "while :; do :; done", r"152 \(SIGXCPU, .*cpu"),
        ({"memory": "64Mi"}, "head -c 200000000 /dev/zero | tail", "exit code 1"),
    ],
)
async def test_a_step_can_not_use_more_than_its_limits(
    sandboxed: ShellAdapter, limits: JsonObject, script: str, message: str
) -> None:
    with pytest.raises(TemporaryError, match=message):
        await run(sandboxed, {"command": script, "limits": limits})


async def test_a_limit_above_the_agents_own_is_a_permanent_error(sandboxed: ShellAdapter) -> None:
    with pytest.raises(PermanentError, match=r"limits.*NOFILE") as caught:
        await run(sandboxed, {"command": "true", "limits": {"open_files": 2_000_000_000}})
    assert caught.value.code == "bad_limits"


async def test_the_limit_of_processes_counts_for_each_step_alone(sandboxed: ShellAdapter) -> None:
    config: JsonObject = {"command": "for i in 1 2 3 4; do sleep 0.5 & done; wait; echo ok", "limits": {"processes": 8}}
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(sandboxed, config)) for _ in range(4)]
    assert [task.result()["stdout"] for task in tasks] == ["ok\n"] * 4


# --- without a sandbox ------------------------------------------------------------------------------------------


@pytest.fixture(params=["missing", "forbidden"])
def no_bwrap(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A machine without bubblewrap, and one that forbids it as an ordinary pod does (a fake says so)."""
    tmp_path.chmod(0o755)
    for name in ("setpriv", "prlimit"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    if request.param == "forbidden":
        fake = tmp_path / "bwrap"
        fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
        fake.chmod(0o755)
    for parent in tmp_path.parents:  # the step runs as nobody
        if parent.stat().st_uid == os.geteuid() and parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    monkeypatch.setattr(launching, "LAUNCHERS", str(tmp_path))
    return "not installed" if request.param == "missing" else "No permissions to create new namespace"


async def test_where_a_sandbox_is_required_and_none_is_to_be_had_steps_fail_with_the_remedy(no_bwrap: str) -> None:
    adapter = ShellAdapter(levels=("bubblewrap",))
    action = adapter.prepare({"command": "true"}, FixedScope())
    for attempt in (action.run, action.plan):
        with pytest.raises(PermanentError, match=rf"{no_bwrap}.*apt install bubblewrap.*WPK_SANDBOX") as caught:
            await attempt(context(Recorder().log))
        assert caught.value.code == "no_sandbox"
    assert (await adapter.report()).level is None


async def test_where_no_namespaces_can_be_made_landlock_and_seccomp_are_a_sandbox(no_bwrap: str) -> None:
    adapter = ShellAdapter()
    report = await adapter.report()
    require(report.level == "landlock", f"Landlock can't be used here: {report.detail}")
    assert no_bwrap in report.detail
    recorder = Recorder()
    assert (await run(adapter, {"command": "echo a"}, recorder))["stdout"] == "a\n"
    assert recorder.of("agent") == []
    plan = await adapter.prepare({"command": "true"}, FixedScope()).plan(context(recorder.log))
    assert (plan.detail["sandbox"], "behind Landlock and seccomp" in plan.summary) == ("landlock", True)


@pytest.mark.parametrize("mode", ["required", "preferred"])
async def test_a_landlock_that_does_not_hold_signals_is_no_sandbox_unless_any_is_welcome(
    mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    await adapter_at("landlock")
    monkeypatch.setattr(keeper, "abi", lambda: 5)  # the agent asks it; the keeper asks the kernel itself
    adapter = ShellAdapter(mode=mode, levels=("landlock",))
    action, recorder = adapter.prepare({"command": "echo a"}, FixedScope()), Recorder()
    if mode == "required":
        with pytest.raises(PermanentError, match=r"ABI 5.*signals") as caught:
            await action.run(context(recorder.log))
        assert caught.value.code == "no_sandbox"
    else:
        assert (await action.run(context(recorder.log)))["stdout"] == "a\n"
        assert [line for line in recorder.of("agent") if "does not hold all" in line and "ABI 5" in line]


@pytest.mark.parametrize("lets", ["read", "device"])
async def test_a_landlock_that_holds_nothing_is_found_out(lets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await adapter_at("landlock")
    launch = landlock.launch

    def leaking(spec: launching.Spec, directory: str) -> spawn.Launch:
        made = launch(spec, directory)
        assert made.arguments is not None
        return dataclasses.replace(made, arguments=made.arguments + f"{lets}=/tmp\0".encode())

    monkeypatch.setattr(landlock, "launch", leaking)
    report = await ShellAdapter(levels=("landlock",)).report()
    assert report.level is None
    assert "lets files be" in report.detail


async def test_where_a_sandbox_is_preferred_and_none_is_to_be_had_steps_run_with_a_warning(no_bwrap: str) -> None:
    adapter = ShellAdapter(mode="preferred", levels=("bubblewrap",))
    recorder = Recorder()
    assert (await run(adapter, {"command": "echo a"}, recorder))["stdout"] == "a\n"
    assert [line for line in recorder.of("agent") if "without a sandbox" in line and no_bwrap in line]
    assert (await adapter.report()).level == "none"


async def test_where_it_is_switched_off_it_is_not_asked_for(no_bwrap: str) -> None:
    recorder = Recorder()
    assert (await run(ShellAdapter(mode="off"), {"command": "echo a"}, recorder))["stdout"] == "a\n"
    assert recorder.of("agent") == []


async def test_variables_that_the_launcher_would_obey_are_refused_without_a_sandbox(sandboxed: ShellAdapter) -> None:
    config: JsonObject = {"command": "echo $LD_BIND_NOW", "env": {"LD_BIND_NOW": "1"}}
    with pytest.raises(PermanentError, match="LD_BIND_NOW"):
        await run(ShellAdapter(mode="off"), config)
    assert (await run(sandboxed, config))["stdout"] == "1\n"


async def test_a_command_dies_with_the_agent(adapter: ShellAdapter, mark: str) -> None:
    report = await adapter.report()
    program = (
        "import asyncio\n"
        "from consumer.adapters.shell import ShellAdapter\n"
        "from tests.support.shell_steps import run\n"
        f"adapter = ShellAdapter(mode={report.mode!r}, levels=({report.level!r},))\n"
        f"asyncio.run(run(adapter, {{'args': ['sleep', '{mark}']}}))\n"
    )
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    try:
        await eventually(lambda: running(mark))
    finally:
        agent.send_signal(signal.SIGKILL)
        await agent.wait()
    await gone(mark)


async def test_a_command_whose_agent_dies_while_it_starts_never_begins(adapter: ShellAdapter, mark: str) -> None:
    report = await adapter.report()
    program = (
        "import asyncio, os, signal\n"
        "from consumer.adapters.shell import ShellAdapter, spawn\n"
        "from tests.support.shell_steps import run\n"
        "start = spawn.start\n"
        "async def dying(launch):\n"
        "    await start(launch)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "async def main():\n"
        f"    adapter = ShellAdapter(mode={report.mode!r}, levels=({report.level!r},))\n"
        "    await adapter.report()\n"
        "    import consumer.adapters.shell.process as process\n"
        "    process.start = dying\n"
        f"    await run(adapter, {{'args': ['sleep', '{mark}']}})\n"
        "asyncio.run(main())\n"
    )
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await agent.wait() == -signal.SIGKILL
    # What is left may still be on its way to the gate. bwrap can be left behind waiting, but then it stays there.
    await eventually(lambda: all(stuck(pid) for pid in processes_with(mark)))
    assert running(mark) == []
    for pid in processes_with(mark):
        os.kill(pid, signal.SIGKILL)


# --- values, wildly ---------------------------------------------------------------------------------------------

#: Each prints PWNED, in two pieces, if any part of it is run as code.
EVIL = (
    "$(printf 'PW%s' NED)",
    "`printf 'PW%s' NED`",
    ";printf 'PW%s' NED;",
    "\nprintf 'PW%s' NED\n",
    "';printf 'PW%s' NED;'",
    "\";printf 'PW%s' NED;\"",
    "a[$(printf 'PW%s' NED >&2)]",
    "x/e;printf 'PW%s' NED",
    "EOF\nprintf 'PW%s' NED\n",
    "-c",
    "\\",
)
PIECES = (
    *(
        "'",
        '"',
        "`",
        "$(",
        ")",
        "$${",
        "}",
        ";",
        "|",
        "&&",
        "&",
        "<",
        ">",
        "#",
        "\\",
        "${x}",
        "${x}",
        "${x}",
        "${y}",
        "a)",
        ";;",
        "A=",
        "$((",
        "))",
        "(",
        "[",
        "]",
        "eval",
        "sh",
        "bash",
        "x",
        "$A",
        "$",
        "do",
        "test",
        "export",
        "xargs",
        "env",
        "awk",
        "sed",
        "cat",
        "$${A:-",
        "<<<",
        "[[",
        "]]",
        "command",
        "/g",
        "-c",
        "-eq",
        "1",
        "printf",
        "%s",
        "echo",
    ),
    *(
        " ",
        " ",
        "\n",
        "<<EOF\n",
        "\nEOF\n",
        "case ${x} in ",
        " esac",
        "if true; then ",
        "; fi",
        "for i in ",
        "{ ",
        "sed s/a/",
    ),
)


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
async def test_no_script_that_is_accepted_runs_a_value(sandboxed: ShellAdapter, shell: str) -> None:
    require(Path(shell).exists(), f"{shell} is not installed")  # noqa: ASYNC240
    chance = random.Random(20_260_101)
    accepted = 0
    while accepted < 60:
        template = "".join(chance.choice(PIECES) + chance.choice(("", " ")) for _ in range(chance.randint(2, 14)))
        script = quoting.render(template)
        values = {expression: chance.choice(EVIL) for expression in script.variables.values()}
        if not script.holes or script.problems or list(script.refusals(values)):
            continue
        accepted += 1
        # The agent's names for the values are its own, so the test gives them others.
        text = script.text.replace(quoting.PREFIX, "VALUE_").replace("${", "$${")
        names = {name.replace(quoting.PREFIX, "VALUE_"): values[each] for name, each in script.variables.items()}
        config: JsonObject = {
            "args": [shell, "-c", text],
            "env": dict(names),
            "limits": {"processes": 20, "cpu": "1s"},
            "success_codes": list(range(256)),
        }
        recorder = Recorder()
        with contextlib.suppress(PermanentError, TimeoutError):
            async with asyncio.timeout(10):
                await run(sandboxed, config, recorder)
        assert "PWNED" not in "".join(text for _, text in recorder.lines), (template, values)
