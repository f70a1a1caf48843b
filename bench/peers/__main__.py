"""W3 and S1 by the agent, by Restate and by DBOS, by turns on one Apache Kafka.

python -m bench.peers [--rounds N] [--burst N]      after bench/peers/setup.sh; writes bench/peers/results.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from bench.__main__ import write_pages
from bench.bounds import machine
from bench.budgets import PEERS as PEERS_RESULTS
from bench.figures import Figure, family, table
from bench.stage import Stage, stage
from bench.steps import S1
from bench.w3 import W3, Worker, agents, completed, worker
from consumer.dev.broker import free_port
from tests.support.daemon import Daemon
from tests.support.processes import PATIENCE

HERE = Path(__file__).parent
NOBODY = 65534


def cache() -> Path:
    """Where bench/peers/setup.sh puts what it gets."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "wpk-bench-peers"


def _answers(url: str, body: object = None, method: str | None = None) -> bool:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=10) as answer:
        return bool(200 <= answer.status < 300)
    return False


@asynccontextmanager
async def daemon(
    name: str, arguments: list[str], folder: Path, ready: Callable[[Daemon], bool], variables: Mapping[str, str]
) -> AsyncIterator[Daemon]:
    """A server while the block lasts."""
    process = Daemon(name, arguments, directory=folder, environment={**os.environ, **variables})
    process.start()
    try:
        await asyncio.to_thread(process.await_service, lambda: ready(process), PATIENCE)
        yield process
    finally:
        started = family(process.pid) if process.alive else []
        await asyncio.to_thread(process.stop)
        for pid in started[1:]:  # granian leaves its worker behind where it is ended in a hurry
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def says(words: str) -> Callable[[Daemon], bool]:
    """Whether a server has said these words."""
    return lambda server: words in server.output


def _variables(own: Stage) -> dict[str, str]:
    return {**own.variables(), "PYTHONPATH": str(HERE)}


@asynccontextmanager
async def restate(own: Stage, folder: Path) -> AsyncIterator[Worker]:
    """Restate's server, one granian worker, and a subscription to the commands."""
    binary = next(cache().glob("npm/node_modules/@restatedev/restate-server-linux-*/bin/restate-server"))
    admin, ingress, node, service = (free_port() for _ in range(4))
    settings = folder / "restate.toml"
    settings.write_text(
        f'base-dir = "{folder}/restate"\nbind-address = "127.0.0.1:{node}"\ncluster-name = "bench"\n'
        f'[admin]\nbind-address = "127.0.0.1:{admin}"\n'
        f'[ingress]\nbind-address = "127.0.0.1:{ingress}"\n'
        f'[[ingress.kafka-clusters]]\nname = "bench"\nbrokers = ["PLAINTEXT://{own.broker.bootstrap}"]\n'
    )
    base = f"http://127.0.0.1:{admin}"
    serve = [str(cache() / "venv/bin/granian"), "--interface", "asgi", "--port", str(service), "--workers", "1"]
    async with (
        daemon(
            "restate",
            [str(binary), "--config-file", str(settings)],
            folder,
            lambda _: _answers(f"{base}/health"),
            {"RESTATE_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"},
        ) as server,
        daemon(
            "granian", [*serve, "restate_worker:app"], folder, says("Started worker"), _variables(own)
        ) as worker_process,
    ):
        uri = f"http://127.0.0.1:{service}"
        assert await asyncio.to_thread(_answers, f"{base}/deployments", {"uri": uri}), server.output
        subscription = {
            "source": f"kafka://bench/{own.prefix}.commands.execute",
            "sink": "service://Runner/run",
            "options": {"auto.offset.reset": "earliest"},
        }
        assert await asyncio.to_thread(_answers, f"{base}/subscriptions", subscription), server.output
        with worker(own, [server.pid, worker_process.pid]) as made:
            yield made


def _postgres_directory() -> Path:
    found = sorted([*Path("/usr/lib/postgresql").glob("*/bin"), *cache().glob("postgresql/usr/lib/postgresql/*/bin")])
    assert found, "there is no PostgreSQL; run bench/peers/setup.sh"
    return found[0]


