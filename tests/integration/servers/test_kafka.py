"""The broker of the tests is a real one: it stores, it answers after a stop and after a kill."""

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from support.servers import Cluster

WAIT_S = 30.0


def create(cluster: Cluster, topic: str, *, copies: int = 1) -> None:
    admin = AdminClient(cluster.settings.client_config())
    made = admin.create_topics([NewTopic(topic, num_partitions=2, replication_factor=copies)])
    made[topic].result(timeout=WAIT_S)


def produce(cluster: Cluster, topic: str, values: list[bytes]) -> None:
    refused: list[object] = []
    producer = Producer(
        {**cluster.settings.client_config(), "enable.idempotence": True, "log_level": 0}
    )
    for value in values:
        producer.produce(topic, value, on_delivery=lambda error, _: error and refused.append(error))
    assert producer.flush(WAIT_S) == 0
    assert refused == []


def consume(cluster: Cluster, topic: str, expected: int) -> list[bytes]:
    consumer = Consumer(
        {
            **cluster.settings.client_config(),
            "group.id": topic,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "log_level": 0,
        }
    )
    consumer.subscribe([topic])
    values: list[bytes] = []
    polls = 0
    while len(values) < expected and polls < WAIT_S * 10:
        polls += 1
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            values.append(message.value())
    consumer.close()
    return sorted(values)


VALUES = [f"{n:04}".encode() for n in range(100)]


def test_what_is_produced_is_consumed(kafka: Cluster, topic_prefix: str) -> None:
    topic = f"{topic_prefix}.metric.v1"
    create(kafka, topic)
    produce(kafka, topic, VALUES)
    assert consume(kafka, topic, len(VALUES)) == VALUES


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_messages_survive_a_restart(kafka: Cluster, topic_prefix: str, how: str) -> None:
    """The address stays and nothing acknowledged is gone, after SIGTERM and after SIGKILL."""
    topic = f"{topic_prefix}.metric.v1"
    create(kafka, topic)
    produce(kafka, topic, VALUES)
    kafka.stop() if how == "stop" else kafka.kill()
    kafka.start()
    assert consume(kafka, topic, len(VALUES)) == VALUES
