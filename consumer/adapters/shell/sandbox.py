"""What a command may see and use: the launcher's command line, for bubblewrap and for no sandbox.

The command never runs as root. An agent that is root drops to `nobody` first and enters the sandbox then: bubblewrap
started by root makes no user namespace, and a process that is only mapped to another uid still owns root's files.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from consumer.adapters.shell import output, process, spawn
from consumer.adapters.shell.config import Limits
from consumer.errors import PermanentError
from schemas.scalars import parse_quantity

Mode = Literal["required", "preferred", "off"]
Level = Literal["bubblewrap", "none"]

#: Who the command runs as where the agent is root: nobody.
NOBODY = 65534
WORKSPACE = "/workspace"
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Where the launcher's own programs are looked for.
_LAUNCHERS = SEARCH_PATH

_PROBE_TIMEOUT = 30.0
_MIB = 1024 * 1024
_DEFAULT_PROCESSES = 256
_DEFAULT_OPEN_FILES = 1024
_DEFAULT_FILE_SIZE = 256 * _MIB
#: Directories beside /usr that hold programs and libraries; mostly links into /usr.
_SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
#: What programs need of /etc, and nothing that says more of the host than it must.
_ETC = (
    "alternatives",
    "ca-certificates",
    "group",
    "host.conf",
    "hosts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "passwd",
    "pki/ca-trust",
    "pki/tls/certs",
    "pki/tls/cert.pem",
    "protocols",
    "services",
    "ssl/certs",
    "ssl/cert.pem",
    "ssl/openssl.cnf",
    "timezone",
)
_ETC_NETWORK = ("gai.conf", "resolv.conf")
#: Variables that make the launcher itself load code, while it may still be root.
_LOADER = ("LD_", "GCONV_PATH", "GLIBC_TUNABLES", "LOCPATH", "MALLOC_", "NLSPATH")

_REMEDY = (
    "install bubblewrap (apt install bubblewrap) or set WPK_SANDBOX=preferred or off to run shell steps without it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes that the command may fill in its directories in memory."""

    workspace: int = 256 * _MIB
    tmp: int = 64 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A command with all values in place."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str = "."
    stdin: bytes | None = None
    limits: Limits = field(default_factory=Limits)
    network: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What shell steps of this agent run in."""

    mode: Mode
    level: Level | None
    """None: nothing that the mode allows is to be had, so every shell step fails."""
    detail: str
    """Why; with the remedy where there is one."""


class Sandbox:
    """Finds out once what can be had, and makes launches of commands."""

    def __init__(self, mode: Mode, sizes: Sizes | None = None) -> None:
        self._mode = mode
        self._sizes = sizes or Sizes()
        self._report: Report | None = None
        self._probing = asyncio.Lock()

    async def report(self) -> Report:
        """What is used; tried out at the first call, and again at later ones until it works."""
        async with self._probing:
            if self._report is not None:
                return self._report
            if self._mode == "off":
                report = Report(mode="off", level="none", detail="switched off by WPK_SANDBOX=off")
            elif (trouble := await self._trouble()) is None:
                report = Report(mode=self._mode, level="bubblewrap", detail="bubblewrap works")
            elif self._mode == "preferred":
                report = Report(mode="preferred", level="none", detail=f"{trouble}; {_REMEDY}")
            else:
                return Report(mode=self._mode, level=None, detail=f"{trouble}; {_REMEDY}")
            self._report = report
            return report

    async def level(self) -> Level:
        """The level to launch with. Raises PermanentError where the mode forbids what there is."""
        report = await self.report()
        if report.level is None:
            raise PermanentError(f"shell steps need a sandbox here: {report.detail}", code="no_sandbox")
        return report.level

    async def _trouble(self) -> str | None:
        """Why bubblewrap can't be used, by using it; None where it can."""
        said = output.Kept(head=2048, tail=0)

        async def listen(source: spawn.Source, chunk: bytes) -> None:
            if source == "stderr":
                said.feed(chunk)

        try:
            launch = self.launch(Spec(argv=("/bin/true",), env={}), "bubblewrap")
            async with asyncio.timeout(_PROBE_TIMEOUT):
                ended = await process.execute(launch, listen, grace=0.0)
        except PermanentError as error:
            return str(error)
        except TimeoutError:
            return f"bubblewrap did not run /bin/true within {_PROBE_TIMEOUT:.0f} s"
        except OSError as error:
            return f"bubblewrap can't be started: {error.strerror or error}"
        if ended.ran and ended.exit_code == 0:
            return None
        lines = said.text().strip().splitlines()
        return f"bubblewrap failed: {lines[-1] if lines else f'exit code {ended.exit_code}'}"

    def launch(self, spec: Spec, level: Level, directory: str = "/") -> spawn.Launch:
        """How to start the command; `directory` is its scratch directory where there is no sandbox.

        Raises PermanentError where the launcher's programs are missing.
        """
        if level == "none":
            return _bare(spec, directory)
        argv = (
            *_drop_root(),
            _program("bwrap", "bubblewrap"),
            "--json-status-fd",
            "{status}",
            "--args",
            "{args}",
            "--",
            *_gated(spec, _DEFAULT_PROCESSES if _counts_processes_inside() else None),
        )
        options = "".join(f"{item}\0" for item in _options(spec, self._sizes))
        return spawn.Launch(
            argv=argv, env=_LAUNCHER_ENV, cwd="/", arguments=options.encode(), stdin=spec.stdin, owner=_owner()
        )


