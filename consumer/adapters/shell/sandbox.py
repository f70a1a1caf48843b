"""Which sandbox commands get: found out once, by running it, and used from then on.

The levels, best first: `bubblewrap` (namespaces, where the machine or the pod lets an ordinary user make them),
`landlock` (Landlock and seccomp, which need no permission at all), `none` (limits, and death with the step). What each
holds and what it does not stands in docs/security.md, and tests/security/escapes.py tries it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from consumer.adapters.shell import bubblewrap, cgroup, keeper, landlock, launching, output, process, seccomp, spawn
from consumer.adapters.shell.bubblewrap import Sizes
from consumer.adapters.shell.cgroup import Groups
from consumer.adapters.shell.launching import Spec
from consumer.errors import PermanentError

Mode = Literal["required", "preferred", "off"]
Level = Literal["bubblewrap", "landlock", "none"]
#: All that hold a command, best first.
LEVELS: tuple[Level, ...] = ("bubblewrap", "landlock")

_PROBE_TIMEOUT = 30.0
_REMEDY = (
    "install bubblewrap (apt install bubblewrap) or set WPK_SANDBOX=preferred or off to run shell steps without it"
)
#: Tries to read and to write the file that it is given, and looks whether it has a seccomp filter.
_PROBE = """
( : < "$1" ) 2>/dev/null && exit 97
( : > "$1" ) 2>/dev/null && exit 98
while read -r name value; do [ "$name $value" = "Seccomp: 2" ] && exit 0; done < /proc/self/status
exit 99
"""
_HELD_NOT = {97: "it lets files be read", 98: "it lets files be written", 99: "no seccomp filter is in force"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What shell steps of this agent run in."""

    mode: Mode
    level: Level | None
    """None: nothing that the mode allows is to be had, so every shell step fails."""
    detail: str
    """Why; with the remedy where there is one."""
    warning: str = ""
    """What a step's log is to say of it; empty: nothing."""
    groups: Groups | None = None
    """Where each step gets a control group; None: nowhere, and rlimits alone hold each process."""

    @property
    def limits(self) -> str:
        """What holds the limits, for the log."""
        if self.groups is None:
            return "rlimits"
        bounded = sorted(self.groups.controllers)
        return f"control groups for {' and '.join(bounded)}, rlimits" if bounded else "rlimits, control groups to kill"


