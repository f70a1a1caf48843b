"""`wpk canonicalize`, `wpk sign` and `wpk verify`."""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path

from pydantic import JsonValue

from consumer.cli import execute, packages
from consumer.cli.execute import CliError
from consumer.cli.options import CanonicalizeOptions, SignOptions, VerifyOptions
from consumer.cli.output import Output
from consumer.policy import load, signatures, signing
from consumer.policy.judge import Policy
from consumer.policy.signatures import SignatureError
from consumer.workflow import documents
from schemas.canonical import digest
from schemas.policy import KeyType, PolicyFile, PublicKey, Signatures

_KEY_TYPES: tuple[KeyType, ...] = ("ecdsa-p256", "ecdsa-p384", "ed25519", "rsa-2048", "rsa-3072", "rsa-4096")


def canonicalize(options: CanonicalizeOptions) -> int:
    """Print the bytes that are signed."""
    data = _signed_bytes(options.file, _package(options.file, packages.read(options.file)))
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return execute.OK


def sign(options: SignOptions) -> int:
    """Put a signature into a package: made with a key, or by cosign or openssl."""
    output = Output()
    if (options.key is None) == (options.attach is None):
        raise CliError("give --key KEY.pem to sign, or --attach FILE with a signature that cosign or openssl made")
    if options.file == "-" and options.output is None:
        raise CliError("give --output FILE: a package that is read from stdin has no place to be written to")
    text = packages.read(options.file)
    data = _signed_bytes(options.file, _package(options.file, text))
    source = options.key or options.attach
    try:
        if options.key is not None:
            key = signing.load_private_key(options.key.read_bytes(), os.environ.get("WPK_KEY_PASSWORD"))
            signature = signing.sign(key, data)
        else:
            assert options.attach is not None
            signature = signing.attachable(_base64_of(options.attach.read_bytes()), data)
        signed = signing.signed_text(text, signature)
    except SignatureError as error:
        raise CliError(f"{source}: {error}") from error
    except OSError as error:
        raise CliError(f"{source}: can't be read: {error.strerror or error}") from error
    target = options.output or Path(options.file)
    if str(target) == "-":
        sys.stdout.write(signed)
        return execute.OK
    try:
        target.write_text(signed, encoding="utf-8", newline="")
    except OSError as error:
        raise CliError(f"{target}: can't be written: {error.strerror or error}") from error
    output.lines([f"signed {target}; look at it with: wpk verify {target} --key PUBLIC.pem"])
    return execute.OK


def verify(options: VerifyOptions) -> int:
    """Say whose signature a package has; 1 where it has none that counts."""
    output = Output(json=options.json)
    policy = _policy(options)
    package = _package(options.file, packages.read(options.file))
    _signed_bytes(options.file, package)
    verified = signatures.verify(policy.file, package, at=None)
    reason = "; ".join(problem.message for problem in (*verified.problems, *verified.warnings))
    if not verified.keys and not reason:
        reason = "the package is not signed; sign it with: wpk sign"
    if output.json:
        keys: list[JsonValue] = [*verified.keys]
        output.document({"file": options.file, "signed_by": keys, "digest": digest(package), "reason": reason or None})
    elif verified.keys:
        output.lines([f"{options.file}: signed by {', '.join(verified.keys)}"])
    else:
        output.lines([f"{options.file}: {reason}"])
    return execute.OK if verified.keys else execute.ENDED_OTHERWISE


def _policy(options: VerifyOptions) -> Policy:
    if (options.key is None) == (options.policy is None):
        raise CliError("give --key PUBLIC.pem, or --policy FILE for the keys of a policy")
    if options.policy is not None:
        return load.load(options.policy)
    assert options.key is not None
    try:
        key = PublicKey(name="key", public_key=options.key.read_text(encoding="utf-8"))
        signatures.load_key(key.public_key)
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{options.key}: can't be read: {error}") from error
    except (SignatureError, ValueError) as error:
        raise CliError(f"{options.key}: {error}") from error
    named = key.model_copy(update={"name": options.key.name})
    file = PolicyFile(version=1, keys=(named,), signatures=Signatures(key_types=_KEY_TYPES))
    return Policy(file=file, origin=str(options.key))


def _package(file: str, text: str) -> dict[str, JsonValue]:
    try:
        document = documents.parse(text).value
    except documents.DocumentError as error:
        raise CliError(f"{file}: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
        raise CliError(f"{file}: it is no package: it has no metadata")
    return document


def _signed_bytes(file: str, package: dict[str, JsonValue]) -> bytes:
    try:
        return signatures.signed_bytes(package)
    except ValueError as error:
        raise CliError(f"{file}: {error}") from error


def _base64_of(data: bytes) -> str:
    """The file's text; of the bytes that openssl writes, their base64."""
    if data.isascii() and data.strip():
        return data.decode("ascii")
    return base64.b64encode(data).decode()
