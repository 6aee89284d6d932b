"""Settings of a node: what an agent needs to know, and what its trainers choose routes by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.connections.s3 import S3Settings

__all__ = ["NodeSettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Data root, destinations and patience of the node process."""

    root: Path
    kafka: KafkaSettings | None = None
    s3: S3Settings | None = None
    registry_url: str | None = None
    artifact_route: str = "auto"
    artifact_kafka_bytes_max: int = 4 * 1024**3
    agent_stay_s: float = 600.0
