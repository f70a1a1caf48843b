"""The keys of a control plane of its own: one authority that everybody trusts, and a certificate for each party."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import trustme
import yaml

from consumer.dev.broker import HOST
from tests.support.control_plane.kubectl import write_privately

#: The group whose members may do everything (RBAC's bootstrap binding of cluster-admin).
ADMINS = "system:masters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates into a directory. Kubernetes takes a client's common name as user, organization as group."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.certificate = directory / "authority.pem"
        self.pem: bytes = self._authority.cert_pem.bytes()
        self.certificate.write_bytes(self.pem)

    def server(self, name: str) -> Pair:
        """For a server on loopback."""
        issued = self._authority.issue_cert(HOST, "localhost", "kubernetes.default.svc", common_name=name)
        return self._written(name, issued)

    def client(self, user: str, group: str | None = None) -> Pair:
        """For a client."""
        # Go refuses the empty list of names that a certificate with nothing but a subject gets here.
        issued = self._authority.issue_cert("client.invalid", common_name=user, organization_name=group)
        return self._written(user, issued)

    def _written(self, name: str, issued: trustme.LeafCert) -> Pair:
        base = self._directory / name.replace(":", "-").replace("/", "-")
        pair = Pair(certificate=base.with_suffix(".crt"), key=base.with_suffix(".key"))
        pair.key.touch(mode=0o600)
        pair.key.write_bytes(issued.private_key_pem.bytes())
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        return pair


def write_kubeconfig(
    path: Path, *, server: str, authority: bytes, user: dict[str, str], name: str = "tests", namespace: str = "default"
) -> Path:
    """Writes a kubeconfig with one cluster and one user, whose credentials `user` holds in the file's own words."""
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(authority).decode()}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
    }
    write_privately(path, yaml.safe_dump(document))
    return path


def credentials(pair: Pair) -> dict[str, str]:
    """A kubeconfig's user who has a certificate."""
    return {
        "client-certificate-data": base64.b64encode(pair.certificate.read_bytes()).decode(),
        "client-key-data": base64.b64encode(pair.key.read_bytes()).decode(),
    }
