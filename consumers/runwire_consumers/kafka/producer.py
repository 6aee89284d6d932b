"""The producer of a worker's own records: each call returns once all of them are durable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from runwire_consumers.core.errors import Retryable
from runwire_consumers.kafka.errors import retryable
from runwire_schemas.connections.kafka import KafkaSettings

DELIVERY_S = 20.0  # librdkafka retries this long before it reports a message as failed
ACKNOWLEDGED_S = 30.0  # longer than `DELIVERY_S`, so that the reason arrives before we give up
ANY_PARTITION = -1  # RD_KAFKA_PARTITION_UA: the key decides


class OutgoingRecord(NamedTuple):
    """One record to produce; a `value` of None deletes what the key or the headers name."""

    key: bytes | str
    value: bytes | None
    partition: int = ANY_PARTITION
    headers: Mapping[str, bytes] = {}


class DurableProducer:
    """Produces to one topic and waits for all in-sync replicas. Threads: one at a time."""

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        self._kafka, self._topic = kafka, topic
        self._producer: Producer | None = None

    def send(self, records: Iterable[OutgoingRecord]) -> None:
        """Produce the records; return when all in-sync replicas have them.

        Blocks: up to `ACKNOWLEDGED_S`.
        Raises: Retryable when one was refused or not acknowledged; the others may be stored.
        """
        producer = self._open()
        failures: list[KafkaError] = []

        def note(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                failures.append(error)

        for record in records:
            try:
                producer.produce(
                    self._topic,
                    record.value,
                    record.key,
                    record.partition,
                    on_delivery=note,
                    headers=list(record.headers.items()),
                )
            except KafkaException as error:
                raise retryable(error.args[0], self._kafka.bootstrap_servers) from error
            except BufferError as error:
                full = KafkaError(KafkaError._QUEUE_FULL)
                raise retryable(full, self._kafka.bootstrap_servers) from error
            producer.poll(0)
        left = producer.flush(ACKNOWLEDGED_S)
        if failures:
            raise retryable(failures[0], self._kafka.bootstrap_servers)
        if left:
            servers = self._kafka.bootstrap_servers
            raise Retryable(1.0, f"{left} records for {self._topic} not acknowledged by {servers}")

    def close(self) -> None:
        """Release the connections."""
        self._producer = None

    def _open(self) -> Producer:
        if self._producer is None:
            paced = {"log_level": 3, "delivery.timeout.ms": int(1000 * DELIVERY_S)}
            self._producer = Producer({**self._kafka.producer_config(), **paced})
        return self._producer
