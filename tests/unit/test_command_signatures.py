"""Signed commands: who sent one is proven, and it holds for that very command only. Keys are openssl's own."""

from __future__ import annotations

import base64
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from consumer.policy import load, signing
from consumer.policy.command_signatures import HEADER, TIME_HEADER, Headers, Proof, Signed, prove
from consumer.workflow.documents import DocumentError
from schemas.commands import ControlCommand, ExecuteCommand, RollbackCommand
from schemas.events import Status
from tests.support.engine_house import House, Sign, house, package, probe_module, step

OPENSSL = shutil.which("openssl") or ""
NOW = datetime(2026, 1, 1, tzinfo=UTC)
EC = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
SIGNED = Signed(topic="wpk.commands.execute", execution_id="e1", key=b"e1", value=b'{"workflow_id": "w"}')

pytestmark = pytest.mark.skipif(not OPENSSL, reason="the openssl program is not installed")


class Key:
    """A key pair that openssl made, and who may use it."""

    def __init__(self, folder: Path, name: str, *requesters: str, how: tuple[str, ...] = EC) -> None:
        self.name, self.requesters, self.file = name, requesters, folder / f"{name}.pem"
        self.file.write_bytes(openssl("genpkey", *how))
        self.public = openssl("pkey", "-in", str(self.file), "-pubout").decode()
        self.private = signing.load_private_key(self.file.read_bytes(), None)

    def entry(self, **more: Any) -> dict[str, Any]:
        return {"name": self.name, "public_key": self.public, "requesters": list(self.requesters), **more}

    def headers(self, signed: Signed, at: datetime = NOW) -> Headers:
        return signing.command_headers(self.private, signed, at)


