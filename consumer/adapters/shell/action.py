"""A shell step with its values in place: says what it would run, and runs it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from consumer.adapters.shell import bubblewrap, launching, output, parsing, process, sandbox, spawn
from consumer.adapters.shell.cgroup import Group, Groups
from consumer.adapters.shell.config import Limits, ShellConfig
from consumer.errors import PermanentError, StepError, TemporaryError
from consumer.ports import JsonObject, Plan, StepContext, Usage

#: Characters of a message's quotation of what the command printed.
_QUOTED = 300
#: Seconds for the last words of a cancelled command.
_LAST_WORDS = 2.0
_WHERE: dict[sandbox.Level, str] = {
    "bubblewrap": "in bubblewrap",
    "landlock": "behind Landlock and seccomp",
    "none": "without a sandbox",
}
_HINTS = {
    signal.SIGXCPU: "it used up limits.cpu",
    signal.SIGXFSZ: "it wrote a file larger than limits.file_size",
    signal.SIGSYS: "the sandbox forbids system calls of another architecture",
    signal.SIGKILL: "killed from outside: often the memory was exhausted",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the adapter gives to all of its steps."""

    sandbox: sandbox.Sandbox
    environment: Mapping[str, str]
    """The agent's own variables that commands may have."""
    grace: float
    """Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellAction:
    """A command that is ready."""

    config: ShellConfig
    """With `command` as it runs: its values are in variables."""
    shown: str
    """The command as a human reads it, values in place."""
    values: Mapping[str, str]
    """The variables that carry the command's values."""
    expressions: Mapping[str, str]
    """The placeholder that each of these variables stands for."""
    surroundings: Surroundings

    @property
    def repeatable(self) -> bool:
        """Nobody knows what a command does, so nobody may just do it twice."""
        return False

    @property
    def time_limit(self) -> float | None:
        return None

    async def plan(self, step: StepContext) -> Plan:
        """The command and the sandbox it would get. Raises PermanentError where it would get none and needs one."""
        level = await self.surroundings.sandbox.level()
        where = _WHERE[level]
        detail: JsonObject = {
            "command": self.shown,
            "sandbox": level,
            "network": self.config.network,
            "cwd": str(Path(bubblewrap.WORKSPACE, self.config.cwd)) if level == "bubblewrap" else self.config.cwd,
            "env": dict(self.config.env),
            "success_codes": list(self.config.success_codes),
            "limits": self.config.limits.model_dump(exclude_none=True),
        }
        if self.config.command is not None and self.values:
            detail["script"] = self.config.command
            detail["values"] = {self.expressions[name]: value for name, value in self.values.items()}
        if self.config.stdin is not None:
            detail["stdin"] = self.config.stdin
        network = ", with network" if self.config.network else ", no network"
        return Plan(summary=f"run `{_one_line(self.shown, 120)}` {where}{network}", changes=True, detail=detail)

    async def run(self, step: StepContext) -> JsonObject:
        """Runs it. The output has `stdout`, `stderr`, `exit_code`, `duration`, and with `parse` also `parsed`."""
        level, report = await self.surroundings.sandbox.level(), await self.surroundings.sandbox.report()
        step.used(Usage(sandbox=level))
        if report.warning:
            await step.log("agent", f"warning: this step runs {report.warning}")
        async with _scratch(level) as directory, _group(report.groups, self.config.limits) as group:
            spec = launching.Spec(
                argv=self._argv(),
                env=self._env(step, bubblewrap.WORKSPACE if level == "bubblewrap" else directory),
                cwd=self.config.cwd,
                stdin=None if self.config.stdin is None else self.config.stdin.encode("utf-8", "replace"),
                limits=self.config.limits,
                network=self.config.network,
                grouped=report.groups.controllers if report.groups is not None else frozenset(),
            )
            launch = self.surroundings.sandbox.launch(spec, level, directory)
            return await self._execute(launch, step, level, group)

    def _argv(self) -> tuple[str, ...]:
        if self.config.args is not None:
            return self.config.args
        # A script that begins with a dash would be taken for an option.
        script = self.config.command or ""
        return ("/bin/sh", "-c", f" {script}" if script[:1] in ("-", "+") else script)

    def _env(self, step: StepContext, home: str) -> dict[str, str]:
        return {
            "PATH": launching.SEARCH_PATH,
            "HOME": home,
            "LANG": "C.UTF-8",
            **({"TRACEPARENT": step.traceparent} if step.traceparent else {}),
            **self.surroundings.environment,
            **self.config.env,
            **self.values,
            "WPK_EXECUTION_ID": step.execution_id,
            "WPK_STEP": step.step,
            "WPK_ATTEMPT": str(step.attempt),
            "WPK_EPOCH": str(step.epoch),
            "WPK_IDEMPOTENCY_KEY": step.idempotency_key,
        }

    async def _execute(
        self, launch: spawn.Launch, step: StepContext, level: sandbox.Level, group: Group | None
    ) -> JsonObject:
        heard = _Heard(step, parse=self.config.parse != "none")
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            ended = await process.execute(launch, heard.hear, grace=self.surroundings.grace, group=group)
        except asyncio.CancelledError:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_LAST_WORDS):
                    await heard.finish()
            raise
        except OSError as error:
            raise _not_started(error, launch) from error
        duration = round(loop.time() - began, 3)
        await heard.finish()
        if ended.used is not None:
            cpu, peak = ended.used.cpu_seconds, ended.used.peak_memory_bytes
            step.used(Usage(sandbox=level, cpu_seconds=cpu, peak_memory_bytes=peak))
        if ended.survivors:
            await step.log("agent", "warning: a process of this step could not be ended and goes on outside")
        result: JsonObject = {
            "stdout": heard.kept["stdout"].text(),
            "stderr": heard.kept["stderr"].text(),
            "exit_code": ended.exit_code,
            "duration": duration,
        }
        if (failure := self._failure(ended, heard, dict(result))) is not None:
            raise failure
        if self.config.parse != "none":
            result["parsed"] = self._parsed(heard.kept["stdout"], result)
        return result

    def _failure(self, ended: process.Ended, heard: _Heard, result: JsonObject) -> StepError | None:
        """What the end means, if it is no success."""
        stderr = heard.kept["stderr"].text().strip()
        last = _one_line(stderr.rpartition("\n")[2], _QUOTED)
        if not ended.ran:
            if "Can't chdir to" in last:
                return _bad_cwd(self.config.cwd)
            message = f"the sandbox ended before the command did: {last or f'exit code {ended.exit_code}'}"
            return TemporaryError(message, code="sandbox_failed", output=result)
        nothing_said = not heard.kept["stdout"].total and "\n" not in stderr
        if ended.exit_code in (1, 126, 127) and nothing_said and stderr.startswith("prlimit: failed to "):
            return self._not_begun(stderr, last)
        if ended.exit_code in self.config.success_codes:
            return None
        if ended.exit_code == 127 and last.endswith("not found"):
            message = f"exit code 127: {last}; install the program on the agent's machine (the command sees /usr)"
            return PermanentError(message, code="command_not_found", output=result)
        said = f": {last}" if last else ", and nothing on stderr"
        return TemporaryError(f"exit code {_code(ended.exit_code)}{said}", code="exit_code", output=result)

    def _not_begun(self, stderr: str, last: str) -> StepError:
        """What the launcher's last program says of why it did not run the command."""
        if stderr.startswith("prlimit: failed to execute"):
            message = (
                f'"{_one_line(self._argv()[0], 80)}" can\'t be run: {last.rpartition(": ")[2]}; install it on the '
                "agent's machine, where the command sees /usr"
            )
            return PermanentError(message, code="command_not_found")
        return PermanentError(f"limits are higher than the agent's own: {last}", code="bad_limits")

    def _parsed(self, kept: output.Kept, result: JsonObject) -> JsonValue:
        raw = kept.whole
        try:
            if raw is None:
                raise ValueError(f"stdout has {kept.total} bytes, more than the {output.PARSED} that can be parsed")
            return parsing.parse_output(raw, "json" if self.config.parse == "json" else "lines")
        except ValueError as error:
            raise PermanentError(
                f"the command succeeded, but its output can't be parsed: {error}",
                code="output_format",
                output=dict(result),
            ) from error


