"""Settings of the SDK: one table of fields, resolved once when `init` is called.

Arguments win over the environment, the environment over `./runwire.toml`, that over defaults.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runwire.errors import ConfigError
from runwire.settings_checkpoints import CHECKPOINT_FIELDS
from runwire_disk.paths import state_dir
from runwire_schemas.connections.table import (
    Field,
    environment_values,
    parse_value,
    refuse_unknown,
    toml_values,
)

if TYPE_CHECKING:
    from runwire_disk.settings import NodeSettings
    from runwire_schemas.connections.kafka import KafkaSettings
    from runwire_schemas.connections.s3 import S3Settings

__all__ = ["FIELDS", "Settings"]

GIB = 1024**3
# As in `topics`, which a trainer without brokers does not import; a test compares them.
DEFAULT_PREFIX = "runwire"
DEFAULT_BUCKET = "runwire"  # as in `s3_settings`, for the same reason


# The one table: resolution, documents and the house test read it.
FIELDS: tuple[Field, ...] = (
    Field("dir", "path", "", None, "data root: spool, agent files, embedded engine"),
    Field("project", "text", "", "default", "project that runs belong to"),
    Field("run_id", "text", "", None, "id of the run; all ranks of one job must share it"),
    Field(
        "mode",
        "choice",
        "",
        "online",
        "offline: start no agent, leave the spool to `runwire up` or `runwire sync`; "
        "disabled: log nothing",
        choices=("online", "offline", "disabled"),
    ),
    Field("strict", "flag", "", False, "raise what logging calls would otherwise count"),
    Field(
        "agent",
        "choice",
        "",
        "process",
        "who watches the trainer: a process of its own, a thread in it, or nobody",
        choices=("process", "thread", "none"),
    ),
    Field(
        "agent_stay_s",
        "seconds",
        "s",
        600.0,
        "how long an agent that cannot deliver stays after the last trainer ended",
    ),
    Field("kafka_bootstrap_servers", "text", "", None, "brokers; unset: the embedded route"),
    Field(
        "kafka_security_protocol",
        "text",
        "",
        None,
        "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL; unset: what the rows below ask for",
    ),
    Field(
        "kafka_sasl_mechanism",
        "text",
        "",
        None,
        "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; unset: SCRAM-SHA-512",
    ),
    Field("kafka_sasl_username", "text", "", None, "who logs in at the brokers"),
    Field("kafka_sasl_password", "secret", "", None, "its password; better named by a file"),
    Field("kafka_sasl_password_file", "path", "", None, "file that holds the password"),
    Field(
        "kafka_ssl_ca_location", "path", "", None, "certificate authority of the brokers (PEM file)"
    ),
    Field(
        "kafka_topic_prefix",
        "text",
        "",
        DEFAULT_PREFIX,
        "topics are called <prefix>.<kind>.v1: several pipelines share one cluster",
    ),
    Field(
        "s3_endpoint",
        "text",
        "",
        None,
        "object store of artifacts: http://host:port, or host:port for https; unset: no S3",
    ),
    Field("s3_bucket", "text", "", DEFAULT_BUCKET, "bucket there; `runwire migrate` makes it"),
    Field("s3_access_key", "text", "", None, "who logs in at the object store"),
    Field("s3_access_key_file", "path", "", None, "file that holds the access key"),
    Field("s3_secret_key", "secret", "", None, "its secret key; better named by a file"),
    Field("s3_secret_key_file", "path", "", None, "file that holds the secret key"),
    Field("s3_region", "text", "", None, "region of the bucket; unset: the store is asked"),
    Field("schema_registry_url", "text", "", None, "optional Confluent-compatible registry"),
    Field("quota_bytes", "bytes", "bytes", 2 * GIB, "spool space of one writer process"),
    Field(
        "artifact_route",
        "choice",
        "",
        "auto",
        "auto: to S3 where an endpoint is set, else through Kafka where brokers are set, else to "
        "the data root; direct, kafka; reference: of files record path and digest, move "
        "nothing; what is no file (bytes, figures, tables and the like) goes as with auto",
        choices=("auto", "direct", "kafka", "reference"),
    ),
    Field(
        "artifact_kafka_bytes_max",
        "bytes",
        "bytes",
        4 * GIB,
        "larger files do not go through Kafka but are known by reference",
    ),
    Field("outbox_bytes", "bytes", "bytes", 20 * GIB, "content that waits for its store"),
    Field("disk_free_ratio_min", "ratio", "", 0.10, "share of the disk that stays free"),
    Field(
        "fork_policy",
        "choice",
        "",
        "inherit",
        "forked children: log as workers of this rank, log nothing, or raise",
        choices=("inherit", "ignore", "raise"),
    ),
    Field("finish_timeout_s", "seconds", "s", 5.0, "longest wait of `finish` at process exit"),
    Field(
        "preempt_signals",
        "names",
        "",
        ("SIGTERM",),
        "signals that announce a pre-emption, comma separated (for example SIGTERM,SIGUSR1)",
    ),
    Field("capture_git", "flag", "", True, "record commit, branch and dirty state at init"),
    *CHECKPOINT_FIELDS,
)

_BY_NAME: dict[str, Field] = {row.name: row for row in FIELDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What one `init` works with; `FIELDS` holds the meaning of each name."""

    dir: str | None = None
    project: str = "default"
    run_id: str | None = None
    mode: str = "online"
    strict: bool = False
    agent: str = "process"
    agent_stay_s: float = 600.0
    kafka_bootstrap_servers: str | None = None
    kafka_security_protocol: str | None = None
    kafka_sasl_mechanism: str | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: str | None = field(default=None, repr=False)
    kafka_sasl_password_file: str | None = None
    kafka_ssl_ca_location: str | None = None
    kafka_topic_prefix: str = DEFAULT_PREFIX
    s3_endpoint: str | None = None
    s3_bucket: str = DEFAULT_BUCKET
    s3_access_key: str | None = None
    s3_access_key_file: str | None = None
    s3_secret_key: str | None = field(default=None, repr=False)
    s3_secret_key_file: str | None = None
    s3_region: str | None = None
    schema_registry_url: str | None = field(default=None, repr=False)  # may name a password
    quota_bytes: int = 2 * GIB
    artifact_route: str = "auto"
    artifact_kafka_bytes_max: int = 4 * GIB
    outbox_bytes: int = 20 * GIB
    disk_free_ratio_min: float = 0.10
    fork_policy: str = "inherit"
    finish_timeout_s: float = 5.0
    preempt_signals: tuple[str, ...] = ("SIGTERM",)
    capture_git: bool = True
    checkpoint_dir: str | None = None
    checkpoint_compress: str = "off"
    checkpoint_keep_last: int = 0
    checkpoint_keep_best: int = 0
    checkpoint_keep_every: int = 0
    checkpoint_metric: str | None = None
    checkpoint_mode: str = "min"

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

    @property
    def node(self) -> NodeSettings:
        """What the agent of this data root needs of these settings.

        Raises: KafkaSettingsError, S3SettingsError.
        """
        from runwire_disk.settings import NodeSettings

        return NodeSettings(
            root=self.root,
            kafka=self.kafka,
            s3=self.s3,
            registry_url=self.schema_registry_url,
            artifact_route=self.artifact_route,
            artifact_kafka_bytes_max=self.artifact_kafka_bytes_max,
            agent_stay_s=self.agent_stay_s,
        )

    def changed(self) -> dict[str, Any]:
        """Fields that differ from their default: how a `Settings` argument joins `resolve`."""
        return {
            known.name: getattr(self, known.name)
            for known in fields(self)
            if getattr(self, known.name) != known.default
        }

    @classmethod
    def resolve(
        cls,
        overrides: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> Settings:
        """Merge arguments, environment, `./runwire.toml` and defaults, in this precedence.

        Raises: ConfigError naming the value, where it came from and what is accepted.
        """
        if sys.platform == "win32":
            raise ConfigError(
                "runwire does not run on Windows: its spool needs POSIX file locks. "
                "Train under WSL2 or Linux, or pass mode='disabled' elsewhere."
            )
        environ = os.environ if environ is None else environ
        values = toml_values(Path(cwd) if cwd is not None else None, _BY_NAME)
        values.update(environment_values(environ, _BY_NAME))
        given = {k: v for k, v in (overrides or {}).items() if v is not None}
        refuse_unknown(given, _BY_NAME, source="argument")
        for name, value in given.items():
            values[name] = parse_value(_BY_NAME[name], value, f"argument {name}=")
        settings = cls(**values)
        if settings.artifact_route == "kafka" and not settings.kafka_bootstrap_servers:
            raise ConfigError(
                "artifact_route='kafka' without brokers: set RUNWIRE_KAFKA_BOOTSTRAP_SERVERS too, "
                "or leave RUNWIRE_ARTIFACT_ROUTE at 'auto'."
            )
        if settings.mode != "disabled":
            settings.check_destinations()
        return settings

    def check_destinations(self) -> None:
        """Raises: ConfigError when the rows of Kafka or of S3 contradict each other."""
        if not (self.kafka_bootstrap_servers or self.s3_endpoint):
            return
        from runwire_schemas.errors import SchemaError

        try:
            _ = self.kafka, self.s3
        except SchemaError as error:
            raise ConfigError(f"{error}.") from None