def openssl(*arguments: str, data: bytes = b"") -> bytes:
    return subprocess.run([OPENSSL, *arguments], input=data, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def alice(folder: Path) -> Key:
    return Key(folder, "alice-laptop", "alice")


@pytest.fixture(scope="module")
def bob(folder: Path) -> Key:
    return Key(folder, "bob-laptop", "bob", "bert", how=("-algorithm", "ED25519"))


def proven(
    headers: Headers,
    *keys: dict[str, Any],
    signed: Signed = SIGNED,
    requester: str | None = "alice",
    now: datetime = NOW,
) -> Proof:
    policy = load.PolicyFile.model_validate({"version": 1, "command_keys": list(keys)})
    return prove(policy, signed, headers, requester=requester, now=now, max_age=policy.command_signatures.max_age)


def test_a_signed_command_proves_its_requester(alice: Key, bob: Key) -> None:
    assert proven(alice.headers(SIGNED), bob.entry(), alice.entry()) == Proof(key="alice-laptop")
    assert proven(bob.headers(SIGNED), bob.entry(), alice.entry(), requester="bert") == Proof(key="bob-laptop")


def test_what_openssl_signs_over_the_documented_text_is_taken(alice: Key) -> None:
    """The text is made here by hand, as any other tool would make it."""
    at = "2026-01-01T00:00:00Z"
    digests = [openssl("dgst", "-sha256", "-r", data=part).split()[0].decode() for part in (b"e1", SIGNED.value or b"")]
    text = "\n".join(["wpk.command.v1", "wpk.commands.execute", "e1", *digests, at, "end", ""]).encode()
    made = base64.b64encode(openssl("dgst", "-sha256", "-sign", str(alice.file), data=text))
    assert proven([(TIME_HEADER, at.encode()), (HEADER, made)], alice.entry()) == Proof(key="alice-laptop")


def test_a_command_without_a_signature_is_a_claim_and_no_error(alice: Key) -> None:
    assert proven([("traceparent", b"x")], alice.entry()) == Proof()
    assert proven(alice.headers(SIGNED)) == Proof(), "without keys nothing is proven"


@pytest.mark.parametrize(
    "other",
    [
        {"value": b'{"workflow_id": "W"}'},
        {"execution_id": "e2"},
        {"key": b"e2"},
        {"key": None},
        {"topic": "wpk.commands.rollback"},
        {"topic": "staging.commands.execute"},
    ],
)
def test_a_signature_holds_for_its_own_record_only(alice: Key, other: dict[str, Any]) -> None:
    proof = proven(alice.headers(SIGNED), alice.entry(), signed=replace(SIGNED, **other))
    assert proof.key is None
    assert "for another topic, execution, key or value" in (proof.problem or "")


def test_a_key_signs_for_its_own_requesters_only(alice: Key) -> None:
    for requester, told in (("bob", "which is not that of bob"), (None, "give requested_by"), ("Alice", "Alice")):
        proof = proven(alice.headers(SIGNED), alice.entry(), requester=requester)
        assert proof.key is None
        assert told in (proof.problem or "")
        assert "it may sign for: alice" in (proof.problem or "")


@pytest.mark.parametrize(
    ("more", "now", "told"),
    [
        ({"not_after": "2025-12-31T00:00:00Z"}, NOW, "expired at 2025-12-31"),
        ({"not_before": "2026-01-02T00:00:00Z"}, NOW, "valid only from 2026-01-02"),
        ({}, NOW + timedelta(days=1, seconds=1), "a signature holds for 86400 s (command_signatures.max_age)"),
        ({}, NOW - timedelta(minutes=6), "yet to come"),
    ],
)
def test_a_signature_holds_within_its_times_only(alice: Key, more: dict[str, Any], now: datetime, told: str) -> None:
    proof = proven(alice.headers(SIGNED), alice.entry(**more), now=now)
    assert proof.key is None
    assert told in (proof.problem or "")


def test_a_time_that_was_not_signed_does_not_make_a_signature_younger(alice: Key) -> None:
    later = NOW + timedelta(days=2)
    old = dict(alice.headers(SIGNED))[HEADER]
    moved = [(HEADER, old), (TIME_HEADER, later.isoformat().encode())]
    assert "made by none" in (proven(moved, alice.entry(), now=later).problem or "")


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ([(HEADER, b"AA==")], "wpk-signed-at is missing"),
        ([(HEADER, b"AA=="), (HEADER, b"AA=="), (TIME_HEADER, b"2026-01-01T00:00:00Z")], "is there 2 times"),
        ([(HEADER, b"?"), (TIME_HEADER, b"2026-01-01T00:00:00Z")], "is base64"),
        ([(HEADER, b"AA=="), (TIME_HEADER, b"2026-01-01T00:00:00")], "a time in ISO 8601"),
        ([(HEADER, b"AA=="), (TIME_HEADER, b"0001-01-01T00:00:00+14:00")], "a time in ISO 8601"),
        ([(HEADER, b"AA=="), (TIME_HEADER, b"9999-12-31T23:59:59-14:00")], "a time in ISO 8601"),
        ([(HEADER, b"\xff"), (TIME_HEADER, b"2026-01-01T00:00:00Z")], "is base64"),
        ([(HEADER, b"A" * 2000), (TIME_HEADER, b"2026-01-01T00:00:00Z")], "at most 1024"),
        ([(HEADER, b"AA=="), (TIME_HEADER, b"2026-01-01T00:00:00Z")], "no ECDSA signature in DER"),
    ],
)
def test_a_signature_that_is_none_is_refused_with_what_is_wrong(alice: Key, headers: Headers, told: str) -> None:
    assert told in (proven(headers, alice.entry()).problem or "")


def test_a_policy_with_a_command_key_that_can_not_count_is_refused_with_its_line(alice: Key, folder: Path) -> None:
    rsa = Key(folder, "rsa", "alice", how=("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"))

    def text(*entries: dict[str, Any]) -> bytes:
        import orjson  # noqa: PLC0415

        return orjson.dumps({"version": 1, "command_keys": entries})

    load.parse(text(alice.entry()), "p")
    for wrong, told in (
        (text(rsa.entry()), "it is rsa-2048; commands are signed with ecdsa-p256"),
        (text(alice.entry(), alice.entry(name="again")), "it is the key alice-laptop again"),
        (text(alice.entry(), alice.entry()), "two command_keys have the name alice-laptop"),
        (text(alice.entry(public_key="no")), "no public key in PEM"),
    ):
        with pytest.raises(DocumentError, match=told):
            load.parse(wrong, "p")
    with pytest.raises(DocumentError, match="a rule that denies can't want a command_signature"):
        load.parse("version: 1\nrules: [{name: never, effect: deny, command_signature: required}]", "p")


