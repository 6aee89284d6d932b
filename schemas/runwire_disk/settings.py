"""Settings of a node: data root, destinations and patience, for its trainers and its agent.

Arguments win over the environment, the environment over `./runwire.toml`, that over defaults.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from runwire_disk.paths import state_dir
from runwire_schemas.connections import DEFAULT_BUCKET, DEFAULT_TOPIC_PREFIX
from runwire_schemas.connections.table import (
    BYTES,
    PATH,
    SECONDS,
    SECRET,
    TEXT,
    choice,
    environment_values,
    parse_value,
    refuse_unknown,
    rows_of,
    setting,
    toml_values,
)
from runwire_schemas.errors import ConfigError

if TYPE_CHECKING:
    from runwire_schemas.connections.kafka import KafkaSettings
    from runwire_schemas.connections.s3 import S3Settings

__all__ = ["NodeSettings"]

GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Settings that a trainer shares with the agent it starts."""

    dir: str | None = setting(PATH, None, "data root: spool, agent files, embedded engine")
    agent_stay_s: float = setting(
        SECONDS, 600.0, "how long an agent that cannot deliver stays after the last trainer ended"
    )
    kafka_bootstrap_servers: str | None = setting(TEXT, None, "brokers; unset: the embedded route")
    kafka_security_protocol: str | None = setting(
        TEXT,
        None,
        "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL; unset: derived from the SASL and TLS "
        "settings below",
    )
    kafka_sasl_mechanism: str | None = setting(
        TEXT, None, "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; unset: SCRAM-SHA-512"
    )
    kafka_sasl_username: str | None = setting(TEXT, None, "user name for the brokers")
    kafka_sasl_password: str | None = setting(
        SECRET, None, "password of that user; a file is safer"
    )
    kafka_sasl_password_file: str | None = setting(PATH, None, "file that holds the password")
    kafka_ssl_ca_location: str | None = setting(
        PATH, None, "certificate authority of the brokers (PEM file)"
    )
    kafka_topic_prefix: str = setting(
        TEXT,
        DEFAULT_TOPIC_PREFIX,
        "topics are called <prefix>.<kind>.v1: several pipelines share one cluster",
    )
    s3_endpoint: str | None = setting(
        TEXT,
        None,
        "object store of artifacts: http://host:port, or host:port for https; unset: no S3",
    )
    s3_bucket: str = setting(TEXT, DEFAULT_BUCKET, "bucket there; `runwire migrate` makes it")
    s3_access_key: str | None = setting(TEXT, None, "access key id")
    s3_access_key_file: str | None = setting(PATH, None, "file that holds the access key id")
    s3_secret_key: str | None = setting(SECRET, None, "secret key; a file is safer")
    s3_secret_key_file: str | None = setting(PATH, None, "file that holds the secret key")
    s3_region: str | None = setting(TEXT, None, "region of the bucket; unset: the store is asked")
    # A secret, for its URL may hold a password.
    schema_registry_url: str | None = setting(
        SECRET, None, "optional Confluent-compatible registry"
    )
    artifact_route: str = setting(
        choice("auto", "direct", "kafka", "reference"),
        "auto",
        "auto: S3 if an endpoint is set, else Kafka if brokers are set, else the data root; "
        "direct, kafka: force one; reference: record path and digest of files and upload nothing "
        "(bytes, figures and tables still follow auto)",
    )
    artifact_kafka_bytes_max: int = setting(
        BYTES,
        4 * GIB,
        "larger files are not sent through Kafka; only path and digest are recorded",
    )

    @property
    def root(self) -> Path:
        """Absolute data root."""
        return state_dir(self.dir)

    @property
    def kafka(self) -> KafkaSettings | None:
        """How to reach the brokers; None on the embedded route. Raises: KafkaSettingsError."""
        if not self.kafka_bootstrap_servers:
            return None
        from runwire_schemas.connections.kafka import KafkaSettings

        found = {name: getattr(self, "kafka_" + name) or "" for name in KafkaSettings.__slots__}
        for name in ("sasl_password_file", "ssl_ca_location"):
            # The agent runs elsewhere; "probe" is librdkafka's word for the system's authorities.
            if found[name] and found[name] != "probe":
                found[name] = str(Path(found[name]).expanduser().absolute())
        return KafkaSettings(**found)

    @property
    def s3(self) -> S3Settings | None:
        """How to reach the object store; None without one. Raises: S3SettingsError."""
        if not self.s3_endpoint:
            return None
        from runwire_schemas.connections.s3 import S3Settings

        found = {name: getattr(self, "s3_" + name) or "" for name in S3Settings.__slots__}
        for name in ("access_key_file", "secret_key_file"):
            if found[name]:
                found[name] = str(Path(found[name]).expanduser().absolute())
        return S3Settings(**found)

    def changed(self) -> dict[str, Any]:
        """Fields that differ from their default: how a settings argument joins `resolve`."""
        return {
            row.name: getattr(self, row.name)
            for row in fields(self)
            if getattr(self, row.name) != row.default
        }

    @classmethod
    def resolve(
        cls,
        overrides: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Merge arguments, environment, `./runwire.toml` and defaults, in this precedence.

        Raises: ConfigError naming the value, where it came from and what is accepted.
        """
        if sys.platform == "win32":
            raise ConfigError(
                "runwire does not run on Windows: its spool needs POSIX file locks. "
                "Train under WSL2 or Linux, or pass mode='disabled' elsewhere."
            )
        environ = os.environ if environ is None else environ
        rows = rows_of(cls)
        values = toml_values(Path(cwd) if cwd is not None else None, cls)
        values.update(environment_values(environ, cls))
        given = {k: v for k, v in (overrides or {}).items() if v is not None}
        refuse_unknown(given, rows, source="argument")
        for name, value in given.items():
            values[name] = parse_value(rows[name], value, f"argument {name}=")
        settings = cls(**values)
        settings.check()
        return settings

    def check(self) -> None:
        """Raises: ConfigError when settings contradict each other."""
        if self.artifact_route == "kafka" and not self.kafka_bootstrap_servers:
            raise ConfigError(
                "artifact_route='kafka' without brokers: set RUNWIRE_KAFKA_BOOTSTRAP_SERVERS too, "
                "or leave RUNWIRE_ARTIFACT_ROUTE at 'auto'."
            )
        _ = self.kafka, self.s3
