"""Makes signatures of packages with a private key, and puts them into the package's text."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import orjson
from pydantic import JsonValue

from consumer.policy import command_signatures, signatures
from consumer.policy.command_signatures import HEADER, TIME_HEADER, Signed
from consumer.policy.signatures import SignatureError
from consumer.workflow import documents
from consumer.workflow.documents import DocumentError
from schemas.scalars import format_moment

if TYPE_CHECKING:  # see signatures
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    SigningKey = EllipticCurvePrivateKey | Ed25519PrivateKey | RSAPrivateKey

JsonObject = dict[str, JsonValue]


def load_private_key(pem: bytes, password: str | None) -> SigningKey:
    """The private key. Raises SignatureError."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - see signatures
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    if b"SIGSTORE PRIVATE KEY" in pem:
        raise SignatureError(
            "it is a key of cosign's own form, which only cosign opens: wpk canonicalize FILE > wpk.json, then "
            "cosign sign-blob --key cosign.key --bundle wpk.bundle wpk.json, then wpk sign FILE --attach wpk.bundle"
        )
    try:
        key = load_pem_private_key(pem, password.encode() if password else None)
    except TypeError as error:
        raise SignatureError(
            f"{str(error)[:1].lower()}{str(error)[1:]}; its password is taken from WPK_KEY_PASSWORD"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SignatureError("it is no private key in PEM, or its password (WPK_KEY_PASSWORD) is another") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey):
        raise SignatureError(
            "keys of this type are not taken; use ECDSA P-256: openssl ecparam -name prime256v1 -genkey"
        )
    signatures.load_key(public_pem(key))
    return key


def public_pem(key: SigningKey) -> str:
    """The key's public half, as the policy names it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat  # noqa: PLC0415 - see signatures

    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def sign(key: SigningKey, data: bytes) -> str:
    """The base64 signature of these bytes, as cosign makes it; of the two that ECDSA has, that with the small s."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - see signatures
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding  # noqa: PLC0415

    match key:
        case ec.EllipticCurvePrivateKey():
            digest = hashes.SHA384() if key.curve.name == "secp384r1" else hashes.SHA256()
            made = key.sign(data, ec.ECDSA(digest))
            return base64.b64encode(with_low_s(made, key.curve.name)).decode()
        case ed25519.Ed25519PrivateKey():
            return base64.b64encode(key.sign(data)).decode()
        case _:
            return base64.b64encode(key.sign(data, padding.PKCS1v15(), hashes.SHA256())).decode()


def command_headers(key: SigningKey, signed: Signed, now: datetime) -> Sequence[tuple[str, bytes]]:
    """The headers that prove who sends a command. Raises SignatureError for a key that commands are not signed with."""
    kind, _ = signatures.load_key(public_pem(key))
    if kind not in command_signatures.KEY_TYPES:
        allowed = ", ".join(command_signatures.KEY_TYPES)
        raise SignatureError(f"the key is {kind}; commands are signed with {allowed}")
    at = format_moment(now)
    return [(TIME_HEADER, at.encode()), (HEADER, sign(key, signed.text(at)).encode())]


def with_low_s(signature: bytes, curve: str) -> bytes:
    """The one of the two equal ECDSA signatures whose s is not above half of the curve's order."""
    from cryptography.hazmat.primitives.asymmetric import utils  # noqa: PLC0415 - see signatures

    r, s = utils.decode_dss_signature(signature)
    order = signatures.ORDERS[curve]
    return utils.encode_dss_signature(r, min(s, order - s))


def attachable(text: str, data: bytes) -> str:
    """A signature that cosign or openssl made (base64, a bundle), as `metadata.signature` holds it.

    Raises SignatureError. An ECDSA signature of P-256 gets the small s; whose it is, nobody knows here.
    """
    from cryptography.hazmat.primitives.asymmetric import utils  # noqa: PLC0415 - see signatures

    raw = signatures.decoded(text.strip(), data)
    try:
        r, _ = utils.decode_dss_signature(raw)
    except ValueError:
        return base64.b64encode(raw).decode()  # of another kind of key
    if r.bit_length() <= 256:
        raw = with_low_s(raw, "secp256r1")
    return base64.b64encode(raw).decode()


def signed_text(text: str, signature: str) -> str:
    """The package's text with that signature in it, all else as it was. Raises SignatureError where it has no place."""
    document = documents.parse(text)
    package = document.value
    metadata = package.get("metadata") if isinstance(package, dict) else None
    if not isinstance(package, dict) or not isinstance(metadata, dict):
        raise SignatureError("it is no package: it has no metadata")
    wanted = signatures.with_signature(package, signature)
    if text.lstrip()[:1] == "{":
        return orjson.dumps(wanted, option=orjson.OPT_INDENT_2).decode() + "\n"
    lines = text.splitlines(keepends=True)
    there = "signature" in metadata
    line, _ = document.positions.find(("metadata", "signature" if there else next(iter(metadata), "")))
    before = lines[line - 1]
    indent, ending = before[: len(before) - len(before.lstrip())], "\r\n" if before.endswith("\r\n") else "\n"
    entry = f'{indent}signature: "{signature}"{ending}'
    lines[line - 1 : line if there else line - 1] = [entry]
    made = "".join(lines)
    try:
        fits = documents.parse(made).value == wanted
    except DocumentError:
        fits = False
    if not fits:
        raise SignatureError(f'its metadata is not one field per line; put this there: signature: "{signature}"')
    return made
