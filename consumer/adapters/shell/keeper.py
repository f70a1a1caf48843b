"""Runs one command behind Landlock and a seccomp filter, and ends all that the command leaves behind.

A program of its own, started by path for each step (`python -I -S keeper.py ARGS STATUS FILTER COMMAND…`): what it does
to the process that becomes the command must not happen in the agent, and only the parent of all may be their subreaper.
It imports nothing of the project and little of the standard library, as each import is time of a step.

ARGS is a descriptor with NUL-separated `name=value` settings, FILTER one with the filter's instructions; over STATUS it
tells what bubblewrap tells (`child-pid`, its own; `exit-code`), whether all of the command's processes are gone, and
what they used. Without
an `exit-code` the command has not run, or the keeper was told to end (SIGTERM) and has killed all.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import stat
import struct
import sys
import time

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 22, 36, 38, 47
_SECCOMP_MODE_FILTER, _CLEAR_ALL = 2, 4
#: The same numbers on every machine, as for all newer calls.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK, _TRUNCATE, _IOCTL_DEV = 1 << 6, 1 << 11, 1 << 14, 1 << 15
#: How many rights of files an ABI of Landlock knows (landlock(7)); of a newer one than the last: as many as the last.
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
#: Seconds in which what was killed must be gone; a process that the kernel holds may not be.
_PATIENCE = 20.0
_NOT_RUN = 125

Settings = dict[str, list[str]]


def abi() -> int:
    """Which ABI of Landlock this kernel has; 0: none."""
    return max(0, int(_LIBC.syscall(_CREATE_RULESET, None, 0, 1)))


def main(arguments: list[str]) -> int:
    """Runs it. The exit code is the command's, or 125."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGCHLD))
    settings, program = _settings(_whole(int(arguments[0]))), _whole(int(arguments[2]))
    status = int(arguments[1])
    os.set_inheritable(status, False)
    _checked(_LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
    _checked(_LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0))
    begun, begins = os.pipe()
    child = os.fork()
    if child == 0:
        _become(settings, program, arguments[3:], begins)
    os.close(begins)
    _let_go_of_streams()
    if os.read(begun, 1):  # an exec closes the other end unwritten
        os.waitpid(child, 0)
        return _NOT_RUN
    _tell(status, f'{{"child-pid": {os.getpid()}}}')
    code = _until_ended(child)
    gone = "true" if _end_all() else "false"
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code is None:
        return _NOT_RUN
    cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024
    _tell(status, f'{{"exit-code": {code}, "all-gone": {gone}, "cpu-seconds": {cpu:.6f}, "peak-memory-bytes": {peak}}}')
    return code


def _settings(raw: bytes) -> Settings:
    found: Settings = {}
    for item in raw.decode("utf-8", "surrogateescape").split("\0")[:-1]:
        name, _, value = item.partition("=")
        found.setdefault(name, []).append(value)
    return found


def _whole(number: int) -> bytes:
    with open(number, "rb") as file:
        return file.read()


