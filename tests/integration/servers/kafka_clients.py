"""Clients of the broker tests: create, produce, consume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from runwire_schemas.connections.kafka import KafkaSettings

WAIT_S = 30.0
VALUES = [f"{n:04}".encode() for n in range(100)]


def create(settings: KafkaSettings, topic: str, *, copies: int = 1) -> None:
    admin = AdminClient(settings.client_config())
    made = admin.create_topics([NewTopic(topic, num_partitions=2, replication_factor=copies)])
    made[topic].result(timeout=WAIT_S)


def produce(
    settings: KafkaSettings, topic: str, values: list[bytes], **more: object
) -> list[KafkaError]:
    """Send all; the errors of those that were refused."""
    refused: list[KafkaError] = []
    config = {**settings.client_config(), "enable.idempotence": True, "log_level": 0, **more}
    producer = Producer(config)
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: error and refused.append(error))
    assert producer.flush(WAIT_S) == 0
    return refused


def consume(settings: KafkaSettings, topic: str, expected: int) -> list[bytes]:
    """Read from the start until as many values came, or no more do; sorted."""
    values: list[bytes] = []

    def keep(message: Any) -> bool:
        values.append(message.value())
        return len(values) >= expected

    poll(settings, topic, on_message=keep)
    return sorted(values)


def poll(
    settings: KafkaSettings,
    topic: str,
    *,
    on_message: Callable[[Any], bool] = lambda _: True,
    on_error: Callable[[KafkaError], bool] = lambda _: False,
) -> None:
    """Consume until a callback says that it is enough."""
    consumer = Consumer(
        {
            **settings.client_config(),
            "group.id": topic,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    consumer.subscribe([topic])
    for _ in range(int(WAIT_S * 10)):
        message = consumer.poll(0.1)
        if message is None:
            continue
        error = message.error()
        if on_error(error) if error is not None else on_message(message):
            break
    consumer.close()
