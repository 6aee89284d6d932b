"""Connection to Kafka: one description for agent, worker and command line.

Nothing here imports a Kafka client; `client_config` returns librdkafka's own names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from runwire_schemas.connections.secret import (
    PublicFacts,
    Secret,
    SecretError,
    facts_digest,
)
from runwire_schemas.connections.table import PATH, SECRET, TEXT, rows_of, setting, table_values
from runwire_schemas.errors import ConfigError

PREFIX: Final = "RUNWIRE_KAFKA_"
DEFAULT_TOPIC_PREFIX: Final = "runwire"
TOPIC_PREFIX_VARIABLE: Final = PREFIX + "TOPIC_PREFIX"
SECURITY_PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
# Kafka's own rule for topic names; 200 leaves room for kind and version below its 249.
_TOPIC_PREFIX: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,199}")
# librdkafka's name of a broker in its messages: `sasl_ssl://kafka-2:9093/2`; "bootstrap" is no id.
_BROKER: Final = re.compile(r"(?:\w+://)?(?P<name>[^\s/]+:\d+)/\d+\b")
SASL_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class KafkaSettingsError(ConfigError):
    """The settings cannot describe a connection; the message says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """One destination and one identity there; each field is RUNWIRE_KAFKA_<NAME>.

    Raises: KafkaSettingsError for words that Kafka does not know and for half an identity.
    """

    PREFIX: ClassVar[str] = PREFIX

    bootstrap_servers: str = setting(TEXT, "", "brokers; unset: the embedded route")
    security_protocol: str = setting(
        TEXT,
        "",
        "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL; unset: derived from the SASL and TLS "
        "settings below",
    )
    sasl_mechanism: str = setting(
        TEXT, "", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; unset: SCRAM-SHA-512"
    )
    sasl_username: str = setting(TEXT, "", "user name for the brokers")
    sasl_password: str = setting(SECRET, "", "password of that user; a file is safer")
    sasl_password_file: str = setting(PATH, "", "file that holds the password")
    ssl_ca_location: str = setting(PATH, "", "certificate authority of the brokers (PEM file)")
    ssl_certificate_location: str = setting(
        PATH, "", "this client's certificate (PEM file), where the brokers ask for one"
    )
    ssl_key_location: str = setting(
        PATH, "", "private key of that certificate (PEM file); unset: it is in the same file"
    )
    ssl_key_password: str = setting(
        SECRET, "", "password of that key, if it is encrypted; a file is safer"
    )
    ssl_key_password_file: str = setting(PATH, "", "file that holds the password of the key")
    topic_prefix: str = setting(
        TEXT,
        DEFAULT_TOPIC_PREFIX,
        "topics are called <prefix>.<kind>.v1: several pipelines share one cluster",
    )

    def __post_init__(self) -> None:
        check_topic_prefix(self.topic_prefix)
        protocol = self.security_protocol.upper()
        if protocol and protocol not in SECURITY_PROTOCOLS:
            raise _wrong("SECURITY_PROTOCOL", self.security_protocol, SECURITY_PROTOCOLS)
        mechanism = self.sasl_mechanism.upper()
        if mechanism and mechanism not in SASL_MECHANISMS:
            raise _wrong("SASL_MECHANISM", self.sasl_mechanism, SASL_MECHANISMS)
        has_password = bool(self.secret)
        if has_password != bool(self.sasl_username):
            missing = "SASL_USERNAME" if has_password else "SASL_PASSWORD_FILE"
            raise KafkaSettingsError(
                f"half an identity for Kafka is set: set {PREFIX}{missing} too, or remove the other"
            )
        if protocol.startswith("SASL") and not has_password:
            raise KafkaSettingsError(
                f"{PREFIX}SECURITY_PROTOCOL={protocol} needs {PREFIX}SASL_USERNAME and "
                f"{PREFIX}SASL_PASSWORD_FILE"
            )
        if not self.ssl_certificate_location and (self.ssl_key_location or self.key_secret):
            raise KafkaSettingsError(
                f"a private key for Kafka is set without its certificate: set "
                f"{PREFIX}SSL_CERTIFICATE_LOCATION too, or remove the settings of the key"
            )
        if protocol.endswith("PLAINTEXT") and self.ssl_certificate_location:
            raise KafkaSettingsError(
                f"{PREFIX}SSL_CERTIFICATE_LOCATION has no effect with "
                f"{PREFIX}SECURITY_PROTOCOL={protocol}: use SSL or SASL_SSL, or remove one of both"
            )

    @property
    def protocol(self) -> str:
        """The security protocol; what the other settings ask for when it is not set."""
        if self.security_protocol:
            return self.security_protocol.upper()
        is_encrypted = self.ssl_ca_location or self.ssl_certificate_location
        encrypted = "SSL" if is_encrypted else "PLAINTEXT"
        return f"SASL_{encrypted}" if self.sasl_username else encrypted

    @property
    def secret(self) -> Secret:
        """The password, by value or by file."""
        return Secret(
            value=self.sasl_password,
            file=self.sasl_password_file,
            environment=f"{PREFIX}SASL_PASSWORD",
        )

    @property
    def key_secret(self) -> Secret:
        """The password of the private key, by value or by file."""
        return Secret(
            value=self.ssl_key_password,
            file=self.ssl_key_password_file,
            environment=f"{PREFIX}SSL_KEY_PASSWORD",
        )

    @property
    def password(self) -> str:
        """The password itself. Raises: KafkaSettingsError when its file cannot be read."""
        return _read(self.secret, "SASL_PASSWORD_FILE")

    def files_digest(self) -> str:
        """Return a digest of the present content of all files that a login depends on.

        It differs once a password, an authority or a certificate was replaced; a client knows the
        content that it was opened with, for as long as it lives.
        """
        files = (
            self.sasl_password_file,
            self.ssl_ca_location,
            self.ssl_certificate_location,
            self.ssl_key_location,
            self.ssl_key_password_file,
        )
        digest = hashlib.blake2b(digest_size=16)
        for file in files:
            content = _content(file) if file else b""
            digest.update(len(content).to_bytes(8, "little") + content)
        return digest.hexdigest()

    def client_config(self) -> dict[str, str]:
        """Return the connection part of a librdkafka configuration, the password included."""
        config = {"bootstrap.servers": self.bootstrap_servers, "security.protocol": self.protocol}
        if self.sasl_username:
            config["sasl.mechanism"] = self.sasl_mechanism.upper() or "SCRAM-SHA-512"
            config |= {"sasl.username": self.sasl_username, "sasl.password": self.password}
        if self.ssl_ca_location:
            config["ssl.ca.location"] = self.ssl_ca_location
        if self.ssl_certificate_location:
            config["ssl.certificate.location"] = self.ssl_certificate_location
            config["ssl.key.location"] = self.ssl_key_location or self.ssl_certificate_location
        if self.key_secret:
            config["ssl.key.password"] = _read(self.key_secret, "SSL_KEY_PASSWORD_FILE")
        return config

    def producer_config(self) -> dict[str, Any]:
        """Return the configuration of a producer: idempotent, acknowledged by all in-sync replicas.

        The size limit only keeps librdkafka from refusing a message that its topic takes.
        """
        from runwire_schemas.bounds import LETTER_BYTES_MAX  # 10 ms that no trainer needs

        durable = {"enable.idempotence": True, "acks": "all"}
        # The largest topic limit plus headers and framing.
        bytes_max = LETTER_BYTES_MAX + (1 << 20)
        return {**self.client_config(), **durable, "message.max.bytes": bytes_max}

    def public(self) -> PublicFacts:
        """Return the facts that may be written down: addresses, and the places of secrets."""
        prefix = check_topic_prefix(self.topic_prefix)
        facts: PublicFacts = {
            "bootstrap_servers": ",".join(
                sorted(self.bootstrap_servers.replace(" ", "").split(","))
            ),
            "security_protocol": self.protocol,
            "sasl_mechanism": self.sasl_mechanism.upper(),
            "sasl_username": self.sasl_username,
            "sasl_password": self.secret.describe(),
            "ssl_ca_location": self.ssl_ca_location,
            "ssl_certificate_location": self.ssl_certificate_location,
            "ssl_key_location": self.ssl_key_location,
            "ssl_key_password": self.key_secret.describe(),
            "topic_prefix": "" if prefix == DEFAULT_TOPIC_PREFIX else prefix,
        }
        return {name: value for name, value in facts.items() if value}

    @property
    def destination(self) -> str:
        """Sixteen hex digits that are the same exactly for the same `public()`."""
        return facts_digest(self.public())

    def environment(self) -> dict[str, str]:
        """Return the variables that make another process see these settings."""
        rows = rows_of(KafkaSettings).values()
        return {row.env: getattr(self, row.name) for row in rows if getattr(self, row.name)}


