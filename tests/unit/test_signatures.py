"""Signatures of packages: what counts, and what is refused with which words. Keys and signatures are openssl's own."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import utils

from consumer.cli import signing as verbs
from consumer.cli.execute import CliError
from consumer.cli.options import CanonicalizeOptions, SignOptions, VerifyOptions
from consumer.policy import load, signatures, signing
from consumer.workflow import documents
from schemas.policy import PolicyFile

OPENSSL = shutil.which("openssl") or ""
NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEXT = """\
# rotates nothing
metadata:
  name: scale-web   # a comment that stays
  version: "1.0.0"
spec:
  handlers:
    - {name: wait, type: delay, config: {duration: 1s}}
"""
PACKAGE: dict[str, Any] = documents.parse(TEXT).value  # type: ignore[assignment]

pytestmark = pytest.mark.skipif(not OPENSSL, reason="the openssl program is not installed")


def openssl(*arguments: str, data: bytes = b"") -> bytes:
    return subprocess.run([OPENSSL, *arguments], input=data, capture_output=True, check=True).stdout


class Key:
    """A key pair that openssl made."""

    def __init__(self, folder: Path, name: str, *how: str) -> None:
        self.private, self.public = folder / f"{name}.pem", folder / f"{name}.pub"
        self.private.write_bytes(openssl("genpkey", *how))
        self.public.write_bytes(openssl("pkey", "-in", str(self.private), "-pubout"))

    def sign(self, data: bytes) -> bytes:
        return openssl("dgst", "-sha256", "-sign", str(self.private), data=data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def key(folder: Path) -> Key:
    return Key(folder, "release", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")


@pytest.fixture(scope="module")
def other(folder: Path) -> Key:
    return Key(folder, "other", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")


def policy(*keys: Key, low_s: bool = False, **more: Any) -> PolicyFile:
    listed = [{"name": key.public.stem, "public_key": key.public.read_text(), **more} for key in keys]
    return PolicyFile.model_validate({"version": 1, "keys": listed, "signatures": {"low_s": low_s}})


def signed(package: dict[str, Any], signature: bytes | str) -> dict[str, Any]:
    text = signature if isinstance(signature, str) else base64.b64encode(signature).decode()
    return signatures.with_signature(package, text)


def with_s(signature: bytes, *, low: bool) -> bytes:
    """The one of the two equal signatures that has the small or the large s."""
    r, s = utils.decode_dss_signature(signature)
    pair = sorted((s, signatures.ORDERS["secp256r1"] - s))
    return utils.encode_dss_signature(r, pair[0] if low else pair[1])


def said(package: dict[str, Any], by: PolicyFile, at: datetime = NOW) -> str:
    verified = signatures.verify(by, package, at=at)
    assert verified.keys == ()
    return "; ".join(problem.message for problem in verified.problems)


def test_what_openssl_signs_by_cosigns_procedure_verifies(key: Key, other: Key) -> None:
    """`cosign sign-blob` with its default key is ECDSA P-256 over SHA-256, in DER, as base64."""
    made = signed(PACKAGE, key.sign(signatures.signed_bytes(PACKAGE)))
    assert signatures.verify(policy(other, key), made, at=NOW).keys == ("release",)


def test_the_signature_survives_another_order_another_indent_and_json(key: Key) -> None:
    made = signed(PACKAGE, key.sign(signatures.signed_bytes(PACKAGE)))
    turned = json.loads(json.dumps(dict(reversed(made.items())), indent=7))
    assert signatures.verify(policy(key), turned, at=NOW).keys == ("release",)


def test_an_altered_package_is_refused(key: Key) -> None:
    made = signed(PACKAGE, key.sign(signatures.signed_bytes(PACKAGE)))
    for change in ({"spec": {**PACKAGE["spec"], "more": 1}}, {"metadata": {**made["metadata"], "version": "1.0.1"}}):
        assert "was changed after it was signed" in said({**made, **change}, policy(key))


def test_a_signature_of_an_unknown_key_is_refused(key: Key, other: Key) -> None:
    made = signed(PACKAGE, other.sign(signatures.signed_bytes(PACKAGE)))
    assert "made by none of the policy's keys (release)" in said(made, policy(key))


def test_both_forms_of_s_count_unless_the_policy_wants_the_small_one(key: Key) -> None:
    """cosign and openssl give either, so that the large one can't be refused by default."""
    raw = key.sign(signatures.signed_bytes(PACKAGE))
    high, low = signed(PACKAGE, with_s(raw, low=False)), signed(PACKAGE, with_s(raw, low=True))
    assert signatures.verify(policy(key), high, at=NOW).keys == ("release",)
    assert signatures.verify(policy(key, low_s=True), low, at=NOW).keys == ("release",)
    assert "has the large s" in said(high, policy(key, low_s=True))


