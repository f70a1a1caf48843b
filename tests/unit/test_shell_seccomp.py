"""The seccomp filter, run by an interpreter of classic BPF on calls of both machines."""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
import sys

import pytest

from consumer.adapters.shell import seccomp
from consumer.adapters.shell.sandbox import Sandbox

ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL = 0x7FFF0000, 0x80000000
VSOCK, ALG, PACKET, NETLINK = 40, 38, 17, 16
NEWUSER, SIGCHLD = 0x10000000, 17


def verdict(program: bytes, number: int, *arguments: int, arch: int) -> int:
    """What the filter says of a call: as the kernel would run it (Documentation/networking/filter.rst)."""
    data = struct.pack("=iIQ6Q", number, arch, 0, *arguments, *(0,) * (6 - len(arguments)))
    code = list(struct.iter_unpack("=HBBI", program))
    value = at = 0
    while True:
        operation, if_true, if_false, constant = code[at]
        at += 1
        match operation:
            case 0x20:
                value = int.from_bytes(data[constant : constant + 4], sys.byteorder)
            case 0x54:
                value &= constant
            case 0x15:
                at += if_true if value == constant else if_false
            case 0x35:
                at += if_true if value >= constant else if_false
            case 0x06:
                return int(constant)
            case _:
                raise AssertionError(f"unknown instruction {operation:#x}")


def denied(number: int) -> int:
    return 0x00050000 | number


#: By name: numbers on x86-64 and arm64 from their headers, arguments, and the answer behind Landlock without network,
#: with network, and in bubblewrap without network.
CALLS: dict[str, tuple[tuple[int, int], tuple[int, ...], tuple[int, int, int]]] = {
    "read": ((0, 63), (), (0, 0, 0)),
    "execve": ((59, 221), (), (0, 0, 0)),
    "ptrace": ((101, 117), (), (errno.EPERM,) * 3),
    "io_uring_setup": ((425, 425), (), (errno.EPERM,) * 3),
    "clone3": ((435, 435), (), (errno.ENOSYS,) * 3),
    "a process": ((56, 220), (SIGCHLD,), (0, 0, 0)),
    "a process in a user namespace": ((56, 220), (SIGCHLD | NEWUSER,), (errno.EPERM,) * 3),
    "unshare of the files": ((272, 97), (0x400,), (0, 0, 0)),
    "unshare of the user namespace": ((272, 97), (NEWUSER,), (errno.EPERM,) * 3),
    "unshare of the time": ((272, 97), (0x80,), (errno.EPERM,) * 3),
    "ioctl": ((16, 29), (0, 0x5401), (0, 0, 0)),
    "typing into a terminal": ((16, 29), (0, 0x5412), (errno.EPERM,) * 3),
    "typing, with rubbish above": ((16, 29), (0, 0x5_0000_5412), (errno.EPERM,) * 3),
    "a unix socket": ((41, 198), (socket.AF_UNIX, 1), (errno.EACCES, 0, 0)),
    "TCP": ((41, 198), (socket.AF_INET, 1), (errno.EACCES, 0, 0)),
    "UDP over IPv6": ((41, 198), (socket.AF_INET6, 2), (errno.EACCES, 0, 0)),
    "routes": ((41, 198), (NETLINK, 3, 0), (errno.EACCES, 0, 0)),
    "netfilter": ((41, 198), (NETLINK, 3, 12), (errno.EACCES,) * 3),
    "vsock": ((41, 198), (VSOCK, 1), (errno.EACCES,) * 3),
    "alg": ((41, 198), (ALG, 5), (errno.EACCES,) * 3),
    "packets": ((41, 198), (PACKET, 3), (errno.EACCES,) * 3),
    "a pair": ((53, 199), (socket.AF_UNIX, 0x80801), (0, 0, 0)),
    "a pair for datagrams": ((53, 199), (socket.AF_UNIX, 2), (errno.EACCES, 0, 0)),
    "a pair of another family": ((53, 199), (30, 1), (errno.EACCES,) * 3),
    "its own limits": ((302, 261), (0,), (0, 0, 0)),
    "another's limits": ((302, 261), (4711,), (errno.EPERM, errno.EPERM, 0)),
    "its own priority": ((141, 140), (0, 0), (0, 0, 0)),
    "its user's priority": ((141, 140), (2, 0), (errno.EPERM, errno.EPERM, 0)),
    "shared memory": ((29, 194), (), (errno.EPERM, errno.EPERM, 0)),
    "truncate": ((76, 45), (), (0, 0, 0)),
}


@pytest.mark.parametrize("machine", ARCHES)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_gets_the_answer_of_its_level_on_every_machine(machine: str, name: str) -> None:
    numbers, arguments, expected = CALLS[name]
    number = numbers[list(ARCHES).index(machine)]
    levels = ((False, False), (False, True), (True, False))
    for (isolated, network), error in zip(levels, expected, strict=True):
        program = seccomp.program(isolated=isolated, network=network, machine=machine)
        assert program is not None
        answer = verdict(program, number, *arguments, arch=ARCHES[machine])
        assert answer == (denied(error) if error else ALLOW), (isolated, network)


def test_a_landlock_that_does_not_know_truncate_leaves_it_to_the_filter() -> None:
    program = seccomp.program(isolated=False, network=True, truncate=False, machine="x86_64")
    assert program is not None
    assert verdict(program, 76, arch=ARCHES["x86_64"]) == denied(errno.EPERM)


@pytest.mark.parametrize(("arch", "number"), [(0x40000003, 0), (ARCHES["aarch64"], 0), (ARCHES["x86_64"], 0x40000000)])
def test_calls_of_another_architecture_end_the_process(arch: int, number: int) -> None:
    """Their numbers mean something else there: a way around every other rule."""
    program = seccomp.program(isolated=True, network=True, machine="x86_64")
    assert program is not None
    assert verdict(program, number, arch=arch) == KILL


def test_an_unknown_machine_has_no_filter() -> None:
    assert seccomp.program(isolated=True, network=True, machine="s390x") is None
    assert not seccomp.known("s390x")
    assert seccomp.known("aarch64")


def test_the_kernel_takes_the_filter() -> None:
    """In a process of its own, which then can't trace."""
    program = seccomp.program(isolated=False, network=False)
    assert program is not None, "this machine's numbers are not known"
    script = (
        "import ctypes, sys\n"
        "from consumer.adapters.shell import keeper\n"
        "keeper._LIBC.prctl(38, 1, 0, 0, 0)\n"
        "keeper._filter(bytes.fromhex(sys.argv[1]))\n"
        "assert keeper._LIBC.ptrace(0, 0, 0, 0) == -1 and ctypes.get_errno() == 1\n"
    )
    subprocess.run([sys.executable, "-c", script, program.hex()], check=True)


async def test_bubblewrap_without_a_filter_says_so_in_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "known", lambda: False)
    report = await Sandbox("required", find_groups=lambda: None).report()
    assert report.level == "bubblewrap"
    assert "system calls are not filtered" in report.warning
    assert "system calls are not filtered" in report.detail
