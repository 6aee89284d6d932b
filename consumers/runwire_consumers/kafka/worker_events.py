"""Events that a worker publishes itself, on the topics that agents use for theirs."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from runwire_consumers.kafka.producer import DurableProducer, OutgoingRecord
from runwire_schemas import codec
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.events import ArtifactEvent
from runwire_schemas.topics import topic_name


class WorkerEvents:
    """Produces artifact events, keyed as agents key theirs.

    Threads: any; calls wait for each other.
    """

    def __init__(self, kafka: KafkaSettings) -> None:
        self._producer = DurableProducer(kafka, topic_name("artifact", kafka.topic_prefix))
        self._lock = threading.Lock()

    def __call__(self, events: Sequence[ArtifactEvent]) -> None:
        """Return when all in-sync replicas have the events. Raises: Retryable."""
        if not events:
            return
        records = [OutgoingRecord(event.artifact, codec.encode(event)) for event in events]
        with self._lock:
            self._producer.send(records)