# --- in the engine ---


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Any:
    return probe_module(monkeypatch)


def policy(text: str, *keys: Key) -> Any:
    import orjson  # noqa: PLC0415

    listed = orjson.dumps([key.entry() for key in keys]).decode()
    return load.parse(f"version: 1\ncommand_keys: {listed}\n{text}", "p.yaml")


def now_by(key: Key) -> Sign:
    return lambda signed: key.headers(signed, datetime.now(UTC))


def command(**more: Any) -> ExecuteCommand:
    return ExecuteCommand(execution_id="e1", wpk_content=package(step("a"), **more), requested_by="alice")


SIGNED_RULE = "rules: [{name: alice, effect: allow, requesters: [alice], command_signature: required}]"


async def refused(h: House) -> str:
    assert (await h.over()).status is Status.REJECTED
    assert not h.names().count("step.started")
    return (h.state() or pytest.fail("there is no state")).error_message or ""


async def test_a_rule_that_wants_a_signed_command_allows_no_claim(probe: Any, alice: Key) -> None:
    rules = policy(SIGNED_RULE, alice)
    async with house(probe, policy=rules) as h:
        await h.send(command())
        told = await refused(h)
        assert "such steps are allowed by alice, but to signed commands only: send it with --sign-key" in told
    async with house(probe, policy=rules) as h:
        await h.send(command(), now_by(alice))
        assert (await h.over()).status is Status.COMPLETED
        accepted, started = (
            next(e.data for e in h.events() if e.name == f"execution.{n}") for n in ("accepted", "started")
        )
        assert accepted.source.signed_by == started.permission.command_key == "alice-laptop"  # type: ignore[attr-defined]


async def test_a_signature_that_does_not_hold_is_refused_though_none_is_wanted(
    probe: Any, alice: Key, bob: Key
) -> None:
    rules = policy("rules: [{name: all, effect: allow}]", alice, bob)
    stolen = alice.headers(replace(SIGNED, topic="t"), datetime.now(UTC))
    for headers, told in (
        (now_by(bob), "headers.wpk-signature: it is signed by the key bob-laptop, which is not that of alice"),
        (lambda signed: stolen, "for another topic, execution, key or value"),
    ):
        async with house(probe, policy=rules) as h:
            await h.send(command(), headers)  # type: ignore[arg-type]
            assert told in await refused(h)


async def test_a_requirement_of_signed_commands_is_about_every_command_of_the_run(
    probe: Any, alice: Key, bob: Key
) -> None:
    rules = policy(
        "rules: [{name: all, effect: allow}]\n"
        "requirements: [{name: proven, command_signature: required, approval: required}]",
        alice,
        bob,
    )
    async with house(probe, policy=rules) as h:
        await h.send(command())
        assert "the requirement proven of p.yaml wants signed commands" in await refused(h)
    async with house(probe, policy=rules) as h:
        await h.send(command(), now_by(alice))
        await h.until(lambda state: state.status is Status.AWAITING_APPROVAL)
        approve = ControlCommand(execution_id="e1", action="approve", requested_by="bob")
        for unsigned in (approve, approve.model_copy(update={"action": "cancel"})):
            await h.send(unsigned)
            assert h.names()[-2:] == ["command.rejected", "execution.rejected"]
        await h.send(approve.model_copy(update={"requested_by": "bert"}), now_by(bob))
        await h.over()
        await h.send(RollbackCommand(execution_id="e1", requested_by="alice"))
        assert "wants signed commands" in h.events()[-1].data.error_message  # type: ignore[attr-defined]
    assert h.names().count("execution.approved") == 1


