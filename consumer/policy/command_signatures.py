"""Signatures of commands: they prove who sent one, and that nobody changed it or sends it for something else.

A signed command has two headers, `wpk-signature` (base64) and `wpk-signed-at` (ISO 8601, UTC). Signed is a text of
seven lines, each with its line feed, which any tool can make:

    wpk.command.v1
    <the topic's whole name>
    <the execution's id>
    <SHA-256 of the record's key, in hex; of no bytes where there is no key>
    <SHA-256 of the record's value, in hex>
    <the value of wpk-signed-at>
    <the line "end">

So it holds for this topic (and with it for this kind of command, in this installation), this execution and these bytes.
A record that is written a second time is the same command, and answered as a duplicate for as long as its execution is
known; `max_age` ends before that, so that it never runs anew.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from consumer.policy import matching, signatures
from consumer.policy.signatures import SignatureError
from schemas.policy import CommandKey, KeyType, PolicyFile
from schemas.scalars import format_moment

HEADER, TIME_HEADER = "wpk-signature", "wpk-signed-at"
KEY_TYPES: tuple[KeyType, ...] = ("ecdsa-p256", "ecdsa-p384", "ed25519")
Headers = Sequence[tuple[str, bytes]]
#: Clocks of those who sign may go before the agent's by so much.
SKEW = timedelta(minutes=5)
_MAX_TEXT = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What a command's signature is about."""

    topic: str
    execution_id: str
    key: bytes | None
    value: bytes | None

    def text(self, at: str) -> bytes:
        """The bytes that are signed, see the module."""
        digests = [hashlib.sha256(part or b"").hexdigest() for part in (self.key, self.value)]
        return "".join(
            f"{line}\n" for line in ("wpk.command.v1", self.topic, self.execution_id, *digests, at, "end")
        ).encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """Who sent a command."""

    key: str | None = None
    """The name of the policy's key that signed it; None: unsigned, so that its requester is a claim."""
    made_at: datetime | None = field(default=None, compare=False)
    problem: str | None = None
    """Why it is refused: a signature that does not hold is refused even where none is required."""


def is_signed(headers: Headers) -> bool:
    """Whether the record has a signature, of whatever worth."""
    return any(name.lower() == HEADER for name, _ in headers)


def prove(
    file: PolicyFile, signed: Signed, headers: Headers, *, requester: str | None, now: datetime, max_age: float
) -> Proof:
    """Looks at a command's signature with the policy's keys. Without such keys nothing is proven or refused."""
    if not file.command_keys or not is_signed(headers):
        return Proof()
    try:
        at = _one(headers, TIME_HEADER)
        signature = base64.b64decode(_one(headers, HEADER), validate=True)
        made_at = _moment(at)
    except SignatureError as error:
        return Proof(problem=str(error))
    except (binascii.Error, ValueError):
        return Proof(problem=f"{HEADER} is base64, and {TIME_HEADER} a time in ISO 8601; sign it with: --sign-key")
    untimely = _untimely(made_at, now, max_age)
    if untimely is not None:
        return Proof(problem=untimely)
    return replace(_by_one_of(file.command_keys, signature, signed.text(at), requester, now), made_at=made_at)


def _by_one_of(
    keys: Sequence[CommandKey], signature: bytes, text: bytes, requester: str | None, now: datetime
) -> Proof:
    reasons = []
    for key in keys:
        try:
            if not signatures.made_by(signatures.load_key(key.public_key)[1], signature, text):
                continue
        except SignatureError as error:
            reasons.append(str(error))
            continue
        why_not = signatures.untimely_because(key, now) or _stranger(key, requester)
        if why_not is None:
            return Proof(key=key.name)
        return Proof(problem=why_not)
    message = (
        "the signature was made by none of the policy's command_keys, or for another topic, execution, key or value "
        "than those of this record; sign the command that you send"
    )
    return Proof(problem="; ".join(dict.fromkeys(reasons)) if len(reasons) == len(keys) else message)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("a time beyond the years 1 to 9999") from None


def _one(headers: Headers, wanted: str) -> str:
    found = [value for name, value in headers if name.lower() == wanted]
    if len(found) != 1:
        times = "is missing" if not found else f"is there {len(found)} times"
        raise SignatureError(f"the header {wanted} {times}; a signed command has {HEADER} and {TIME_HEADER}, each once")
    if len(found[0]) > _MAX_TEXT:
        raise SignatureError(f"the header {wanted} has {len(found[0])} bytes; at most {_MAX_TEXT} are possible")
    return found[0].decode()


def _untimely(made_at: datetime, now: datetime, max_age: float) -> str | None:
    if made_at > now + SKEW:
        return f"it was signed at {format_moment(made_at)}, which is yet to come; set the clock of who signs"
    if made_at < now - timedelta(seconds=max_age):
        return (
            f"it was signed at {format_moment(made_at)}, and a signature holds for {max_age:g} s "
            "(command_signatures.max_age); sign it again"
        )
    return None


def _stranger(key: CommandKey, requester: str | None) -> str | None:
    if matching.fits(requester or "", key.requesters):
        return None
    who = requester or "nobody: give requested_by"
    return (
        f"it is signed by the key {key.name}, which is not that of {who}; it may sign for: "
        f"{', '.join(key.requesters)} (command_keys.requesters)"
    )


def wrong_keys(file: PolicyFile) -> Iterator[tuple[int, str]]:
    """The index of each command key that can't be used, and why."""
    seen: dict[object, str] = {}
    for index, key in enumerate(file.command_keys):
        try:
            kind, public = signatures.load_key(key.public_key)
        except SignatureError as error:
            yield index, str(error)
            continue
        if kind not in KEY_TYPES:
            yield index, f"it is {kind}; commands are signed with {', '.join(KEY_TYPES)}"
            continue
        same = seen.setdefault(signatures.identity(public), key.name)
        if same != key.name:
            yield index, f"it is the key {same} again; one key is one person, so name all of its requesters there"