@pytest.mark.parametrize(
    ("rewrite", "told"),
    [
        (lambda raw: raw + b"\0", "no ECDSA signature in DER"),
        (lambda raw: b"\x30\x81" + raw[1:], "no ECDSA signature in DER|not written as DER"),
        (lambda raw: b"\x30" + bytes([raw[1] + 1]) + b"\x02" + bytes([raw[3] + 1]) + b"\0" + raw[4:], "DER"),
        (lambda raw: b"", "no ECDSA signature in DER"),
        (lambda raw: b"\x30\x06\x02\x01\x00\x02\x01\x00", "was changed after it was signed|DER"),
    ],
)
def test_a_rewritten_signature_is_refused(key: Key, rewrite: Any, told: str) -> None:
    made = signed(PACKAGE, rewrite(key.sign(signatures.signed_bytes(PACKAGE))) or b"\x30\x00")
    message = said(made, policy(key))
    assert any(each in message for each in told.split("|")), message


def test_a_key_counts_within_its_times_only(key: Key) -> None:
    made = signed(PACKAGE, key.sign(signatures.signed_bytes(PACKAGE)))
    hour = timedelta(hours=1)
    by = policy(key, not_before=NOW - hour, not_after=NOW + hour)
    assert signatures.verify(by, made, at=NOW).keys == ("release",)
    assert "the key release, which expired at 2026-01-01T01:00:00" in said(made, by, NOW + 2 * hour)
    assert "the key release, which is valid only from 2025-12-31T23:00:00" in said(made, by, NOW - 2 * hour)


def test_an_unsigned_package_has_no_keys_and_no_problem() -> None:
    assert signatures.verify(PolicyFile(version=1), PACKAGE, at=NOW) == signatures.Verified()


def test_a_signature_that_no_key_is_there_for_is_told() -> None:
    verified = signatures.verify(PolicyFile(version=1), signed(PACKAGE, b"x"), at=NOW)
    assert "the policy of this agent has no keys" in verified.warnings[0].message


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        (("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"), "ecdsa-p384"),
        (("-algorithm", "ED25519"), "ed25519"),
        (("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"), "rsa-2048"),
    ],
)
def test_other_types_of_keys_count_where_the_policy_allows_them(
    tmp_path: Path, how: tuple[str, ...], kind: str
) -> None:
    mine = Key(tmp_path, "mine", *how)
    data = signatures.signed_bytes(PACKAGE)
    made = signed(PACKAGE, signing.sign(signing.load_private_key(mine.private.read_bytes(), None), data))
    assert f"is {kind}, and signatures.key_types allows ecdsa-p256" in said(made, policy(mine))
    listed = policy(mine).model_dump(mode="json", exclude_none=True)
    opened = PolicyFile.model_validate({**listed, "signatures": {"key_types": ["ecdsa-p256", kind]}})
    assert signatures.verify(opened, made, at=NOW).keys == ("mine",)
    changed = {**made, "spec": {**PACKAGE["spec"], "more": 1}}
    assert "was changed after it was signed" in said(changed, opened)


@pytest.mark.parametrize(
    "how",
    [
        ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"),
        ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"),
        ("-algorithm", "ED448"),
    ],
)
def test_a_policy_with_a_key_that_cosign_does_not_make_is_refused(tmp_path: Path, how: tuple[str, ...]) -> None:
    text = Key(tmp_path, "odd", *how).public.read_text().replace("\n", "\n      ")
    with pytest.raises(documents.DocumentError, match="not taken"):
        load.parse(f"version: 1\nkeys:\n  - name: odd\n    public_key: |\n      {text}", "p.yaml")