class _Heard:
    """What the command printed so far: handed to the log line by line, and kept in part."""

    def __init__(self, step: StepContext, *, parse: bool) -> None:
        self._step = step
        self._lines: dict[spawn.Source, output.Lines] = {"stdout": output.Lines(), "stderr": output.Lines()}
        head = output.PARSED if parse else output.KEPT // 2
        self.kept: dict[spawn.Source, output.Kept] = {"stdout": output.Kept(head=head), "stderr": output.Kept()}

    async def hear(self, source: spawn.Source, chunk: bytes) -> None:
        """Takes a chunk in; returns when the log has its lines."""
        self.kept[source].feed(chunk)
        for line in self._lines[source].feed(chunk):
            await self._step.log(source, line)

    async def finish(self) -> None:
        """The lines that no newline ended, and what was cut."""
        for source, lines in self._lines.items():
            for line in lines.close():
                await self._step.log(source, line)
            if lines.cut:
                await self._step.log(
                    "agent", f"{source}: {lines.cut} too long lines were cut, {lines.lost} bytes of them are not here"
                )


@contextlib.asynccontextmanager
async def _group(groups: Groups | None, limits: Limits) -> AsyncIterator[Group | None]:
    """A control group of the step's own with its limits, gone with all that is in it when the step ends."""
    if groups is None:
        yield None
        return
    async with contextlib.AsyncExitStack() as stack:
        try:
            made = groups.make()
            stack.push_async_callback(_close, made)
            made.bound(**launching.bounds(limits, groups.controllers))
        except OSError as error:
            raise TemporaryError(f"no control group can be made: {error.strerror}", code="sandbox_failed") from error
        yield made