def _tell(status: int, message: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(status, f"{message}\n".encode())


def _let_go_of_streams() -> None:
    """The command's own ends must be the only ones, so that their other sides see when it closes them."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


# --- the process that becomes the command ---


def _become(settings: Settings, program: bytes, command: list[str], begins: int) -> None:
    """Puts the walls up around this process and makes it the command. Does not return."""
    doing = "drop the agent's rights"
    try:
        _drop(settings)
        doing = "limit the processes"
        if "processes" in settings:
            _limit_processes(int(settings["processes"][0]))
        doing = "set up Landlock"
        _restrict(settings)
        doing = f"chdir to {settings['cwd'][0]}"
        os.chdir(settings["cwd"][0])
        doing = "set the seccomp filter"
        _filter(program)
        doing = f"run {command[0]}"
        env = dict(item.split("=", 1) for item in settings.get("env", []))
        os.execve(command[0], command, env)  # noqa: S606 - the command is what this is for
    except BaseException as error:
        reason = error.strerror if isinstance(error, OSError) else repr(error)
        os.write(2, f"keeper: Can't {doing}: {reason}\n".encode("utf-8", "replace"))
        os.write(begins, b"!")
    finally:
        os._exit(_NOT_RUN)


def _drop(settings: Settings) -> None:
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and who is exec'ed would too
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGCHLD))
    if "uid" in settings:
        uid = int(settings["uid"][0])
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    with contextlib.suppress(OSError):  # Linux 4.3
        _checked(_LIBC.prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0))
    _checked(_LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0))
    _checked(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _limit_processes(more: int) -> None:
    """Lets the user have so many processes and threads more than it has: RLIMIT_NPROC counts all of a user's."""
    uid, count = os.getuid(), 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if entry.stat().st_uid == uid:
                    count += os.stat(f"/proc/{entry.name}/task").st_nlink - 2  # noqa: PTH116 - pathlib is slow to import
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    limit = count + more if hard == resource.RLIM_INFINITY else min(count + more, hard)
    resource.setrlimit(resource.RLIMIT_NPROC, (limit, limit))


def _restrict(settings: Settings) -> None:
    """Landlock, by all that this kernel has of it (landlock(7))."""
    version = abi()
    if not version:
        raise OSError(0, "this kernel has no Landlock")
    every = (1 << _FILE_RIGHTS.get(version, max(_FILE_RIGHTS.values()))) - 1
    sockets = 3 if version >= 4 and "network" not in settings else 0  # bind and connect of TCP
    scopes = 3 if version >= 6 else 0  # abstract unix sockets, signals
    attributes = struct.pack("QQQ", every, sockets, scopes)
    ruleset = _checked(_LIBC.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    for kind, rights in (
        ("read", _EXECUTE | _READ_FILE | _READ_DIR),
        ("device", every & (_READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEV)),
        ("write", every & ~(_MAKE_CHAR | _MAKE_BLOCK | _IOCTL_DEV)),
    ):
        for path in settings.get(kind, []):
            _allow(ruleset, path, rights)
    _checked(_LIBC.syscall(_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    """Allows it beneath the path; what is not there needs no permission."""
    try:
        number = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not stat.S_ISDIR(os.fstat(number).st_mode):
        rights &= _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
    rule = struct.pack("=Qi", rights, number)
    _checked(_LIBC.syscall(_ADD_RULE, ruleset, 1, rule, 0))
    os.close(number)


def _filter(program: bytes) -> None:
    instructions = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a number of instructions, and (aligned) where they are.
    described = struct.pack("HP", len(program) // 8, ctypes.addressof(instructions))
    _checked(_LIBC.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, described, 0, 0))


# --- the keeper ---


def _until_ended(child: int) -> int | None:
    """The command's exit code, 128 + n for signal n; None where the keeper is told to end before."""
    while signal.sigwait((signal.SIGTERM, signal.SIGCHLD)) != signal.SIGTERM:
        while True:
            pid, result = os.waitpid(-1, os.WNOHANG)  # the command itself is still among them: never ECHILD
            if pid == child:
                code = os.waitstatus_to_exitcode(result)
                return code if code >= 0 else 128 - code
            if pid == 0:
                break
    return None


def _end_all() -> bool:
    """Kills all processes below this one; whether they are gone, as one that the kernel holds may not be.

    Who loses its parent becomes this one's child, so that none gets away. All are stopped first: processes that
    multiply could else do so faster than they are killed.
    """
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return True
        stopped: set[int] = set()
        while (found := _below(os.getpid()) - stopped) and time.monotonic() < deadline:
            _send(found, signal.SIGSTOP)
            stopped |= found
        _send(stopped, signal.SIGKILL)
        time.sleep(0.002)
    return False


def _send(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _below(root: int) -> set[int]:
    """All descendants, zombies too. A thread's children stand in its own list."""
    found: set[int] = set()
    queue = [root]
    while queue:
        pid = queue.pop()
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - pathlib is slow to import
                with open(f"/proc/{pid}/task/{task}/children", "rb") as file:  # noqa: PTH123
                    new = set(map(int, file.read().split())) - found
                found |= new
                queue.extend(new)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
