"""Where a spool folder is read to, as one short word that trainers, agents and status agree on."""

from __future__ import annotations

from typing import Final

from runwire_disk.spool.format import Meta
from runwire_schemas.connections.secret import facts_digest

LOCAL: Final = "local"
KAFKA: Final = "kafka"
# The lock of a shipping agent is `<digest>.kafka.lock`, its state `<digest>.kafka.json`.
LOCAL_SUFFIX: Final = ".lock"
KAFKA_SUFFIX: Final = ".kafka.lock"


def destination_of(meta: Meta) -> str:
    """Return "local", or for the Kafka route what `KafkaSettings.destination` says there."""
    if meta.route != KAFKA:
        return LOCAL
    return facts_digest(meta.destination)