async def test_one_key_is_one_person_whatever_names_it_may_use(probe: Any, bob: Key) -> None:
    rules = policy(
        "rules: [{name: all, effect: allow}]\nrequirements: [{name: two, approval: required, approvals: 2}]", bob
    )
    async with house(probe, policy=rules) as h:
        await h.send(command().model_copy(update={"requested_by": "bob"}), now_by(bob))
        await h.until(lambda state: state.status is Status.AWAITING_APPROVAL)
        await h.send(ControlCommand(execution_id="e1", action="approve", requested_by="bert"), now_by(bob))
        assert "the key bob-laptop signed the command that asks" in h.events()[-1].data.error_message  # type: ignore[attr-defined]
    async with house(probe, policy=rules) as h:
        await h.send(command())
        await h.until(lambda state: state.status is Status.AWAITING_APPROVAL)
        for who in ("bob", "bert"):
            await h.send(ControlCommand(execution_id="e1", action="approve", requested_by=who), now_by(bob))
        assert h.names()[-2:] == ["execution.approval_given", "command.duplicate"]


@pytest.mark.parametrize(
    ("partitions", "key", "counts"),
    [(3, b"e1", True), (2, b"e1", False), (1, None, False), (1, b"", False), (0, b"e1", False)],
)
async def test_a_signed_command_counts_on_the_partition_of_its_key_only(
    probe: Any, alice: Key, partitions: int, key: bytes | None, counts: bool
) -> None:
    """It lies on partition 0, to which murmur2 of e1 leads among three, but not among two."""
    async with house(probe, policy=policy(SIGNED_RULE, alice)) as h:
        h.services.partitions = partitions
        await h.send(command(), now_by(alice), key=key)
        if counts:
            assert (await h.over()).status is Status.COMPLETED
        else:
            assert "counts only on the partition to which murmur2 of its key leads" in (told := await refused(h))
            assert "give the execution's id as key" in told


async def test_a_key_that_was_taken_out_of_the_policy_does_not_prove_who_asked_for_a_run_that_waits(
    probe: Any, alice: Key, bob: Key
) -> None:
    wants = SIGNED_RULE + "\nrequirements: [{name: r, approval: required}]"
    async with house(probe, policy=policy(wants, alice, bob)) as h:
        await h.send(command(), now_by(alice))
        await h.until(lambda state: state.status is Status.AWAITING_APPROVAL)
        h.services.policy = policy(wants, bob)
        await h.send(ControlCommand(execution_id="e1", action="approve", requested_by="bob"), now_by(bob))
        assert "such steps are allowed by alice, but to signed commands only" in await refused(h)


async def test_an_approval_by_a_key_that_was_taken_out_of_the_policy_counts_no_more(
    probe: Any, alice: Key, bob: Key
) -> None:
    wants = "rules: [{name: all, effect: allow}]\nrequirements: [{name: two, approval: required, approvals: 2}]"
    async with house(probe, policy=policy(wants, alice, bob)) as h:
        await h.send(command().model_copy(update={"requested_by": "carol"}))
        await h.until(lambda state: state.status is Status.AWAITING_APPROVAL)
        approve = ControlCommand(execution_id="e1", action="approve", requested_by="bob")
        await h.send(approve, now_by(bob))
        h.services.policy = policy(wants, alice)
        await h.send(approve.model_copy(update={"requested_by": "alice"}), now_by(alice))
        assert h.names()[-1] == "execution.approval_given"
        assert h.kept().approvals_missing == "two wants 1 more approval"


async def test_an_approval_that_was_signed_before_the_execution_was_accepted_is_refused(
    probe: Any, alice: Key, bob: Key
) -> None:
    wants = "rules: [{name: all, effect: allow}]\nrequirements: [{name: r, approval: required}]"
    before = datetime.now(UTC) - timedelta(seconds=1)
    async with house(probe, policy=policy(wants, alice, bob)) as h:
        await h.send(command(), now_by(alice))
        await h.until(lambda state: state.status is Status.AWAITING_APPROVAL)
        approve = ControlCommand(execution_id="e1", action="approve", requested_by="bob")
        await h.send(approve, lambda signed: bob.headers(signed, before))
        assert "it was signed before this execution was accepted" in h.events()[-1].data.error_message  # type: ignore[attr-defined]
        assert h.kept().status is Status.AWAITING_APPROVAL
        await h.send(approve, now_by(bob))
        assert (await h.over()).status is Status.COMPLETED
