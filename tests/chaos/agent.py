"""`python -m tests.chaos.agent agent`: `wpk agent` with fail points, told by its environment or by a socket.

- `CHAOS_FAIL_POINTS`: those armed from the start, with commas between them; see `failpoints`.
- `CHAOS_CONTROL`: a path; a datagram sent to the Unix socket there arms what it names, `disarm` disarms all.
- `CHAOS_HITS`: the file to which each fail point that is reached is appended.
- `CHAOS_SWEEP_SECONDS`: how often ended executions are looked for that may be forgotten, instead of the usual time.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from pathlib import Path

from consumer.cli.main import main as wpk
from consumer.intake import lane
from tests.chaos import failpoints
from tests.chaos.failpoints import Armed, FailPoints


def main() -> None:
    """Wraps, arms, and then is `wpk`."""
    points = FailPoints(os.environ.pop("CHAOS_HITS", None))
    failpoints.install(points)
    for text in filter(None, os.environ.pop("CHAOS_FAIL_POINTS", "").split(",")):
        points.arm(Armed.parse(text))
    if control := os.environ.pop("CHAOS_CONTROL", None):
        _listen(Path(control), points)
    if sweep := os.environ.pop("CHAOS_SWEEP_SECONDS", None):
        lane._SWEEP_SECONDS = float(sweep)
    wpk()


def _listen(path: Path, points: FailPoints) -> None:
    path.unlink(missing_ok=True)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    control.bind(str(path))

    def serve() -> None:
        while True:
            text = control.recv(4096).decode()
            if text == "disarm":
                points.disarm()
                continue
            try:
                points.arm(Armed.parse(text))
            except ValueError as error:
                sys.stderr.write(f"chaos: {error}\n")

    # The thread only waits for orders; it ends with the process, as the process may end in any way.
    threading.Thread(target=serve, name="chaos-control", daemon=True).start()


def order(path: Path, text: str) -> bool:
    """Sends an order to the agent that listens there; whether there is one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
        sender.sendto(text.encode(), str(path))
        return True
    return False


if __name__ == "__main__":
    main()
