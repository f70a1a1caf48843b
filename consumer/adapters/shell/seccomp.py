"""The system calls that a sandboxed command may not make, as a seccomp filter (seccomp(2)) assembled here.

Denied is what could lead around the other walls (io_uring, new namespaces, keyrings, ptrace), what only an
administrator needs, and sockets of families that no namespace and no Landlock rule holds: AF_VSOCK reaches a virtual
machine's host from any network namespace. Everything else is allowed: a list of all that programs may need would break
with the next libc.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: By machine: the kernel's AUDIT_ARCH, and which of the two numbers below is its own.
_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
#: The numbers of x86-64 and of arm64 (asm-generic); None: it has no such call.
_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "ioperm": (173, None),
    "iopl": (172, None),
    "ioprio_set": (251, 30),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "migrate_pages": (256, 238),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "prlimit64": (302, 261),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "semget": (64, 190),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "setpriority": (141, 140),
    "settimeofday": (164, 170),
    "shmget": (29, 194),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "truncate": (76, 45),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
_KEPT_BY_THE_KERNEL = ("mq_open", "msgget", "semget", "shmget")
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_TYPES = 1, 5, 0xF
_NETLINK_ROUTE = 0
#: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET (clone(2)); CLONE_NEWTIME for unshare alone.
_NAMESPACES = 0x7E020000
_NEWTIME = 0x80
#: Ioctls that type into a terminal: TIOCSTI and TIOCLINUX.
_TYPING = (0x5412, 0x541C)
#: x86-64's second table of numbers (x32) begins there.
_X32 = 0x40000000

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16

#: Code, jump if true, jump if false, constant: struct sock_filter.
_Instruction = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class _Check:
    """The low half of an argument, masked, is one of the values; or with `among=False`, none of them.

    The arguments that are looked at are 32 bits wide for the kernel too, or flags that all lie in the low half.
    """

    argument: int
    values: tuple[int, ...]
    mask: int = 0xFFFFFFFF
    among: bool = True


#: What lets a call through: all checks of any one of the lists.
_Rule = Sequence[Sequence[_Check]]


def _conditions(*, isolated: bool, network: bool) -> dict[str, tuple[_Rule, int]]:
    """The calls that depend on their arguments, and the error of those that are denied."""
    families = (_AF_UNIX, _AF_INET, _AF_INET6) if isolated or network else ()
    netlink = [_Check(0, (_AF_NETLINK,)), _Check(2, (_NETLINK_ROUTE,))]
    paired = _Check(1, (_SOCK_STREAM, _SOCK_SEQPACKET), mask=_SOCK_TYPES)
    found: dict[str, tuple[_Rule, int]] = {
        "clone": ([[_Check(0, (0,), mask=_NAMESPACES)]], errno.EPERM),
        "unshare": ([[_Check(0, (0,), mask=_NAMESPACES | _NEWTIME)]], errno.EPERM),
        "ioctl": ([[_Check(1, _TYPING, among=False)]], errno.EPERM),
        "socket": ([[_Check(0, families)], netlink] if families else [], errno.EACCES),
        # A pair is no way out, but for datagrams, which can be sent to others than the pair.
        "socketpair": ([[_Check(0, (_AF_UNIX,)), *([] if families else [paired])]], errno.EACCES),
    }
    if not isolated:
        # Other processes of the same user are the agent and other steps; 0 is the caller itself.
        itself: _Rule = [[_Check(0, (0,))]]
        for name in ("prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"):
            found[name] = (itself, errno.EPERM)
        found["setpriority"] = ([[_Check(0, (0,)), _Check(1, (0,))]], errno.EPERM)
        # What lies in the kernel, and stays when the step ends. Without an alternative nothing lets them through.
        for name in _KEPT_BY_THE_KERNEL:
            found[name] = ([], errno.EPERM)
        found["ioprio_set"] = ([[_Check(0, (1,)), _Check(1, (0,))]], errno.EPERM)
    return found


def known(machine: str | None = None) -> bool:
    """Whether there is a filter for the machine; by default for this one."""
    return (machine or os.uname().machine) in _MACHINES


@functools.lru_cache(maxsize=8)
def program(*, isolated: bool, network: bool, truncate: bool = True, machine: str = "") -> bytes | None:
    """The filter as an array of struct sock_filter; None for a machine whose numbers are not known here.

    `isolated`: the command has namespaces of its own, so that the usual sockets lead nowhere and no process of others
    can be named. `truncate`: whether truncate(2) is held by Landlock, and may be left alone.
    """
    known = _MACHINES.get(machine or os.uname().machine)
    if known is None:
        return None
    architecture, column = known
    code: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_JUMP_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if column == 0:
        code += [(_JUMP_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    conditions = _conditions(isolated=isolated, network=network)
    conditional = {*conditions, *_conditions(isolated=False, network=False)}
    for name, numbers in _NUMBERS.items():
        number = numbers[column]
        if number is None or (name == "truncate" and truncate):
            continue
        if name in conditions:
            rule, error = conditions[name]
            block = _judged(rule, error)
        elif name in conditional:
            continue
        else:
            # A libc falls back to clone, whose flags can be seen, where clone3 is not there.
            block = [(_RETURN, 0, 0, _ERRNO | (errno.ENOSYS if name == "clone3" else errno.EPERM))]
        code += [(_JUMP_EQUAL, 0, len(block), number), *block]
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _judged(rule: _Rule, error: int) -> list[_Instruction]:
    block: list[_Instruction] = []
    for checks in rule:
        block += _alternative(checks)
    block.append((_RETURN, 0, 0, _ERRNO | error))
    return block


def _alternative(checks: Iterable[_Check]) -> list[_Instruction]:
    """Allows where all checks hold, and falls through to what follows where one doesn't."""
    code: list[_Instruction] = [(_RETURN, 0, 0, _ALLOW)]
    for check in reversed(list(checks)):
        beyond = len(code)  # from here on a jump by as much leaves the alternative
        tests: list[_Instruction] = []
        for left in range(len(check.values)):  # from the last value to the first
            value = check.values[-1 - left]
            if check.among:
                tests.insert(0, (_JUMP_EQUAL, left, beyond if left == 0 else 0, value))
            else:
                tests.insert(0, (_JUMP_EQUAL, left + beyond, 0, value))
        load: list[_Instruction] = [(_LOAD, 0, 0, _ARGUMENTS_AT + 8 * check.argument)]
        if check.mask != 0xFFFFFFFF:
            load.append((_AND, 0, 0, check.mask))
        code = [*load, *tests, *code]
    return code
