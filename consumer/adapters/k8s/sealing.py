"""What an undo record must not show: it is sealed (AES-256-GCM) before it goes into the state topic.

The key lies in the cluster, in the Secret `wpk-agent-undo-key` of the agent's own namespace, and is made when it is
first needed: who may read the state topic but not that Secret learns nothing. Whoever deletes the Secret makes all
that was sealed unreadable for ever; the steps concerned can then not be undone, and say so.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence

from consumer.adapters.k8s import kinds
from consumer.adapters.k8s.client import Cluster
from consumer.errors import PermanentError
from consumer.ports import JsonObject

#: The name of the Secret that holds the key.
KEY_NAME = "wpk-agent-undo-key"
_KEY_BYTES, _NONCE_BYTES = 32, 12
#: With `undo: false` nothing is kept, so nothing has to be sealed.
_WAYS_OUT = "or set `undo: false` on the step if its change need not be undone"


async def ready(cluster: Cluster, *, dry_run: bool) -> None:
    """Makes sure that there is a key; with `dry_run` that there could be one. Raises PermanentError `no_undo_key`."""
    await _key(cluster, make=True, dry_run=dry_run)


async def seal(cluster: Cluster, record: JsonObject, about: Sequence[JsonObject]) -> JsonObject:
    """The record, sealed; `about` (references with uids) stays readable. Raises PermanentError `no_undo_key`."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - only where a Secret is changed

    key = await _key(cluster, make=True)
    nonce = os.urandom(_NONCE_BYTES)
    text = json.dumps(record, separators=(",", ":")).encode()
    sealed = nonce + AESGCM(key).encrypt(nonce, text, _binding(about))
    data = base64.b64encode(sealed).decode()
    return {"op": "sealed", "of": record.get("op"), "about": list(about), "key": _name_of(key), "data": data}


async def opened(cluster: Cluster, record: JsonObject) -> JsonObject:
    """The record as it was before it was sealed; one that is not sealed, as it is. Raises PermanentError."""
    if record.get("op") != "sealed":
        return record
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415

    key = await _key(cluster, make=False)
    if _name_of(key) != record.get("key"):
        raise PermanentError(
            f"the old values were sealed with another key than the one that now lies in the Secret {KEY_NAME}, so they "
            "can't be put back",
            code="no_undo_key",
        )
    sealed, about = base64.b64decode(str(record.get("data"))), record.get("about")
    binding = _binding([each for each in about if isinstance(each, dict)] if isinstance(about, list) else [])
    try:
        text = AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], binding)
    except InvalidTag as error:
        raise PermanentError("the sealed undo record was changed since it was made", code="invalid_record") from error
    inner: JsonObject = json.loads(text)
    return inner


def _binding(about: Sequence[JsonObject]) -> bytes:
    """What is readable of a sealed record can't be changed without breaking the seal."""
    return json.dumps(list(about), sort_keys=True, separators=(",", ":")).encode()


def _name_of(key: bytes) -> str:
    """Tells one key from another without saying anything of it."""
    return hashlib.sha256(b"wpk-agent undo key\0" + key).hexdigest()[:16]


async def _key(cluster: Cluster, *, make: bool, dry_run: bool = False) -> bytes:
    cluster = cluster.as_itself()  # whoever the step acts as may not read the key
    namespace = (await cluster.connection()).namespace
    ref = kinds.Ref(kinds.SECRET, namespace, KEY_NAME)
    try:
        item = await cluster.find(ref)
        if item is None and make:
            item = await _made(cluster, ref, dry_run=dry_run)
    except PermanentError as error:
        why = f"to keep a secret's old values safely the agent needs the Secret {namespace}/{KEY_NAME}, but {error}"
        remedy = f"let the agent get and create secrets in namespace {namespace}, {_WAYS_OUT}"
        raise PermanentError(f"{why}; nothing was changed; {remedy}", code="no_undo_key") from error
    if item is None:
        raise PermanentError(
            f"the Secret {namespace}/{KEY_NAME} is gone, and with it the key of the old values; they can't be put back",
            code="no_undo_key",
        )
    return _bytes_of(item, f"{namespace}/{KEY_NAME}")


async def _made(cluster: Cluster, ref: kinds.Ref, *, dry_run: bool) -> JsonObject | None:
    """Makes the key; where another agent was faster it is that one's."""
    manifest: JsonObject = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": ref.name, "namespace": ref.namespace, "labels": {"app.kubernetes.io/name": "wpk-agent"}},
        "data": {"key": base64.b64encode(os.urandom(_KEY_BYTES)).decode()},
        "immutable": True,
    }
    try:
        return await cluster.create(ref, manifest, dry_run=dry_run)
    except PermanentError as error:
        if error.code != "already_exists":
            raise
        return await cluster.find(ref)


def _bytes_of(item: JsonObject, name: str) -> bytes:
    data = item.get("data")
    text = data.get("key") if isinstance(data, dict) else None
    try:
        key = base64.b64decode(str(text), validate=True)
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise PermanentError(
            f"the Secret {name} holds no key of {_KEY_BYTES} bytes in `data.key`; delete it, and a new key is made",
            code="no_undo_key",
        )
    return key
