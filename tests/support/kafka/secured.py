"""An Apache Kafka that lets nobody in who does not prove who he is, and lets him do what its ACLs allow only.

One node with a listener for each way in: TLS, TLS with client certificates, SASL over TLS. The test itself comes in by
one without any of that, on loopback, where everybody is the super user.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from consumer.dev.broker import HOST, free_port
from tests.support.kafka.handle import server_settings
from tests.support.kafka.processes import ProcessBroker, begins_transactions, install

Way = Literal["SSL", "MTLS", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
WAYS: tuple[Way, ...] = ("SSL", "MTLS", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER")

#: They may come in, and do nothing until an ACL allows it.
USERS = ("agent", "user", "other")
PASSWORD = "pass,word=1"
ISSUER, AUDIENCE = "https://issuer.example", "kafka"
_LISTENERS = ("PLAINTEXT", "CONTROLLER", "TLS", "MTLS", "SASL", "BEARER", "SASLPLAIN")
_PROTOCOLS = (
    "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,TLS:SSL,MTLS:SSL,SASL:SASL_SSL,BEARER:SASL_SSL,SASLPLAIN:SASL_PLAINTEXT"
)
_HEAP = "256m"
_PATIENCE = 30.0
_ENCRYPTED = "of the key"


class Certificates:
    """One authority that the broker trusts, and what is signed by it or should not be trusted, as files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority, self._other = trustme.CA(), trustme.CA()
        self.authority = self._write("authority.pem", self._authority.cert_pem.bytes())
        self.other_authority = self._write("other-authority.pem", self._other.cert_pem.bytes())
        server = self._authority.issue_cert(HOST)
        self.server = self._write("server.pem", _pkcs8(server.private_key_pem.bytes()) + _chain(server))
        self.clients = {name: self._client(name, self._authority) for name in ("agent", "user")}
        self.expired, self.expired_key = self._client(
            "expired", self._authority, not_after=datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
        )
        self.foreign, self.foreign_key = self._client("foreign", self._other)
        sealed = _pkcs8(self.clients["agent"][1].read_bytes(), _ENCRYPTED.encode())
        self.sealed_key, self.key_password = self._write("sealed.key", sealed), _ENCRYPTED

    def _client(
        self, name: str, authority: trustme.CA, not_after: datetime.datetime | None = None
    ) -> tuple[Path, Path]:
        before = not_after - datetime.timedelta(days=1) if not_after else None
        issued = authority.issue_cert("client.invalid", common_name=name, not_before=before, not_after=not_after)
        return self._write(f"{name}.crt", _chain(issued)), self._write(f"{name}.key", issued.private_key_pem.bytes())

    def _write(self, name: str, data: bytes) -> Path:
        path = self._directory / name
        path.touch(mode=0o600)
        path.write_bytes(data)
        return path