def bundle(data: bytes, raw: bytes) -> str:
    """As `cosign sign-blob --bundle` writes it with a key (Sigstore bundle v0.3)."""
    return json.dumps(
        {
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {"publicKey": {"hint": "x"}, "tlogEntries": []},
            "messageSignature": {
                "messageDigest": {
                    "algorithm": "SHA2_256",
                    "digest": base64.b64encode(hashlib.sha256(data).digest()).decode(),
                },
                "signature": base64.b64encode(raw).decode(),
            },
        }
    )


def test_a_bundle_counts_as_the_signature_in_it(key: Key) -> None:
    data = signatures.signed_bytes(PACKAGE)
    assert signatures.verify(policy(key), signed(PACKAGE, bundle(data, key.sign(data))), at=NOW).keys == ("release",)
    strange = signed(PACKAGE, bundle(b"other", key.sign(data)))
    assert "other bytes than this package's" in said(strange, policy(key))
    assert "no messageSignature" in said(signed(PACKAGE, '{"a": 1}'), policy(key))
    assert "but is no JSON" in said(signed(PACKAGE, '{"a":' * 3000), policy(key))


# --- the verbs ---


def canonical_of(file: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> bytes:
    assert verbs.canonicalize(CanonicalizeOptions(file=str(file))) == 0
    return capfdbinary.readouterr().out


def test_cosigns_procedure_from_the_command_line(
    tmp_path: Path, key: Key, other: Key, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """canonicalize, sign elsewhere (what openssl writes, its base64, or a bundle), attach, verify."""
    data = canonical_of(_written(tmp_path), capfdbinary)
    raw = key.sign(data)
    for made in (raw, base64.b64encode(raw) + b"\n", bundle(data, raw).encode()):
        file, signature = _written(tmp_path), tmp_path / "wpk.sig"
        signature.write_bytes(made)
        assert verbs.sign(SignOptions(file=str(file), attach=signature)) == 0
        assert "# a comment that stays" in file.read_text()
        assert canonical_of(file, capfdbinary).endswith(data[-20:])
        assert verbs.verify(VerifyOptions(file=str(file), key=key.public)) == 0
        assert verbs.verify(VerifyOptions(file=str(file), key=other.public)) == 1


def _written(folder: Path, text: str = TEXT) -> Path:
    file = folder / "it.wpk.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    "text", [TEXT, TEXT.replace("metadata:\n", 'metadata:\n  signature: ""\n'), json.dumps(PACKAGE)]
)
def test_signing_changes_nothing_but_the_signature(tmp_path: Path, key: Key, text: str) -> None:
    file = _written(tmp_path, text)
    for _ in range(2):  # a package that is signed already is signed anew
        assert verbs.sign(SignOptions(file=str(file), key=key.private)) == 0
        value = documents.parse(file.read_text()).value
        assert isinstance(value, dict)
        assert signatures.signed_bytes(value) == signatures.signed_bytes(PACKAGE)
        assert signatures.verify(policy(key, low_s=True), value, at=NOW).keys == ("release",)


@pytest.mark.parametrize(
    ("text", "pem", "told"),
    [
        ("metadata: {name: x}\nspec: {}\n", None, "not one field per line"),
        (TEXT, "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----", "only cosign opens"),
        (TEXT, "nonsense", "no private key in PEM"),
        ("- 1\n", None, "no package"),
    ],
)
def test_what_can_not_be_signed_is_refused_with_the_remedy(
    tmp_path: Path, key: Key, text: str, pem: str | None, told: str
) -> None:
    file, secret = _written(tmp_path, text), tmp_path / "key.pem"
    secret.write_text(pem or key.private.read_text())
    with pytest.raises(CliError, match=told):
        verbs.sign(SignOptions(file=str(file), key=secret))
    assert file.read_text() == text