@asynccontextmanager
async def dbos(own: Stage, folder: Path) -> AsyncIterator[Worker]:
    """PostgreSQL with its defaults (durable: fsync is on), and one DBOS process."""
    programs, port, data = _postgres_directory(), free_port(), folder / "pg"
    data.mkdir()
    become: list[str] = []
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        for path in (folder, data):
            os.chown(path, NOBODY, NOBODY)
        become = [str(shutil.which("setpriv")), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    libraries = {"LD_LIBRARY_PATH": str(cache() / "postgresql/usr/lib/x86_64-linux-gnu")}
    initialise = [*become, str(programs / "initdb"), "-D", str(data), "-U", "peer", "--auth=trust", "--no-instructions"]
    await asyncio.to_thread(
        subprocess.run, initialise, check=True, env={**os.environ, **libraries}, stdout=subprocess.DEVNULL, cwd="/"
    )
    serve = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-k", str(data), "-h", "127.0.0.1"]
    url = f"postgresql://peer@127.0.0.1:{port}/peer"
    python = str(cache() / "venv/bin/python")
    async with (
        daemon("postgres", [*become, *serve], folder, says("ready to accept connections"), libraries) as server,
        daemon(
            "dbos",
            [python, str(HERE / "dbos_worker.py")],
            folder,
            says("ready"),
            {**_variables(own), "PEER_DATABASE": url},
        ) as process,
    ):
        with worker(own, [server.pid, process.pid]) as made:
            yield made


BEST = "Restate"
PEERS = {BEST: restate, "DBOS": dbos}


async def measure(rounds: int, burst: int) -> list[Figure]:
    """All by turns; the floor is Restate, the best of them."""
    least: dict[str, object] = {"WPK_PROCESSING_GUARANTEE": "at_least_once"}
    figures: list[Figure] = []
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)  # or granian's worker would stay
    with tempfile.TemporaryDirectory(prefix="wpk-peers-") as made:
        os.chmod(made, 0o755)  # noqa: PTH101 - PostgreSQL's user must get in
        async with stage(kind="apache", settings=least) as house, contextlib.AsyncExitStack() as stack:
            workers = {}
            for name, start in PEERS.items():
                own = Stage(house.broker, house.partitions)
                await own.create_topics()
                folder = Path(made, name)
                folder.mkdir()  # noqa: ASYNC240 - nothing else runs yet
                workers[name] = await stack.enter_async_context(start(own, folder))
            for guarantee in ("at_least_once", "exactly_once"):
                settings: dict[str, object] = {"WPK_PROCESSING_GUARANTEE": guarantee, "WPK_SANDBOX": "required"}
                own = Stage(house.broker, house.partitions, settings)
                await own.create_topics()
                workers[f"agent, {guarantee}"] = await stack.enter_async_context(agents(own))
            for title, content, counts in (("W3", W3, (burst, burst // 5)), ("S1", S1, (burst // 10, burst // 10))):
                figures += await _rounds(title, content, workers, rounds, counts)
            for name, one in workers.items():
                if name.startswith("agent"):
                    completed(one)
    return figures


async def _rounds(
    title: str, content: object, workers: Mapping[str, Worker], rounds: int, counts: tuple[int, int]
) -> list[Figure]:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in workers}
    for number in range(rounds + 1):
        for name, one in workers.items():
            count = counts[1] if name == "DBOS" else counts[0]  # or one of its rounds would take a minute
            took = await asyncio.to_thread(one.burst, max(20, count), content)
            if number:  # the first warms all of them up
                found[name].append((took.per_second, took.worker_ms))
    return [
        Figure(
            name=f"{title} {what}: {name}",
            unit=unit,
            higher_is_better=higher,
            ours=[values[index] for values in of],
            floor=None if name == BEST else [values[index] for values in found[BEST]],
        )
        for index, (what, unit, higher) in enumerate(
            (("throughput", "/s", True), ("CPU, worker and server", "ms", False))
        )
        for name, of in found.items()
    ]


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--burst", type=int, default=2_000)
    parser.add_argument("--out", type=Path, default=PEERS_RESULTS)
    asked = parser.parse_args()
    subprocess.run([str(HERE / "setup.sh"), str(cache())], check=True, stdout=sys.stderr)
    facts = machine()
    figures = asyncio.run(measure(asked.rounds, asked.burst))
    print(table(figures))
    facts["size"] = f"{asked.rounds} rounds of {asked.burst}"
    asked.out.write_text(json.dumps({**facts, "figures": [one.row() for one in figures]}, indent=1) + "\n")
    if asked.out == PEERS_RESULTS:
        write_pages()


if __name__ == "__main__":
    main()