class Issuer:
    """Signs tokens (JWT, RS256), as an identity provider would; the broker has its public key only."""

    def __init__(self, directory: Path) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        numbers = self._key.public_key().public_numbers()
        key = {"kty": "RSA", "kid": "1", "use": "sig", "alg": "RS256", "n": _number(numbers.n), "e": _number(numbers.e)}
        self.keys = directory / "jwks.json"
        self.keys.write_text(json.dumps({"keys": [key]}))

    def token(self, subject: str, *, lifetime: float = 3600.0, audience: str = AUDIENCE) -> str:
        """A token for that user, for so many seconds from now."""
        now = time.time()
        claims = {"iss": ISSUER, "aud": audience, "sub": subject, "iat": int(now - 60), "exp": int(now + lifetime)}
        signed = f"{_part({'alg': 'RS256', 'kid': '1', 'typ': 'JWT'})}.{_part(claims)}"
        return f"{signed}.{_base64(self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuredKafka:
    """The broker, its ways in, and what the super user does."""

    ports: Mapping[str, int]
    certificates: Certificates
    issuer: Issuer
    process: ProcessBroker

    @property
    def admin(self) -> str:
        """Bootstrap servers for the super user."""
        return f"{HOST}:{self.ports['PLAINTEXT']}"

    def at(self, listener: str, host: str = HOST) -> str:
        """Bootstrap servers of that listener."""
        return f"{host}:{self.ports[listener]}"

    def settings(self, way: Way, user: str = "agent") -> dict[str, object]:
        """The settings by which a client comes in that way, but for the source of tokens, as `Settings` has them."""
        certificates = self.certificates
        common: dict[str, object] = {"kafka_ssl_cafile": certificates.authority}
        if way == "SSL":
            return common | {"kafka_bootstrap_servers": self.at("TLS"), "kafka_security_protocol": "SSL"}
        if way == "MTLS":
            return common | {
                "kafka_bootstrap_servers": self.at("MTLS"),
                "kafka_security_protocol": "SSL",
                "kafka_ssl_certfile": certificates.clients[user][0],
                "kafka_ssl_keyfile": certificates.clients[user][1],
            }
        common |= {"kafka_security_protocol": "SASL_SSL", "kafka_sasl_mechanism": way}
        if way == "OAUTHBEARER":
            return common | {"kafka_bootstrap_servers": self.at("BEARER")}
        return common | {
            "kafka_bootstrap_servers": self.at("SASL"),
            "kafka_sasl_username": user,
            "kafka_sasl_password": PASSWORD,
        }

    def allow(self, bindings: Iterable[AclBinding]) -> None:
        """Adds those ACLs; they hold when it returns."""
        wanted = list(bindings)
        admin = self._client()  # it must live until it is answered
        for done in admin.create_acls(wanted).values():
            done.result(_PATIENCE)
        self._await_acls(lambda there: set(wanted) <= there)

    def forbid(self, bindings: Iterable[AclBinding]) -> None:
        """Takes those ACLs away; they hold no longer when it returns."""
        taken = list(bindings)
        filters = [
            AclBindingFilter(
                each.restype,
                each.name,
                each.resource_pattern_type,
                each.principal,
                each.host,
                each.operation,
                each.permission_type,
            )
            for each in taken
        ]
        admin = self._client()
        for done in admin.delete_acls(filters).values():
            done.result(_PATIENCE)
        self._await_acls(lambda there: not set(taken) & there)

    def _await_acls(self, check: Callable[[set[AclBinding]], bool]) -> None:
        """The controller takes a change, and the broker, which is asked here, learns of it a moment later."""
        every = AclBindingFilter(
            ResourceType.ANY,
            None,
            ResourcePatternType.ANY,
            None,
            None,
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        admin, deadline = self._client(), time.monotonic() + _PATIENCE
        while not check(set(admin.describe_acls(every).result(_PATIENCE))):
            if time.monotonic() > deadline:
                raise RuntimeError(f"the broker does not follow its ACLs\n{self.process.output}")
            time.sleep(0.02)

    def add_scram_users(self) -> None:
        """SCRAM's users are in the cluster's metadata."""
        admin = self._client()
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):  # one of a user in a request
            credential = ScramCredentialInfo(mechanism, 4096)
            wanted = [UserScramCredentialUpsertion(user, credential, PASSWORD.encode()) for user in USERS]
            for done in admin.alter_user_scram_credentials(wanted).values():
                done.result(_PATIENCE)

    def _client(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.admin}, logger=logging.getLogger("tests.kafka.secured"))


def binding(principal: str, resource: str, name: str, operation: str, *, prefixed: bool = False) -> AclBinding:
    """An ACL in the words of kafka-acls.sh: `topic`, `group`, `transactional-id`; `Read`, `DescribeConfigs`."""
    kinds = {
        "topic": ResourceType.TOPIC,
        "group": ResourceType.GROUP,
        "transactional-id": ResourceType.TRANSACTIONAL_ID,
        "cluster": ResourceType.BROKER,
    }
    words = "".join(f"_{letter}" if letter.isupper() else letter for letter in operation).strip("_").upper()
    return AclBinding(
        kinds[resource],
        name,
        ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL,
        principal,
        "*",
        AclOperation[words],
        AclPermissionType.ALLOW,
    )