def from_environment(environ: Mapping[str, str]) -> KafkaSettings | None:
    """Read the settings; None when no brokers are named. Raises: KafkaSettingsError."""
    values = table_values(environ, KafkaSettings)
    return KafkaSettings(**values) if "bootstrap_servers" in values else None


def check_topic_prefix(prefix: str) -> str:
    """Return the prefix, the default when empty. Raises: KafkaSettingsError."""
    if not prefix:
        return DEFAULT_TOPIC_PREFIX
    if not _TOPIC_PREFIX.fullmatch(prefix):
        raise KafkaSettingsError(
            f"{TOPIC_PREFIX_VARIABLE}={prefix!r}: use letters, digits, '.', '_' and '-', "
            f"at most 200, and start with a letter or digit"
        )
    return prefix


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """The schema registry beside the brokers; each field is RUNWIRE_SCHEMA_REGISTRY_<NAME>."""

    PREFIX: ClassVar[str] = "RUNWIRE_SCHEMA_REGISTRY_"

    # A secret, for its URL may hold a password.
    url: str = setting(SECRET, "", "optional Confluent-compatible registry")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Read the settings. Raises: ConfigError."""
        return cls(**table_values(environ, cls))


def advertised_name(bootstrap_servers: str, words: str) -> str:
    """Return the broker that librdkafka's words are about, if only the cluster named it.

    Empty for the addresses of the settings: a broker's own name reaches clients by the cluster's
    metadata, from its `advertised.listeners`.
    """
    found = _BROKER.search(words)
    name = found["name"] if found else ""
    return "" if name in bootstrap_servers.replace(" ", "").split(",") else name


def _read(secret: Secret, name: str) -> str:
    try:
        return secret.read()
    except SecretError as error:
        raise KafkaSettingsError(f"{PREFIX}{name}={secret.file}: {error}") from error


def _content(file: str) -> bytes:
    try:
        return Path(file).expanduser().read_bytes()
    except OSError:  # missing for a moment, a folder of authorities, or librdkafka's word "probe"
        return b""


def _wrong(name: str, value: str, known: tuple[str, ...]) -> KafkaSettingsError:
    return KafkaSettingsError(f"{PREFIX}{name}={value!r}: use one of {', '.join(known)}")