async def _close(group: Group) -> None:
    """Closes it through every cancellation. One that can't be removed is the next start's matter."""
    closing = asyncio.create_task(group.close())
    try:
        with contextlib.suppress(OSError):
            await asyncio.shield(closing)
    except asyncio.CancelledError:
        with contextlib.suppress(OSError):
            await process.uncancelled(closing)
        raise


@contextlib.asynccontextmanager
async def _scratch(level: sandbox.Level) -> AsyncIterator[str]:
    """A directory of the step's own where there is no sandbox, whose own lies in memory and goes with it."""
    if level == "bubblewrap":
        yield "/"
        return
    # Made in place: it takes no time, and a cancellation can't come between it and its removal.
    directory = tempfile.mkdtemp(prefix="wpk-step-")
    try:
        if (owner := launching.owner()) is not None:
            os.chown(directory, owner, owner)
        yield directory
    finally:
        removing = asyncio.create_task(asyncio.to_thread(_remove, directory))
        try:
            await asyncio.shield(removing)
        except asyncio.CancelledError:
            await process.uncancelled(removing)
            raise


def _remove(directory: str) -> None:
    """Removes it with all that is in it, also where the command took the rights to that away."""
    shutil.rmtree(directory, ignore_errors=True)
    if not os.path.lexists(directory):
        return
    with contextlib.suppress(OSError):
        _let_in(directory)
        for _, names, _, number in os.fwalk(directory):
            for name in names:
                with contextlib.suppress(OSError):
                    _let_in(name, number)
    shutil.rmtree(directory, ignore_errors=True)


def _let_in(name: str, parent: int | None = None) -> None:
    """Gives its owner all rights to that directory, by a descriptor that is one for sure: a command without a sandbox
    may put a link to somewhere else in its place, even of the step's own directory, and the agent may be root."""
    number = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=parent)
    try:
        Path(f"/proc/self/fd/{number}").chmod(0o700)
    finally:
        os.close(number)


def _not_started(error: OSError, launch: spawn.Launch) -> StepError:
    if error.errno == errno.E2BIG:
        return PermanentError("the command, its arguments and its variables together are too large", code="too_large")
    if error.filename == launch.cwd:
        return _bad_cwd(launch.cwd)
    return TemporaryError(f"the command can't be started: {error.strerror or error}", code="spawn_failed")


def _bad_cwd(cwd: str) -> PermanentError:
    return PermanentError(
        f'cwd "{_one_line(cwd, 120)}" is no directory that the command can see; leave it out for its own empty one '
        "(/workspace), or name one in /usr, /etc or /tmp",
        code="bad_cwd",
    )


def _one_line(text: str, limit: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _code(exit_code: int) -> str:
    """The code, with the signal that it may stand for."""
    try:
        number = signal.Signals(exit_code - 128)
    except ValueError:
        return str(exit_code)
    hint = f", {_HINTS[number]}" if number in _HINTS else ""
    return f"{exit_code} ({number.name}{hint})"