@contextlib.contextmanager
def secured_kafka() -> Iterator[SecuredKafka]:
    """The broker, ready for all ways in. Raises jars.Unavailable."""
    kafka = install()
    with tempfile.TemporaryDirectory(prefix="wpk-secured-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        certificates, issuer = Certificates(directory), Issuer(directory)
        ports = dict(zip(_LISTENERS, _free_ports(len(_LISTENERS)), strict=True))
        kafka.format(directory / "data")
        properties = directory / "server.properties"
        settings = _settings(ports, directory, certificates, issuer)
        properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={issuer.keys.as_uri()}"
        process = ProcessBroker(
            "apache",
            ports["PLAINTEXT"],
            kafka.broker(properties, allowed, heap=_HEAP),
            directory=directory,
            ready=lambda port: begins_transactions(f"{HOST}:{port}"),
        )
        broker = SecuredKafka(ports=ports, certificates=certificates, issuer=issuer, process=process)
        try:
            process.start()
            broker.add_scram_users()
            yield broker
        finally:
            process.kill()


def _settings(ports: Mapping[str, int], directory: Path, certificates: Certificates, issuer: Issuer) -> dict[str, str]:
    settings = server_settings(port=ports["PLAINTEXT"], controller=ports["CONTROLLER"], data=directory / "data")
    addresses = [f"{name}://{HOST}:{port}" for name, port in ports.items()]
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule required " + " ".join(
        f'user_{user}="{PASSWORD}"' for user in USERS
    )
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule required"
    bearer = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required"
    validator = "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler"
    settings |= {
        "listeners": ",".join(addresses),
        "advertised.listeners": ",".join(each for each in addresses if not each.startswith("CONTROLLER")),
        "listener.security.protocol.map": _PROTOCOLS,
        "num.network.threads": "1",  # of each listener
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # Without a certificate one is ANONYMOUS on TLS too: that listener shows the encryption only.
        "super.users": "User:ANONYMOUS",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates.server),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(certificates.authority),
        "listener.name.mtls.ssl.client.auth": "required",
        "ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/,DEFAULT",
        "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        "listener.name.sasl.plain.sasl.jaas.config": f"{plain};",
        "listener.name.sasl.scram-sha-256.sasl.jaas.config": f"{scram};",
        "listener.name.sasl.scram-sha-512.sasl.jaas.config": f"{scram};",
        "listener.name.saslplain.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.saslplain.scram-sha-512.sasl.jaas.config": f"{scram};",
        "listener.name.bearer.sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.bearer.oauthbearer.sasl.jaas.config": f"{bearer};",
        "listener.name.bearer.oauthbearer.sasl.server.callback.handler.class": validator,
        "listener.name.bearer.sasl.oauthbearer.jwks.endpoint.url": issuer.keys.as_uri(),
        "listener.name.bearer.sasl.oauthbearer.expected.issuer": ISSUER,
        "listener.name.bearer.sasl.oauthbearer.expected.audience": AUDIENCE,
    }
    return settings


def _free_ports(count: int) -> Iterator[int]:
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return iter(found)


def _chain(issued: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in issued.cert_chain_pems)


def _pkcs8(pem: bytes, password: bytes | None = None) -> bytes:
    """The key in the form that Java reads; encrypted where there is a password."""
    key = serialization.load_pem_private_key(pem, None)
    sealed = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealed)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _part(value: Mapping[str, object]) -> str:
    return _base64(json.dumps(value).encode())


def _number(value: int) -> str:
    return _base64(value.to_bytes((value.bit_length() + 7) // 8, "big"))
