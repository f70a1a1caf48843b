"""What leaves the agent beside the topics: notices as they are received, and what readers of the trail write."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.security.detector import Detector
from tests.support import http_server, mail_server, processes
from tests.support.eventually import eventually
from tests.support.http_server import Exchange


@dataclass(frozen=True)
class Receivers:
    """A server for Slack, a webhook and the registry, and one for mail."""

    web: http_server.Server
    mail: mail_server.MailServer

    def variables(self) -> dict[str, object]:
        """The settings of an agent that tells all of them of every end."""
        return {
            "WPK_ALERTS": "true",
            "WPK_NOTIFY_ON": "all",
            "WPK_NOTIFY_TIMEOUT": "3s",
            "WPK_NOTIFY_SLACK": f"{self.web.base}/slack",
            "WPK_NOTIFY_WEBHOOK": f"{self.web.base}/hook",
            "WPK_NOTIFY_WEBHOOK_SECRET": "${secrets.PLAIN}",
            "WPK_NOTIFY_EMAIL": "oncall@example.com",
            "WPK_SMTP_SERVER": f"127.0.0.1:{self.mail.port}",
            "WPK_SMTP_SECURITY": "none",
            "WPK_REGISTRY_URL": self.web.base,
            "WPK_REGISTRY_CALLBACK": "true",
        }

    async def search(self, detector: Detector, ids: Iterable[str], patience: float) -> None:
        """Waits until all of these executions are told in every way, and searches what came."""
        wanted = set(ids)

        def told() -> bool:
            hooks = {json.loads(each.body)["execution_id"] for each in self.web.seen("/hook")}
            registry = {each.path.split("/")[2] for each in self.web.requests if each.path.startswith("/executions/")}
            count = len(wanted)
            return hooks >= wanted <= registry and len(self.web.seen("/slack")) >= count <= len(self.mail.mails)

        await eventually(told, timeout=patience, because="all receivers are told of all ends")
        for request in self.web.requests:
            detector.search("notice", request.path, request.body)
            for name, value in request.headers.items():
                detector.search("header of a notice", f"{request.path} {name}", value)
        for mail in self.mail.mails:
            detector.search("mail", str(mail["Subject"]), mail.as_string())
            detector.search("mail", str(mail["Subject"]), mail.get_content())


async def _taken(exchange: Exchange) -> None:
    await exchange.reply(200)


@contextlib.asynccontextmanager
async def receivers() -> AsyncIterator[Receivers]:
    async with http_server.serve() as web, mail_server.serve() as mail:
        web.fallback = _taken
        yield Receivers(web, mail)


async def search_readers(detector: Detector, variables: Mapping[str, str], directory: Path, execution_id: str) -> None:
    """Runs every verb that reads the trail, about one execution, and searches what it says and writes."""
    key = directory / "key.pem"
    private = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key.write_bytes(private.private_bytes(*form))
    export = ("audit", "export", "--id", execution_id, "-o")
    verbs = [
        *((verb, execution_id) for verb in ("explain", "status", "logs")),
        ("audit", "timeline", execution_id, "--svg", str(directory / "timeline.svg")),
        ("audit", "replay"),
        ("audit", "replay", "--executions"),
        *((*export, str(directory / f"trail.{form}")) for form in ("jsonl", "csv", "parquet")),
        ("audit", "checkpoint", "--key", str(key), "-o", str(directory / "checkpoint.json")),
        ("list",),
        ("dead-letter", "list"),
        ("dead-letter", "show", "0@0"),
    ]
    for verb in verbs:
        done = await processes.wpk(variables, *verb)
        for line in (done.stdout + done.stderr).splitlines():
            detector.search("line of a reader", " ".join(verb), line)
        assert "Traceback" not in done.stderr, done.stderr
        assert "Usage:" not in done.stderr, f"{verb} was not run: {done.stderr}"
    _search_files(detector, directory)


def _search_files(detector: Detector, directory: Path) -> None:
    for path in directory.iterdir():
        if path.suffix != ".pem":
            for line in path.read_bytes().split(b"\n"):
                detector.search("line of an export", path.name, line)
    table = pq.read_table(directory / "trail.parquet")
    assert table.num_rows > 0
    for row in table.to_pylist():
        detector.search("row of an export", "trail.parquet", json.dumps(row, default=str))
