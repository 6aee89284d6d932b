"""Topics: one row per record kind, for Kafka and the spool.

`schemas/README.md` shows this table and the configuration; a test keeps them equal.
"""

from __future__ import annotations

from dataclasses import dataclass

from runwire_schemas.bounds import LETTER_BYTES_MAX, MESSAGE_BYTES_MAX
from runwire_schemas.connections.kafka import DEFAULT_TOPIC_PREFIX, check_topic_prefix
from runwire_schemas.errors import SchemaError

_VERSION = "v1"
# Bytes around the value in a batch of one message: batch header, key, headers, varints.
_AROUND_VALUE_BYTES = 64 * 1024
_DAY_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One topic; `schema` is the stem of a file in `avro/`, None without a format yet.

    Units: retention in milliseconds.
    """

    kind: str
    schema: str | None
    key: str
    partitions: int
    retention_ms: int
    owner: str
    meaning: str

    @property
    def name(self) -> str:
        """Return the topic's name under the default prefix."""
        return topic_name(self.kind)

    def configuration(self, *, brokers: int) -> dict[str, str]:
        """Return the topic's configuration in Kafka's words, for a cluster of this size."""
        value_bytes = LETTER_BYTES_MAX if self.kind == "deadletter" else MESSAGE_BYTES_MAX
        return {
            "cleanup.policy": "delete",
            # The agent compresses with zstd; any other word makes brokers compress again.
            "compression.type": "producer",
            # Kafka measures compressed batches; noise does not compress, so room for all of it.
            "max.message.bytes": str(value_bytes + _AROUND_VALUE_BYTES),
            "message.timestamp.type": "LogAppendTime",
            "min.insync.replicas": str(replication(brokers)[1]),
            "retention.ms": str(self.retention_ms),
        }


_ROWS = (
    Topic(
        kind="run",
        schema="run.v2",
        key="writer",
        partitions=3,
        retention_ms=30 * _DAY_MS,
        owner="SDK, agent",
        meaning="a run started, changed or finished",
    ),
    Topic(
        kind="param",
        schema="param.v1",
        key="writer",
        partitions=3,
        retention_ms=30 * _DAY_MS,
        owner="SDK",
        meaning="one hyperparameter",
    ),
    Topic(
        kind="metric",
        schema="metric.v2",
        key="writer",
        partitions=12,
        retention_ms=7 * _DAY_MS,
        owner="SDK",
        meaning="points of one writer, grouped by log call",
    ),
    Topic(
        kind="heartbeat",
        schema="heartbeat.v1",
        key="writer",
        partitions=3,
        retention_ms=2 * _DAY_MS,
        owner="agent",
        meaning="progress and counters of one living writer",
    ),
    Topic(
        kind="system",
        schema=None,
        key="writer",
        partitions=6,
        retention_ms=2 * _DAY_MS,
        owner="agent",
        meaning="GPU and host samples",
    ),
    Topic(
        kind="checkpoint",
        schema="checkpoint.v1",
        key="writer",
        partitions=3,
        retention_ms=30 * _DAY_MS,
        owner="SDK",
        meaning="a rank saved its part of a checkpoint",
    ),
    Topic(
        kind="artifact",
        schema="artifact.v1",
        key="writer, or the artifact",
        partitions=3,
        retention_ms=30 * _DAY_MS,
        owner="SDK, agent, object worker",
        meaning="what happened to an artifact; its manifest when all pieces were sent",
    ),
    Topic(
        kind="chunk",
        schema="chunk.v1",
        key="the artifact",
        partitions=6,
        retention_ms=2 * _DAY_MS,
        owner="agent",
        meaning="a piece of one file of an artifact",
    ),
    Topic(
        kind="log",
        schema="log.v1",
        key="writer",
        partitions=6,
        retention_ms=7 * _DAY_MS,
        owner="SDK, agent",
        meaning="console lines and texts",
    ),
    Topic(
        kind="deadletter",
        schema="deadletter.v2",
        key="the key of the rejected record",
        partitions=3,
        retention_ms=30 * _DAY_MS,
        owner="worker, agent",
        meaning="what could not be stored, with the reason",
    ),
)

TOPICS: dict[str, Topic] = {row.kind: row for row in _ROWS}
"""Topic by kind, in the order of the documentation."""


def topic_name(kind: str, prefix: str = DEFAULT_TOPIC_PREFIX) -> str:
    """Return the topic of a kind; an empty prefix means the default.

    Raises: SchemaError for a kind without a topic, KafkaSettingsError for a prefix that Kafka
    refuses.
    """
    if kind not in TOPICS:
        raise SchemaError(f"kind {kind!r} has no topic; the kinds are {', '.join(TOPICS)}")
    return f"{check_topic_prefix(prefix)}.{kind}.{_VERSION}"


def kind_of_topic(name: str, prefix: str = DEFAULT_TOPIC_PREFIX) -> str:
    """Return the kind that a topic carries. Raises: SchemaError when it is none of ours."""
    start, end = f"{check_topic_prefix(prefix)}.", f".{_VERSION}"
    kind = name[len(start) : -len(end)]
    if not (name.startswith(start) and name.endswith(end) and kind in TOPICS):
        raise SchemaError(f"topic {name!r} is no {start}<kind>{end}")
    return kind


def replication(brokers: int) -> tuple[int, int]:
    """Return replication factor and min.insync.replicas for a cluster of this size.

    With three, one broker may be lost without losing writes (acks=all); with two, writing continues
    on the other.
    """
    if brokers >= 3:
        return 3, 2
    return (2, 1) if brokers == 2 else (1, 1)
