"""Where the cluster is described: contexts of kubeconfigs, and plug-ins that hang, complain or give nonsense."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes_asyncio.client import Configuration

from consumer.adapters.k8s import plugin
from consumer.adapters.k8s.connect import Connector
from consumer.errors import PermanentError, TemporaryError
from tests.support.eventually import eventually

V1 = "client.authentication.k8s.io/v1"


def kubeconfig(path: Path, current: str | None, *names: str, user: dict[str, Any] | None = None) -> Path:
    """A kubeconfig whose contexts lead to servers and namespaces of their own names."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "contexts": [
            {"name": name, "context": {"cluster": name, "user": "me", "namespace": f"in-{name}"}} for name in names
        ],
        "clusters": [{"name": name, "cluster": {"server": f"http://{name}.invalid"}} for name in names],
        "users": [{"name": "me", "user": user or {"token": "t0ken"}}],
        **({"current-context": current} if current else {}),
    }
    path.write_text(yaml.safe_dump(document))
    return path


async def reached(connector: Connector) -> tuple[str, str]:
    """The server and the namespace."""
    configuration = Configuration()
    namespace, _ = await connector.load(configuration)
    return str(configuration.host), namespace


async def test_another_context_than_the_current_one_may_be_set(tmp_path: Path) -> None:
    path = str(kubeconfig(tmp_path / "config", "test", "test", "live"))
    assert await reached(Connector(path)) == ("http://test.invalid", "in-test")
    assert await reached(Connector(path, context="live")) == ("http://live.invalid", "in-live")


@pytest.mark.parametrize(
    ("current", "context", "message"),
    [
        ("test", "prod", 'the context "prod" of WPK_K8S_CONTEXT is not among the contexts of .*; it has test, live'),
        ("gone", None, 'the current-context "gone" is not among .*; it has test, live'),
        (None, None, "sets no current-context; it has test, live: name one in WPK_K8S_CONTEXT"),
    ],
)
async def test_a_context_that_is_not_there_is_told_with_those_that_are(
    tmp_path: Path, current: str | None, context: str | None, message: str
) -> None:
    path = kubeconfig(tmp_path / "config", current, "test", "live")
    with pytest.raises(PermanentError, match=message) as caught:
        await reached(Connector(str(path), context=context))
    assert caught.value.code == "no_cluster"


async def test_a_context_means_nothing_to_a_pods_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(PermanentError, match=r'WPK_K8S_CONTEXT is "live", but there is no kubeconfig'):
        await reached(Connector(None, tmp_path, context="live"))


def script(path: Path, *lines: str) -> dict[str, Any]:
    """An exec section whose program is that script beside the kubeconfig."""
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o700)
    return {"apiVersion": V1, "command": f"./{path.name}", "interactiveMode": "Never"}


def answer(**status: str) -> str:
    return json.dumps({"apiVersion": V1, "kind": "ExecCredential", "status": status})


async def test_a_plug_in_that_hangs_ends_with_all_that_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    section = script(tmp_path / "hangs", "sleep 600 &", f"echo $! > {child}.new; mv {child}.new {child}; wait")
    asking = asyncio.create_task(plugin.credentials(section, {}, tmp_path, 600))
    await eventually(child.exists)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await eventually(lambda: not _runs(int(child.read_text())))


async def test_a_plug_in_that_gives_no_answer_in_time_is_told_with_what_it_complained_of(tmp_path: Path) -> None:
    section = script(tmp_path / "hangs", "echo 'open https://sso.example/device' >&2", "exec sleep 600")
    for seconds in (1, 4, 16, 64):  # a loaded machine may need long to start it
        with pytest.raises(TemporaryError, match=f"no answer within {seconds} s") as caught:
            await plugin.credentials(section, {}, tmp_path, seconds)
        assert caught.value.code == "no_credentials"
        if "open https://sso.example/device" in str(caught.value):
            return
    pytest.fail(f"its complaint is not told: {caught.value}")


def _runs(pid: int) -> bool:
    """Whether the process is there, and no zombie that its new parent has yet to take."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_plug_in_that_complains_at_length_is_heard_to_its_end(tmp_path: Path) -> None:
    section = script(tmp_path / "fails", "head -c 300000 /dev/zero | tr '\\0' x >&2", "echo; echo 'log in' >&2; exit 3")
    with pytest.raises(TemporaryError, match=r"ended with 3: x+log in"):
        await plugin.credentials(section, {}, tmp_path, 60)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("s3cret", "gives no JSON"),
        ('{"apiVersion": "s3cret"}', "gives no ExecCredential"),
        (answer(token="s3cret", clientKeyData="k"), "neither a token nor a certificate with its key"),
        (answer(token="s3cret").replace("/v1", "/v1beta1"), "answers in client.authentication.k8s.io/v1beta1"),
        (answer(token="s3cret", expirationTimestamp="soon"), "expirationTimestamp is missing or wrong"),
    ],
)
async def test_an_answer_that_is_none_is_told_but_never_quoted(tmp_path: Path, said: str, why: str) -> None:
    (tmp_path / "answer").write_text(said)
    with pytest.raises(TemporaryError, match=why) as caught:
        await plugin.credentials(script(tmp_path / "talks", f"cat {tmp_path}/answer"), {}, tmp_path, 60)
    assert "s3cret" not in str(caught.value)


async def test_a_plug_in_is_given_its_arguments_environment_and_cluster(tmp_path: Path) -> None:
    section = script(
        tmp_path / "echoes", f'echo "$1 $REGION $KUBERNETES_EXEC_INFO" > {tmp_path}/seen', f"echo '{answer(token='t')}'"
    )
    section |= {"args": ["--profile"], "env": [{"name": "REGION", "value": "north"}], "provideClusterInfo": True}
    path = kubeconfig(tmp_path / "config", "test", "test", user={"exec": section})
    await reached(Connector(str(path)))
    profile, region, info = (tmp_path / "seen").read_text().split(" ", 2)
    assert (profile, region) == ("--profile", "north")
    assert json.loads(info) == {
        "apiVersion": V1,
        "kind": "ExecCredential",
        "spec": {"interactive": False, "cluster": {"server": "http://test.invalid"}},
    }


@pytest.mark.parametrize(
    ("section", "why"),
    [
        ({"apiVersion": V1, "command": "no-such-program-here", "installHint": "brew install it"}, "brew install it"),
        ({"apiVersion": V1, "command": "true", "interactiveMode": "Always"}, "wants a terminal"),
        ({"apiVersion": V1}, "exec.command is wrong"),
    ],
)
async def test_a_plug_in_that_cannot_be_run_is_told(tmp_path: Path, section: dict[str, Any], why: str) -> None:
    with pytest.raises(TemporaryError, match=why):
        await plugin.credentials(section, {}, tmp_path, 60)
