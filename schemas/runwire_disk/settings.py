"""Settings of a node, for its trainers and its agent: data root, destinations, time limits.

Precedence: arguments, environment, `./runwire.toml`, defaults.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from runwire_disk.paths import state_dir
from runwire_schemas.connections.kafka import KafkaSettings, RegistrySettings
from runwire_schemas.connections.s3 import S3Settings
from runwire_schemas.connections.table import (
    BYTES,
    PATH,
    SECONDS,
    choice,
    environment_values,
    parse_value,
    refuse_unknown,
    rows_of,
    setting,
    shared,
    toml_values,
)
from runwire_schemas.errors import ConfigError

__all__ = ["NodeSettings"]

GIB = 1024**3
SYSTEM_AUTHORITIES = "probe"  # librdkafka's word, where the path of a certificate may stand
_KAFKA_PATHS = (
    "sasl_password_file",
    "ssl_ca_location",
    "ssl_certificate_location",
    "ssl_key_location",
    "ssl_key_password_file",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Settings that a trainer shares with the agent it starts."""

    dir: str | None = setting(PATH, None, "data root: spool, agent files, embedded engine")
    agent_stay_s: float = setting(
        SECONDS, 600.0, "how long an agent that cannot deliver stays after the last trainer ended"
    )
    kafka_bootstrap_servers: str | None = shared(KafkaSettings, "bootstrap_servers")
    kafka_security_protocol: str | None = shared(KafkaSettings, "security_protocol")
    kafka_sasl_mechanism: str | None = shared(KafkaSettings, "sasl_mechanism")
    kafka_sasl_username: str | None = shared(KafkaSettings, "sasl_username")
    kafka_sasl_password: str | None = shared(KafkaSettings, "sasl_password")
    kafka_sasl_password_file: str | None = shared(KafkaSettings, "sasl_password_file")
    kafka_ssl_ca_location: str | None = shared(KafkaSettings, "ssl_ca_location")
    kafka_ssl_certificate_location: str | None = shared(KafkaSettings, "ssl_certificate_location")
    kafka_ssl_key_location: str | None = shared(KafkaSettings, "ssl_key_location")
    kafka_ssl_key_password: str | None = shared(KafkaSettings, "ssl_key_password")
    kafka_ssl_key_password_file: str | None = shared(KafkaSettings, "ssl_key_password_file")
    kafka_topic_prefix: str = shared(KafkaSettings, "topic_prefix")
    s3_endpoint: str | None = shared(S3Settings, "endpoint")
    s3_bucket: str = shared(S3Settings, "bucket")
    s3_access_key: str | None = shared(S3Settings, "access_key")
    s3_access_key_file: str | None = shared(S3Settings, "access_key_file")
    s3_secret_key: str | None = shared(S3Settings, "secret_key")
    s3_secret_key_file: str | None = shared(S3Settings, "secret_key_file")
    s3_region: str | None = shared(S3Settings, "region")
    s3_ssl_ca_location: str | None = shared(S3Settings, "ssl_ca_location")
    s3_ssl_certificate_location: str | None = shared(S3Settings, "ssl_certificate_location")
    s3_ssl_key_location: str | None = shared(S3Settings, "ssl_key_location")
    schema_registry_url: str | None = shared(RegistrySettings, "url")
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
        values = self._values_of(KafkaSettings, "kafka_")
        for name in _KAFKA_PATHS:
            # The agent runs elsewhere.
            if values[name] and values[name] != SYSTEM_AUTHORITIES:
                values[name] = str(Path(values[name]).expanduser().absolute())
        return KafkaSettings(**values)

    @property
    def s3(self) -> S3Settings | None:
        """How to reach the object store; None without one. Raises: S3SettingsError."""
        if not self.s3_endpoint:
            return None
        values = self._values_of(S3Settings, "s3_")
        for name in values:
            if name.endswith(("_file", "_location")) and values[name]:
                values[name] = str(Path(values[name]).expanduser().absolute())
        return S3Settings(**values)

    def _values_of(self, table: type, prefix: str) -> dict[str, str]:
        return {name: getattr(self, prefix + name) or "" for name in rows_of(table)}

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
        # Now, not at each use: os.chdir must not move what a process has begun to write.
        for name in rows.keys() & values.keys():
            if rows[name].kind is PATH and values[name] and values[name] != SYSTEM_AUTHORITIES:
                values[name] = str(Path(values[name]).expanduser().absolute())
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
