"""The launch behind Landlock and seccomp, for where no namespaces may be made: an ordinary pod, a container."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from consumer.adapters.shell import keeper, launching, seccomp, spawn
from consumer.adapters.shell.launching import Spec
from consumer.errors import PermanentError

#: From this ABI on (Linux 6.12) Landlock keeps signals in too, and with them all that a sandbox must here.
COMPLETE = 6
#: From this one on (Linux 6.2) it holds truncate(2) of files elsewhere.
_TRUNCATES = 3
_DEVICES = ("null", "zero", "full", "random", "urandom")


def missing(abi: int) -> str | None:
    """What that ABI of Landlock does not hold, for a warning; None: nothing that a sandbox must hold here."""
    if abi >= COMPLETE:
        return None
    return f"Landlock of this kernel (ABI {abi}) does not keep signals to the agent and to other steps in (Linux 6.12)"


def launch(spec: Spec, directory: str) -> spawn.Launch:
    """How to start the command, whose own directory is `directory`. Raises PermanentError where that can't be."""
    abi = keeper.abi()
    program = seccomp.program(isolated=False, network=spec.network, truncate=abi >= _TRUNCATES)
    if not abi:
        raise PermanentError("this kernel has no Landlock (Linux 5.13)", code="no_sandbox")
    if program is None:
        raise PermanentError(f"no seccomp filter is known for {os.uname().machine}", code="no_sandbox")
    name, value = launching.mark()
    settings = [
        *(f"read=/{each}" for each in ("usr", "proc", *launching.SYSTEM)),
        *(f"read=/etc/{each}" for each in launching.ETC + (launching.ETC_NETWORK if spec.network else ())),
        *(f"device=/dev/{each}" for each in _DEVICES),
        f"write={directory}",
        f"cwd={Path(directory, spec.cwd)}",
        *(f"env={key}={text}" for key, text in {"TMPDIR": directory, **spec.env, name: value}.items()),
    ]
    if spec.network:
        settings.append("network=")
    if "pids" not in spec.grouped:
        settings.append(f"processes={spec.limits.processes or launching.DEFAULT_PROCESSES}")
    if (owner := launching.owner()) is not None:
        settings.append(f"uid={owner}")
    inner = Spec(
        argv=spec.argv,
        env={},
        stdin=spec.stdin,
        limits=spec.limits.model_copy(update={"processes": None}),
        grouped=spec.grouped,
    )
    return spawn.Launch(
        argv=(
            sys.executable,
            "-I",
            "-S",
            str(Path(keeper.__file__)),
            "{args}",
            "{status}",
            "{filter}",
            *launching.gated(inner, None),
        ),
        env=launching.LAUNCHER_ENV,
        cwd="/",
        arguments="".join(f"{item}\0" for item in settings).encode("utf-8", "surrogateescape"),
        filter=program,
        stdin=spec.stdin,
        owner=owner,
        token=f"{name}={value}".encode(),
    )
