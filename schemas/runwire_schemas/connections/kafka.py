"""Connection to Kafka: one description for agent, worker and command line.

Nothing here imports a Kafka client; `client_config` returns librdkafka's own names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from runwire_schemas.connections import DEFAULT_TOPIC_PREFIX
from runwire_schemas.connections.secret import (
    PublicFacts,
    Secret,
    SecretError,
    facts_digest,
)
from runwire_schemas.errors import ConfigError, SchemaError
from runwire_schemas.topics import checked_prefix

PREFIX: Final = "RUNWIRE_KAFKA_"
TOPIC_PREFIX_VARIABLE: Final = PREFIX + "TOPIC_PREFIX"
SECURITY_PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
SASL_MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class KafkaSettingsError(ConfigError):
    """The settings cannot describe a connection; the message says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """One destination and one identity there; each field is RUNWIRE_KAFKA_<NAME>.

    Raises: KafkaSettingsError for words that Kafka does not know and for half an identity.
    """

    bootstrap_servers: str
    security_protocol: str = ""
    sasl_mechanism: str = ""
    sasl_username: str = ""
    sasl_password: str = field(default="", repr=False)
    sasl_password_file: str = ""
    ssl_ca_location: str = ""
    topic_prefix: str = ""

    def __post_init__(self) -> None:
        try:
            checked_prefix(self.topic_prefix)
        except SchemaError as error:
            raise KafkaSettingsError(str(error)) from error
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

    @property
    def protocol(self) -> str:
        """The security protocol; what the other settings ask for when it is not set."""
        if self.security_protocol:
            return self.security_protocol.upper()
        encrypted = "SSL" if self.ssl_ca_location else "PLAINTEXT"
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
    def password(self) -> str:
        """The password itself. Raises: KafkaSettingsError when its file cannot be read."""
        try:
            return self.secret.read()
        except SecretError as error:
            raise KafkaSettingsError(
                f"{PREFIX}SASL_PASSWORD_FILE={self.sasl_password_file}: {error}"
            ) from error

    def client_config(self) -> dict[str, str]:
        """Return the connection part of a librdkafka configuration, the password included."""
        config = {"bootstrap.servers": self.bootstrap_servers, "security.protocol": self.protocol}
        if self.sasl_username:
            config["sasl.mechanism"] = self.sasl_mechanism.upper() or "SCRAM-SHA-512"
            config |= {"sasl.username": self.sasl_username, "sasl.password": self.password}
        if self.ssl_ca_location:
            config["ssl.ca.location"] = self.ssl_ca_location
        return config

    def public(self) -> PublicFacts:
        """Return the facts that may be written down: addresses, and the places of secrets."""
        prefix = checked_prefix(self.topic_prefix)
        facts: PublicFacts = {
            "bootstrap_servers": ",".join(
                sorted(self.bootstrap_servers.replace(" ", "").split(","))
            ),
            "security_protocol": self.protocol,
            "sasl_mechanism": self.sasl_mechanism.upper(),
            "sasl_username": self.sasl_username,
            "sasl_password": self.secret.describe(),
            "ssl_ca_location": self.ssl_ca_location,
            "topic_prefix": "" if prefix == DEFAULT_TOPIC_PREFIX else prefix,
        }
        return {name: value for name, value in facts.items() if value}

    @property
    def destination(self) -> str:
        """Sixteen hex digits that are the same exactly for the same `public()`."""
        return facts_digest(self.public())

    def environment(self) -> dict[str, str]:
        """Return the variables that make another process see these settings."""
        names = self.__slots__
        return {PREFIX + n.upper(): getattr(self, n) for n in names if getattr(self, n)}


def from_environment(environ: Mapping[str, str]) -> KafkaSettings | None:
    """Read the settings; None when no brokers are named. Raises: KafkaSettingsError."""
    found = {
        name: environ.get(PREFIX + name.upper(), "").strip() for name in KafkaSettings.__slots__
    }
    return KafkaSettings(**found) if found["bootstrap_servers"] else None


def _wrong(name: str, value: str, known: tuple[str, ...]) -> KafkaSettingsError:
    return KafkaSettingsError(f"{PREFIX}{name}={value!r}: use one of {', '.join(known)}")
