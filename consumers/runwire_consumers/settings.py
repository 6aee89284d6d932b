"""The worker's settings: one frozen table, read once from the environment and handed down."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from runwire_schemas.connections.table import (
    COUNT,
    SECONDS,
    TEXT,
    choice,
    environment_values,
    setting,
)

Protocol = Literal["exactly-once", "at-least-once-unsafe"]
PROTOCOLS: tuple[Protocol, ...] = ("exactly-once", "at-least-once-unsafe")
PREFIX = "RUNWIRE_WORKER_"
URL_VARIABLE = "RUNWIRE_CLICKHOUSE_URL"
DEFAULT_METRICS_PORT = 9464  # Prometheus' registered port of OpenTelemetry exporters


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker can be told; each field is RUNWIRE_WORKER_<NAME> in the environment."""

    PREFIX: ClassVar[str] = PREFIX

    batch_age_s: float = setting(SECONDS, 1.0, "a batch closes this long after its first record")
    batch_rows: int = setting(COUNT, 1_000_000, "or with so many rows")
    batch_bytes: int = setting(COUNT, 64 * 1024 * 1024, "or with so many encoded bytes")
    retry_max_s: float = setting(SECONDS, 5.0, "longest wait between tries of the same batch")
    shutdown_s: float = setting(SECONDS, 10.0, "time for the last flush after a first signal")
    stuck_after_s: float = setting(SECONDS, 120.0, "rows waiting this long turn /healthz to 503")
    dead_letters_max: int = setting(COUNT, 1000, "the worker stops when so many letters are kept")
    metrics_port: int = setting(
        COUNT,
        DEFAULT_METRICS_PORT,
        "/metrics and /healthz on loopback; a free port when taken, 0 switches them off",
    )
    group: str = setting(
        TEXT, "runwire-clickhouse", "Kafka consumer group, shared by all such workers"
    )
    objects_group: str = setting(
        TEXT, "runwire-objects", "the same for object workers: one group never reads for both"
    )
    group_protocol: str = setting(
        choice("classic", "consumer"),
        "classic",
        "classic, or consumer (KIP-848, brokers from 4.0 on): how the group is formed",
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
        "object worker: an artifact whose pieces have not all come by then failed",
    )
    sweep_grace_s: float = setting(
        SECONDS,
        86_400.0,
        "object worker: content that no manifest names is deleted after this long",
    )
    protocol: Protocol = setting(
        choice(*PROTOCOLS),
        "exactly-once",
        "at-least-once-unsafe, for the fault harness only, duplicates rows",
    )
    unsafe_commit_every: int = setting(
        COUNT, 20, "with the unsafe protocol, write cursors at every n-th batch only"
    )
    kill_at: str = setting(
        TEXT, "", "for the fault harness: <point>:<n>, where the worker kills itself"
    )


# Pieces are half a megabyte each, and the next batch is gathered while one is written. The last
# batch of a file is rarely full: people wait for its age.
OBJECT_WORKER = WorkerSettings(
    batch_age_s=0.3,
    batch_bytes=16 * 1024 * 1024,
    metrics_port=DEFAULT_METRICS_PORT + 1,
)
"""What is different for the object worker when the environment says nothing."""


def variable(name: str) -> str:
    """Return the environment variable of a field."""
    return PREFIX + name.upper()


def from_environment(
    environ: Mapping[str, str] | None = None, *, defaults: WorkerSettings | None = None
) -> WorkerSettings:
    """Read the settings; what is not set stays as in `defaults`.

    Raises: ConfigError naming the variable, its value and what is expected.
    """
    environ = os.environ if environ is None else environ
    return replace(defaults or WorkerSettings(), **environment_values(environ, WorkerSettings))
