"""Input that somebody wrote who means harm: command records, packages, conditions, policies, values.

Drawn by a `Random` rather than by strategies of their own: to build such texts takes hypothesis ten times as long as
the agent takes to read them.
"""

from __future__ import annotations

import base64
import json
from random import Random
from typing import Any

from consumer.intake.decode import RawRecord
from consumer.ports import CommandTopic

#: What parsers, regular expressions and numbers have been broken by.
PIECES = (
    "[" * 3000,
    "{a: " * 2000,
    "- " * 3000,
    '{"a":' * 2000,
    "(" * 2000,
    "!" * 2000 + "true",
    "9" * 5000,
    "-" + "9" * 400,
    "0x" + "f" * 300,
    "1e999999999",
    "1e-999999999",
    "1" + "_1" * 500,
    ".inf",
    "NaN",
    "-0.0",
    "0777",
    "12:30:45",
    "2026-13-45T99:99:99Z",
    "!!timestamp 99999-01-01",
    "!!python/object/apply:os.system [id]",
    "!!binary ////",
    "!<tag:x> y",
    "&a [*a, *a]",
    "a: &a\n  b: *a\n",
    "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
    "<<: {a: 1}",
    "key: 1\nkey: 2\n",
    '{"a": 1, "a": 2}',
    "? {a: b}\n: c\n",
    "%YAML 9.9\n---\n",
    "--- a\n--- b\n",
    "\0",
    "\x1b]0;title\x07",
    "\ufeff",
    "\u2028",
    "\u202e",
    "\r",
    "\t",
    "|\n",
    ">-\n",
    "'",
    '"',
    "`",
    "\\",
    "\\ud800",
    "\\u0000",
    "*undefined",
    "${" * 500,
    "${a" + "[0]" * 400 + "}",
    "${secrets.A}",
    "${secrets.../../etc/passwd}",
    '${steps["a\\"].output[99999999999999999999]}',
    "${execution.id}",
    "$${x}",
    "a" * 5000 + "!",
    "'" + "a" * 300 + "'.matches('(a+)+$')",
    "[1,2,3].all(x, [1,2,3].all(y, [1,2,3].all(z, x + y + z > 0)))",
    "steps.a.output.b.c",
    "parameters[parameters]",
    "1 / 0",
    "9223372036854775808",
    "duration('9999999999h')",
    "has(",
    " ? : ",
    "true && ",
    "in [",
    "P1DT1H",
    "1h" * 500,
    "h",
    "1.7976931348623157e308d",
    "٣s",
    "null",
    "~",
    "{}",
    "[]",
    ": ",
    ", ",
    "\n",
    "\n  ",
    "#",
)


def text(draw: Random) -> str:
    """Some of the pieces, with other characters between them."""
    return "".join(draw.choice(PIECES) if draw.random() < 0.7 else _noise(draw) for _ in range(draw.randint(0, 5)))


def _noise(draw: Random) -> str:
    return "".join(chr(draw.choice((draw.randrange(128), draw.randrange(0xD800), 0x1F600))) for _ in range(8))


def number(draw: Random) -> int | float:
    """Small ones, and those at and beyond the edges."""
    edge = draw.choice((0, 1, 2**31, 2**53, 2**63, 2**64, 10**400))
    return draw.choice((edge, -edge, edge - 1, draw.random(), 5e-324, 1.7e308, -0.0, float("inf"), float("nan")))


def value(draw: Random, depth: int = 3) -> Any:
    """JSON, and what is almost JSON."""
    kind = draw.randrange(7 if depth else 5)
    if kind == 5:
        return [value(draw, depth - 1) for _ in range(draw.randint(0, 3))]
    if kind == 6:
        return {text(draw): value(draw, depth - 1) for _ in range(draw.randint(0, 3))}
    return draw.choice((None, True, number(draw), text(draw), text(draw)))


def config(draw: Random) -> Any:
    """A step's configuration: names that adapters know, with values that they do not."""
    names = ("url", "method", "headers", "payload", "expect", "timeout", "command", "args", "env", "limits", "duration")
    return (
        {name: value(draw) for name in draw.sample(names, draw.randint(0, 4))} if draw.random() < 0.8 else value(draw)
    )


def package(draw: Random) -> str:
    """A package's text, with one place filled by what is hostile; at times nothing but that."""
    return _filled(_PACKAGE, draw) if draw.random() < 0.8 else text(draw)


def policy(draw: Random) -> str:
    """The same for a policy."""
    return _filled(_POLICY, draw) if draw.random() < 0.8 else text(draw)


def scalar(draw: Random) -> Any:
    """What may stand where a duration or a quantity does."""
    return value(draw, depth=0)


_PACKAGE = """\
metadata: {name: a, version: 1.0.0}
spec:
  handlers:
    - name: one
      type: api
      when: §
      timeout: §
      config: {url: http://example.invalid/, headers: {a: §}, payload: §}
    - {name: two, type: shell, needs: [one], config: {command: §}}
  parameters: §
  outputs: {a: §}
"""
_POLICY = """\
version: 1
rules:
  - {name: a, effect: allow, requesters: §, steps: {api: {hosts: §}}, when: §}
requirements:
  - {name: b, approval: required, approval_timeout: §, limits: {max_steps: §}}
command_keys:
  - {name: c, public_key: §}
"""


