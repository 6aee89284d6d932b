"""The producer of a worker's own records: each call returns once all of them are durable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from runwire_consumers.core.errors import Retryable
from runwire_consumers.kafka.connection import Connection
from runwire_consumers.kafka.errors import explain
from runwire_schemas.connections.kafka import KafkaSettings

DELIVERY_S = 20.0  # librdkafka retries this long before it reports a message as failed
ACKNOWLEDGED_S = 30.0  # longer than `DELIVERY_S`, so that the reason arrives before we give up
# A fatal error has ended the producer: it refuses everything from then on.
_ENDED = frozenset((KafkaError._FATAL, KafkaError._FENCED, KafkaError._PURGE_QUEUE))
# Larger than max.message.bytes of the topic, or than one of its segments.
_TOO_LARGE = frozenset((KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE))
ANY_PARTITION = -1  # RD_KAFKA_PARTITION_UA: the key decides


class OutgoingRecord(NamedTuple):
    """One record to produce; a `value` of None deletes what the key or the headers name."""

    key: bytes | str
    value: bytes | None
    partition: int = ANY_PARTITION
    headers: Mapping[str, bytes] = {}


class MessageTooLarge(Retryable):
    """A record is larger than its topic takes; sent alone or in part it may fit."""


class DurableProducer:
    """Produces to one topic and waits for all in-sync replicas. Threads: one at a time."""

    def __init__(self, kafka: KafkaSettings, topic: str) -> None:
        self._kafka, self._topic = kafka, topic
        self._connection = Connection(kafka)
        self._producer: Producer | None = None

    def send(self, records: Iterable[OutgoingRecord]) -> None:
        """Produce the records; return when all in-sync replicas have them.

        Blocks: up to `ACKNOWLEDGED_S`.
        Raises: MessageTooLarge, or Retryable when one was refused for another reason or was not
        acknowledged; the others may be stored. The next call opens another producer after an error
        that ended this one, or with new secrets.
        """
        if self._connection.is_outdated:
            self.close()
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
                failures.append(error.args[0])
                break
            except BufferError as error:
                raise self._failed(KafkaError(KafkaError._QUEUE_FULL)) from error
            producer.poll(0)
        left = producer.flush(ACKNOWLEDGED_S)
        if failures:
            # One that is too large first: the caller can do something about it.
            raise self._failed(max(failures, key=_is_too_large))
        if left:
            servers = self._kafka.bootstrap_servers
            raise Retryable(1.0, f"{left} records for {self._topic} not acknowledged by {servers}")
        self._connection.worked()

    def close(self) -> None:
        """Release the connections."""
        self._producer = None

    def _failed(self, cause: KafkaError) -> Retryable:
        if _is_too_large(cause):
            return MessageTooLarge(1.0, explain(cause, self._kafka.bootstrap_servers))
        if cause.fatal() or cause.code() in _ENDED:
            self.close()
        return self._connection.failed(cause)

    def _open(self) -> Producer:
        if self._producer is None:
            # First, for it reads the secrets; the other holds them too, and the rest.
            connection = self._connection.config_or_wait()
            paced = {"delivery.timeout.ms": int(1000 * DELIVERY_S)}
            self._producer = Producer({**self._kafka.producer_config(), **connection, **paced})
        return self._producer


def _is_too_large(cause: KafkaError) -> bool:
    return cause.code() in _TOO_LARGE
