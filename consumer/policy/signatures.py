"""Signatures of packages: cosign's blob signature over the package's canonical bytes, by a key of the policy.

What is signed is the package as RFC 8785 writes it, without `metadata.signature`: so the signature survives another
order of fields, another indent, and the way from YAML into a command; and the very value that is run is the one that
was verified. A signature is a base64 text of what `cosign sign-blob` and `openssl dgst -sha256 -sign` make, or the text
of a Sigstore bundle (v0.1 to v0.3) made with a key. Its transparency log entries are not looked at: a key of the policy
is what counts, and when it counts is said there.

ECDSA has two valid signatures for each one (s and n - s), and cosign gives either; so a signature is never taken for
the identity of a package, which is its digest. Every other form of the same numbers is refused (strict DER).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from pydantic import JsonValue

from consumer.errors import AgentError
from schemas.canonical import canonical
from schemas.failure import Problem
from schemas.policy import PolicyFile, PublicKey

if TYPE_CHECKING:  # imported when the first key is used: it takes longer than most processes need
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    VerifyingKey = EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey

JsonObject = dict[str, JsonValue]
PATH = "metadata.signature"
#: Orders of the curves (SEC 2, 2.4.2 and 2.5.1): n of P-256 and P-384.
ORDERS = {
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "secp384r1": 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
}
_MAX_TEXT = 64 * 1024


class SignatureError(AgentError):
    """A key or a signature that can't be used; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What the signature of a package is worth."""

    keys: tuple[str, ...] = ()
    """The names of the policy's keys that made it."""
    problems: tuple[Problem, ...] = ()
    """What is wrong with it: a signature that does not verify is refused even where none is required."""
    warnings: tuple[Problem, ...] = ()


def signed_bytes(package: JsonObject) -> bytes:
    """The canonical bytes that are signed. Raises ValueError where the package has none."""
    metadata = package.get("metadata")
    rest = {name: item for name, item in metadata.items() if name != "signature"} if isinstance(metadata, dict) else {}
    return canonical({**package, "metadata": rest} if isinstance(metadata, dict) else package)


def signature_of(package: JsonObject) -> str:
    """The text in `metadata.signature`; empty: unsigned."""
    metadata = package.get("metadata")
    found = metadata.get("signature") if isinstance(metadata, dict) else None
    return found.strip() if isinstance(found, str) else ""


def verify(policy: PolicyFile, package: JsonObject, *, at: datetime | None) -> Verified:
    """Looks at the package's signature with the policy's keys, as they were at that time (None: now)."""
    text = signature_of(package)
    if not text:
        return Verified()
    if not policy.keys:
        message = "the signature is not verified: the policy of this agent has no keys"
        return Verified(warnings=(Problem(path=PATH, message=message, severity="warning"),))
    try:
        data = signed_bytes(package)
        signature = decoded(text, data)
    except (SignatureError, ValueError) as error:
        return Verified(problems=(Problem(path=PATH, message=str(error)),))
    moment = at or datetime.now(UTC)
    keys, reasons = [], []
    for key in policy.keys:
        try:
            if not _made(policy, key, signature, data):
                continue
        except SignatureError as error:
            reasons.append(str(error))
            continue
        untimely = untimely_because(key, moment)
        if untimely is None:
            keys.append(key.name)
        else:
            reasons.insert(0, untimely)
    if keys:
        return Verified(keys=tuple(keys))
    message = (
        "the signature was made by none of the policy's keys "
        f"({', '.join(key.name for key in policy.keys)}), or the package was changed after it was signed; sign it again"
    )
    return Verified(problems=(Problem(path=PATH, message="; ".join(dict.fromkeys(reasons)) or message),))


def untimely_because(key: PublicKey, moment: datetime) -> str | None:
    """Why the key does not count at that moment; None where it does."""
    if key.not_before is not None and moment < key.not_before:
        return f"it is signed by the key {key.name}, which is valid only from {key.not_before.isoformat()}"
    if key.not_after is not None and moment > key.not_after:
        return f"it is signed by the key {key.name}, which expired at {key.not_after.isoformat()}; use another"
    return None


# --- the signature ---


def decoded(text: str, data: bytes) -> bytes:
    """The signature's bytes out of base64 or a bundle. Raises SignatureError."""
    if len(text) > _MAX_TEXT:
        raise SignatureError(f"the signature has {len(text)} characters; at most {_MAX_TEXT} are possible")
    if text.startswith("{"):
        text = _from_bundle(text, data)
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureError("the signature is no base64; write what cosign sign-blob printed") from error


