"""The topics: one row per record kind, for Kafka and spool alike.

`schemas/README.md` shows this table; a test keeps the two equal.
"""

from __future__ import annotations

from dataclasses import dataclass

_DAY_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One topic; `schema` is the stem of a file in `avro/`, None where the format comes later.

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
        """Return the topic's full name."""
        return f"runwire.{self.kind}.v1"


_ROWS = (
    Topic(
        kind="run",
        schema="run.v1",
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
        schema="metric.v1",
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
        schema=None,
        key="writer",
        partitions=3,
        retention_ms=30 * _DAY_MS,
        owner="SDK",
        meaning="a checkpoint was written",
    ),
    Topic(
        kind="artifact",
        schema=None,
        key="artifact",
        partitions=3,
        retention_ms=30 * _DAY_MS,
        owner="SDK",
        meaning="manifest of an artifact",
    ),
    Topic(
        kind="chunk",
        schema=None,
        key="artifact",
        partitions=6,
        retention_ms=2 * _DAY_MS,
        owner="agent",
        meaning="piece of an artifact's content",
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
        schema="deadletter.v1",
        key="the key of the rejected record",
        partitions=3,
        retention_ms=30 * _DAY_MS,
        owner="worker",
        meaning="what could not be stored, with the reason",
    ),
)

TOPICS: dict[str, Topic] = {row.kind: row for row in _ROWS}
"""Topic by kind, in the order of the documentation."""
