"""The worker's settings: one frozen table, read once from the environment and handed down."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

from runwire_schemas.connections.kafka import check_topic_prefix
from runwire_schemas.connections.table import (
    COUNT,
    SECONDS,
    TEXT,
    choice,
    environment_values,
    setting,
)
from runwire_schemas.errors import ConfigError

PREFIX = "RUNWIRE_WORKER_"
STATE_FILE = "worker.json"  # of the running worker, beside the engine's files
DEFAULT_METRICS_PORT = 9464  # Prometheus' registered port of OpenTelemetry exporters


class ConsumerGroups(NamedTuple):
    """Names of the consumer groups of one pipeline's workers."""

    clickhouse: str
    objects: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Settings of both workers; each field is RUNWIRE_WORKER_<NAME> in the environment."""

    PREFIX: ClassVar[str] = PREFIX

    batch_age_s: float = setting(
        SECONDS, 1.0, "a batch closes this long after the last one, after a pause at once"
    )
    batch_rows: int = setting(COUNT, 1_000_000, "a batch also closes at this many rows")
    batch_bytes: int = setting(
        COUNT, 64 * 1024 * 1024, "a batch also closes at this many encoded bytes"
    )
    retry_max_s: float = setting(SECONDS, 5.0, "longest wait between tries of the same batch")
    shutdown_s: float = setting(SECONDS, 10.0, "time for the last flush after a first signal")
    stuck_after_s: float = setting(SECONDS, 120.0, "rows waiting this long turn /healthz to 503")
    dead_letters_max: int = setting(COUNT, 1000, "the worker stops when this many letters are kept")
    registry_wait_s: float = setting(
        SECONDS, 60.0, "a record that needs an unreachable schema registry is set aside after this"
    )
    metrics_port: int = setting(
        COUNT,
        DEFAULT_METRICS_PORT,
        "/metrics and /healthz on loopback; a free port when taken, 0 switches them off",
    )
    group: str = setting(
        TEXT, "", "consumer group of the workers to ClickHouse; unset: `<topic prefix>-clickhouse`"
    )
    objects_group: str = setting(
        TEXT,
        "",
        "consumer group of the object workers, another than RUNWIRE_WORKER_GROUP; unset: "
        "`<topic prefix>-objects`",
    )
    group_protocol: str = setting(
        choice("classic", "consumer"),
        "classic",
        "group protocol: classic, or consumer (KIP-848, needs Kafka 4.0)",
    )
    group_instance_id: str = setting(
        TEXT, "", "keeps this worker's partitions during a restart; unique within the group"
    )
    session_timeout_s: float = setting(
        SECONDS, 45.0, "a silent worker loses its partitions after this long (classic groups)"
    )
    staging_s: float = setting(
        SECONDS,
        7 * 86_400.0,
        "object worker: an artifact still incomplete after this long is marked failed",
    )
    sweep_grace_s: float = setting(
        SECONDS,
        86_400.0,
        "object worker: content that no manifest names is deleted after this long",
    )
    housekeeping_s: float = setting(
        SECONDS,
        600.0,
        "`runwire up` removes deleted rows and applies retention.toml this often; 0: never",
    )
    forget_s: float = setting(
        SECONDS,
        365 * 86_400.0,
        "late records of a deleted run are dropped for this long after its last row was removed",
    )

    def groups(self, topic_prefix: str) -> ConsumerGroups:
        """Return the groups; unset names carry the topic prefix, so that pipelines stay apart.

        Raises: ConfigError for one group for both: each worker would miss the other's artifacts.
        """
        prefix = check_topic_prefix(topic_prefix)
        groups = ConsumerGroups(
            self.group or f"{prefix}-clickhouse", self.objects_group or f"{prefix}-objects"
        )
        if groups.clickhouse == groups.objects:
            raise ConfigError(
                f"{variable('group')} and {variable('objects_group')} are both "
                f"{groups.clickhouse!r}: the two kinds of worker would take artifacts from each "
                f"other. Give each a group of its own, or remove both"
            )
        return groups


# Pieces are half a megabyte each, and the next batch is gathered while one is written. The last
# batch of a file is rarely full, so its age decides how long people wait for an artifact.
OBJECT_WORKER = WorkerSettings(
    batch_age_s=0.3,
    batch_bytes=16 * 1024 * 1024,
    metrics_port=DEFAULT_METRICS_PORT + 1,
)
"""Defaults of the object worker."""


def variable(name: str) -> str:
    """Return the environment variable of a field."""
    return PREFIX + name.upper()


def from_environment(
    environ: Mapping[str, str] | None = None, *, defaults: WorkerSettings | None = None
) -> WorkerSettings:
    """Read the settings; unset variables keep the values of `defaults`.

    Raises: ConfigError naming the variable, its value and what is expected.
    """
    environ = os.environ if environ is None else environ
    return replace(defaults or WorkerSettings(), **environment_values(environ, WorkerSettings))