def _from_bundle(text: str, data: bytes) -> str:
    """`messageSignature.signature` of a Sigstore bundle, whose digest must be that of the package."""
    try:
        bundle: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SignatureError("the signature begins like a bundle, but is no JSON") from error
    message = bundle.get("messageSignature") if isinstance(bundle, dict) else None
    if not isinstance(message, dict) or not isinstance(message.get("signature"), str):
        raise SignatureError("the bundle has no messageSignature.signature; make it with: cosign sign-blob --bundle")
    said = message.get("messageDigest")
    if isinstance(said, dict) and said.get("digest") is not None:
        expected = base64.b64encode(hashlib.sha256(data).digest()).decode()
        if said.get("algorithm") not in ("SHA2_256", None) or said["digest"] != expected:
            raise SignatureError(
                "the bundle is of other bytes than this package's canonical form; sign what wpk canonicalize prints"
            )
    return cast(str, message["signature"])


def _made(policy: PolicyFile, key: PublicKey, signature: bytes, data: bytes) -> bool:
    """Whether that key made the signature. Raises SignatureError where the key or the signature's form is wrong."""
    kind, public = load_key(key.public_key)
    if kind not in policy.signatures.key_types:
        allowed = ", ".join(policy.signatures.key_types)
        raise SignatureError(f"the key {key.name} is {kind}, and signatures.key_types allows {allowed}")
    return made_by(public, signature, data, low_s=policy.signatures.low_s)


def made_by(public: VerifyingKey, signature: bytes, data: bytes, *, low_s: bool = False) -> bool:
    """Whether the key made the signature of these bytes. Raises SignatureError for a form that is not taken."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding  # noqa: PLC0415

    try:
        match public:
            case ec.EllipticCurvePublicKey():
                _check_form(signature, public.curve.name, low_s=low_s)
                digest = hashes.SHA384() if public.curve.name == "secp384r1" else hashes.SHA256()
                public.verify(signature, data, ec.ECDSA(digest))
            case ed25519.Ed25519PublicKey():
                public.verify(signature, data)
            case _:
                public.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def _check_form(signature: bytes, curve: str, *, low_s: bool) -> None:
    from cryptography.hazmat.primitives.asymmetric import utils  # noqa: PLC0415 - see above

    try:
        r, s = utils.decode_dss_signature(signature)
    except ValueError as error:
        raise SignatureError("the signature is no ECDSA signature in DER (two numbers in a sequence)") from error
    if utils.encode_dss_signature(r, s) != signature:
        raise SignatureError("the signature is not written as DER demands it; somebody rewrote it, so sign it again")
    if low_s and s > ORDERS[curve] // 2:
        raise SignatureError(
            "the signature has the large s, and the policy wants the small one (signatures.low_s); attach it with: "
            "wpk sign --attach, which changes it"
        )


# --- keys ---


@lru_cache(maxsize=256)
def load_key(pem: str) -> tuple[str, VerifyingKey]:
    """The key and its type's name. Raises SignatureError for what is no public key of a type that cosign makes."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - see above
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError("it is no public key in PEM; write what is in cosign.pub") from error
    match key:
        case ec.EllipticCurvePublicKey() if key.curve.name in ORDERS:
            return {"secp256r1": "ecdsa-p256", "secp384r1": "ecdsa-p384"}[key.curve.name], key
        case ed25519.Ed25519PublicKey():
            return "ed25519", key
        case rsa.RSAPublicKey() if key.key_size in (2048, 3072, 4096):
            return f"rsa-{key.key_size}", key
    shown = f"{type(key).__name__.lstrip('_')} {getattr(getattr(key, 'curve', None), 'name', '')}".strip()
    raise SignatureError(f"keys of this type are not taken: {shown}; use ECDSA P-256, as cosign generate-key-pair does")


def wrong_keys(policy: PolicyFile) -> Iterator[tuple[int, str]]:
    """The index of each key that can't be used, and why."""
    allowed = policy.signatures.key_types
    for index, key in enumerate(policy.keys):
        try:
            kind, _ = load_key(key.public_key)
        except SignatureError as error:
            yield index, str(error)
            continue
        if kind not in allowed:
            yield index, f"it is {kind}, and signatures.key_types allows {', '.join(allowed)}"


def with_signature(package: Mapping[str, JsonValue], signature: str) -> JsonObject:
    """The package with that signature in it."""
    metadata = package.get("metadata")
    return {**package, "metadata": {**(metadata if isinstance(metadata, dict) else {}), "signature": signature}}


def identity(key: VerifyingKey) -> bytes:
    """The key itself, however its PEM is written."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415 - see above

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
