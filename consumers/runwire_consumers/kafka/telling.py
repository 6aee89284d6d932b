"""A worker's own events on their topics: durable before anybody relies on them."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from runwire_consumers.core.errors import Retryable
from runwire_consumers.kafka.errors import retryable
from runwire_schemas import codec
from runwire_schemas.bounds import MESSAGE_BYTES_MAX
from runwire_schemas.connections.kafka import KafkaSettings
from runwire_schemas.events import ArtifactEvent
from runwire_schemas.topics import topic_name

REQUEST_S = 10.0


class KafkaTelling:
    """Produces events of artifacts, keyed as agents key them. Threads: any, one at a time."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._topic = topic_name("artifact", kafka.topic_prefix)
        self._producer: Producer | None = None
        self._lock = threading.Lock()

    def __call__(self, events: Sequence[ArtifactEvent]) -> None:
        """Return when all replicas in sync have the events. Raises: Retryable."""
        if not events:
            return
        failed: list[KafkaError] = []

        def note(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                failed.append(error)

        with self._lock:
            producer = self._open()
            for event in events:
                value = codec.encode(event)
                try:
                    producer.produce(self._topic, value, event.artifact, on_delivery=note)
                except (KafkaException, BufferError) as error:
                    cause = error.args[0]
                    problem = cause if isinstance(cause, KafkaError) else KafkaError(-184)
                    raise retryable(problem, self._kafka.bootstrap_servers) from error
                producer.poll(0)
            left = producer.flush(3 * REQUEST_S)
        if failed:
            raise retryable(failed[0], self._kafka.bootstrap_servers)
        if left:
            servers = self._kafka.bootstrap_servers
            raise Retryable(1.0, f"{left} events are not acknowledged by {servers}")

    def _open(self) -> Producer:
        if self._producer is None:
            self._producer = Producer(
                {
                    **self._kafka.client_config(),
                    "log_level": 3,
                    "enable.idempotence": True,
                    "acks": "all",
                    # As the topic: what users say about an artifact may be long.
                    "message.max.bytes": MESSAGE_BYTES_MAX + (1 << 16),
                    "delivery.timeout.ms": int(2000 * REQUEST_S),
                }
            )
        return self._producer
