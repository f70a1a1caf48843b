"""Ways out of a shell step's sandbox, each with what holds it at which level.

A way is a Python program that prints ESCAPED or HELD; one that prints neither has proven nothing. What a program can't
see itself the test's own eyes do (`World`). The world around the step is played by processes, files and sockets of the
command's own user: so it is where agent and commands are one user, in a pod.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field

from consumer.adapters.shell.sandbox import Level
from consumer.ports import JsonObject
from tests.security.world import World


class Truth(enum.Enum):
    """What docs/security.md says of a way at a level."""

    HELD = "held"
    OPEN = "not held by design"
    MACHINE = "left to the machine's own rules"
    UNTRIED = "not tried: it would hit what else runs here"


HELD, OPEN, MACHINE, UNTRIED = Truth


@dataclass(frozen=True, kw_only=True)
class Escape:
    """A way out."""

    code: str
    bubblewrap: Truth = HELD
    landlock: Truth = HELD
    none: Truth = OPEN
    config: JsonObject = field(default_factory=dict)
    seen: Callable[[World], bool] | None = None
    """Whether it got out, as the world sees it afterwards; None: the program tells."""
    dies: bool = False
    """Whether the limit that holds it ends the program."""
    long: bool = False

    def truth(self, level: Level) -> Truth:
        """What holds it there."""
        return {"bubblewrap": self.bubblewrap, "landlock": self.landlock, "none": self.none}[level]


PRELUDE = """
import ctypes, errno, os, resource, signal, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
machine = os.uname().machine
outside, other = os.environ["OUTSIDE"], os.environ["OTHER"]
victim, port = int(os.environ["VICTIM"]), int(os.environ["PORT"])
canary, address = os.environ["CANARY_HALF"] * 2, int(os.environ["ADDRESS"])