class Sandbox:
    """Finds out once what can be had, and makes launches of commands."""

    def __init__(
        self,
        mode: Mode,
        sizes: Sizes | None = None,
        levels: Sequence[Level] = LEVELS,
        find_groups: Callable[[], Groups | None] = cgroup.find,
    ) -> None:
        """`levels`: which sandboxes are looked for."""
        self._find_groups = find_groups
        self._mode = mode
        self._levels = levels
        self._sizes = sizes or Sizes()
        self._report: Report | None = None
        self._probing = asyncio.Lock()

    async def report(self) -> Report:
        """What is used; tried out at the first call, and again at later ones until it works."""
        async with self._probing:
            if self._report is not None:
                return self._report
            report = dataclasses.replace(await self._found(), groups=await asyncio.to_thread(self._find_groups))
            if report.level is not None:
                self._report = report
            return report

    async def level(self) -> Level:
        """The level to launch with. Raises PermanentError where the mode forbids what there is."""
        report = await self.report()
        if report.level is None:
            raise PermanentError(f"shell steps need a sandbox here: {report.detail}", code="no_sandbox")
        return report.level

    async def _found(self) -> Report:
        if self._mode == "off":
            return Report(mode="off", level="none", detail="switched off by WPK_SANDBOX=off")
        troubles: list[str] = []
        if "bubblewrap" in self._levels:
            if (trouble := await self._trouble_of_bubblewrap()) is None:
                return self._in_bubblewrap()
            troubles.append(trouble)
        if "landlock" in self._levels:
            trouble = await self._trouble_of_landlock()
            lacking = landlock.missing(keeper.abi())
            if trouble is None and lacking is None:
                works = f"Landlock (ABI {keeper.abi()}) and seccomp work"
                detail = "; bubblewrap can't be used: ".join((works, *troubles))
                return Report(mode=self._mode, level="landlock", detail=detail)
            troubles.append(trouble or lacking or "")
            if trouble is None and self._mode == "preferred":
                detail = "; ".join((*troubles, _REMEDY))
                warning = f"in a sandbox that does not hold all: {detail}"
                return Report(mode=self._mode, level="landlock", detail=detail, warning=warning)
        detail = "; ".join((*troubles, _REMEDY))
        if self._mode == "preferred":
            return Report(mode="preferred", level="none", detail=detail, warning=f"without a sandbox: {detail}")
        return Report(mode=self._mode, level=None, detail=detail)

    def _in_bubblewrap(self) -> Report:
        detail, warning = "bubblewrap works", ""
        if not seccomp.known():
            unfiltered = f"system calls are not filtered, as no filter for {os.uname().machine} is known"
            detail, warning = f"{detail}; {unfiltered}", f"in a sandbox that does not hold all: {unfiltered}"
        return Report(mode=self._mode, level="bubblewrap", detail=detail, warning=warning)

    async def _trouble_of_bubblewrap(self) -> str | None:
        """Why bubblewrap can't be used, by using it; None where it can."""
        ended, said = await _tried(lambda: bubblewrap.launch(Spec(argv=("/bin/true",), env={}), self._sizes))
        if ended is not None and ended.ran and ended.exit_code == 0:
            return None
        return said if ended is None else f"bubblewrap failed: {said or f'exit code {ended.exit_code}'}"

    async def _trouble_of_landlock(self) -> str | None:
        """Why Landlock and seccomp can't be used, by using them and trying to break out; None where they can.

        A kernel that only claims to have them would else be believed.
        """
        with _directories() as (own, other):
            file = other / "file"
            file.touch(mode=0o666)
            file.chmod(0o666)
            script = ("/bin/sh", "-c", _PROBE, "probe", str(file))
            ended, said = await _tried(lambda: landlock.launch(Spec(argv=script, env={}), str(own)))
        if ended is not None and ended.ran and ended.exit_code == 0:
            return None
        if ended is None:
            return said
        return f"Landlock failed: {_HELD_NOT.get(ended.exit_code, said or f'exit code {ended.exit_code}')}"

    def launch(self, spec: Spec, level: Level, directory: str = "/") -> spawn.Launch:
        """How to start the command; `directory` is its own where it has none in memory.

        Raises PermanentError where the launcher's programs are missing.
        """
        match level:
            case "bubblewrap":
                return bubblewrap.launch(spec, self._sizes)
            case "landlock":
                return landlock.launch(spec, directory)
            case "none":
                return launching.bare(spec, directory)


async def _tried(prepared: Callable[[], spawn.Launch]) -> tuple[process.Ended | None, str]:
    """How a launch ended, and the last line that it said; where it could not even be made, no end, but why."""
    heard = output.Kept(head=2048, tail=0)

    async def listen(source: spawn.Source, chunk: bytes) -> None:
        if source == "stderr":
            heard.feed(chunk)

    try:
        launch = prepared()
        async with asyncio.timeout(_PROBE_TIMEOUT):
            ended = await process.execute(launch, listen, grace=0.0)
    except PermanentError as error:
        return None, str(error)
    except TimeoutError:
        return None, f"a first command did not end within {_PROBE_TIMEOUT:.0f} s"
    except OSError as error:
        return None, f"a first command can't be started: {error.strerror or error}"
    lines = heard.text().strip().splitlines()
    return ended, lines[-1] if lines else ""


@contextlib.contextmanager
def _directories() -> Iterator[tuple[Path, Path]]:
    """Two directories of the command's user: its own, and one that is none of its business."""
    made = [Path(tempfile.mkdtemp(prefix="wpk-probe-")) for _ in range(2)]
    try:
        for each in made:
            if (owner := launching.owner()) is not None:
                os.chown(each, owner, owner)
        yield made[0], made[1]
    finally:
        for each in made:
            shutil.rmtree(each, ignore_errors=True)