#: The launcher's environment is ours, never the package's: the launcher may still be root.
_LAUNCHER_ENV = {"PATH": SEARCH_PATH, "LC_ALL": "C"}


def _owner() -> int | None:
    return NOBODY if os.geteuid() == 0 else None


def _program(name: str, package: str) -> str:
    """Where the launcher's program is. Raises PermanentError with the package that has it."""
    found = shutil.which(name, path=_LAUNCHERS)
    if found is None:
        raise PermanentError(f"{name} is not installed (apt install {package})", code="no_sandbox")
    return found


def _gated(spec: Spec, processes: int | None) -> tuple[str, ...]:
    return spawn.gated((*_with_limits(spec.limits, processes), *spec.argv), stdin=spec.stdin is not None)


def _drop_root() -> tuple[str, ...]:
    """The wrapper by which a root agent becomes nobody, can't become anything else, and dies with the agent."""
    who: tuple[str, ...] = ()
    if os.geteuid() == 0:
        who = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all")
    return (_program("setpriv", "util-linux"), *who, "--no-new-privs", "--pdeathsig=KILL", "--")


def _counts_processes_inside() -> bool:
    """Whether a sandbox's processes are counted by themselves (Linux 5.14); before, all of the uid's count."""
    major, minor = re.match(r"(\d+)\.(\d+)", os.uname().release).groups()  # type: ignore[union-attr]
    return (int(major), int(minor)) >= (5, 14)


def _with_limits(limits: Limits, processes: int | None) -> tuple[str, ...]:
    """The wrapper that sets the limits; `processes` is the default where the step sets none."""

    def number(quantity: str) -> int:
        return max(1, int(parse_quantity(quantity)))

    files = limits.open_files or _at_most(_DEFAULT_OPEN_FILES, resource.RLIMIT_NOFILE)
    size = number(limits.file_size) if limits.file_size else _at_most(_DEFAULT_FILE_SIZE, resource.RLIMIT_FSIZE)
    options = [f"--nofile={files}", f"--fsize={size}", "--core=0"]
    if limits.processes is None and processes is not None:
        processes = _at_most(processes, resource.RLIMIT_NPROC)
    if (count := limits.processes or processes) is not None:
        options.append(f"--nproc={count}")
    if limits.cpu is not None:
        options.append(f"--cpu={int(limits.cpu)}:{int(limits.cpu) + 5}")
    if limits.memory is not None:
        options.append(f"--as={number(limits.memory)}")
    return (_program("prlimit", "util-linux"), *options, "--")


def _at_most(default: int, kind: int) -> int:
    """The default, or what the agent itself is held to where that is less: nobody can be given more."""
    _, hard = resource.getrlimit(kind)
    return default if hard == resource.RLIM_INFINITY else min(default, hard)


def _options(spec: Spec, sizes: Sizes) -> list[str]:
    """The sandbox as bwrap's options, in the order in which it mounts."""
    options = ["--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"]
    options += ["--die-with-parent", "--new-session", "--ro-bind", "/usr", "/usr"]
    if spec.network:
        options.append("--share-net")
    for name in _SYSTEM:
        path = Path("/", name)
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    options += ["--perms", "0755", "--dir", "/etc"]
    for name in _ETC + (_ETC_NETWORK if spec.network else ()):
        options += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
    options += ["--proc", "/proc", "--dev", "/dev"]
    for path_in, size in (("/dev/shm", sizes.tmp), ("/tmp", sizes.tmp), (WORKSPACE, sizes.workspace)):  # noqa: S108
        options += ["--perms", "1777", "--size", str(size), "--tmpfs", path_in]
    options += ["--perms", "0755", "--dir", "/var", "--symlink", "/tmp", "/var/tmp"]  # noqa: S108
    options += ["--remount-ro", "/dev", "--remount-ro", "/"]
    options += ["--chdir", str(Path(WORKSPACE, spec.cwd)), "--clearenv"]
    for name, value in spec.env.items():
        options += ["--setenv", name, value]
    return options


def _bare(spec: Spec, directory: str) -> spawn.Launch:
    """Without a sandbox: not root, limits, its own session, and death with the agent."""
    if loaders := sorted(name for name in spec.env if name.startswith(_LOADER)):
        raise PermanentError(
            f"the variable {loaders[0]} can't be set without a sandbox, as the launcher would obey it; "
            "set it inside the command, or use WPK_SANDBOX=required",
            code="bad_config",
        )
    token = f"WPK_RUN_ID={uuid.uuid4().hex}"
    name, _, value = token.partition("=")
    return spawn.Launch(
        argv=(*_drop_root(), *_gated(spec, None)),
        env={**spec.env, name: value},
        cwd=str(Path(directory, spec.cwd)),
        stdin=spec.stdin,
        owner=_owner(),
        token=token.encode(),
    )