def call(x86, arm, *arguments):
    result = libc.syscall(x86 if machine == "x86_64" else arm, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def attempt(*deeds):
    for deed in deeds:
        try:
            found = deed()
        except (OSError, LookupError) as error:
            print("no:", error)
        else:
            if found is not False:
                print("ESCAPED", found)
                return
    print("HELD")

def contents(*paths):
    for path in paths:
        with open(path, "rb") as file:
            if canary.encode() in file.read():
                return path
    return False

def of_all(name):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        try:
            if contents(f"/proc/{pid}/{name}"):
                return pid
        except OSError:
            pass
    return False

def connected(family, kind, address):
    with socket.socket(family, kind) as one:
        one.settimeout(5)
        one.connect(address)
        one.send(canary.encode())

def made(*arguments):
    socket.socket(*arguments).close()
"""

ESCAPES: dict[str, Escape] = {
    # --- files ---
    "read a service account's token": Escape(code='attempt(lambda: contents(f"{outside}/token"))'),
    "read a kubeconfig": Escape(code='attempt(lambda: contents(f"{outside}/home/.kube/config"))'),
    "read the directory of another step": Escape(
        code='attempt(lambda: os.listdir(other), lambda: contents(f"{other}/x"))'
    ),
    "list the directories of others": Escape(
        code="""
def found():
    return any(name.startswith("wpk-step-") and name not in os.getcwd() for name in os.listdir("/tmp"))
attempt(found)
"""
    ),
    "write a file": Escape(code='attempt(lambda: open(f"{outside}/file", "w").write("mine"))'),
    "append to a file": Escape(code='attempt(lambda: open(f"{outside}/file", "a").write("mine"))'),
    "cut a file off by its path": Escape(code='attempt(lambda: os.truncate(f"{outside}/file", 0))'),
    "create a file": Escape(code='attempt(lambda: open(f"{outside}/new", "x"))'),
    "delete a file": Escape(code='attempt(lambda: os.remove(f"{outside}/file"))'),
    "rename a file": Escape(code='attempt(lambda: os.rename(f"{outside}/file", f"{outside}/mine"))'),
    "move a file in": Escape(code='attempt(lambda: os.rename(f"{outside}/file", "mine"))'),
    "move a file out": Escape(code='open("a", "w"); attempt(lambda: os.rename("a", f"{outside}/file"))'),
    "make a directory": Escape(code='attempt(lambda: os.mkdir(f"{outside}/new"))'),
    "read by a symbolic link": Escape(code='os.symlink(f"{outside}/token", "link"); attempt(lambda: contents("link"))'),
    "read by a hard link": Escape(code='attempt(lambda: os.link(f"{outside}/token", "link") or contents("link"))'),
    "write by a symbolic link": Escape(
        code='os.symlink(f"{outside}/file", "link"); attempt(lambda: open("link", "w").write("mine"))'
    ),
    "have the agent delete by a symbolic link": Escape(
        code='os.symlink(outside, "link"); os.mkdir("d"); os.symlink(outside, "d/link"); print("HELD")',
        seen=lambda world: not world.untouched(),
        none=HELD,
    ),
    "change a file's mode": Escape(code='attempt(lambda: os.chmod(f"{outside}/file", 0o777))', landlock=OPEN),
    "see that a file is there": Escape(code='attempt(lambda: os.stat(f"{outside}/token"))', landlock=OPEN),
    "read the raw disk": Escape(
        code="""
names = ("vda", "sda", "nvme0n1", "mem", "zram0")
attempt(*(lambda name=name: os.open("/dev/" + name, os.O_RDONLY) for name in names))
""",
        none=HELD,
    ),
    "read the kernel's log": Escape(
        code="""
log = ctypes.create_string_buffer(64)
attempt(lambda: os.open("/dev/kmsg", os.O_RDONLY), lambda: call(103, 116, 3, log, 64))
""",
        none=MACHINE,
    ),
    "make a device": Escape(code='attempt(lambda: os.mknod("null", 0o600 | 0o020000, os.makedev(1, 3)))', none=HELD),
    "have what the agent had open": Escape(
        code='attempt(lambda: [n for n in range(3, 1024) if os.path.exists(f"/proc/self/fd/{n}")] or False)', none=HELD
    ),
    # --- other processes ---
    "read the environment of the agent's user": Escape(code='attempt(lambda: of_all("environ"))'),
    "read the command lines of others": Escape(code='attempt(lambda: of_all("cmdline"))', landlock=OPEN),
    "read the memory of another": Escape(
        code="""
def read_mem():
    with open(f"/proc/{victim}/mem", "rb", buffering=0) as file:
        file.seek(address)
        return canary.encode() in file.read(len(canary))
def read_vm():
    buffer = ctypes.create_string_buffer(len(canary))
    local = struct.pack("PN", ctypes.addressof(buffer), len(canary))
    call(310, 270, victim, local, 1, struct.pack("PN", address, len(canary)), 1, 0)
    return buffer.raw == canary.encode()
attempt(read_mem, read_vm)
""",
        none=MACHINE,
    ),
    "trace another": Escape(code="attempt(lambda: call(101, 117, 0x4206, victim, 0, 0))", none=MACHINE),
    "take a descriptor of another": Escape(
        code="attempt(lambda: call(438, 438, os.pidfd_open(victim), 1, 0))", none=MACHINE
    ),
    "trace its own child": Escape(
        code="""
pid = os.fork()
if pid == 0:
    signal.pause()
attempt(lambda: call(101, 117, 0x4206, pid, 0, 0))
os.kill(pid, signal.SIGKILL)
"""
    ),
    "signal another": Escape(
        code="""
def by_descriptor():
    signal.pidfd_send_signal(os.pidfd_open(victim), signal.SIGTERM)
attempt(lambda: os.kill(victim, signal.SIGTERM), by_descriptor)
"""
    ),
    "signal everybody": Escape(
        code="""
signal.signal(signal.SIGTERM, signal.SIG_IGN)
attempt(lambda: os.kill(-1, signal.SIGTERM))
""",
        seen=lambda world: not world.alive(),
        none=UNTRIED,
    ),
    "take another's limits away": Escape(
        code="attempt(lambda: resource.prlimit(victim, resource.RLIMIT_NOFILE, (0, 0)))"
    ),
    "slow another down": Escape(
        code="attempt(lambda: os.setpriority(os.PRIO_PROCESS, victim, os.nice(0) + 1))", seen=World.slowed
    ),
    "bind another to a processor": Escape(
        code="attempt(lambda: os.sched_setaffinity(victim, os.sched_getaffinity(0)))"
    ),
    "slow all of the user down": Escape(
        code="attempt(lambda: os.setpriority(os.PRIO_USER, 0, os.nice(0) + 1)); victim",
        seen=World.slowed,
        none=UNTRIED,
    ),
    # --- the network ---
    "TCP": Escape(code='attempt(lambda: connected(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", port)))'),
    "TCP over IPv6": Escape(code='attempt(lambda: connected(socket.AF_INET6, socket.SOCK_STREAM, ("::1", port)))'),
    "UDP": Escape(
        code='attempt(lambda: connected(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", port)))',
        seen=World.heard_datagram,
    ),
    "listen for TCP": Escape(code='attempt(lambda: socket.create_server(("0.0.0.0", 0)))', bubblewrap=OPEN),
    "a socket in a directory": Escape(
        code='attempt(lambda: connected(socket.AF_UNIX, socket.SOCK_STREAM, f"{outside}/socket"))'
    ),
    "an abstract socket": Escape(
        code='attempt(lambda: connected(socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + canary[:16]))'
    ),
    "an abstract socket, with the network": Escape(
        code='attempt(lambda: connected(socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + canary[:16]))',
        config={"network": True},
        bubblewrap=OPEN,
    ),
    "a datagram by one of a pair": Escape(
        code='attempt(lambda: socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b"x", f"{outside}/datagrams"))'
    ),
    "raw IP": Escape(code="attempt(lambda: made(socket.AF_INET, socket.SOCK_RAW, 1))", none=HELD),
    "raw IP, with the network": Escape(
        code="attempt(lambda: made(socket.AF_INET, socket.SOCK_RAW, 1))", none=HELD, config={"network": True}
    ),
    "packets": Escape(code="attempt(lambda: made(17, socket.SOCK_RAW, 3))", none=HELD),
    "netlink but for routes": Escape(code="attempt(lambda: made(16, socket.SOCK_RAW, 15))"),
    "netlink but for routes, with the network": Escape(
        code="attempt(lambda: made(16, socket.SOCK_RAW, 15))", config={"network": True}
    ),
    **{
        f"{name}{also}": Escape(
            code=f"attempt(lambda: made({family}, {kind}))", none=MACHINE, config={"network": True} if also else {}
        )
        for name, family, kind in (("vsock", 40, 1), ("the kernel's ciphers", 38, 5), ("bluetooth", 31, 3))
        for also in ("", ", with the network")
    },
    # --- the kernel ---
    "become root": Escape(code="attempt(lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0))", none=HELD),
    "gain by a set-uid program": Escape(code="attempt(lambda: libc.prctl(39, 0, 0, 0, 0) != 1 and 'may')", none=HELD),
    "mount": Escape(code='attempt(lambda: call(165, 40, b"none", b".", b"tmpfs", 0, None))', none=HELD),
    "open a file system": Escape(code='attempt(lambda: call(430, 430, b"tmpfs", 0))', none=HELD),
    "make a user namespace": Escape(code="attempt(lambda: call(272, 97, 0x10000000))", none=MACHINE),
    "fork into a user namespace": Escape(
        code="""
def clone3():
    size = 64
    arguments = struct.pack("8Q", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    pid = call(435, 435, arguments, size)
    if pid == 0:
        os._exit(0)
    return pid
attempt(clone3)
""",
        none=MACHINE,
    ),
    "enter another's namespace": Escape(
        code='attempt(lambda: call(308, 268, os.open(f"/proc/{victim}/ns/net", os.O_RDONLY), 0))', none=HELD
    ),
    "change the root": Escape(code='attempt(lambda: os.chroot("."))', none=HELD),
    "io_uring": Escape(code="attempt(lambda: call(425, 425, 1, ctypes.create_string_buffer(120)))", none=MACHINE),
    "a key in the kernel's keyring": Escape(
        code='attempt(lambda: call(248, 217, b"user", b"wpk", b"x", 1, -4))', none=MACHINE
    ),
    "bpf": Escape(code="attempt(lambda: call(321, 280, 0, ctypes.create_string_buffer(64), 64))", none=MACHINE),
    "userfaultfd": Escape(code="attempt(lambda: call(323, 282, 1))", none=MACHINE),
    "performance counters": Escape(
        code="attempt(lambda: call(298, 241, struct.pack('II6Q', 1, 112, *[0] * 6) + bytes(56), 0, -1, -1, 0))",
        none=MACHINE,
    ),
    "type into a terminal": Escape(
        code="""
import fcntl, pty, termios
def type_in():
    terminal = os.open("/dev/tty", os.O_RDWR)
    fcntl.ioctl(terminal, 0x5412, b"x")
def type_into_its_own():
    _, end = os.openpty()
    os.fork() and os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
    os.setsid()
    fcntl.ioctl(end, termios.TIOCSCTTY, 0)
    fcntl.ioctl(end, 0x5412, b"x")
attempt(type_in, type_into_its_own)
""",
        none=MACHINE,
    ),
    "leave shared memory behind": Escape(
        code='attempt(lambda: call(29, 194, int(os.environ["KEY"]), 4096, 0o1600))', seen=World.took_shared_memory
    ),
    # --- limits ---
    "a fork bomb": Escape(
        code="""
made = []
def multiply():
    for _ in range(int(os.environ["FORKS"])):
        pid = os.fork()
        if pid == 0:
            signal.pause()
        made.append(pid)
attempt(multiply)
"""
    ),
    "a survivor": Escape(
        code="""
begun, begins = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        nowhere = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(nowhere, number)
        os.execve("/bin/sleep", ["sleep", os.environ["MARK"]], {})
    os._exit(0)
os.close(begins)
os.read(begun, 1)  # the end of it comes when sleep has begun
print("HELD")
""",
        seen=World.has_survivors,
    ),
    "fill the disk": Escape(
        code="""
def fill():
    for number in range(16):
        with open(f"file{number}", "wb") as file:
            file.write(bytes(2**20))
attempt(fill)
""",
        landlock=OPEN,
    ),
    "one large file": Escape(
        code='attempt(lambda: open("large", "wb").write(bytes(2**21)) < 2**21 and "cut")',
        config={"limits": {"file_size": "1Mi"}},
        none=HELD,
        dies=True,
    ),
    "memory": Escape(
        code="""
try:
    found = bytearray(2**28)
except MemoryError:
    print("HELD")
else:
    print("ESCAPED")
""",
        config={"limits": {"memory": "128Mi"}},
        none=HELD,
    ),
    "open files": Escape(
        code="""
held = []
attempt(lambda: held.extend(os.dup(1) for _ in range(80)))
""",
        config={"limits": {"open_files": 64}},
        none=HELD,
    ),
    "processor time": Escape(
        code="""
began = time.process_time()
while time.process_time() < began + 8:
    pass
print("ESCAPED")
""",
        config={"limits": {"cpu": "1s"}},
        none=HELD,
        dies=True,
        long=True,
    ),
}
