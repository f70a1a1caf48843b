"""What all ways to start a command share: who it runs as, its limits, and the launch without a sandbox.

The command never runs as root. An agent that is root drops to `nobody` first and enters the sandbox then: bubblewrap
started by root makes no user namespace, and a process that is only mapped to another uid still owns root's files.
"""

from __future__ import annotations

import os
import resource
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from consumer.adapters.shell import spawn
from consumer.adapters.shell.config import Limits
from consumer.errors import PermanentError
from schemas.scalars import parse_quantity

#: Who the command runs as where the agent is root: nobody.
NOBODY = 65534
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Where the launcher's own programs are looked for.
LAUNCHERS = SEARCH_PATH
#: The launcher's environment is ours, never the package's: the launcher may still be root.
LAUNCHER_ENV = {"PATH": SEARCH_PATH, "LC_ALL": "C"}
#: Processes of a step, where it has no limit of its own.
DEFAULT_PROCESSES = 256

_MIB = 1024 * 1024
_DEFAULT_OPEN_FILES = 1024
_DEFAULT_FILE_SIZE = 256 * _MIB
#: Directories beside /usr that hold programs and libraries; mostly links into /usr.
SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
#: What programs need of /etc, and nothing that says more of the host than it must.
ETC = (
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
ETC_NETWORK = ("gai.conf", "resolv.conf")
#: Variables that make the launcher itself load code, while it may still be root.
_LOADER = ("LD_", "GCONV_PATH", "GLIBC_TUNABLES", "LOCPATH", "MALLOC_", "NLSPATH")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A command with all values in place."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str = "."
    stdin: bytes | None = None
    limits: Limits = field(default_factory=Limits)
    network: bool = False
    grouped: frozenset[str] = frozenset()
    """What a control group bounds for all of the step together, so that no rlimit needs to for each process."""


def owner() -> int | None:
    """Who the command runs as, where that is not the agent's own user."""
    return NOBODY if os.geteuid() == 0 else None


def installed(name: str, package: str) -> str:
    """Where the launcher's program is. Raises PermanentError with the package that has it."""
    found = shutil.which(name, path=LAUNCHERS)
    if found is None:
        raise PermanentError(f"{name} is not installed (apt install {package})", code="no_sandbox")
    return found


def gated(spec: Spec, processes: int | None) -> tuple[str, ...]:
    """The command with its limits, held back until the agent lets it begin."""
    limits = spec.limits
    if "memory" in spec.grouped:
        limits = limits.model_copy(update={"memory": None})
    if "pids" in spec.grouped:
        limits, processes = limits.model_copy(update={"processes": None}), None
    return spawn.gated((*_with_limits(limits, processes), *spec.argv), stdin=spec.stdin is not None)


def bounds(limits: Limits, controllers: frozenset[str]) -> dict[str, int | None]:
    """What a control group with these controllers is to bound: `memory` in bytes, `processes`."""
    memory = _number(limits.memory) if limits.memory is not None else None
    return {
        "memory": memory if "memory" in controllers else None,
        "processes": (limits.processes or DEFAULT_PROCESSES) if "pids" in controllers else None,
    }


def drop_root() -> tuple[str, ...]:
    """The wrapper by which a root agent becomes nobody, can't become anything else, and dies with the agent."""
    who: tuple[str, ...] = ()
    if os.geteuid() == 0:
        who = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all")
    return (installed("setpriv", "util-linux"), *who, "--no-new-privs", "--pdeathsig=KILL", "--")


def mark() -> tuple[str, str]:
    """A variable by which what a command leaves behind is known: its name, and a value that no other step has."""
    return "WPK_RUN_ID", uuid.uuid4().hex


def bare(spec: Spec, directory: str) -> spawn.Launch:
    """Without a sandbox: not root, limits, its own session, and death with the agent."""
    if loaders := sorted(name for name in spec.env if name.startswith(_LOADER)):
        raise PermanentError(
            f"the variable {loaders[0]} can't be set without a sandbox, as the launcher would obey it; "
            "set it inside the command, or use WPK_SANDBOX=required",
            code="bad_config",
        )
    name, value = mark()
    return spawn.Launch(
        argv=(*drop_root(), *gated(spec, None)),
        env={**spec.env, name: value},
        cwd=str(Path(directory, spec.cwd)),
        stdin=spec.stdin,
        owner=owner(),
        token=f"{name}={value}".encode(),
    )


def _with_limits(limits: Limits, processes: int | None) -> tuple[str, ...]:
    """The wrapper that sets the limits; `processes` is the default where the step sets none."""
    files = limits.open_files or _at_most(_DEFAULT_OPEN_FILES, resource.RLIMIT_NOFILE)
    size = _number(limits.file_size) if limits.file_size else _at_most(_DEFAULT_FILE_SIZE, resource.RLIMIT_FSIZE)
    options = [f"--nofile={files}", f"--fsize={size}", "--core=0"]
    if limits.processes is None and processes is not None:
        processes = _at_most(processes, resource.RLIMIT_NPROC)
    if (count := limits.processes or processes) is not None:
        options.append(f"--nproc={count}")
    if limits.cpu is not None:
        options.append(f"--cpu={int(limits.cpu)}:{int(limits.cpu) + 5}")
    if limits.memory is not None:
        options.append(f"--as={_number(limits.memory)}")
    return (installed("prlimit", "util-linux"), *options, "--")


def _number(quantity: str) -> int:
    return max(1, int(parse_quantity(quantity)))


def _at_most(default: int, kind: int) -> int:
    """The default, or what the agent itself is held to where that is less: nobody can be given more."""
    _, hard = resource.getrlimit(kind)
    return default if hard == resource.RLIM_INFINITY else min(default, hard)
