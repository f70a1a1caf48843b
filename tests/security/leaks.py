"""Packages whose steps let out secrets in every way that their author found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

#: A secret with every character that some way of writing changes, a long one, and one of several lines; `{random}` is
#: another text in each run.
TEMPLATES = {
    "ODD": "c4n{random}\"<&>'/+ü=%Qx9 vK2m",
    "PLAIN": "p{random}tok3n",
    "LONG": "L0ng{random}" + "".join(f"{number:x}w{number * 7919 % 9973}" for number in range(40)),
    "LINES": "-----BEGIN {random}-----\nMIIEvQIBADANBgkq{random}hkiG9w0B\n{random}AQEFAASC-BKcwgg\n-----END-----",
    "HOST": "h0st{random}",
}
Handler = dict[str, Any]


@dataclass(frozen=True)
class Leak:
    """One package, and how it is asked for."""

    handlers: list[Handler]
    spec: dict[str, Any] = field(default_factory=dict)
    command: dict[str, Any] = field(default_factory=dict)
    status: str = "completed"
    """How it must end, so that the secret was really there to be let out."""
    roll_back: bool = False


def shell(command: str, secret: str = "ODD", *, name: str = "leak", **config: Any) -> Handler:
    more = {key: config.pop(key) for key in ("retry", "timeout", "when") if key in config}
    env = {"S": f"${{secrets.{secret}}}", **config.pop("env_more", {})}
    return {"name": name, "type": "shell", "config": {"command": command, "env": env, **config}, **more}


def api(url: str, *, name: str = "leak", **config: Any) -> Handler:
    return {"name": name, "type": "api", "config": {"url": url, **config}}


def k8s(step: str = "leak", **config: Any) -> Handler:
    return {"name": step, "type": "k8s", "config": config}


def leaks(base: str, closed: str) -> dict[str, Leak]:
    """By a name that says how. `base` is a server that echoes, `closed` an address where nobody listens."""
    requested = {**_requested(base, closed), **_alerting(base, closed)}
    return {**_printed(), **_written(), **_cut(), **_failing(), **requested, **_told(base), **_in_the_cluster()}


def _printed() -> dict[str, Leak]:
    commands = {
        "stdout": "printf '%s\\n' \"$S\"",
        "stderr": "printf '%s\\n' \"$S\" >&2",
        "no newline": 'printf %s "$S"',
        "twice": 'printf %s%s "$S" "$S"',
        "trace": 'set -x; : "$S"; : "$S" again',
        "environment": "env; cat /proc/self/environ",
        "own command line": 'sh -c "cat /proc/\\$\\$/cmdline" "$S"',
        "hex": "printf %s \"$S\" | od -An -v -tx1 | tr -d ' \\n'",
        "base64": 'for p in "" a ab abc; do printf "%s%s" "$p" "$S" | base64 -w0; echo; done',
        "two writes": 'printf %s "$${S%"$${S#?????}"}"; sleep 0.3; printf "%s\\n" "$${S#?????}"',
        "byte by byte": 'printf %s "$S" | while IFS= read -r -n1 c; do printf %s "$c"; done; printf %s "$S" | dd bs=1',
        "both streams at once": 'printf "%s\\n" "$S" & printf "%s\\n" "$S" >&2; wait',
    }
    found = {name: Leak([shell(command)]) for name, command in commands.items()}
    for secret in ("PLAIN", "LONG", "LINES"):
        found[f"{secret} printed"] = Leak([shell('printf "%s\\n" "$S"', secret)])
        found[f"{secret} as base64 in lines"] = Leak(
            [shell('printf %s "$S" | base64; printf %s "$S" | base64 -w64', secret)]
        )
    found["parsed JSON"] = Leak(
        [
            shell('printf \'{"%s": ["%s", {"a": "%s"}]}\' "$S" "$S" "$S"', "PLAIN", parse="json"),
            {"name": "next", "type": "shell", "config": {"command": "echo ${steps.leak.output.parsed}"}},
        ]
    )
    found["output of the package"] = Leak(
        [shell('echo "$S"', "PLAIN")], {"outputs": {"a": "${secrets.PLAIN}", "b": "x ${steps.leak.output.stdout}"}}
    )
    return found


def _written() -> dict[str, Leak]:
    """Written for another reader by a program of its own, and broken over lines and records."""
    how = {
        "JSON": "json.dumps(s) + json.dumps(json.dumps(s)) + json.dumps(s, ensure_ascii=False)",
        "URL": "u.quote(s) + u.quote_plus(s) + u.quote(s, safe='') + u.quote(s, safe='').lower() + s.upper()",
        "each byte in a URL": "''.join('%%%02x' % b for b in s.encode()) + ''.join('%%%02X' % b for b in s.encode())",
        "HTML": "html.escape(s) + html.escape(s, quote=False)",
        "shell": "shlex.quote(s) + repr(s) + repr(s.encode().decode())",
        "base64url": "' '.join(base64.urlsafe_b64encode(b'x' * n + s.encode()).decode() for n in range(4))",
        "hex": "s.encode().hex() + s.encode().hex().upper()",
        "header": "'Authorization: Basic ' + base64.b64encode(('user:' + s).encode()).decode()",
        "traceback": "1 / 0 if len(s) < 1 else int(s)",
    }
    imports = "import base64, html, json, os, shlex, urllib.parse as u; s = os.environ['S']"
    found = {
        f"{secret} written as {name}": Leak(
            [shell('python3 -c "$CODE"', secret, env_more={"CODE": f"{imports}; print({code})"})],
            status="failed" if name == "traceback" else "completed",
        )
        for secret in ("ODD", "LONG")
        for name, code in how.items()
        if secret == "ODD" or name in ("JSON", "URL", "base64url")
    }
    found["on a line with a carriage return"] = Leak([shell('printf "a\r%s\r\n" "$S"')])
    found["within a colour"] = Leak([shell('printf "\033[31m%s\033[0m\n" "$S"')])
    found["behind a zero byte"] = Leak([shell('printf "a\\000%s\\000\\n" "$S"')])
    return found


def _cut() -> dict[str, Leak]:
    """A limit goes through the secret: what was cut must not show its beginning or its end."""
    filler = "head -c {count} /dev/zero | tr '\\0' x"
    line = filler.format(count=16 * 1024 - 40)
    head = "yes xxxxxxxxxxxxxxxxxxx | head -c {count}"
    return {
        "over the limit of a line": Leak([shell(f'{line}; printf "%s\\n" "$S"', "LONG")]),
        "over the kept beginning": Leak(
            [shell(f'{head.format(count=32 * 1024 - 40)}; printf %s "$S"; {head.format(count=90_000)}', "LONG")]
        ),
        "over the kept end": Leak(
            [shell(f'{head.format(count=90_000)}; printf %s "$S"; {head.format(count=32 * 1024 - 40)}', "LONG")]
        ),
        "over the end of an error": Leak(
            [shell(f'({filler.format(count=270)}; printf "%s\\n" "$S") >&2; exit 3', "LONG")], status="failed"
        ),
    }


def _failing() -> dict[str, Leak]:
    last_words = 'printf "fatal: %s\\n" "$S" >&2; exit 7'
    return {
        "exit error": Leak([shell(last_words)], status="failed"),
        "retried": Leak([shell(last_words, retry={"max_attempts": 3, "backoff": "1ms"})], status="failed"),
        "timeout": Leak([shell('echo "$S"; sleep 60', timeout="1s")], status="failed"),
        "output that is no JSON": Leak([shell('echo "{$S"', parse="json")], status="failed"),
        "program": Leak(
            [{"name": "leak", "type": "shell", "config": {"args": ["${secrets.PLAIN}"]}}], status="rejected"
        ),
        "working directory": Leak([shell("true", cwd="/usr/${secrets.PLAIN}")], status="failed"),
        "stdin": Leak([shell("cat; exit 1", stdin="${secrets.ODD}")], status="failed"),
        "value of the wrong type": Leak(
            [api("http://127.0.0.1/", timeout="${secrets.PLAIN}", expected_status="${secrets.ODD}")], status="failed"
        ),
        "name of a header": Leak([api("http://127.0.0.1/", headers={"x": "${secrets.LINES}"})], status="failed"),
        "condition": Leak(
            [shell('echo "$S"', "PLAIN"), shell("true", name="next", when="steps.leak.output.stdout > 5")],
            status="failed",
        ),
        "missing field": Leak(
            [
                shell('printf \'{"%s": 1}\' "$S"', "PLAIN", parse="json"),
                shell("echo ${steps.leak.output.parsed.nothing}", name="next"),
            ],
            status="failed",
        ),
        "rollback by handlers": Leak(
            [shell("exit 1")],
            {"rollback": {"enabled": True, "handlers": [shell('echo "$S"; echo "$S" >&2; exit 1')]}},
            status="rollback_failed",
        ),
    }


def _requested(base: str, closed: str) -> dict[str, Leak]:
    odd, plain = "${secrets.ODD}", "${secrets.PLAIN}"
    return {
        "echoed body": Leak([api(f"{base}/echo", method="POST", payload={"a": [odd, {"b": plain}]})]),
        "echoed text": Leak([api(f"{base}/echo", method="POST", payload=f"a {odd} b")]),
        "echoed header": Leak([api(f"{base}/echo", headers={"Authorization": f"Bearer {plain}", "x-other": plain})]),
        "echoed query": Leak([api(f"{base}/echo?a={odd}&b={plain}", params={"c": odd})]),
        "echoed user": Leak([api(base.replace("://", f"://{plain}:{odd}@") + "/echo")]),
        "not found": Leak([api(f"{base}/{odd}/{plain}")], status="failed"),
        "unexpected status": Leak(
            [api(f"{base}/echo", method="POST", payload=odd, expected_status=201)], status="failed"
        ),
        "unmet expectation": Leak([api(f"{base}/echo?a={plain}", expect=f'body.path == "{plain}"')], status="failed"),
        "broken expectation": Leak([api(f"{base}/echo?a={plain}", expect="body.query.a > 5")], status="failed"),
        "nobody listens": Leak([api(f"{closed}/{odd}?q={plain}")], status="failed"),
        "no URL": Leak([api(odd)], status="failed"),
        "unknown host": Leak([api("http://${secrets.HOST}.invalid/")], status="failed"),
        "redirect": Leak([api(f"{base}/redirect?to=/echo?x={plain}", follow_redirects=True)]),
        "redirect to an unknown host": Leak(
            [api(f"{base}/redirect?to=http://{plain}.invalid/", follow_redirects=True)], status="failed"
        ),
        "answer used in the next step": Leak(
            [
                api(f"{base}/echo?a={plain}"),
                api(f"{base}/echo?b=${{steps.leak.output.body.query.a[0]}}", name="next"),
                {"name": "last", "type": "shell", "config": {"command": "echo ${steps.next.output.body}"}},
            ]
        ),
    }


def _alerting(base: str, closed: str) -> dict[str, Leak]:
    """By alerts that a package asks for: their address and key are secrets, and their receiver is not there."""
    key = {"secret": "${secrets.ODD}", "on_success": True, "on_failure": True}

    def told(url: str) -> dict[str, Any]:
        return {"monitoring": {"alerts": [{"type": "webhook", "url": url, **key}]}}

    return {
        "alert that is taken": Leak([shell('echo "$S"')], told(f"{base}/echo?a=${{secrets.PLAIN}}")),
        "alert that is refused": Leak([shell('echo "$S"')], told(f"{base}/${{secrets.PLAIN}}")),
        "alert to nobody": Leak([shell('echo "$S"')], told(f"{closed}/${{secrets.PLAIN}}")),
        "alert to no host": Leak([shell('echo "$S"')], told("http://${secrets.HOST}.invalid/${secrets.PLAIN}")),
    }


def _told(base: str) -> dict[str, Leak]:
    """In what is said of a run rather than by its steps."""
    odd = "${secrets.ODD}"
    dry = {"dry_run": True}
    return {
        "plan of a command": Leak([shell(f"echo {odd}", stdin=odd, cwd="/tmp")], command=dry),
        "plan of arguments": Leak(
            [{"name": "leak", "type": "shell", "config": {"args": ["echo", odd]}}], command=dry, status="rejected"
        ),
        "plan of a request": Leak(
            [api(f"{base}/echo?a={odd}", method="POST", headers={"x-a": "${secrets.PLAIN}"}, payload={"b": odd})],
            command=dry,
        ),
        "names of all kinds": Leak(
            [shell("true")],
            {"parameters": {"type": "object", "description": odd}},
            command={"labels": {"a": odd}, "requested_by": odd},
        ),
    }


def _in_the_cluster() -> dict[str, Leak]:
    plain, odd = "${secrets.PLAIN}", "${secrets.ODD}"
    target = {"resource_type": "configmap", "name": "settings"}
    doomed = {**target, "name": "doomed"}
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "made", "namespace": "payments"},
        "data": {"a": plain, "b": odd},
    }
    return {
        "plan of an object": Leak([k8s(action="create", manifest=manifest)], command={"dry_run": True}),
        "patched and undone": Leak(
            [k8s(action="patch", **target, data={"data": {"a": plain}}), k8s("look", action="get", **target)],
            roll_back=True,
        ),
        "an object that shows it is deleted and made again": Leak(
            [
                k8s(action="patch", undo=False, **doomed, data={"data": {"a": plain}}),
                k8s("gone", action="delete", **doomed),
            ],
            roll_back=True,
        ),
        "name of an object": Leak([k8s(action="get", resource_type="configmap", name=odd)], status="failed"),
        "object that is not there": Leak(
            [k8s(action="get", resource_type="configmap", name="${secrets.HOST}")], status="failed"
        ),
        "path of a field": Leak([k8s(action="get", **target, field=f"data.{plain}")]),
        "value of a field": Leak([k8s(action="patch", **{**target, "name": "other"}, data={"data": {"x": odd}})]),
    }