def _filled(template: str, draw: Random) -> str:
    parts = template.split("§")
    place, filling = draw.randrange(len(parts) - 1), text(draw)
    return parts[0] + "".join((filling if at == place else "null") + part for at, part in enumerate(parts[1:]))


def record(draw: Random) -> RawRecord:
    """A record of a command topic: bytes, JSON, a command, or a CloudEvent around one."""
    return RawRecord(
        role=draw.choice(list(CommandTopic)),
        topic="t.commands",
        partition=draw.randrange(4),
        offset=draw.randrange(2**62),
        timestamp_ms=draw.randint(-(2**62), 2**62),
        key=draw.choice((None, draw.randbytes(9))),
        value=_body(draw),
        headers=tuple((draw.choice(_HEADERS), _header(draw)) for _ in range(draw.randint(0, 3))),
    )


_HEADERS = (
    "content-type",
    "Content-Type",
    "ce_id",
    "ce_specversion",
    "ce_traceparent",
    "traceparent",
    "wpk-signature",
    "ü",
)
_FIELDS = ("execution_id", "workflow_id", "parameters", "deadline", "timeout", "labels", "action", "dry_run", "data")


def _header(draw: Random) -> bytes | None:
    structured = b"application/cloudevents+json"
    return draw.choice((None, structured, draw.randbytes(20), text(draw).encode(errors="replace")))


def _body(draw: Random) -> bytes:
    command: Any = {name: value(draw, depth=2) for name in draw.sample(_FIELDS, draw.randint(0, 3))}
    if draw.random() < 0.6:
        spec = {"handlers": [{"name": "a", "type": "api", "config": config(draw)}], "parameters": value(draw)}
        command["wpk_content"] = draw.choice((package(draw), {"metadata": {"name": "a"}, "spec": spec}))
    coded = base64.b64encode(_json(command)).decode()
    return draw.choice(
        (
            _json(command),
            _json({"specversion": "1.0", "data": command}),
            _json({"specversion": "1.0", "data_base64": coded}),
            _json(value(draw)),
            draw.randbytes(40),
            text(draw).encode(errors="surrogatepass"),
        )
    )


def _json(content: object) -> bytes:
    return json.dumps(content).encode(errors="surrogatepass")


def settings_file(draw: Random) -> tuple[str, str]:
    """A configuration file's ending and text: some names that exist, with values that do not fit."""
    names = (
        "WPK_PARTITIONS",
        "KAFKA_BOOTSTRAP_SERVERS",
        "WPK_HTTP_ALLOW",
        "WPK_SECRETS_DIR",
        "KAFKA_SASL_PASSWORD_FILE",
    )
    ending, sign = draw.choice((("yaml", ": "), ("env", "="), ("json", ": ")))
    lines = [f"{draw.choice(names)}{sign}{text(draw)}" for _ in range(draw.randint(0, 3))]
    return ending, "\n".join(lines) if draw.random() < 0.8 else text(draw)


def publication(draw: Random) -> bytes:
    """A record of the registry's topic, or an answer of a registry over HTTP."""
    content = value(draw) if draw.random() < 0.5 else {"metadata": {"name": text(draw), "version": value(draw)}}
    body: Any = {"wpk_content": draw.choice((content, package(draw))), "content": content, "digest": value(draw)}
    body |= {"workflow_id": text(draw), "published_at": draw.choice(("2026-01-01T00:00:00Z", text(draw)))}
    return _json(body) if draw.random() < 0.8 else text(draw).encode(errors="replace")


def checkpoint(draw: Random) -> bytes:
    """A file of a checkpoint that somebody made by hand."""
    ends = {draw.choice(("events.progress", "events.results", text(draw))): draw.choice((1, number(draw)))}
    part = {"partition": draw.choice((0, number(draw))), "ends": ends, "executions": 0, "digest": "sha256:" + "0" * 64}
    statement = {"format": "wpk-audit-checkpoint", "version": 1, "made_at": "2026-01-01T00:00:00Z"}
    statement |= {"prefix": text(draw), "partitions": [part] * draw.randint(0, 2)}
    body: Any = {"statement": statement, "signature": signature(draw), "executions": draw.choice(({}, value(draw)))}
    return _json(body) if draw.random() < 0.8 else text(draw).encode(errors="replace")


def signature(draw: Random) -> str:
    """Of a package: base64, a bundle, or nothing of the kind."""
    coded = base64.b64encode(draw.randbytes(draw.choice((0, 8, 64, 72)))).decode()
    message = {"messageSignature": {"signature": draw.choice((coded, text(draw))), "messageDigest": value(draw)}}
    return draw.choice((coded, json.dumps(message), json.dumps({"a": value(draw)}), "{" + text(draw), text(draw)))
